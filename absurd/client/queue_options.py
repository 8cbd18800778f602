"""What queues take as keywords, checked before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict

from absurd.context.durations import check_interval
from absurd.errors import InvalidOptionError

AGES = ("keep_completed", "keep_failed", "keep_cancelled", "keep_events")
# Seconds: whoever has just learned that a task ended may be about to ask for its result.
LEAST_AGE = 60.0
MOST_COUNT = 10_000_000


class QueueKeywords(TypedDict, total=False):
    """What ``create_queue`` and ``set_queue_options`` take.

    keep_completed, keep_failed, keep_cancelled: how long a task that ended so is kept: seconds, a timedelta, or a text like
    ``"7d"``; a minute at least. ``None``: for ever.
    keep_events: how long an event is kept after a wait or a subscriber took it; what nobody has taken stays.
    keep_count: how many ended tasks are kept at most, the newest; ``None``: any number.
    max_payload_bytes: how large params, results, step states and payloads may be: 1 kB to 256 MB.
    """

    keep_completed: float | timedelta | str | None
    keep_failed: float | timedelta | str | None
    keep_cancelled: float | timedelta | str | None
    keep_events: float | timedelta | str | None
    keep_count: int | None
    max_payload_bytes: int


def queue_options(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the SQL functions take them.

    Raises:
        InvalidOptionError: one of them is unknown, or cannot be used.
    """
    unknown = set(keywords) - set(QueueKeywords.__annotations__)
    if unknown:
        known = ", ".join(QueueKeywords.__annotations__)
        raise InvalidOptionError(f'a queue has no option "{min(unknown)}"; known are {known}')
    found = dict(keywords)
    for name in AGES:
        if found.get(name) is not None:
            found[name] = check_interval(name, found[name], LEAST_AGE)
    count = found.get("keep_count")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_COUNT):
        raise InvalidOptionError(f"keep_count must be a whole number from 1 to {MOST_COUNT}, not {count!r}")
    return found
