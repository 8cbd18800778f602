"""Queries of the dashboard's pages. Counts end at a bound: a number above ``COUNT_BOUND`` says only that there are more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from absurd.queries import inspect
from absurd.queries.query import Query, Row, column, nothing, scalar

T = TypeVar("T")

COUNT_BOUND = 10_000
# A page that takes longer than this is given up, so that people who reload it do not pile up statements.
STATEMENT_TIMEOUT = "10s"


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue and how it fares. ``sleeping_more``: more sleep than could be counted."""

    queue_name: str
    created_at: datetime
    paused_at: datetime | None
    max_payload_bytes: int
    pending: int
    running: int
    sleeping: int
    sleeping_more: bool
    failed: int
    oldest_ready_at: datetime | None
    workers: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """How many tasks of a queue ended in one piece of a span of time; ``estimated``: ``completed`` is."""

    bucket: int
    queue_name: str
    completed: float
    failed: float
    cancelled: float
    estimated: bool


@dataclass(frozen=True, slots=True)
class EventRow:
    """One emission. ``payload`` and ``source`` are JSON texts, ``None`` also when they are too long to be read."""

    seq: int
    queue_name: str
    event_name: str
    payload: str | None
    payload_bytes: int | None
    source: str | None
    emitted_at: datetime
    claimed_at: datetime | None
    delivered: bool
    started: int


@dataclass(frozen=True, slots=True)
class EventTask:
    """What an event did for one subscriber; ``state`` is ``None`` when there is no task, or none any more."""

    subscription_id: int
    task_name: str
    task_id: UUID | None
    status: str
    message: str | None
    state: str | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Taker:
    """A task that got an event, and by which step."""

    task_id: UUID
    task_name: str
    queue_name: str
    step_name: str
    state: str
    spawned_at: datetime
    taken_at: datetime


@dataclass(frozen=True, slots=True)
class Takers:
    """Those that were found. ``next``: more tasks can be looked at, from there on; ``searched_at``: the last one's spawn."""

    rows: list[Taker]
    searched_at: datetime | None
    next: str | None


@dataclass(frozen=True, slots=True)
class WaitRow:
    """One thing that a sleeping run waits for."""

    wait_id: int
    kind: str
    queue_name: str
    task_id: UUID
    task_name: str
    step_name: str | None
    event_queue_name: str | None
    event_name: str | None
    awaited_task_id: UUID | None
    waiting_since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that a worker holds."""

    task_id: UUID
    task_name: str
    queue_name: str
    attempt: int
    started_at: datetime | None
    lease_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerRow(inspect.WorkerRow):
    """One worker process. ``missing``: its session is gone; ``runs`` are the first of those that it holds."""

    missing: bool
    runs: Sequence[HeldRun]


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """One subscription; ``config`` is JSON text."""

    subscription_id: int
    queue_name: str
    pattern: str
    task_name: str
    target_queue: str | None
    config: str | None
    created_at: datetime
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A task that failed, and why."""

    task_id: UUID
    task_name: str
    queue_name: str
    attempt: int
    ended_at: datetime
    failure_name: str | None
    failure_message: str | None


@dataclass(frozen=True, slots=True)
class StuckRun:
    """A run that workers hand back because they cannot run it, and why."""

    queue_name: str
    task_id: UUID
    task_name: str
    available_at: datetime | None
    note: str


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A page of a search; ``searched_to``: it ended before the list did, and goes on from there."""

    rows: list[T]
    searched_to: int | None


def limit_session(read_only: bool, local: bool = False) -> Query[None]:
    """Sets up a session of the dashboard, or a transaction; one that only reads takes the role of readers where that may be."""
    sql = "select set_config('statement_timeout', %s, %s)"
    if not read_only:
        return Query(sql, (STATEMENT_TIMEOUT, local), nothing)
    sql += """, set_config(%s, 'on', %s), (
        select set_config('role', r.rolname, %s)
        from pg_roles r
        where r.rolname = 'absurd_reader' and pg_has_role(r.oid, 'member')
          and has_schema_privilege(r.oid, to_regnamespace('absurd'), 'usage'))"""
    setting = "transaction_read_only" if local else "default_transaction_read_only"
    return Query(sql, (STATEMENT_TIMEOUT, local, setting, local, local), nothing)


def may_pause() -> Query[bool]:
    """Whether this session's role may pause queues."""
    return Query("select has_function_privilege('absurd.pause_queue(text)', 'execute')", (), scalar)


def page_of_queues(since: datetime | None, after: str | None, limit: int, queue_name: str | None = None) -> Query[list[QueueRow]]:
    """Queues in order of name; ``failed`` is counted from ``since`` on."""
    sql = """
        select queue_name, created_at, paused_at, max_payload_bytes, pending, running, sleeping, sleeping_more, failed,
          oldest_ready_at, workers
        from absurd.page_of_queues(%s::timestamptz, %s, %s::int, %s)"""
    return Query(sql, (since, after, limit, queue_name), lambda rows: [QueueRow(*row) for row in rows])


def throughput(seconds: float, buckets: int, queue_name: str | None = None) -> Query[list[Throughput]]:
    """How many tasks ended when, by queue."""
    sql = "select bucket, queue_name, completed, failed, cancelled, estimated from absurd.throughput(%s::float8, %s::int, %s)"
    return Query(sql, (seconds, buckets, queue_name), lambda rows: [Throughput(*row) for row in rows])


