"""list-events, emit-event, list-waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from absurd.cli.arguments import read_json
from absurd.cli.command import command
from absurd.cli.options import Limit, NewerThan, QueueFilter, TargetQueue
from absurd.cli.output import Column, Rows
from absurd.cli.session import Session
from absurd.cli.show import what_for
from absurd.cli.text import escape, json_text, moment_text, one_line
from absurd.queries import inspect
from absurd.types import DEFAULT_QUEUE

GROUP = "Events"

EventName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the event; it matches exactly, case included.")]
NameFilter = Annotated[str | None, typer.Option("-n", "--name", metavar="NAME", help="Only events of this name.")]
Prefix = Annotated[bool, typer.Option("--prefix", help="Read --name as the beginning of names.")]
Payload = Annotated[
    str | None, typer.Option("-p", "--payload", metavar="JSON", help="Payload: JSON, @file, or - for standard input.")
]

Key = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="KEY", help="Emit nothing if this key has been used in the queue.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        "list-events",
        list_events,
        "absurdctl list-events --queue orders",
        "absurdctl list-events --name payment. --prefix --newer-than 1h --json",
        group=GROUP,
    )
    command(
        app,
        "emit-event",
        emit_event,
        "absurdctl emit-event payment.confirmed:42",
        """absurdctl emit-event payment.confirmed:42 -p '{"amount": 99.5}' -q orders""",
        group=GROUP,
    )
    command(app, "list-waits", list_waits, "absurdctl list-waits --queue orders", group=GROUP)


def list_events(
    session: Session,
    queue: QueueFilter = None,
    name: NameFilter = None,
    prefix: Prefix = False,
    newer_than: NewerThan = None,
    limit: Limit = 50,
) -> None:
    """List emitted events, the newest first."""
    if prefix and name is None:
        raise typer.BadParameter("it says how to read --name; give that too", param_hint="--prefix")
    session.require_queue(queue)
    rows = list(_events(session, queue, name, prefix, newer_than, limit))
    if session.out.as_json:
        session.out.json([{**asdict(row), "payload": row.payload and json_text(row.payload)} for row in rows])
        return
    columns = [
        Column("SEQ", fixed=True, right=True),
        Column("QUEUE"),
        Column("NAME"),
        Column("EMITTED"),
        Column("CLAIMED"),
        Column("PAYLOAD"),
    ]
    cells: Rows = [
        [
            str(row.seq),
            escape(row.queue_name),
            escape(row.event_name),
            moment_text(row.emitted_at, session.now),
            moment_text(row.claimed_at, session.now),
            one_line(row.payload),
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="No events.")


def _events(
    session: Session, queue: str | None, name: str | None, prefix: bool, newer_than: float | None, limit: int
) -> Iterator[inspect.EventRow]:
    last = None
    while limit > 0:
        size = min(limit, inspect.PAGE_SIZE)
        page = session.run(inspect.list_events(queue, name, prefix, newer_than, last, size))
        yield from page
        if len(page) < size:
            return
        limit -= size
        last = page[-1].seq


def emit_event(
    session: Session, name: EventName, payload: Payload = None, queue: TargetQueue = DEFAULT_QUEUE, idempotency_key: Key = None
) -> None:
    """Emit an event: tasks that wait for its name wake, tasks that subscribe to it start, tasks that will wait for it find it."""
    value = None if payload is None else read_json(payload, "--payload")
    done = session.client(queue).dispatch_event(name, value, queue=queue, idempotency_key=idempotency_key)
    text = (
        f'Emitted event "{escape(name)}" in queue "{escape(queue)}" (seq {done.seq})'
        if done.created
        else f"The idempotency key is known; the event was emitted before (seq {done.seq})"
    )
    session.out.done(
        text, seq=done.seq, queue_name=queue, event_name=name, created=done.created, tasks=[asdict(task) for task in done.tasks]
    )
    if not session.out.as_json:
        for task in done.tasks:
            told = (
                f"Task ID: {task.task_id}" if task.task_id is not None else f"not started: {escape(task.message or task.status)}"
            )
            session.out.line(f'  "{escape(task.task_name)}" {told}')


def list_waits(session: Session, queue: QueueFilter = None, limit: Limit = 50) -> None:
    """List what sleeping tasks wait for, the longest waiting first."""
    session.require_queue(queue)
    rows = list(_waits(session, queue, limit))
    if session.out.as_json:
        session.out.json([asdict(row) for row in rows])
        return
    columns = [
        Column("TASK ID", fixed=True),
        Column("QUEUE"),
        Column("TASK"),
        Column("WAITS FOR"),
        Column("SINCE"),
        Column("UNTIL"),
    ]
    cells: Rows = [
        [
            str(row.task_id),
            escape(row.queue_name),
            escape(row.task_name),
            what_for(row.kind, row.event_name, row.awaited_task_id),
            moment_text(row.waiting_since, session.now),
            moment_text(row.until, session.now),
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="Nothing waits.")


def _waits(session: Session, queue: str | None, limit: int) -> Iterator[inspect.WaitRow]:
    last = None
    while limit > 0:
        size = min(limit, inspect.PAGE_SIZE)
        page = session.run(inspect.list_waits(queue, last, size))
        yield from page
        if len(page) < size:
            return
        limit -= size
        last = page[-1].wait_id
