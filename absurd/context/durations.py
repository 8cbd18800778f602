"""Times that people give to waits, sleeps and intervals, checked."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from absurd.errors import InvalidOptionError

# Ten years: what the SQL functions take, and far from where timestamps overflow.
MAX_SECONDS = 315_360_000.0

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "min": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(w|d|h|min|ms|m|s)")
_LONGEST = 315_360_000.0 * 10  # seconds; a hundred years


def check_seconds(name: str, value: float | timedelta) -> float:
    """Seconds as a float.

    Raises:
        InvalidOptionError: no number or timedelta, negative, not finite, or more than ten years.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidOptionError(f"{name} must be seconds (int or float) or a timedelta, not {value!r}")
    if not math.isfinite(value) or not 0 <= value <= MAX_SECONDS:
        raise InvalidOptionError(f"{name} must be between 0 and {MAX_SECONDS:.0f} seconds (ten years), not {value!r}")
    return float(value)


def check_timeout(value: float | timedelta | str | None) -> float | None:
    """A timeout in seconds, or ``None`` for none."""
    return None if value is None else check_interval("timeout", value)


def check_moment(name: str, value: datetime) -> datetime:
    """A moment with a time zone.

    Raises:
        InvalidOptionError: no datetime, or one without a time zone.
    """
    if not isinstance(value, datetime):
        raise InvalidOptionError(f"{name} must be a datetime with a time zone, not {value!r}")
    if value.utcoffset() is None:
        raise InvalidOptionError(f"{name} {value.isoformat()} has no time zone; use datetime.now(timezone.utc) or a ZoneInfo")
    if value.year > 9000 or value.year < 1970:
        raise InvalidOptionError(f"{name} {value.isoformat()} is out of range: it must lie in the years 1970 to 9000")
    return value


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``2h``, ``3d``, ``1w``, ``1h30m``, or a bare number of seconds. Raises ``ValueError``."""
    clean = text.strip().lower()
    found = _DURATION.findall(clean)
    if found and "".join(number + unit for number, unit in found) == clean:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in found)
    elif re.fullmatch(r"\d+(\.\d+)?", clean):
        seconds = float(clean)
    else:
        raise ValueError(f"{text!r} is no duration; give one like 90s, 15m, 2h, 3d, 1w or 1h30m")
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than a hundred years")
    return seconds


def check_interval(name: str, value: float | str | timedelta, low: float = 0.0) -> float:
    """Seconds from seconds, a timedelta or a text like ``"90s"`` or ``"1h30m"``.

    Raises:
        InvalidOptionError: it is none of them, or not between ``low`` and ten years.
    """
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except ValueError as error:
            raise InvalidOptionError(f"{name}: {error}") from None
    seconds = check_seconds(name, value)
    if seconds < low:
        raise InvalidOptionError(f"{name} must be at least {low:g} seconds, not {seconds:g}")
    return seconds
