"""Queries about what queues keep: their options, and the batches that delete the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from absurd.queries.query import Query, nothing, scalar


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """The options of a queue, and what clean-up has done there. Ages are seconds; ``None``: for ever, or any number."""

    queue_name: str
    keep_completed: float | None
    keep_failed: float | None
    keep_cancelled: float | None
    keep_count: int | None
    keep_events: float | None
    max_payload_bytes: int
    visited_at: datetime | None
    cleaned_at: datetime | None
    tasks_deleted: int
    events_deleted: int

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever deleted here unless somebody asks for it."""
        kept = (self.keep_completed, self.keep_failed, self.keep_cancelled, self.keep_count, self.keep_events)
        return all(value is None for value in kept)


@dataclass(frozen=True, slots=True)
class Retained:
    """What a batch has deleted. ``next_in``: seconds until there may be more to do; ``None``: no queue has a limit.

    ``busy``: another session is deleting, or holds a queue, at this moment. ``seconds``: how long the batch took on the server.
    """

    tasks_deleted: int
    events_deleted: int
    next_in: float | None
    busy: bool
    seconds: float


def make_queue(queue_name: str, options: Mapping[str, Any]) -> Query[None]:
    """Creates a queue with options; one that exists stays as it is."""
    return Query("select absurd.make_queue(%s, %s::jsonb)", (queue_name, json.dumps(dict(options))), nothing)


def set_queue_options(queue_name: str, options: Mapping[str, Any]) -> Query[None]:
    """Changes options of a queue: those that are named."""
    return Query("select absurd.set_queue_options(%s, %s::jsonb)", (queue_name, json.dumps(dict(options))), nothing)


def queue_options(queue_name: str | None = None) -> Query[list[QueueOptions]]:
    """The options of all queues, or of one that exists."""
    sql = """
        select queue_name, keep_completed, keep_failed, keep_cancelled, keep_count, keep_events, max_payload_bytes, visited_at,
          cleaned_at, tasks_deleted, events_deleted
        from absurd.queue_options(%s)"""
    return Query(sql, (queue_name,), lambda rows: [QueueOptions(*row) for row in rows])


def hold_retention_lock() -> Query[bool]:
    """Takes the lock of the process that deletes, for as long as its session lasts; false if another session has it."""
    return Query("select pg_try_advisory_lock(hashtextextended('absurd retention worker', 0))", (), scalar)


def apply_retention(limit: int, queue_name: str | None = None, anew: bool = False) -> Query[Retained]:
    """Deletes a batch of what queues need not keep; ``anew``: from the beginning, even if the queue has its rest."""
    sql = "select tasks_deleted, events_deleted, next_in, busy, seconds from absurd.apply_retention(%s::int, %s, %s)"
    return Query(sql, (limit, queue_name, anew), lambda rows: Retained(*rows[0]))
