"""Queries that spawn tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from absurd.errors import AbsurdError, InvalidOptionError, PayloadTooLargeError, QueueNotFoundError
from absurd.queries.arrays import Jsonbs, Jsons, Texts, Uuids
from absurd.queries.query import Query, Row
from absurd.types import Spawned, SpawnRequest

_SPAWN = """
select task_id, run_id, attempt, created, status, message
from absurd.spawn_tasks(%s::text[], %s::uuid[], %s::uuid[], %s::text[], %s::json[], %s::json[], %s::jsonb[], %s::text[])"""


def spawn_one(request: SpawnRequest) -> Query[Spawned]:
    """Spawns a task. Repeatable, for the ids are fixed in the request. Its decoder raises when the request was refused."""
    sql = "select absurd.spawn_quietly(%s, %s, %s, %s, %s::json, %s::json, %s::jsonb, %s)"
    r = request
    args = (r.queue_name, r.task_id, r.run_id, r.task_name, r.params, r.headers, r.options, r.idempotency_key)
    return Query(sql, args, lambda rows: Spawned(r.task_id, r.run_id, 1, True) if rows[0][0] is None else _decode_one(rows[0][0]))


def spawn_tasks(requests: Sequence[SpawnRequest]) -> Query[list[Spawned]]:
    """Spawns tasks; one answer per request, in their order. Repeatable, for the ids are fixed in the requests.

    Its decoder raises for the first request that was refused; the others are spawned then, unless the caller rolls back.
    """
    args = (
        Texts(r.queue_name for r in requests),
        Uuids(r.task_id for r in requests),
        Uuids(r.run_id for r in requests),
        Texts(r.task_name for r in requests),
        Jsons(r.params for r in requests),
        Jsons(r.headers for r in requests),
        Jsonbs(r.options for r in requests),
        Texts(r.idempotency_key for r in requests),
    )
    return Query(_SPAWN, args, _decode)


def _decode_one(answer: list[Any]) -> Spawned:
    task_id, run_id, attempt, created, status, message = answer
    if status != "ok":
        raise _refusal(status, message)
    return Spawned(UUID(task_id), UUID(run_id), attempt, created)


def _decode(rows: list[Row]) -> list[Spawned]:
    for *_, status, message in rows:
        if status != "ok":
            raise _refusal(status, message)
    return [Spawned(task_id, run_id, attempt, created) for task_id, run_id, attempt, created, *_ in rows]


def _refusal(status: str, message: str) -> AbsurdError:
    if status == "no_queue":
        return QueueNotFoundError(f"{message}. Create it with app.create_queue(…) or `absurdctl create-queue`.")
    if status == "too_large":
        return PayloadTooLargeError(f"{message}. Store large data elsewhere and pass a reference, or raise the queue's limit.")
    return InvalidOptionError(message)
