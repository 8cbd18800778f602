"""Times that people give to waits and sleeps, checked."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from absurd.errors import InvalidOptionError

# Ten years: what the SQL functions take, and far from where timestamps overflow.
MAX_SECONDS = 315_360_000.0


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


def check_timeout(value: float | timedelta | None) -> float | None:
    """A timeout in seconds, or ``None`` for none."""
    return None if value is None else check_seconds("timeout", value)


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
        raise InvalidOptionError(f"{name} {value.isoformat()} is out of range")
    return value
