"""tail: follows what happens to one task, or in a queue, line by line."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from absurd.cli.command import command
from absurd.cli.follow import Happening, QueueFollower, TaskFollower
from absurd.cli.options import QueueFilter, seconds, uuid
from absurd.cli.session import Session
from absurd.cli.text import dump, escape, shorten
from absurd.errors import InvalidOptionError, TaskNotFoundError
from absurd.queries import inspect

# The part of the time that is spent on asking at most, however long an answer takes.
SHARE = 0.2
DETAIL_LENGTH = 100
STYLES = {
    "spawned": "cyan",
    "started": "blue",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "timeout": "yellow",
    "waiting": "magenta",
    "event": "cyan",
}

Task = Annotated[
    UUID | None, typer.Option("--task", metavar="TASK_ID", help="Only this task, from its beginning to its end.", parser=uuid)
]
Interval = Annotated[
    float, typer.Option("--interval", metavar="DURATION", help="Time between looks.", parser=seconds, show_default="0.5s")
]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Go on, or show what is there and end.")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        "tail",
        tail,
        "absurdctl tail --queue orders",
        "absurdctl tail --task 01890a5d-ac96-774b-bcce-b302099a8057",
        "absurdctl tail --queue orders --json",
        group="Tasks",
    )


def tail(session: Session, task: Task = None, queue: QueueFilter = None, interval: Interval = 0.5, follow: Follow = True) -> None:
    """Follow what happens, one line per attempt, step, wait and event: in all queues, in one, or to one task until it ends.

    Of a queue it shows what happens from now on, to the thousand living tasks that were spawned last. With --json each line is
    a JSON document. Ctrl-C ends it.
    """
    if task is not None and queue is not None:
        raise InvalidOptionError("give --task or --queue, not both: a task is in one queue")
    session.require_queue(queue)
    if task is not None and session.run(inspect.show_task(task)) is None:
        raise TaskNotFoundError(f"there is no task {task} in this database; absurdctl list-tasks shows those that are")
    follower = TaskFollower(session.run, task) if task is not None else QueueFollower(session.run, queue)
    while True:
        began = time.monotonic()
        for happening in follower.new():
            _show(session, happening, with_task=task is None)
        sys.stdout.flush()
        if follower.over or not follow:
            return
        took = time.monotonic() - began
        time.sleep(max(interval, took / SHARE - took))


def _show(session: Session, happening: Happening, *, with_task: bool) -> None:
    if session.out.as_json:
        sys.stdout.write(dump(dataclasses.asdict(happening)) + "\n")
        return
    session.out.line(line(happening, with_task=with_task))


def line(happening: Happening, *, with_task: bool) -> Text:
    """One line for people: moment, kind, what, and whose it is."""
    moment = happening.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    text = Text.assemble((moment, "dim"), "  ", (f"{happening.kind:<9}", STYLES.get(happening.kind, "")))
    if with_task:
        task = "-" if happening.task_id is None else str(happening.task_id)[-12:]
        text.append(f"  {escape(happening.queue_name)}  {escape(happening.task_name or '-')} {task}")
    if happening.kind in ("spawned", "started", "completed", "failed", "cancelled"):
        text.append("" if happening.attempt is None else f"  attempt {happening.attempt}")
        text.append("" if with_task or happening.kind != "spawned" else f"  {escape(happening.task_name or '')}")
    else:
        text.append(f"  {escape(happening.name or '-')}")
    if happening.kind == "started" and happening.worker_id:
        text.append(f"  on {escape(happening.worker_id)}", style="dim")
    if happening.detail:
        text.append(f"  {shorten(escape(happening.detail), DETAIL_LENGTH)}", style="dim")
    return text
