"""Queries of people: lists of tasks, events, waits, workers and queues; one task with all that is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from absurd.queries.query import Query, column, scalar

PAGE_SIZE = 1000
"""What one call returns at most, however large a limit it is given."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task in a list."""

    task_id: UUID
    run_id: UUID
    queue_name: str
    task_name: str
    state: str
    attempt: int | None
    max_attempts: int | None
    priority: int
    spawned_at: datetime
    available_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    worker_id: str | None
    parent_task_id: UUID | None
    idempotency_key: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """One emission; ``payload`` is JSON text."""

    seq: int
    queue_name: str
    event_name: str
    payload: str | None
    emitted_at: datetime
    claimed_at: datetime | None
    delivered: bool


@dataclass(frozen=True, slots=True)
class WaitRow:
    """One thing that a sleeping run waits for."""

    wait_id: int
    kind: str
    queue_name: str
    task_id: UUID
    task_name: str
    run_id: UUID
    step_name: str | None
    event_queue_name: str | None
    event_name: str | None
    awaited_task_id: UUID | None
    waiting_since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One living worker process."""

    worker_id: str
    queue_names: list[str]
    hostname: str
    pid: int
    version: str
    concurrency: int
    running: int
    idle: bool
    started_at: datetime
    heartbeat_at: datetime
    lease_seconds: float
    stale: bool


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue and what is alive in it."""

    queue_name: str
    paused_at: datetime | None
    pending: int
    running: int
    sleeping: int
    oldest_ready_at: datetime | None
    workers: int
    max_payload_bytes: int


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list; ``None`` means any. Ages are seconds since the spawn."""

    queue_name: str | None = None
    task_name: str | None = None
    state: str | None = None
    older_than: float | None = None
    newer_than: float | None = None


def current_time() -> Query[datetime]:
    """The database's clock, which ages are counted by."""
    return Query("select absurd.current_time()", (), scalar)


def list_tasks(wanted: TaskFilter, before_task_id: UUID | None, limit: int) -> Query[list[TaskRow]]:
    """A page of tasks, the newest first."""
    sql = """
        select task_id, run_id, queue_name, task_name, state, attempt, max_attempts, priority, spawned_at, available_at,
          started_at, finished_at, worker_id, parent_task_id, idempotency_key, note
        from absurd.list_tasks(
          %s, %s, %s, make_interval(secs => %s::float8), make_interval(secs => %s::float8), %s::uuid, %s::int)"""
    args = (wanted.queue_name, wanted.task_name, wanted.state, wanted.older_than, wanted.newer_than, before_task_id, limit)
    return Query(sql, args, lambda rows: [TaskRow(*row) for row in rows])


def show_task(task_id: UUID) -> Query[str | None]:
    """All that is known of a task, as JSON text; ``None`` when there is no such task."""
    return Query("select absurd.show_task(%s)::text", (task_id,), scalar)


def list_checkpoints(task_id: UUID, after_position: int, after_step: str) -> Query[str | None]:
    """The next checkpoints of a task after a place in handler order, as JSON text; ``None`` when there are no more."""
    return Query("select absurd.list_checkpoints(%s, %s::int, %s)", (task_id, after_position, after_step), scalar)


def list_events(
    queue_name: str | None, event_name: str | None, prefix: bool, newer_than: float | None, before_seq: int | None, limit: int
) -> Query[list[EventRow]]:
    """A page of events, the newest first; ``prefix`` reads the name as its beginning."""
    sql = """
        select seq, queue_name, event_name, payload::text, emitted_at, claimed_at, delivered
        from absurd.list_events(%s, %s, %s, make_interval(secs => %s::float8), %s::bigint, %s::int)"""
    args = (queue_name, event_name, prefix, newer_than, before_seq, limit)
    return Query(sql, args, lambda rows: [EventRow(*row) for row in rows])


def list_waits(queue_name: str | None, after_wait_id: int | None, limit: int) -> Query[list[WaitRow]]:
    """A page of what sleeping runs wait for, the longest waiting first."""
    sql = """
        select wait_id, kind, queue_name, task_id, task_name, run_id, step_name, event_queue_name, event_name, awaited_task_id,
          waiting_since, until
        from absurd.list_waits(%s, %s::bigint, %s::int)"""
    return Query(sql, (queue_name, after_wait_id, limit), lambda rows: [WaitRow(*row) for row in rows])


def list_workers() -> Query[list[WorkerRow]]:
    """All workers, the oldest first."""
    sql = """
        select worker_id, queue_names, hostname, pid, version, concurrency, running, idle, started_at, heartbeat_at,
          lease_seconds, stale
        from absurd.list_workers()"""
    return Query(sql, (), lambda rows: [WorkerRow(*row) for row in rows])


def queue_stats(queue_name: str | None = None) -> Query[list[QueueRow]]:
    """All queues, or one, with counts of what is alive."""
    sql = """
        select queue_name, paused_at, pending, running, sleeping, oldest_ready_at, workers, max_payload_bytes
        from absurd.queue_stats(%s)"""
    return Query(sql, (queue_name,), lambda rows: [QueueRow(*row) for row in rows])


def queue_names() -> Query[list[str]]:
    """The names of all queues."""
    return Query("select queue_name from absurd.list_queues()", (), column)


def task_names() -> Query[list[str]]:
    """The names of all tasks there are, of all queues."""
    return Query("select distinct task_name from absurd.task_names() order by 1", (), column)
