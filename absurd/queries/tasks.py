"""Queries of people who look for tasks, look at one, and mend it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from absurd.errors import TaskNotFoundError
from absurd.queries.query import Query, Row, nothing, scalar
from absurd.types import Spawned


@dataclass(frozen=True, slots=True)
class TaskSearch:
    """Which tasks to find; ``None`` means any. ``task_id`` may be the beginning of one; ``prefix`` says that ``task_name`` is."""

    queue_name: str | None = None
    task_name: str | None = None
    prefix: bool = False
    state: str | None = None
    spawned_from: datetime | None = None
    spawned_to: datetime | None = None
    idempotency_key: str | None = None
    task_id: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class FoundTask:
    """One task that was found; ``failure`` is JSON text, ``waits_for`` says it in words."""

    task_id: UUID
    run_id: UUID | None
    queue_name: str
    task_name: str
    state: str
    attempt: int | None
    max_attempts: int | None
    priority: int
    spawned_at: datetime | None
    available_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    worker_id: str | None
    parent_task_id: UUID | None
    idempotency_key: str | None
    note: str | None
    failure: str | None
    waits_for: str | None


@dataclass(frozen=True, slots=True)
class FoundTasks:
    """A page of a search: how many tasks were looked at for it, and where the next one begins; ``None`` at the end."""

    tasks: list[FoundTask]
    searched: int
    next: str | None


@dataclass(frozen=True, slots=True)
class Places:
    """Where the lists about one task begin; ``None`` means at their start."""

    before_attempt: int | None = None
    after_position: int | None = None
    after_step: str | None = None
    after_child: UUID | None = None


def find_tasks(search: TaskSearch, after: str | None, limit: int) -> Query[FoundTasks]:
    """A page of the tasks that are searched for, the newest first; of failed and cancelled ones, the last ended first."""
    wanted = asdict(search)
    arguments = ", ".join(f"p_{name} => %s" for name in wanted)
    sql = f"select absurd.find_tasks({arguments}, p_after => %s, p_limit => %s::int)::text"
    return Query(sql, (*wanted.values(), after, limit), _found)


def known_task_names(queue_name: str | None) -> Query[list[str]]:
    """Names of tasks to choose from; none if there are too many."""
    return Query("select absurd.known_task_names(%s)", (queue_name,), scalar)


def task_details(task_id: UUID, places: Places, limit: int) -> Query[dict[str, Any] | None]:
    """What is known of a task, in bounded pieces; ``None`` if there is no such task. Moments are ISO texts."""
    sql = """
        select absurd.task_details(%s, p_before_attempt => %s::int, p_after_position => %s::int, p_after_step => %s,
          p_after_child => %s::uuid, p_limit => %s::int)::text"""
    args = (task_id, places.before_attempt, places.after_position, places.after_step, places.after_child, limit)
    return Query(sql, args, lambda rows: None if rows[0][0] is None else json.loads(rows[0][0]))


def task_value(task_id: UUID, what: str, step_name: str | None, attempt: int | None, max_bytes: int) -> Query[str | None]:
    """One value of a task whole, as JSON text: params, headers, result, the checkpoint of a step or the failure of an attempt."""
    sql = "select absurd.task_value(%s, %s, %s, %s::int, %s::int)::text"
    return Query(sql, (task_id, what, step_name, attempt, max_bytes), scalar)


def fork_task(task_id: UUID, step_name: str, options: dict[str, Any]) -> Query[Spawned]:
    """A copy of a task that goes on from a step. Repeatable, for the ids of the copy are in the options."""
    sql = """
        select f.task_id, f.run_id, f.attempt, f.created
        from absurd.queue_of_task(%s) q
        cross join lateral absurd.fork_task(q, %s, %s, %s::jsonb) f
        where q is not null"""
    args = (task_id, task_id, step_name, json.dumps(options))
    return Query(sql, args, lambda rows: Spawned(*_require(task_id, rows)[0]))


def run_task_now(task_id: UUID) -> Query[None]:
    """Makes the time of a sleeping task now. Not repeatable: the second time it is ready already, which is refused."""
    sql = "select absurd.run_task_now(q, %s) from absurd.queue_of_task(%s) q where q is not null"
    return Query(sql, (task_id, task_id), lambda rows: nothing(_require(task_id, rows)), repeatable=False)


def _require(task_id: UUID, rows: list[Row]) -> list[Row]:
    if not rows:
        raise TaskNotFoundError(f"there is no task {task_id}: it was never committed, or has been cleaned up with its queue")
    return rows


_IDS = ("task_id", "run_id", "parent_task_id")
_MOMENTS = ("spawned_at", "available_at", "started_at", "finished_at")


def _found(rows: list[Row]) -> FoundTasks:
    page = json.loads(rows[0][0])
    return FoundTasks([_task(task) for task in page["tasks"]], page["searched"], page["next"])


def _task(task: dict[str, Any]) -> FoundTask:
    for name in _IDS:
        task[name] = None if task[name] is None else UUID(task[name])
    for name in _MOMENTS:
        task[name] = read_moment(task[name])
    return FoundTask(**task)


def read_moment(text: str | None) -> datetime | None:
    """A moment of a JSON document; ``None`` also for one that Python cannot hold, such as ``infinity``."""
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