def page_of_workers(runs: int, limit: int) -> Query[list[WorkerRow]]:
    """Workers, the oldest first, each with some of its runs."""
    sql = """
        select worker_id, queue_names, hostname, pid, version, concurrency, running, idle, started_at, heartbeat_at,
          lease_seconds, stale, missing, runs
        from absurd.page_of_workers(%s::int, %s::int)"""
    return Query(sql, (runs, limit), lambda rows: [WorkerRow(*(*row[:-1], _held(row[-1]))) for row in rows])


def _held(runs: Sequence[dict[str, Any]] | None) -> list[HeldRun]:
    return [
        HeldRun(
            UUID(run["task_id"]),
            run["task_name"],
            run["queue_name"],
            run["attempt"],
            _moment(run["started_at"]),
            _moment(run["lease_expires_at"]),
        )
        for run in runs or ()
    ]


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def due_schedules(limit: int) -> Query[list[str]]:
    """The names of the schedules that fire next."""
    return Query("select absurd.due_schedules(%s::int)", (limit,), column)


def last_failures(limit: int) -> Query[list[FailureRow]]:
    """The tasks that failed last."""
    sql = """
        select task_id, task_name, queue_name, attempt, ended_at, failure_name, failure_message
        from absurd.last_failures(%s::int)"""
    return Query(sql, (limit,), lambda rows: [FailureRow(*row) for row in rows])


def stuck_runs(limit: int) -> Query[list[StuckRun]]:
    """Some of the runs that workers cannot run."""
    sql = "select queue_name, task_id, task_name, available_at, note from absurd.find_unclaimable(null, %s::int)"
    return Query(sql, (limit,), lambda rows: [StuckRun(*row) for row in rows])


def page_of_events(
    queue_name: str | None, event_name: str | None, prefix: bool, before_seq: int | None, limit: int, payload_bytes: int = 4000
) -> Query[Found[EventRow]]:
    """Events, the newest first; payloads longer than ``payload_bytes`` are left out."""
    sql = """
        select seq, queue_name, event_name, payload, payload_bytes, source, emitted_at, claimed_at, delivered, started,
          searched_to
        from absurd.page_of_events(%s, %s, %s, %s::bigint, %s::int, %s::int)"""
    return Query(sql, (queue_name, event_name, prefix, before_seq, limit, payload_bytes), _found(EventRow))


def tasks_of_event(seq: int, limit: int) -> Query[list[EventTask]]:
    """The tasks that an event has started."""
    sql = """
        select subscription_id, task_name, task_id, status, message, state, finished_at
        from absurd.tasks_of_event(%s::bigint, %s::int)"""
    return Query(sql, (seq, limit), lambda rows: [EventTask(*row) for row in rows])


def takers_of_event(seq: int, later: bool, after: str | None, limit: int) -> Query[Takers]:
    """The tasks that got an event from a wait: of those that had been spawned before it, or ``later``."""
    sql = """
        select task_id, task_name, queue_name, step_name, state, spawned_at, taken_at, searched_at, next
        from absurd.takers_of_event(%s::bigint, %s, %s, %s::int)"""

    def decode(rows: list[Row]) -> Takers:
        searched_at, after = next(((row[7], row[8]) for row in rows if row[8] is not None), (None, None))
        return Takers([Taker(*row[:7]) for row in rows if row[8] is None], searched_at, after)

    return Query(sql, (seq, later, after, limit), decode)


def page_of_waits(
    queue_name: str | None, event_name: str | None, kind: str | None, after_wait_id: int | None, limit: int
) -> Query[Found[WaitRow]]:
    """What sleeping runs wait for, the longest waiting first."""
    sql = """
        select wait_id, kind, queue_name, task_id, task_name, step_name, event_queue_name, event_name, awaited_task_id,
          waiting_since, until, searched_to
        from absurd.page_of_waits_for(%s, %s, %s, %s::bigint, %s::int)"""
    return Query(sql, (queue_name, event_name, kind, after_wait_id, limit), _found(WaitRow))


def _found(kind: type[T]) -> Callable[[list[Row]], Found[T]]:
    """Reads rows whose last column is set in a row of its own, at the end."""

    def decode(rows: list[Row]) -> Found[T]:
        ended = next((row[-1] for row in rows if row[-1] is not None), None)
        return Found([kind(*row[:-1]) for row in rows if row[-1] is None], ended)

    return decode


def page_of_schedules(text: str | None, after: str | None, limit: int) -> Query[list[str]]:
    """The names of schedules, in order."""
    return Query("select absurd.page_of_schedules(%s, %s, %s::int)", (text, after, limit), column)


def page_of_subscriptions(
    queue_name: str | None, text: str | None, after: int | None, limit: int
) -> Query[list[SubscriptionRow]]:
    """Subscriptions, in their order."""
    sql = """
        select subscription_id, queue_name, pattern, task_name, target_queue, config, created_at, last_error, last_error_at
        from absurd.page_of_subscriptions(%s, %s, %s::bigint, %s::int)"""
    return Query(sql, (queue_name, text, after, limit), lambda rows: [SubscriptionRow(*row) for row in rows])
