"""Queries of ``absurd.testing``: the clock of a test's database, and what there is to be asserted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from absurd.queries.query import Query, Row, nothing, scalar


def has_clock() -> Query[bool]:
    """Whether this is a test's database, whose clock can be moved."""
    return Query("select to_regclass('absurd_testing.clock') is not null", (), scalar)


def stop_clock(at: datetime) -> Query[None]:
    """Sets the time, which stands still from now on."""
    sql = "insert into absurd_testing.clock values (%s) on conflict ((true)) do update set stopped_at = excluded.stopped_at"
    return Query(sql, (at,), nothing)


def start_clock() -> Query[None]:
    """Goes back to the real time."""
    return Query("delete from absurd_testing.clock", (), nothing)


def next_due(queues: Sequence[str]) -> Query[datetime | None]:
    """The next moment at which time alone changes a task of these queues: the end of a sleep or a wait, a limit, a lease.

    Tasks that a worker has handed back because it did not know them would come up for ever, and are left out.
    """
    sql = """
        select min(m.at)
        from absurd.runs r
        cross join lateral (values
          (case when r.state = 'sleeping' and r.note is null then r.available_at end),
          (r.deadline_at),
          (case when r.state = 'running' then r.lease_expires_at end)) as m(at)
        where r.queue_name = any (%s::text[]) and m.at > absurd.current_time()"""
    return Query(sql, (list(queues),), scalar)


def failed_attempts() -> Query[list[tuple[UUID, UUID, str, int, bool, Any]]]:
    """Attempts that a handler ended with an error, in order: run, task, its name, number, whether it was the last, failure."""
    sql = """
        select a.run_id, a.task_id, t.task_name, a.attempt, a.final, a.failure
        from absurd.attempts a
        join absurd.tasks t on t.task_id = a.task_id
        where a.cause = 'error'
        order by a.ended_at, a.task_id, a.attempt"""
    return Query(sql, (), _rows)


def tasks() -> Query[list[Row]]:
    """All tasks, in the order in which they were spawned; the columns are the fields of ``TaskRecord``."""
    sql = """
        select t.task_id, t.task_name, t.queue_name, coalesce(t.outcome, r.state, 'pending'), coalesce(r.attempt, t.attempt),
          t.params, t.headers, t.result,
          (select a.failure from absurd.attempts a where a.task_id = t.task_id order by a.attempt desc, a.ended_at desc limit 1),
          t.parent_task_id, t.idempotency_key, r.available_at, r.note
        from absurd.tasks t
        left join absurd.runs r on r.task_id = t.task_id
        order by t.spawned_at, t.task_id"""
    return Query(sql, (), _rows)


def events() -> Query[list[Row]]:
    """All events in the order of the log: place, name, queue, payload, time."""
    return Query(
        "select e.seq, e.event_name, e.queue_name, e.payload, e.emitted_at from absurd.events e order by e.seq", (), _rows
    )


def checkpoints(task_id: UUID) -> Query[list[Row]]:
    """The recorded effects of a task in its order: name, kind, value."""
    sql = """
        select c.step_name, c.kind, c.state
        from absurd.checkpoints c
        where c.task_id = %s
        order by c.position, c.completed_at, c.step_name"""
    return Query(sql, (task_id,), _rows)


def waits() -> Query[list[Row]]:
    """What tasks wait for: task, its name, kind (also sleep and timeout), event, its queue, awaited task, until when."""
    sql = """
        select w.task_id, t.task_name, case when w.kind = 'timer' then w.detail else w.kind end, w.event_name, w.queue_name,
          w.awaited_task_id, r.available_at
        from absurd.waits w
        join absurd.runs r on r.run_id = w.run_id
        join absurd.tasks t on t.task_id = w.task_id
        where w.kind <> 'client'
        order by w.wait_id"""
    return Query(sql, (), _rows)


def _rows(rows: list[Row]) -> list[Any]:
    return rows


def has_ended(task_id: UUID) -> Query[bool]:
    """Whether a task is completed, failed or cancelled."""
    return Query(
        "select coalesce((select t.outcome is not null from absurd.tasks t where t.task_id = %s), true)", (task_id,), scalar
    )


def lose_worker(task_id: UUID) -> Query[None]:
    """Has the lease of a running task run out and be noticed, and its next attempt be ready, at this moment."""
    sql = """
        do $$ begin
          update absurd.runs set lease_expires_at = absurd.current_time() where task_id = '{0}' and state = 'running';
          perform absurd.sweep();
          update absurd.runs set state = 'pending', available_at = absurd.current_time()
          where task_id = '{0}' and state = 'sleeping';
        end $$"""
    return Query(sql.format(UUID(str(task_id))), (), nothing)
