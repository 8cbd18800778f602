"""How moments, durations, counts and ids are written. Ages are counted by the database's clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from markupsafe import Markup, escape

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
NOTHING = "–"
# From here on a count that was made up to a bound says only that there are so many.
COUNTED = 10_000
# Seconds that something may be late without a word about it.
LATE_SECONDS = 5


def duration(seconds: float | None) -> str:
    """Seconds for people: ``12 ms``, ``3.4 s``, ``5 min 12 s``, ``2 d 3 h``."""
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return f"−{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    rest = round(seconds)
    for index, (unit, size) in enumerate(_UNITS[:-1]):
        if rest >= size:
            smaller, divisor = _UNITS[index + 1]
            lower = rest % size // divisor
            return f"{rest // size:,} {unit}" + (f" {lower} {smaller}" if lower and rest < 100 * size else "")
    return f"{rest} s"


def between(start: datetime | None, end: datetime | None) -> str:
    """The time between two moments."""
    return NOTHING if start is None or end is None else duration((end - start).total_seconds())


def moment(at: datetime) -> str:
    """A moment in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def age(at: datetime | None, now: datetime) -> Markup:
    """How long ago, or in how long, with the moment itself as the title."""
    if at is None:
        return Markup('<span class="none">–</span>')
    seconds = (now - at).total_seconds()
    text = "now" if abs(seconds) < 1 else f"{_coarse(seconds)} ago" if seconds > 0 else f"in {_coarse(-seconds)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), moment(at), text)


def elapsed(at: datetime | None, now: datetime) -> Markup:
    """How long something has been so."""
    if at is None:
        return Markup('<span class="none">–</span>')
    text = _coarse(max((now - at).total_seconds(), 0))
    return Markup('<time datetime="{}" title="since {}">{}</time>').format(at.isoformat(), moment(at), text)


def due(at: datetime | None, now: datetime) -> Markup:
    """When something is to happen; marked when it should have."""
    if at is None or (now - at).total_seconds() < LATE_SECONDS:
        return age(at, now)
    text = f"{_coarse((now - at).total_seconds())} late"
    return Markup('<time class="warn" datetime="{}" title="due {}">{}</time>').format(at.isoformat(), moment(at), text)


def _coarse(seconds: float) -> str:
    """As exact as somebody wants to know it who looks at a page that changes every two seconds."""
    return f"{max(round(seconds), 1)} s" if seconds < 60 else duration(seconds // 60 * 60)


def count(number: int | None, bound: int = COUNTED) -> str:
    """A count; one above ``bound`` was not counted further."""
    return NOTHING if number is None else f"{number:,}" if number <= bound else f"{bound:,}+"


def compact(number: float) -> str:
    """A number in little room: 1.2k, 35M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def size(number: int | None) -> str:
    """Bytes for people."""
    if number is None:
        return NOTHING
    for unit, factor in (("MB", 1 << 20), ("kB", 1 << 10)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"


def short_id(value: UUID | str | None) -> Markup:
    """The end of an id, which is its random part; the whole one as the title."""
    if value is None:
        return Markup('<span class="none">–</span>')
    text = str(value)
    return Markup('<code class="id" title="{}">{}</code>').format(text, f"…{text[-12:]}" if len(text) > 16 else text)


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def breakable(value: Any) -> Markup:
    """A name that may break after its separators, so that a long one fits a narrow table."""
    text = str(escape(str(value)))
    for separator in (".", "/", "_", "-", ":"):
        text = text.replace(separator, f"{separator}<wbr>")
    return Markup(text)
