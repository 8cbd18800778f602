"""cleanup: deletes what is finished and old, in bounded batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.progress import Progress, TaskID

from absurd import failpoints
from absurd.cli.command import command
from absurd.cli.complete import complete_queue
from absurd.cli.options import seconds
from absurd.cli.output import Column, Rows
from absurd.cli.session import Session
from absurd.cli.text import duration, escape
from absurd.queries import admin, inspect, retention
from absurd.queries.query import Query

MAX_TTL = 2_000_000_000  # seconds; what the SQL functions take
# Seconds until the next try when a worker is deleting at this moment.
BUSY_SECONDS = 0.05

Queue = Annotated[
    str | None, typer.Option("-q", "--queue", metavar="QUEUE", help="Only this queue; else all.", autocompletion=complete_queue)
]
OlderThan = Annotated[
    float | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        help="Delete what ended longer ago than this, like 12h or 30d. Default: what set-queue says, else 30d (cleanup_ttl).",
        parser=seconds,
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(app, "cleanup", cleanup, "absurdctl cleanup", "absurdctl cleanup --queue orders --older-than 7d", group="Queues")


def cleanup(session: Session, queue: Queue = None, older_than: OlderThan = None) -> None:
    """Delete finished tasks that are old, and events that are old and were claimed. Living tasks and unclaimed events stay.

    Queues with options (set-queue) are cleaned by their workers; this does it now, for those without workers or to be sure.
    """
    session.require_queue(queue)
    names = session.run(inspect.queue_names()) if queue is None else [queue]
    with session.out.progress("Cleaning up") as progress:
        found = [_clean(session, name, older_than, progress) for name in names]
    rows = [row for row in found if row is not None]
    if session.out.as_json:
        session.out.json(rows)
        return
    columns = [Column("QUEUE"), Column("OLDER THAN"), Column("TASKS DELETED", right=True), Column("EVENTS DELETED", right=True)]
    cells: Rows = [
        [
            escape(str(row["queue_name"])),
            "as set" if row["older_than_seconds"] is None else duration(float(row["older_than_seconds"])),
            str(row["tasks_deleted"]),
            str(row["events_deleted"]),
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="No queues.")


def _clean(session: Session, queue: str, older_than: float | None, progress: Progress) -> dict[str, Any] | None:
    policy = session.run(admin.retention(queue))
    if policy is None:
        return None  # dropped meanwhile
    if older_than is None and not all(options.keeps_all for options in session.run(retention.queue_options(queue))):
        return _apply(session, queue, policy.limit, progress)
    wanted = policy.ttl / timedelta(seconds=1) if older_than is None else older_than
    ttl = min(math.ceil(wanted), MAX_TTL)
    bar = progress.add_task(escape(queue), total=None)

    def tasks() -> Query[int]:
        return admin.cleanup_tasks(queue, ttl, policy.limit)

    def events() -> Query[int]:
        return admin.cleanup_events(queue, ttl, policy.limit)

    deleted_tasks = _repeat(session, tasks, f"{escape(queue)}: tasks", progress, bar)
    deleted_events = _repeat(session, events, f"{escape(queue)}: events", progress, bar)
    progress.remove_task(bar)
    return {"queue_name": queue, "older_than_seconds": ttl, "tasks_deleted": deleted_tasks, "events_deleted": deleted_events}


def _apply(session: Session, queue: str, limit: int, progress: Progress) -> dict[str, Any]:
    """Deletes what the options of the queue do not keep, batch after batch."""
    bar, tasks, events, anew = progress.add_task(escape(queue), total=None), 0, 0, True
    while True:
        progress.update(bar, description=f"{escape(queue)}: tasks deleted: {tasks}, events: {events}")
        done = session.run(retention.apply_retention(limit, queue, anew))
        tasks, events = tasks + done.tasks_deleted, events + done.events_deleted
        if done.busy:
            time.sleep(BUSY_SECONDS)  # a worker deletes a batch
            continue
        anew = False
        if done.next_in != 0:
            progress.remove_task(bar)
            return {"queue_name": queue, "older_than_seconds": None, "tasks_deleted": tasks, "events_deleted": events}


def _repeat(session: Session, batch: Callable[[], Query[int]], what: str, progress: Progress, bar: TaskID) -> int:
    """Batch after batch, each a transaction of its own, until one finds nothing left."""
    total = 0
    while True:
        progress.update(bar, description=f"{what} deleted: {total}")
        deleted = session.run(batch())
        if failpoints.hook is not None:
            failpoints.hook("cleanup.batch-deleted", session)
        if not deleted:
            return total
        total += deleted
