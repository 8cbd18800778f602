"""Queries about events outside tasks."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from absurd.queries.query import Query, Row, scalar


@dataclass(frozen=True, slots=True)
class DispatchedTask:
    """What an event did for one subscriber.

    ``status`` is ``ok`` when the task was started; otherwise why not (``no_queue``, ``too_large``, ``invalid``): ``message``
    says it in words, and there are no ids.
    """

    task_name: str
    task_id: UUID | None
    run_id: UUID | None
    status: str
    message: str | None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """An emission and whom it has started, in the order of the subscriptions.

    ``seq`` is its place in the log; ``created`` is false when the idempotency key was known and names an earlier emission.
    """

    seq: int
    created: bool
    tasks: list[DispatchedTask]


def append_event(queue_name: str, event_name: str, payload: str | None, key: str | None = None) -> Query[int]:
    """Emits an event, ``payload`` being JSON text; its place in the log. Repeatable with a key only: twice is two emissions."""
    sql = "select absurd.append_event(%s, %s, %s::json, %s)"
    return Query(sql, (queue_name, event_name, payload, key), scalar, repeatable=key is not None)


def dispatch_event(queue_name: str, event_name: str, payload: str | None, key: str | None) -> Query[Dispatch]:
    """The same, with whom it has started."""
    sql = """
        select seq, created, task_name, task_id, run_id, status, message
        from absurd.dispatch_event(%s, %s, %s::json, %s)"""
    return Query(sql, (queue_name, event_name, payload, key), _dispatch, repeatable=key is not None)


def _dispatch(rows: list[Row]) -> Dispatch:
    seq, created, *_ = rows[0]
    return Dispatch(seq, created, [DispatchedTask(*task) for _, _, *task in rows if task[0] is not None])
