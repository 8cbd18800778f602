"""top: queues, workers and what runs, live on a terminal; once elsewhere."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from absurd.cli.command import command
from absurd.cli.options import QueueFilter, seconds
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import age, duration, escape
from absurd.queries.activity import Counters, QueueMetrics, activity_counters, queue_metrics
from absurd.queries.inspect import TaskFilter, TaskRow, WorkerRow, current_time, list_tasks, list_workers

# The part of the time that is spent on asking at most: with millions of living tasks one look takes seconds.
SHARE = 0.1
# Tasks that run and workers that are shown.
RUNNING_SHOWN = 10
WORKERS_SHOWN = 20

Interval = Annotated[
    float, typer.Option("--interval", metavar="DURATION", help="Time between looks.", parser=seconds, show_default="2s")
]
Once = Annotated[bool, typer.Option("--once", help="Show it once and end, also on a terminal.")]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found."""

    at: datetime
    queues: list[QueueMetrics]
    workers: list[WorkerRow]
    running: list[TaskRow]
    counters: Counters


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app, "top", top, "absurdctl top", "absurdctl top --queue orders --interval 5s", "absurdctl top --json", group="Workers"
    )


def top(session: Session, queue: QueueFilter = None, interval: Interval = 2.0, once: Once = False) -> None:
    """Watch queues, workers and what runs. On a terminal until Ctrl-C; elsewhere it shows them once.

    Rates are those of the whole database: tasks spawned, runs ended, steps and events recorded, per second.
    """
    session.require_queue(queue)
    look = take_look(session, queue)
    if session.out.as_json:
        session.out.json(asdict(look))
        return
    if once or not session.out.console.is_terminal:
        show_once(session, look)
        return
    with Live(view(look, None), console=session.out.console, screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            before, look = look, take_look(session, queue)
            live.update(view(look, before), refresh=True)
            took = time.monotonic() - began
            time.sleep(max(interval, took / SHARE))


def take_look(session: Session, queue: str | None) -> Look:
    """Asks for everything."""
    queues = session.run(queue_metrics())
    return Look(
        session.run(current_time()),
        [row for row in queues if queue is None or row.queue_name == queue],
        [row for row in session.run(list_workers()) if queue is None or queue in row.queue_names],
        session.run(list_tasks(TaskFilter(queue_name=queue, state="running"), None, RUNNING_SHOWN)),
        session.run(activity_counters()),
    )


QUEUES = [
    Column("QUEUE"),
    Column("READY", right=True),
    Column("RUNNING", right=True),
    Column("SLEEPING", right=True),
    Column("OLDEST READY", right=True),
    Column("WORKERS", right=True),
    Column("", fixed=True),
]
WORKERS = [
    Column("WORKER"),
    Column("QUEUES"),
    Column("RUNS", right=True),
    Column("SLOTS", right=True),
    Column("STATE", fixed=True),
]
RUNNING = [Column("TASK ID", fixed=True), Column("NAME"), Column("QUEUE"), Column("ATTEMPT", right=True), Column("STARTED")]


def queue_rows(look: Look) -> Rows:
    """The table of the queues."""
    return [
        [
            escape(row.queue_name),
            str(row.pending),
            str(row.running),
            str(row.sleeping),
            duration(row.oldest_ready) if row.pending else "-",
            str(row.workers),
            state_text("paused") if row.paused else Text("no worker", style="red") if row.pending and not row.workers else "",
        ]
        for row in look.queues
    ]


def worker_rows(look: Look) -> Rows:
    """The table of the workers."""
    return [
        [
            escape(row.worker_id),
            escape(", ".join(row.queue_names)),
            str(row.running),
            str(row.concurrency),
            state_text("stale") if row.stale else "idle" if row.idle and not row.running else state_text("running"),
        ]
        for row in look.workers[:WORKERS_SHOWN]
    ]


def running_rows(look: Look) -> Rows:
    """The table of what runs."""
    return [
        [
            str(row.task_id),
            escape(row.task_name),
            escape(row.queue_name),
            str(row.attempt or 1),
            "-" if row.started_at is None else age(row.started_at, look.at),
        ]
        for row in look.running
    ]


def rates(look: Look, before: Look | None) -> str:
    """What happens per second, since the look before."""
    if before is None or (passed := (look.at - before.at).total_seconds()) <= 0:
        return ""
    now, then = asdict(look.counters), asdict(before.counters)
    return "   ".join(f"{name} {max(now[name] - then[name], 0) / passed:.1f}/s" for name in now)


def view(look: Look, before: Look | None) -> RenderableType:
    """The screen."""
    head = Text.assemble(("absurd ", "bold"), look.at.astimezone().strftime("%H:%M:%S"), "   ", (rates(look, before), "cyan"))
    parts: list[RenderableType] = [head]
    for title, columns, rows in (
        ("Queues", QUEUES, queue_rows(look)),
        (f"Workers ({len(look.workers)})", WORKERS, worker_rows(look)),
        ("Running, the last spawned", RUNNING, running_rows(look)),
    ):
        table = Table(
            box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold underline"
        )
        for column in columns:
            table.add_column(column.title, no_wrap=column.fixed, overflow="fold", justify="right" if column.right else "left")
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        parts += [Text(), table]
    return Group(*parts)


def show_once(session: Session, look: Look) -> None:
    """The same as plain tables."""
    session.out.table(QUEUES, queue_rows(look), empty="There are no queues.")
    session.out.line()
    session.out.table(WORKERS, worker_rows(look), empty="No worker is alive.")
    session.out.line()
    session.out.table(RUNNING, running_rows(look), empty="Nothing runs.")
