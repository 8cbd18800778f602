"""Queries about triggers: registration, polls, and what people ask and decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from absurd.queries.query import Query, column, nothing, scalar

PAGE_SIZE = 1000
"""Executions that one call returns at most, however large a limit it is given."""


@dataclass(frozen=True, slots=True)
class TriggerDefinition:
    """What a registration stores; times in seconds, ``headers`` and ``options`` are JSON texts."""

    name: str
    queue_name: str
    task_name: str
    poll_interval: float
    poll_timeout: float
    allow_concurrent: bool
    headers: str | None
    options: str | None
    declared_by: str | None = None


@dataclass(frozen=True, slots=True)
class TriggerPoll:
    """A poll that this process shall make; ``state`` is JSON text, ``poll_id`` the fence of its settlement."""

    trigger_name: str
    poll_id: UUID
    state: str
    poll_timeout: float


@dataclass(frozen=True, slots=True)
class PreparedFire:
    """One fire, ready to be spawned; the ids are fixed here, so that a settlement can be repeated."""

    context: str | None
    context_hash: str
    task_id: UUID
    run_id: UUID


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a poll ended.

    ``status`` is ok, disabled, refused or lost, ``fires`` per fire fired, skipped, disabled or lost; ``next_in`` the
    seconds until the next poll is due.
    """

    status: str
    fires: list[str]
    next_in: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class TriggerInfo:
    """A trigger as the database knows it; times in seconds.

    ``owner`` is the worker that polls it, ``failures`` the number of failed polls in a row, ``last_error`` the error of the last
    poll, ``None`` after one that went well.
    """

    name: str
    queue_name: str
    task_name: str
    poll_interval: float
    poll_timeout: float
    allow_concurrent: bool
    enabled: bool
    polling: bool
    owner: str | None
    next_poll_at: datetime
    last_poll_at: datetime | None
    last_fire_at: datetime | None
    failures: int
    last_error: str | None
    last_error_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TriggerExecution:
    """One fire that became a task. ``completed_at`` is ``None`` while it is active, ``task_state`` once the task is gone."""

    execution_id: int
    trigger_name: str
    context_hash: str
    task_id: UUID
    started_at: datetime
    completed_at: datetime | None
    task_state: str | None


def register_trigger(definition: TriggerDefinition) -> Query[None]:
    """Makes a trigger known, or brings what is known of it up to date."""
    sql = "select absurd.register_trigger(%s, %s, %s, %s::float8, %s::float8, %s, %s::json, %s::jsonb, %s)"
    d = definition
    limits = (d.poll_interval, d.poll_timeout, d.allow_concurrent)
    args = (d.name, d.queue_name, d.task_name, *limits, d.headers, d.options, d.declared_by)
    return Query(sql, args, nothing)


def missing_triggers(names: Sequence[str]) -> Query[list[str]]:
    """Which of these triggers the database does not know."""
    return Query("select * from absurd.missing_triggers(%s::text[])", (list(names),), column)


def claim_trigger_polls(owner: str, names: Sequence[str], running: Sequence[UUID]) -> Query[list[TriggerPoll]]:
    """Renews the polls in flight and takes those that are due. Repeatable: the same process may take a poll anew."""
    sql = """
        select trigger_name, poll_id, state::text, poll_timeout
        from absurd.claim_trigger_polls(%s, %s::text[], %s::uuid[])"""
    return Query(sql, (owner, list(names), list(running)), lambda rows: [TriggerPoll(*row) for row in rows])


def settle_trigger_poll(
    poll: TriggerPoll, fires: Sequence[PreparedFire], state: str | None, error: str | None
) -> Query[Settlement]:
    """Ends a poll: its fires and its state, or its error. Repeatable, for the ids are fixed and the poll ends once."""
    sql = """
        select status, fires, next_in, message
        from absurd.settle_trigger_poll(%s, %s, %s::json[], %s::text[], %s::uuid[], %s::uuid[], %s::json, %s)"""
    args = (
        poll.trigger_name,
        poll.poll_id,
        [fire.context for fire in fires],
        [fire.context_hash for fire in fires],
        [fire.task_id for fire in fires],
        [fire.run_id for fire in fires],
        state,
        error,
    )
    return Query(sql, args, lambda rows: Settlement(*rows[0]))


def release_triggers(owner: str) -> Query[int]:
    """Lets go of the triggers of a process; how many there were."""
    return Query("select absurd.release_triggers(%s)", (owner,), scalar)


def list_triggers() -> Query[list[TriggerInfo]]:
    """All triggers, in order of name."""
    sql = """
        select trigger_name, queue_name, task_name, poll_interval, poll_timeout, allow_concurrent, enabled, poll_id is not null,
          owner, next_poll_at, last_poll_at, last_fire_at, failures, last_error, last_error_at, created_at, updated_at
        from absurd.list_triggers()"""
    return Query(sql, (), lambda rows: [TriggerInfo(*row) for row in rows])


def trigger_names() -> Query[list[str]]:
    """The names of all triggers, in order."""
    return Query("select trigger_name from absurd.list_triggers()", (), column)


def set_trigger_enabled(name: str, enabled: bool) -> Query[None]:
    """Lets a trigger be polled, or not."""
    return Query("select absurd.set_trigger_enabled(%s, %s)", (name, enabled), nothing)


def delete_trigger(name: str) -> Query[bool]:
    """Deletes a trigger with its history; false if there was none. Not repeatable: the second answer would be another."""
    return Query("select absurd.delete_trigger(%s)", (name,), scalar, repeatable=False)


def list_trigger_executions(name: str, before: int | None, limit: int) -> Query[list[TriggerExecution]]:
    """Executions of a trigger, the newest first."""
    sql = """
        select execution_id, trigger_name, context_hash, task_id, started_at, completed_at, task_state
        from absurd.list_trigger_executions(%s, %s::bigint, %s::int)"""
    return Query(sql, (name, before, limit), lambda rows: [TriggerExecution(*row) for row in rows])


def count_ready(queue_name: str, limit: int) -> Query[int]:
    """How many tasks of a queue are ready and wait for a worker; counts up to ``limit`` only, however many there are."""
    return Query("select absurd.count_ready(%s, %s::int)", (queue_name, limit), scalar)
