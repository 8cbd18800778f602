"""One task, as the HTTP API shows it."""

from __future__ import annotations

from uuid import UUID

from absurd.queries.query import Query, Row


def read_task(task_id: UUID) -> Query[str | None]:
    """What a caller needs of a task, as JSON text of a bounded number of fields; ``None`` if there is no such task.

    While a task is retried, ``failure`` is that of its last attempt.
    """
    sql = """
        select json_build_object(
          'task_id', t.task_id, 'state', coalesce(t.outcome, r.state, 'pending'), 'run_id', coalesce(r.run_id, t.run_id),
          'queue_name', t.queue_name, 'task_name', t.task_name, 'attempt', coalesce(r.attempt, t.attempt),
          'max_attempts', t.max_attempts, 'priority', t.priority, 'params', t.params, 'headers', t.headers,
          'idempotency_key', t.idempotency_key, 'parent_task_id', t.parent_task_id, 'spawned_at', t.spawned_at,
          'available_at', r.available_at, 'started_at', coalesce(r.started_at, t.started_at), 'finished_at', t.finished_at,
          'note', r.note, 'result', t.result,
          'failure', case when t.outcome is distinct from 'completed' then
            (select a.failure from absurd.attempts a where a.task_id = t.task_id order by a.attempt desc limit 1) end)::text
        from absurd.tasks t
        left join absurd.runs r on r.task_id = t.task_id
        where t.task_id = %s"""
    return Query(sql, (task_id,), _first)


def _first(rows: list[Row]) -> str | None:
    return str(rows[0][0]) if rows else None
