"""Which slots a schedule has, which of them are to be fired now, and when."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from absurd.context.durations import check_moment
from absurd.errors import InvalidOptionError, ScheduleNotFoundError
from absurd.queries.schedules import Schedule
from absurd.schedules.cron import parse_cron
from absurd.schedules.zone import read_zone, slot_after, slot_until

# Seconds that a slot may be late before it counts as missed, where catchup is skip: a restart or a short outage loses nothing.
MISSED_SECONDS = 60.0

_TICK = timedelta(microseconds=1)


class Slots:
    """The slots of a schedule. Raises ``InvalidOptionError`` for a row that nobody can compute."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        if schedule.cron is not None:
            self._cron, self._zone = parse_cron(schedule.cron), read_zone(schedule.timezone)
        elif schedule.interval_seconds is not None:
            self._interval = timedelta(seconds=schedule.interval_seconds)
            if self._interval < timedelta(seconds=1):
                raise InvalidOptionError(f"every must be at least 1 second, not {schedule.interval_seconds}")

    def after(self, at: datetime) -> datetime | None:
        """The first slot after a moment; ``None`` when there is none any more."""
        starts, ends = self._schedule.starts_at, self._schedule.ends_at
        if starts is not None:
            at = max(at, starts - _TICK)
        try:
            slot = self._after(at)
        except OverflowError:
            return None
        return slot if slot is not None and (ends is None or slot < ends) else None

    def until(self, at: datetime) -> datetime | None:
        """The last slot up to a moment, itself included; ``None`` when there is none."""
        starts, ends = self._schedule.starts_at, self._schedule.ends_at
        if ends is not None:
            at = min(at, ends - _TICK)
        try:
            slot = self._until(at)
        except OverflowError:
            return None
        return slot if slot is not None and (starts is None or slot >= starts) else None

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The slots from ``start`` on and before ``end``."""
        slot = self.after(start - _TICK)
        while slot is not None and slot < end:
            yield slot
            slot = self.after(slot)

    def due(self, slot: datetime) -> datetime:
        """When a slot fires: jitter is drawn from its name and moment, so that every scheduler finds the same.

        Before the next slot, whatever the jitter: a slot that fired after its successor would count as missed.
        """
        schedule = self._schedule
        if not schedule.jitter_seconds:
            return slot
        digest = hashlib.sha256(f"{schedule.schedule_name}\n{slot.astimezone(UTC).isoformat()}".encode()).digest()
        part = int.from_bytes(digest[:8]) / 2**64
        following, spread = self.after(slot), timedelta(seconds=schedule.jitter_seconds)
        return slot + part * (spread if following is None else min(spread, following - slot))

    def _after(self, at: datetime) -> datetime | None:
        if self._schedule.cron is not None:
            return slot_after(self._cron, self._zone, at)
        anchor = self._schedule.anchor_at
        return anchor + ((at - anchor) // self._interval + 1) * self._interval

    def _until(self, at: datetime) -> datetime | None:
        if self._schedule.cron is not None:
            return slot_until(self._cron, self._zone, at)
        anchor = self._schedule.anchor_at
        return anchor + (at - anchor) // self._interval * self._interval


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about a schedule: slots to fire now, and what comes next (``None``: it ends)."""

    slots: list[datetime]
    next_slot: datetime | None
    next_due: datetime | None


def first_plan(schedule: Schedule) -> Plan:
    """The first slot of a schedule that has none yet."""
    slots = Slots(schedule)
    return _plan(slots, [], slots.after(schedule.plan_after))


def due_plan(schedule: Schedule, now: datetime) -> Plan:
    """What to fire of a schedule whose next slot is due at ``now``: by its catch-up policy, if several have passed.

    Looks back from now, however long ago the next slot was: a year of missed seconds costs no more than one.
    """
    assert schedule.next_slot is not None
    slots = Slots(schedule)
    passed = (slot for slot in _backwards(slots, schedule.next_slot, now) if _due(schedule, slots, slot) <= now)
    if schedule.catchup == "all":
        chosen = list(itertools.islice(passed, schedule.catchup_limit))
    else:
        chosen = list(itertools.islice(passed, 1))
    latest = chosen[0] if chosen else schedule.next_slot
    if schedule.catchup == "skip" and not _in_time(schedule, slots, latest, now):
        chosen = []
    return _plan(slots, chosen[::-1], slots.after(latest))


def _in_time(schedule: Schedule, slots: Slots, slot: datetime, now: datetime) -> bool:
    """Whether a slot counts as fired and not as missed. The immediate run of a new schedule waits for the first scheduler."""
    immediate = schedule.run_immediately and schedule.last_slot is None and slot == schedule.next_slot
    return immediate or (now - _due(schedule, slots, slot)).total_seconds() <= MISSED_SECONDS


def _due(schedule: Schedule, slots: Slots, slot: datetime) -> datetime:
    """When a slot fires. Of the next one this is written already, and that holds: an immediate run is not put off by jitter."""
    if slot == schedule.next_slot and schedule.due_at is not None:
        return schedule.due_at
    return slots.due(slot)


def _backwards(slots: Slots, first: datetime, now: datetime) -> Iterator[datetime]:
    """From the last slot up to now down to the first, which need not be on the grid: an immediate run is not."""
    slot = slots.until(now)
    while slot is not None and slot > first:
        yield slot
        slot = slots.until(slot - _TICK)
    yield first


def _plan(slots: Slots, chosen: list[datetime], following: datetime | None) -> Plan:
    return Plan(chosen, following, None if following is None else slots.due(following))


def upcoming(schedule: Schedule, count: int) -> list[datetime]:
    """The next slots of a schedule, beginning with the one that it waits for; fewer if it ends before."""
    if schedule.ended_at is not None:
        return []
    slots = Slots(schedule)
    found = [schedule.next_slot or slots.after(schedule.plan_after)]
    while found[-1] is not None and len(found) < count:
        found.append(slots.after(found[-1]))
    return [slot for slot in found if slot is not None]


def backfill_slots(schedule: Schedule, start: datetime, end: datetime, limit: int) -> list[datetime]:
    """The slots from ``start`` on and before ``end``. Raises ``InvalidOptionError`` when there are more than ``limit``."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidOptionError(f"limit must be a whole number of 1 or more, not {limit!r}")
    start, end = check_moment("start", start), check_moment("end", end)
    if end <= start:
        raise InvalidOptionError(f"end must be after start, but {end.isoformat()} is not after {start.isoformat()}")
    found = list(itertools.islice(Slots(schedule).between(start, end), limit + 1))
    if len(found) > limit:
        raise InvalidOptionError(
            f'schedule "{schedule.schedule_name}" has more than {limit} slots between {start.isoformat()} and {end.isoformat()}; '
            "take a shorter time, or raise limit"
        )
    return found


def with_next(schedule: Schedule) -> Schedule:
    """The schedule with the next slot that a scheduler will find for it, if none has looked yet."""
    if schedule.next_slot is not None or schedule.ended_at is not None:
        return schedule
    try:
        plan = first_plan(schedule)
    except InvalidOptionError:
        return schedule
    return replace(schedule, next_slot=plan.next_slot, due_at=plan.next_due)


def required(name: str, schedule: Schedule | None) -> Schedule:
    """The schedule, if there is one. Raises ``ScheduleNotFoundError``."""
    if schedule is None:
        raise ScheduleNotFoundError(f'there is no schedule "{name}". absurdctl list-schedules shows all.')
    return schedule
