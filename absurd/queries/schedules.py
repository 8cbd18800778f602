"""Queries about schedules: by people, and by the schedulers that fire them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import accumulate
from typing import Any
from uuid import UUID

from absurd.queries.query import Query, Row, nothing, scalar

CHANNEL = "absurd_schedules"
"""Where schedulers hear that something has changed."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule as it stands in the database. A slot is the moment that a schedule names."""

    schedule_name: str
    queue_name: str
    task_name: str | None
    """What it spawns; or else ``event_name``, what it emits."""
    event_name: str | None
    cron: str | None
    """When; or else ``interval_seconds``."""
    interval_seconds: float | None
    timezone: str
    params: Any
    options: dict[str, Any]
    """Of its tasks, as the SQL functions take them."""
    starts_at: datetime | None
    ends_at: datetime | None
    jitter_seconds: float
    catchup: str
    catchup_limit: int
    overlap: str
    run_immediately: bool
    declared_by: str | None
    """The app whose code declares it; ``None`` when it was made by hand."""
    paused_at: datetime | None
    anchor_at: datetime
    """Slots of an interval are counted from here."""
    plan_after: datetime
    """While ``next_slot`` is to be computed: the first slot lies after this."""
    next_slot: datetime | None
    due_at: datetime | None
    """When ``next_slot`` fires: jitter included."""
    ended_at: datetime | None
    problem: str | None
    """Why no scheduler can compute its slots."""
    last_slot: datetime | None
    last_fired_at: datetime | None
    last_task_id: UUID | None
    last_error: str | None
    last_error_at: datetime | None
    fired_count: int
    revision: int
    created_at: datetime
    updated_at: datetime
    status: str
    """``active``, ``paused``, ``ended``, ``invalid``, or ``undeclared``: it fires, but the code that made it is gone."""
    created: bool = False
    """Whether the call that returned this made it; or ``changed``, whether it replaced another by it."""
    changed: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """A schedule to make, checked and encoded: what the SQL function ``create_schedule`` takes. Both texts are JSON."""

    schedule_name: str
    queue_name: str
    definition: str
    params: str | None


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """What a reconciliation did with one schedule: created, changed, unchanged, refused (see message) or undeclared."""

    schedule_name: str
    change: str
    message: str | None


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """What a run by hand has started: the task, or the event and the tasks of its subscribers."""

    task_id: UUID | None
    run_id: UUID | None
    event_seq: int | None
    task_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class FireOutcome:
    """What became of a firing: fired, skipped, failed, early, stale or busy, as ``absurd.fire_schedule`` says."""

    status: str
    message: str | None


_COLUMNS = [field.name for field in fields(Schedule) if field.name not in ("status", "created", "changed")]


def _schedule(*row: Any) -> Schedule:
    """A row whose params and options came as text: somebody may have written JSON there that Python does not read."""
    names = (*_COLUMNS, "status")
    values = dict(zip(names, row, strict=True))
    for name in ("params", "options"):
        values[name] = _readable(values[name])
    return Schedule(**values)


def _readable(text: str) -> Any:
    try:
        # Deeper ones can be read, but neither copied nor written again.
        return json.loads(text) if text.count("[") + text.count("{") < 200 or _depth(text) < 200 else {"$unreadable": text}
    except (ValueError, RecursionError):
        return {"$unreadable": text}


def _depth(text: str) -> int:
    brackets = re.sub(r'"(?:\\.|[^"\\])*"|[^][{}"]', "", text)
    return max(accumulate((1 if bracket in "[{" else -1 for bracket in brackets), initial=0))


def _columns(row: str, **instead: str) -> str:
    return ", ".join([*(instead.get(name, f"{row}.{name}") for name in _COLUMNS), f"absurd.schedule_status({row})"])


_CREATE = f"""
select {_columns("(c.schedule)", params="(c.schedule).params::text", options="(c.schedule).options::text")}, c.change
from absurd.create_schedule(%s, %s, %s::jsonb, %s::json, %s) c"""
_LIST = f"""
select {_columns("s", params="s.params::text", options="s.options::text")}
from absurd.list_schedules(%s::text[], %s) s"""
_TIMES = f"""
select {_columns("s", params="null::json", options="'{}'::jsonb")}
from absurd.list_schedules(%s::text[]) s"""


