"""Queries about subscriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from absurd.codec import decode
from absurd.queries.query import Query, Row, scalar

_COLUMNS = """subscription_id, queue_name, pattern, task_name, target_queue, config::text, options::text, created_at, last_error,
  last_error_at"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A task that starts whenever a fitting event is emitted.

    ``queue_name`` is the queue of the events, ``target_queue`` that of the tasks (``None``: the same); ``options`` are those
    of the spawns in their SQL form. ``last_error`` says why its task could not be started when that went wrong last.
    """

    subscription_id: int
    queue_name: str
    pattern: str
    task_name: str
    target_queue: str | None
    config: Any
    options: Mapping[str, Any]
    created_at: datetime
    last_error: str | None = None
    last_error_at: datetime | None = None


def subscribe(queue_name: str, pattern: str, task_name: str, options: str, config: str | None) -> Query[Subscription]:
    """Makes a subscription, or changes it; ``options`` and ``config`` are JSON texts."""
    sql = f"select {_COLUMNS} from absurd.store_subscription(%s, %s, %s, %s::jsonb, %s::json)"
    return Query(sql, (queue_name, pattern, task_name, options, config), lambda rows: _subscription(rows[0]))


def unsubscribe(queue_name: str, pattern: str, task_name: str) -> Query[bool]:
    """Ends a subscription; whether there was one."""
    return Query("select absurd.unsubscribe(%s, %s, %s)", (queue_name, pattern, task_name), scalar)


def list_subscriptions(queue_name: str | None, pattern: str | None) -> Query[list[Subscription]]:
    """Subscriptions in their order: all, those of a queue, those of one pattern."""
    sql = f"select {_COLUMNS} from absurd.list_subscriptions(%s, %s)"
    return Query(sql, (queue_name, pattern), lambda rows: [_subscription(row) for row in rows])


def _subscription(row: Row) -> Subscription:
    number, queue, pattern, task, target, config, options, *rest = row
    return Subscription(number, queue, pattern, task, target, None if config is None else decode(config), decode(options), *rest)
