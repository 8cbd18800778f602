"""create-queue, set-queue, drop-queue, list-queues, pause-queue, resume-queue."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from absurd.cli.command import command
from absurd.cli.options import QueueName, seconds
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import duration, escape
from absurd.client.queue_options import AGES, queue_options
from absurd.errors import ConfigurationError
from absurd.queries import admin, inspect, retention
from absurd.queries.retention import QueueOptions

GROUP = "Queues"

NewQueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue: 1 to 57 bytes of UTF-8.")]
FOREVER = "forever"


def keep_time(text: str | float) -> float:
    """Reads how long something is kept; infinite for ever."""
    return math.inf if text in (FOREVER, math.inf) else seconds(text)


def keep_number(text: str | float) -> float:
    """Reads how many are kept; infinite for all."""
    if text in ("all", math.inf):
        return math.inf
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number, and not all") from None


def _age(name: str, what: str) -> Any:
    return typer.Option(
        f"--keep-{name}", metavar="AGE", help=f"How long to keep {what}, like 12h or 30d; forever.", parser=keep_time
    )


KeepCompleted = Annotated[float | None, _age("completed", "completed tasks")]
KeepFailed = Annotated[float | None, _age("failed", "failed tasks")]
KeepCancelled = Annotated[float | None, _age("cancelled", "cancelled tasks")]
KeepEvents = Annotated[float | None, _age("events", "events, from when somebody took them")]
KeepCount = Annotated[
    float | None,
    typer.Option("--keep-count", metavar="N", help="How many ended tasks to keep at most, the newest; all.", parser=keep_number),
]
MaxPayload = Annotated[
    int | None, typer.Option("--max-payload", metavar="BYTES", help="How large params, results and payloads may be.")
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        "create-queue",
        create_queue,
        "absurdctl create-queue orders",
        "absurdctl create-queue mail --keep-completed 7d --keep-failed 90d --keep-events 7d",
        group=GROUP,
    )
    command(
        app,
        "set-queue",
        set_queue,
        "absurdctl set-queue orders",
        "absurdctl set-queue orders --keep-completed 30d --keep-count 1000000",
        "absurdctl set-queue orders --keep-failed forever",
        group=GROUP,
    )
    command(app, "drop-queue", drop_queue, "absurdctl drop-queue orders", "absurdctl drop-queue orders --yes", group=GROUP)
    command(app, "list-queues", list_queues, "absurdctl list-queues", "absurdctl list-queues --json", group=GROUP)
    command(app, "pause-queue", pause_queue, "absurdctl pause-queue orders", group=GROUP)
    command(app, "resume-queue", resume_queue, "absurdctl resume-queue orders", group=GROUP)


def create_queue(
    session: Session,
    queue: NewQueueName,
    keep_completed: KeepCompleted = None,
    keep_failed: KeepFailed = None,
    keep_cancelled: KeepCancelled = None,
    keep_events: KeepEvents = None,
    keep_count: KeepCount = None,
    max_payload: MaxPayload = None,
) -> None:
    """Create a queue. One that exists stays as it is: set-queue changes it. Without options everything is kept for ever."""
    options = _options(keep_completed, keep_failed, keep_cancelled, keep_events, keep_count, max_payload)
    existed = queue in session.run(inspect.queue_names())
    session.client().create_queue(queue, **options)
    text = f'Queue "{escape(queue)}" exists already' if existed else f'Created queue "{escape(queue)}"'
    session.out.done(text, queue_name=queue, created=not existed)


def set_queue(
    session: Session,
    queue: QueueName,
    keep_completed: KeepCompleted = None,
    keep_failed: KeepFailed = None,
    keep_cancelled: KeepCancelled = None,
    keep_events: KeepEvents = None,
    keep_count: KeepCount = None,
    max_payload: MaxPayload = None,
) -> None:
    """Change what a queue keeps, and show it; without options only show it.

    Workers delete what need not be kept, in small batches: nothing else has to be started. While a queue keeps all for ever,
    they delete nothing; `cleanup`, when somebody runs it, does: what ended more than 30 days ago, or the queue's cleanup_ttl.
    Living tasks, events that nobody has taken, tasks that somebody waits for and finished children of living tasks stay in any
    case.
    """
    session.require_queue(queue)
    options = _options(keep_completed, keep_failed, keep_cancelled, keep_events, keep_count, max_payload)
    if options:
        session.client().set_queue_options(queue, **options)
    [found] = session.run(retention.queue_options(queue))
    if session.out.as_json:
        session.out.json(asdict(found))
    else:
        _show_options(session, found)


def _options(
    completed: float | None,
    failed: float | None,
    cancelled: float | None,
    events: float | None,
    count: float | None,
    max_payload: int | None,
) -> Any:
    values = (completed, failed, cancelled, events, count, max_payload)
    given = {
        name: value for name, value in zip((*AGES, "keep_count", "max_payload_bytes"), values, strict=True) if value is not None
    }
    return queue_options({name: None if value == math.inf else value for name, value in given.items()})


def _show_options(session: Session, found: QueueOptions) -> None:
    ages = {name: getattr(found, name) for name in AGES}
    rows: Rows = [[name, FOREVER if age is None else duration(age)] for name, age in ages.items()]
    rows += [["keep_count", "all" if found.keep_count is None else str(found.keep_count)]]
    rows += [["max_payload_bytes", str(found.max_payload_bytes)]]
    rows += [["tasks_deleted", str(found.tasks_deleted)], ["events_deleted", str(found.events_deleted)]]
    session.out.table([Column("OPTION"), Column(escape(found.queue_name))], rows, empty="")
    policy = session.run(admin.retention(found.queue_name))
    if found.keeps_all and policy is not None:
        session.out.line()
        ttl = duration(policy.ttl.total_seconds())
        session.out.line(f"`absurdctl cleanup`, run by hand, deletes here what ended more than {ttl} ago.")


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
