"""Queries about listener processes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from absurd.queries.query import Query, nothing, scalar

ListenerStatus: TypeAlias = Literal["listening", "waiting", "stopping", "dead"]


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """A listener process, as it was heard of last."""

    listener_id: str
    name: str
    queue_name: str | None
    """Where its tasks go; ``None``: wherever their definition says."""
    hostname: str
    pid: int
    status: ListenerStatus
    """``waiting``: for its next start after an error; ``dead``: no heartbeat for a minute."""
    started_at: datetime
    heartbeat_at: datetime
    started_count: int
    """More than 1 when it was started again after errors."""
    failures: int
    last_error: str | None
    last_error_at: datetime | None


def heartbeat_listener(
    listener_id: str,
    name: str,
    queue_name: str | None,
    hostname: str,
    pid: int,
    status: ListenerStatus,
    started_count: int,
    failures: int,
    last_error: str | None,
) -> Query[None]:
    """Says that a listener lives, and how it fares."""
    sql = "select absurd.heartbeat_listener(%s, %s, %s, %s, %s::int, %s, %s::int, %s::int, %s)"
    return Query(sql, (listener_id, name, queue_name, hostname, pid, status, started_count, failures, last_error), nothing)


def unregister_listener(listener_id: str) -> Query[None]:
    """Forgets a listener."""
    return Query("select absurd.unregister_listener(%s)", (listener_id,), nothing)


def list_listeners(name: str | None = None) -> Query[list[ListenerInfo]]:
    """All listeners, or those of a name, the oldest first."""
    sql = """
        select listener_id, name, queue_name, hostname, pid, status, started_at, heartbeat_at, started_count, failures,
          last_error, last_error_at
        from absurd.list_listeners(%s)"""
    return Query(sql, (name,), lambda rows: [ListenerInfo(*row) for row in rows])


def hold_listener_lock(name: str) -> Query[bool]:
    """Has this session be the one that listens under a name; false if another one is, for as long as that lives."""
    return Query("select pg_try_advisory_lock(hashtextextended('absurd listener ' || %s, 0))", (name,), scalar)
