"""Triggers as the SQL tests call them: registration, one poll, its end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from absurd.db import run
from absurd.queries import triggers as queries
from absurd.queries.triggers import PreparedFire, Settlement, TriggerDefinition, TriggerExecution, TriggerInfo, TriggerPoll
from absurd.triggers import Fire
from absurd.triggers.fires import prepare
from tests.sql.calls import Connection, rows


def register(conn: Connection, name: str = "t", **changes: Any) -> None:
    fields = {
        "name": name,
        "queue_name": "default",
        "task_name": "work",
        "poll_interval": 2.0,
        "poll_timeout": 30.0,
        "allow_concurrent": False,
        "headers": None,
        "options": '{"max_attempts": 1}',
        **changes,
    }
    run(conn, queries.register_trigger(TriggerDefinition(**fields)))


def take(conn: Connection, owner: str = "a", name: str = "t", running: tuple[UUID, ...] = ()) -> TriggerPoll | None:
    found = run(conn, queries.claim_trigger_polls(owner, [name], running))
    return found[0] if found else None


def taken(conn: Connection, owner: str = "a", name: str = "t") -> TriggerPoll:
    poll = take(conn, owner, name)
    assert poll is not None
    return poll


def fire(context: Any = None) -> PreparedFire:
    return prepare("t", Fire(context))


def settle(
    conn: Connection, poll: TriggerPoll, *fires: PreparedFire, state: str | None = None, error: str | None = None
) -> Settlement:
    return run(conn, queries.settle_trigger_poll(poll, fires, state, error))


def poll_once(conn: Connection, *fires: PreparedFire, **how: Any) -> list[str]:
    """One poll of a trigger that is made due for it."""
    rows(conn, "update absurd.triggers set next_poll_at = absurd.current_time()")
    return settle(conn, taken(conn), *fires, **how).fires


def info(conn: Connection, name: str = "t") -> TriggerInfo:
    return next(one for one in run(conn, queries.list_triggers()) if one.name == name)


def executions(conn: Connection, before: int | None = None, limit: int = 50) -> list[TriggerExecution]:
    return run(conn, queries.list_trigger_executions("t", before, limit))
