"""Queries about the state and end of tasks, and what people do to a task by its id."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from absurd.codec import decode
from absurd.errors import TaskNotFoundError
from absurd.queries.query import Query, Row, nothing
from absurd.types import Spawned, TaskResult


def read_result(task_id: UUID) -> Query[TaskResult | None]:
    """State, result and failure of a task; ``None`` if there is no such task."""
    return Query("select state, result, failure from absurd.read_result(%s)", (task_id,), _Reader(task_id))


def watch_task(task_id: UUID, channel: str, seconds: float) -> Query[TaskResult | None]:
    """The same, and if the task still lives: a notification on ``channel`` when it ends, for as many seconds."""
    sql = "select state, result, failure from absurd.watch_task(%s, %s, %s::float8)"
    return Query(sql, (task_id, channel, seconds), _Reader(task_id))


def unwatch_task(task_id: UUID, channel: str) -> Query[None]:
    """Takes ``watch_task`` back."""
    return Query("select absurd.unwatch_task(%s, %s)", (task_id, channel), nothing)


def cancel_task(task_id: UUID) -> Query[None]:
    """Cancels a task, unless it has ended."""
    sql = "select absurd.cancel_task(q, %s) from absurd.queue_of_task(%s) q where q is not null"
    return Query(sql, (task_id, task_id), lambda rows: nothing(_require(task_id, rows)))


def retry_task(task_id: UUID, options: dict[str, Any]) -> Query[Spawned]:
    """Another attempt for a task that failed or was cancelled, or a copy of it: twice is two copies, unless they have a key."""
    sql = """
        select r.task_id, r.run_id, r.attempt, r.created
        from absurd.queue_of_task(%s) q
        cross join lateral absurd.retry_task(q, %s, %s::jsonb) r
        where q is not null"""
    args = (task_id, task_id, json.dumps(options))
    repeatable = options.get("idempotency_key") is not None
    return Query(sql, args, lambda rows: Spawned(*_require(task_id, rows)[0]), repeatable=repeatable)


class _Reader:
    """Decodes state, result and failure of one task."""

    def __init__(self, task_id: UUID) -> None:
        self._task_id = task_id

    def __call__(self, rows: list[Row]) -> TaskResult | None:
        if not rows:
            return None
        state, result, failure = rows[0]
        return TaskResult(self._task_id, state, _value(result), _value(failure))


def _value(text: str | None) -> Any:
    return None if text is None else decode(text)


def _require(task_id: UUID, rows: list[Row]) -> list[Row]:
    if not rows:
        raise TaskNotFoundError(f"there is no task {task_id}: it was never committed, or has been cleaned up with its queue")
    return rows