def create_schedule(request: ScheduleRequest, replacing: bool) -> Query[Schedule]:
    """Makes a schedule, or finds it made; repeatable, but then ``created`` may say false of what the first try made."""
    args = (request.schedule_name, request.queue_name, request.definition, request.params, replacing)
    return Query(_CREATE, args, lambda rows: _made(*rows[0]))


def _made(*row: Any) -> Schedule:
    *columns, change = row
    return replace(_schedule(*columns), created=change == "created", changed=change == "changed")


def get_schedule(name: str) -> Query[Schedule | None]:
    """A schedule by its name."""
    return Query(_LIST, ([name], None), lambda rows: _schedule(*rows[0]) if rows else None)


def list_schedules(names: Sequence[str] | None = None, event_name: str | None = None) -> Query[list[Schedule]]:
    """All schedules, or those of these names, or those that emit an event; in order of name."""
    args = (None if names is None else list(names), event_name)
    return Query(_LIST, args, lambda rows: [_schedule(*row) for row in rows])


def list_times(names: Sequence[str] | None = None) -> Query[list[Schedule]]:
    """The same for schedulers, without params and options: SQL may have stored JSON there that Python cannot read."""
    return Query(_TIMES, (None if names is None else list(names),), lambda rows: [Schedule(*row) for row in rows])


def reconcile_schedules(owner: str, requests: Sequence[ScheduleRequest]) -> Query[list[ScheduleChange]]:
    """Brings the schedules of an app in line with what its code declares."""
    sql = """
        select schedule_name, change, message
        from absurd.reconcile_schedules(%s, %s::text[], %s::text[], %s::jsonb[], %s::json[])"""
    args = (
        owner,
        [r.schedule_name for r in requests],
        [r.queue_name for r in requests],
        [r.definition for r in requests],
        [r.params for r in requests],
    )
    return Query(sql, args, lambda rows: [ScheduleChange(*row) for row in rows])


def pause_schedule(name: str) -> Query[None]:
    """Stops a schedule."""
    return Query("select absurd.pause_schedule(%s)", (name,), nothing)


def resume_schedule(name: str) -> Query[None]:
    """Lets a schedule go on from now."""
    return Query("select absurd.resume_schedule(%s)", (name,), nothing)


def delete_schedule(name: str) -> Query[bool]:
    """Deletes a schedule; whether there was one."""
    return Query("select absurd.delete_schedule(%s)", (name,), scalar)


def trigger_schedule(name: str, idempotency_key: str | None = None) -> Query[ScheduleRun]:
    """Runs a schedule out of its turn. Twice is two runs, unless they have a key."""

    def decode(rows: list[Row]) -> ScheduleRun:
        task_id, run_id, event_seq = rows[0]
        return ScheduleRun(task_id, run_id, event_seq, tuple(row[0] for row in rows if row[0] is not None))

    sql = "select task_id, run_id, event_seq from absurd.trigger_schedule(%s, %s)"
    return Query(sql, (name, idempotency_key), decode, repeatable=idempotency_key is not None)


def backfill_schedule(name: str, revision: int, slots: Sequence[datetime]) -> Query[int]:
    """Runs past slots; how many had not been run."""
    return Query("select absurd.backfill_schedule(%s, %s::int, %s::timestamptz[])", (name, revision, list(slots)), scalar)


def plan_schedule(schedule: Schedule, next_slot: datetime | None, next_due: datetime | None, problem: str | None) -> Query[bool]:
    """Writes down the first slot of a schedule, or why there is none to be computed; false when others were quicker."""
    sql = "select absurd.plan_schedule(%s, %s::int, %s::timestamptz, %s::timestamptz, %s::timestamptz, %s)"
    return Query(sql, (schedule.schedule_name, schedule.revision, schedule.next_slot, next_slot, next_due, problem), scalar)


def fire_schedule(
    schedule: Schedule, slots: Sequence[datetime], next_slot: datetime | None, next_due: datetime | None
) -> Query[FireOutcome]:
    """Fires a schedule that is due, once, whoever else does; repeatable."""
    sql = """
        select status, message
        from absurd.fire_schedule(%s, %s::int, %s::timestamptz, %s::timestamptz[], %s::timestamptz, %s::timestamptz)"""
    args = (schedule.schedule_name, schedule.revision, schedule.next_slot, list(slots), next_slot, next_due)
    return Query(sql, args, lambda rows: FireOutcome(*rows[0]))
