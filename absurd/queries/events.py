"""Queries about events outside tasks."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Emission:
    """An event to be emitted, checked; ``payload`` and ``source`` are JSON texts."""

    queue_name: str
    event_name: str
    payload: str | None
    key: str | None
    source: str | None

    @property
    def args(self) -> tuple[str | None, ...]:
        """As the SQL functions take them."""
        return (self.queue_name, self.event_name, self.payload, self.key, self.source)


def append_event(emission: Emission) -> Query[int]:
    """Emits an event; its place in the log. Repeatable with a key only: twice is two emissions."""
    sql = "select absurd.append_event(%s, %s, %s::json, %s, %s::jsonb)"
    return Query(sql, emission.args, scalar, repeatable=emission.key is not None)


def dispatch_event(emission: Emission) -> Query[Dispatch]:
    """The same, with whom it has started."""
    sql = """
        select seq, created, task_name, task_id, run_id, status, message
        from absurd.dispatch_event(%s, %s, %s::json, %s, %s::jsonb)"""
    return Query(sql, emission.args, _dispatch, repeatable=emission.key is not None)


def event_sources(seqs: Sequence[int]) -> Query[list[tuple[int, str, str | None]]]:
    """Seq, name and source (JSON text) of events; those that have been cleaned up are missing."""
    sql = "select seq, event_name, source::text from absurd.event_sources(%s::bigint[])"
    return Query(sql, (list(seqs),), lambda rows: [(row[0], row[1], row[2]) for row in rows])


def _dispatch(rows: list[Row]) -> Dispatch:
    seq, created, *_ = rows[0]
    return Dispatch(seq, created, [DispatchedTask(*task) for _, _, *task in rows if task[0] is not None])
