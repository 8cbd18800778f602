"""list-triggers, enable-trigger, disable-trigger, delete-trigger, list-trigger-executions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from absurd.cli.command import command
from absurd.cli.complete import complete_trigger
from absurd.cli.options import Limit
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import duration, escape, moment_text
from absurd.errors import ConfigurationError
from absurd.queries import triggers as queries
from absurd.queries.triggers import TriggerExecution, TriggerInfo

GROUP = "Triggers"

TriggerName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the trigger.", autocompletion=complete_trigger)]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "list-triggers", list_triggers, "absurdctl list-triggers", "absurdctl list-triggers --json", group=GROUP)
    command(app, "enable-trigger", enable_trigger, "absurdctl enable-trigger new-orders", group=GROUP)
    command(app, "disable-trigger", disable_trigger, "absurdctl disable-trigger new-orders", group=GROUP)
    command(
        app,
        "delete-trigger",
        delete_trigger,
        "absurdctl delete-trigger new-orders",
        "absurdctl delete-trigger new-orders --yes",
        group=GROUP,
    )
    command(
        app,
        "list-trigger-executions",
        list_trigger_executions,
        "absurdctl list-trigger-executions new-orders",
        "absurdctl list-trigger-executions new-orders --limit 1000 --json",
        group=GROUP,
    )


def list_triggers(session: Session) -> None:
    """List the polled triggers: who polls them, when they fired, and the error of the last poll."""
    rows = session.client().list_triggers()
    if session.out.as_json:
        session.out.json([asdict(row) for row in rows])
        return
    columns = [
        Column("TRIGGER"),
        Column("TASK"),
        Column("QUEUE"),
        Column("EVERY", fixed=True, right=True),
        Column("STATE", fixed=True),
        Column("LAST POLL"),
        Column("LAST FIRE"),
        Column("POLLED BY"),
        Column("ERROR"),
    ]
    cells: Rows = [
        [
            escape(row.name),
            escape(row.task_name),
            escape(row.queue_name),
            duration(row.poll_interval),
            state_text(_state(row)),
            moment_text(row.last_poll_at, session.now),
            moment_text(row.last_fire_at, session.now),
            "-" if row.owner is None else escape(row.owner),
            "-" if row.last_error is None else f"{escape(row.last_error)} ({row.failures} in a row)",
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="No triggers. Workers register those of their application: app.add_trigger(…)")


def _state(row: TriggerInfo) -> str:
    if not row.enabled:
        return "disabled"
    return "failing" if row.failures else "polling" if row.polling else "active"


def enable_trigger(session: Session, name: TriggerName) -> None:
    """Let a disabled trigger be polled again, at once."""
    session.client().enable_trigger(name)
    session.out.done(f'Enabled trigger "{escape(name)}"', name=name, enabled=True)


def disable_trigger(session: Session, name: TriggerName) -> None:
    """Stop the polls of a trigger in all processes, until it is enabled again. From now on it fires nothing."""
    session.client().disable_trigger(name)
    session.out.done(f'Disabled trigger "{escape(name)}"', name=name, enabled=False)


def delete_trigger(session: Session, name: TriggerName, yes: Yes = False) -> None:
    """Delete a trigger that is gone from the code, with its state and history. On a terminal it asks first.

    A worker whose application still has it registers it again within a minute; disable it instead.
    Exit status 1 if there is none.
    """
    if not yes:
        _ask(name, session)
    if session.client().delete_trigger(name):
        session.out.done(f'Deleted trigger "{escape(name)}"', name=name, deleted=True)
        return
    if session.out.as_json:
        session.out.json({"name": name, "deleted": False})
    session.out.note(f'There is no trigger "{escape(name)}"; list-triggers shows what is.')
    raise typer.Exit(1)


def _ask(name: str, session: Session) -> None:
    if not sys.stdin.isatty():
        raise ConfigurationError(f'deleting trigger "{name}" deletes its state and history; repeat the command with --yes')
    sys.stderr.write(f'Delete trigger "{escape(name)}" with its state and history? [y/N] ')
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        session.out.note("Nothing was deleted.")
        raise typer.Exit(1)


def list_trigger_executions(session: Session, name: TriggerName, limit: Limit = 50) -> None:
    """List the tasks that a trigger has started, the newest first."""
    rows = list(_executions(session, name, limit))
    if session.out.as_json:
        session.out.json([asdict(row) for row in rows])
        return
    columns = [
        Column("ID", fixed=True, right=True),
        Column("TASK ID", fixed=True),
        Column("STATE", fixed=True),
        Column("STARTED"),
        Column("COMPLETED"),
        Column("CONTEXT", fixed=True),
    ]
    cells: Rows = [
        [
            str(row.execution_id),
            str(row.task_id),
            "-" if row.task_state is None else state_text(row.task_state),
            moment_text(row.started_at, session.now),
            moment_text(row.completed_at, session.now),
            row.context_hash[:12],
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="It has started nothing yet.")


def _executions(session: Session, name: str, limit: int) -> Iterator[TriggerExecution]:
    last = None
    while limit > 0:
        size = min(limit, queries.PAGE_SIZE)
        page = session.run(queries.list_trigger_executions(name, last, size))
        yield from page
        if len(page) < size:
            return
        limit -= size
        last = page[-1].execution_id
