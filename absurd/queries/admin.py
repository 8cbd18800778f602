"""Queries of upkeep: clean-up in bounded batches."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from absurd.queries.query import Query, Row, scalar


@dataclass(frozen=True, slots=True)
class Retention:
    """What a queue's policy says about clean-up."""

    ttl: timedelta
    limit: int


def retention(queue_name: str) -> Query[Retention | None]:
    """How long a queue keeps what is finished, and how much one batch may delete; ``None`` when there is no such queue."""

    def decode(rows: list[Row]) -> Retention | None:
        return Retention(*rows[0]) if rows else None

    return Query("select cleanup_ttl, cleanup_limit from absurd.get_queue_policy(%s)", (queue_name,), decode)


def cleanup_tasks(queue_name: str, ttl_seconds: int, limit: int) -> Query[int]:
    """Deletes a batch of finished tasks that are older; how many."""
    return Query("select absurd.cleanup_tasks(%s, %s::int, %s::int)", (queue_name, ttl_seconds, limit), scalar)


def cleanup_events(queue_name: str, ttl_seconds: int, limit: int) -> Query[int]:
    """Deletes a batch of events that were claimed and are older; how many."""
    return Query("select absurd.cleanup_events(%s, %s::int, %s::int)", (queue_name, ttl_seconds, limit), scalar)
