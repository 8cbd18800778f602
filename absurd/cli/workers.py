"""list-workers."""

from __future__ import annotations

from dataclasses import asdict

import typer

from absurd.cli.command import command
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import age, escape, moment_text
from absurd.queries import inspect


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(app, "list-workers", list_workers, "absurdctl list-workers", "absurdctl list-workers --json", group="Workers")


def list_workers(session: Session) -> None:
    """List the worker processes, with the number of tasks that each runs."""
    rows = session.run(inspect.list_workers())
    if session.out.as_json:
        session.out.json([asdict(row) for row in rows])
        return
    columns = [
        Column("WORKER"),
        Column("QUEUES"),
        Column("STATE", fixed=True),
        Column("RUNNING", right=True),
        Column("STARTED"),
        Column("HEARTBEAT"),
        Column("VERSION"),
    ]
    cells: Rows = [
        [
            escape(row.worker_id),
            escape(", ".join(row.queue_names)),
            state_text("stale" if row.stale else "running" if row.running else "idle" if row.idle else "alive"),
            f"{row.running}/{row.concurrency}",
            moment_text(row.started_at, session.now),
            age(row.heartbeat_at, session.now),
            escape(row.version),
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="No workers. Start one with: absurdctl worker --app module:app")
