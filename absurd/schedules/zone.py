"""Cron slots as moments: what a clock on the wall of a zone says, through its changes to and from daylight saving time.

An hour that is given (``30 2 * * *``) means the clock: what falls into a gap comes once, right after it, and what comes twice
comes at its first pass. An open hour (``*``, ``*/2``) means elapsed time: both passes count, and a gap holds nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from absurd.errors import InvalidOptionError
from absurd.schedules.cron import Cron

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


def read_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises ``InvalidOptionError``."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, TypeError, LookupError):
        raise InvalidOptionError(f"timezone must be an IANA name such as Europe/Vienna, or UTC, not {name!r}") from None


def slot_after(cron: Cron, zone: ZoneInfo, at: datetime) -> datetime | None:
    """The first slot after a moment, in UTC; ``None`` when there is none any more."""
    at = at.astimezone(UTC)
    return _after_elapsed(cron, zone, at) if cron.real_time else _after_on_clock(cron, zone, at)


def slot_until(cron: Cron, zone: ZoneInfo, at: datetime) -> datetime | None:
    """The last slot up to a moment, itself included, in UTC; ``None`` when there is none."""
    at = at.astimezone(UTC)
    return _until_elapsed(cron, zone, at) if cron.real_time else _until_on_clock(cron, zone, at)


# The clock: local times in their order, each with its moment. The moments are in order too, some of them the same.


def _after_on_clock(cron: Cron, zone: ZoneInfo, at: datetime) -> datetime | None:
    local = cron.after(_local(at, zone))
    while local is not None:
        moment = _moment(local, zone)
        if moment > at:
            return moment
        # In the second pass of a fold: these have had their turn.
        local = cron.after(local)
    return None


def _until_on_clock(cron: Cron, zone: ZoneInfo, at: datetime) -> datetime | None:
    seen = at.astimezone(zone)
    # In the second pass of a fold the first one has gone further on the clock.
    ahead = _offset(seen.replace(fold=0)) - _offset(seen) if seen.fold else timedelta(0)
    local = cron.until(seen.replace(tzinfo=None, fold=0) + ahead)
    while local is not None:
        moment = _moment(local, zone)
        if moment <= at:
            return moment
        local = cron.until(local - _SECOND)
    return None


def _moment(local: datetime, zone: ZoneInfo) -> datetime:
    """When a clock shows this: at its first pass, and right after the gap if it never does."""
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _local(first, zone) == local:
        return first
    return _change(local.replace(tzinfo=zone, fold=1).astimezone(UTC), first, zone)


# Elapsed time: between two changes of the zone's offset a clock runs evenly.


def _after_elapsed(cron: Cron, zone: ZoneInfo, at: datetime) -> datetime | None:
    while True:
        offset = _offset(at.astimezone(zone))
        local = cron.after(at.replace(tzinfo=None) + offset)
        if local is None:
            return None
        moment = (local - offset).replace(tzinfo=UTC)
        change = _first_change(at, moment, zone)
        if change is None:
            return moment
        if cron.matches(_local(change, zone)):
            return change
        at = change


def _until_elapsed(cron: Cron, zone: ZoneInfo, at: datetime) -> datetime | None:
    while True:
        offset = _offset(at.astimezone(zone))
        local = cron.until(at.replace(tzinfo=None) + offset)
        if local is None:
            return None
        moment = (local - offset).replace(tzinfo=UTC)
        change = _last_change(moment, at, zone)
        if change is None:
            return moment
        at = change - _SECOND


def _first_change(start: datetime, end: datetime, zone: ZoneInfo) -> datetime | None:
    """The first moment after ``start``, up to ``end``, from which on the zone has another offset than at ``start``."""
    offset = _offset(start.astimezone(zone))
    while start < end:
        day = min(start + _DAY, end)
        if _offset(day.astimezone(zone)) != offset:
            return _change(start, day, zone)
        start = day
    return None


def _last_change(start: datetime, end: datetime, zone: ZoneInfo) -> datetime | None:
    """The last moment after ``start``, up to ``end``, at which the zone got the offset that it has at ``end``."""
    offset = _offset(end.astimezone(zone))
    while end > start:
        day = max(end - _DAY, start)
        if _offset(day.astimezone(zone)) != offset:
            return _change(day, end, zone)
        end = day
    return None


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The second at which the offset changes between two moments that have different ones."""
    old = _offset(before.astimezone(zone))
    before, after = before.replace(microsecond=0), after.replace(microsecond=0) + (_SECOND if after.microsecond else timedelta(0))
    while after - before > _SECOND:
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if _offset(middle.astimezone(zone)) == old:
            before = middle
        else:
            after = middle
    return after


def _local(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(seen: datetime) -> timedelta:
    return seen.utcoffset() or timedelta(0)
