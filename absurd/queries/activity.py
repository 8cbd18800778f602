"""Queries of those who watch: counts for metrics, and what has happened to tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from absurd.queries.query import Query, column, scalar


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """What is alive in one queue; ages in seconds, 0 for none."""

    queue_name: str
    paused: bool
    pending: int
    running: int
    sleeping: int
    oldest_ready: float
    oldest_running: float
    overdue: float
    workers: int


@dataclass(frozen=True, slots=True)
class Counters:
    """How many rows of each kind the database has seen."""

    spawned: int
    ended: int
    steps: int
    events: int
    failed: int


@dataclass(frozen=True, slots=True)
class Activity:
    """One thing that happened to a task; ``place`` is where the next page begins, with the moment."""

    happened_at: datetime
    place: str
    task_id: UUID
    queue_name: str
    task_name: str
    kind: str
    name: str | None
    detail: str | None
    attempt: int | None
    worker_id: str | None


@dataclass(frozen=True, slots=True)
class EventSeen:
    """An emission; the beginning of its payload as JSON text."""

    seq: int
    queue_name: str
    event_name: str
    payload: str | None
    emitted_at: datetime


def queue_metrics() -> Query[list[QueueMetrics]]:
    """All queues with what is alive in them; one pass over the living runs."""
    sql = """
        select queue_name, paused, pending, running, sleeping, oldest_ready, oldest_running, overdue, workers
        from absurd.queue_metrics()"""
    return Query(sql, (), lambda rows: [QueueMetrics(*row) for row in rows])


def activity_counters() -> Query[Counters]:
    """Rows seen, for rates; they lag by a second."""
    sql = "select spawned, ended, steps, events, failed from absurd.activity_counters()"
    return Query(sql, (), lambda rows: Counters(*rows[0]))


def tasks_to_follow(queue_name: str | None, since: datetime) -> Query[list[UUID]]:
    """Ids of living tasks, and of those spawned since a moment."""
    return Query("select task_id from absurd.tasks_to_follow(%s, %s) as t(task_id)", (queue_name, since), column)


def events_after(queue_name: str | None, seq: int | None) -> Query[list[EventSeen]]:
    """Events after a place in the log, or the last one there is."""
    sql = "select seq, queue_name, event_name, payload, emitted_at from absurd.events_after(%s, %s::bigint)"
    return Query(sql, (queue_name, seq), lambda rows: [EventSeen(*row) for row in rows])


def has_ended(task_id: UUID) -> Query[bool]:
    """Whether a task has ended, or is gone."""
    sql = "select coalesce((select state in ('completed', 'failed', 'cancelled') from absurd.read_result(%s)), true)"
    return Query(sql, (task_id,), scalar)


def task_activity(
    task_ids: Sequence[UUID], since: datetime | None, after_place: str = "", limit: int = 1000
) -> Query[list[Activity]]:
    """A page of what has happened to these tasks since a moment, in the order of time."""
    sql = """
        select happened_at, place, task_id, queue_name, task_name, kind, name, detail, attempt, worker_id
        from absurd.task_activity(%s::uuid[], coalesce(%s::timestamptz, '-infinity'), %s, %s::int)"""
    return Query(sql, (list(task_ids), since, after_place, limit), lambda rows: [Activity(*row) for row in rows])
