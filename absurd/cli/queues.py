"""create-queue, drop-queue, list-queues, pause-queue, resume-queue."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from absurd.cli.command import command
from absurd.cli.options import QueueName
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import duration, escape
from absurd.errors import ConfigurationError
from absurd.queries import inspect

GROUP = "Queues"

NewQueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue: 1 to 57 bytes of UTF-8.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "create-queue", create_queue, "absurdctl create-queue orders", group=GROUP)
    command(app, "drop-queue", drop_queue, "absurdctl drop-queue orders", "absurdctl drop-queue orders --yes", group=GROUP)
    command(app, "list-queues", list_queues, "absurdctl list-queues", "absurdctl list-queues --json", group=GROUP)
    command(app, "pause-queue", pause_queue, "absurdctl pause-queue orders", group=GROUP)
    command(app, "resume-queue", resume_queue, "absurdctl resume-queue orders", group=GROUP)


def create_queue(session: Session, queue: NewQueueName) -> None:
    """Create a queue. One that exists stays as it is."""
    existed = queue in session.run(inspect.queue_names())
    session.client().create_queue(queue)
    text = f'Queue "{escape(queue)}" exists already' if existed else f'Created queue "{escape(queue)}"'
    session.out.done(text, queue_name=queue, created=not existed)


def drop_queue(session: Session, queue: QueueName, yes: Yes = False) -> None:
    """Drop a queue with all its tasks, events and history. On a terminal it asks first."""
    session.require_queue(queue)
    if not yes:
        _ask(session, queue)
    with session.out.progress(f'Dropping queue "{queue}"'):
        session.client().drop_queue(queue)
    session.out.done(f'Dropped queue "{escape(queue)}"', queue_name=queue, dropped=True)


def _ask(session: Session, queue: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigurationError(f'dropping queue "{queue}" deletes all its tasks and events; repeat the command with --yes')
    [stats] = session.run(inspect.queue_stats(queue))
    alive = stats.pending + stats.running + stats.sleeping
    sys.stderr.write(f'Drop queue "{escape(queue)}" with {alive} living tasks, all its events and history? [y/N] ')
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        session.out.note("Nothing was dropped.")
        raise typer.Exit(1)


def list_queues(session: Session) -> None:
    """List the queues with what is alive in each."""
    rows = session.run(inspect.queue_stats())
    if session.out.as_json:
        session.out.json([asdict(row) for row in rows])
        return
    columns = [
        Column("QUEUE"),
        Column("STATE"),
        Column("PENDING", right=True),
        Column("RUNNING", right=True),
        Column("SLEEPING", right=True),
        Column("OLDEST READY", fixed=True),
        Column("WORKERS", right=True),
    ]
    cells: Rows = [
        [
            escape(row.queue_name),
            state_text("paused" if row.paused_at else "active"),
            str(row.pending),
            str(row.running),
            str(row.sleeping),
            "-" if row.oldest_ready_at is None else duration((session.now - row.oldest_ready_at).total_seconds()),
            str(row.workers),
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="No queues. Create one with: absurdctl create-queue NAME")


def pause_queue(session: Session, queue: QueueName) -> None:
    """Stop workers from claiming tasks of a queue. What runs goes on; tasks and events are still accepted."""
    session.require_queue(queue)
    session.client().pause_queue(queue)
    session.out.done(f'Paused queue "{escape(queue)}"', queue_name=queue, paused=True)


def resume_queue(session: Session, queue: QueueName) -> None:
    """Let workers claim tasks of a paused queue again."""
    session.require_queue(queue)
    session.client().resume_queue(queue)
    session.out.done(f'Resumed queue "{escape(queue)}"', queue_name=queue, paused=False)
