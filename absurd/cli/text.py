"""Stored text made safe for a terminal: whatever a name or value holds, it is shown and never obeyed."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

# Control and format characters, surrogates, private use, unassigned, line and paragraph separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# They join letters and emoji, and do nothing else.
_JOINERS = frozenset("\u200c\u200d")


def is_safe(char: str) -> bool:
    """Whether a terminal only draws this character."""
    return char in _JOINERS or unicodedata.category(char) not in _UNSAFE_CATEGORIES


def escape(text: str, *, keep: str = "") -> str:
    r"""The text with every character that could drive a terminal written out, as in ``\x1b``; those in ``keep`` stay."""
    return "".join(char if char in keep or is_safe(char) else _python_escape(char) for char in text)


def escape_json(text: str) -> str:
    r"""A JSON document with such characters inside its strings as ``\uXXXX``: the same document, fit to be seen."""
    return "".join(char if char == "\n" or is_safe(char) else _json_escape(char) for char in text)


def _python_escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(char: str) -> str:
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def duration(seconds: float) -> str:
    """A duration in its two largest units, for people: ``2h 5m``."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    parts = []
    rest = round(seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def age(moment: datetime, now: datetime) -> str:
    """How far a moment is away: ``5m ago``, ``in 2h 5m``."""
    distance = (now - moment) / timedelta(seconds=1)
    if abs(distance) < 1:
        return "now"
    return f"{duration(distance)} ago" if distance > 0 else f"in {duration(-distance)}"


def moment_text(moment: datetime | None, now: datetime) -> str:
    """A moment in local time and as an age; ``-`` for none."""
    if moment is None:
        return "-"
    return f"{moment.astimezone().strftime('%Y-%m-%d %H:%M:%S')} ({age(moment, now)})"


def parse_moment(value: str | datetime | None) -> datetime | None:
    """A moment as PostgreSQL writes it into JSON."""
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value).astimezone(UTC)


def dump(value: Any, *, indent: bool = False) -> str:
    """JSON of what a command found (rows, ids, moments in UTC), keys in order; safe for a terminal, the same document."""
    try:
        value = _in_utc(value)
        text = orjson.dumps(value, option=orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if indent else 0)).decode()
    except TypeError:
        # Lone surrogates, integers beyond 64 bits, or nested deeper than that encoder goes.
        text = json.dumps(value, indent=2 if indent else None, default=str)
    except RecursionError:
        text = json.dumps("… nested too deep to be shown; --json has it …", ensure_ascii=False)
    return escape_json(text)


def _in_utc(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, dict):
        return {key: _in_utc(item) for key, item in value.items()}
    return [_in_utc(item) for item in value] if isinstance(value, (list, tuple)) else value


def json_text(text: str) -> Any:
    """JSON text from the database as part of a document for ``dump``: numbers stay as they were written, whatever their size."""
    try:
        value = json.loads(text, parse_float=_number, parse_int=_number)
        orjson.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return orjson.Fragment(text)
    return value


def _number(text: str) -> orjson.Fragment:
    return orjson.Fragment(text)


def pretty(text: str) -> str:
    """JSON text from the database, indented for people."""
    return dump(json_text(text), indent=True)


def one_line(text: str | None, limit: int = 200) -> str:
    """JSON text on one line, cut at ``limit`` characters; ``-`` for none."""
    return "-" if text is None else shorten(dump(json_text(text)), limit)


def shorten(text: str, limit: int = 200) -> str:
    """The text, cut at ``limit`` characters."""
    return text if len(text) <= limit else f"{text[:limit]}…"
