"""subscribe, unsubscribe, list-subscriptions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from absurd.cli.arguments import read_json, read_pairs
from absurd.cli.command import command
from absurd.cli.complete import complete_queue, complete_task_name
from absurd.cli.options import QueueFilter
from absurd.cli.output import Column, Rows
from absurd.cli.session import Session
from absurd.cli.spawn import (
    Delay,
    Headers,
    MaxAttempts,
    MaxDelay,
    MaxDuration,
    Priority,
    RetryBase,
    RetryFactor,
    RetryJitter,
    RetryKind,
    RetryMax,
    read_strategy,
)
from absurd.cli.text import dump, escape, moment_text, shorten
from absurd.queries import subscriptions
from absurd.types import DEFAULT_QUEUE, Cancellation

GROUP = "Events"

PATTERN_HELP = "Name of an event, or the beginning of names with a * behind it; * alone is every event. Quote it for the shell."
Pattern = Annotated[str, typer.Argument(metavar="PATTERN", help=PATTERN_HELP)]
Task = Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.", autocompletion=complete_task_name)]
EventQueue = Annotated[
    str, typer.Option("-q", "--queue", metavar="QUEUE", help="Queue of the events.", autocompletion=complete_queue)
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target-queue", metavar="QUEUE", help="Queue of the tasks. Usual: that of the events.", autocompletion=complete_queue
    ),
]
Config = Annotated[
    str | None,
    typer.Option("-c", "--config", metavar="JSON", help="Given to each task: JSON, @file, or - for standard input."),
]
PatternFilter = Annotated[str | None, typer.Option("--pattern", metavar="PATTERN", help="Only those of exactly this pattern.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        "subscribe",
        subscribe,
        "absurdctl subscribe order.placed send-invoice",
        """absurdctl subscribe 'payment.*' book-payment -c '{"ledger": "main"}' -q orders --target-queue books""",
        group=GROUP,
    )
    command(app, "unsubscribe", unsubscribe, "absurdctl unsubscribe 'payment.*' book-payment -q orders", group=GROUP)
    command(
        app,
        "list-subscriptions",
        list_subscriptions,
        "absurdctl list-subscriptions",
        "absurdctl list-subscriptions --queue orders --pattern 'payment.*' --json",
        group=GROUP,
    )


def subscribe(
    session: Session,
    pattern: Pattern,
    task: Task,
    config: Config = None,
    queue: EventQueue = DEFAULT_QUEUE,
    target_queue: Target = None,
    header: Headers = None,
    delay: Delay = None,
    priority: Priority = None,
    max_attempts: MaxAttempts = None,
    retry: RetryKind = None,
    retry_base: RetryBase = None,
    retry_factor: RetryFactor = None,
    retry_max: RetryMax = None,
    retry_jitter: RetryJitter = None,
    max_delay: MaxDelay = None,
    max_duration: MaxDuration = None,
) -> None:
    """Have a task started for each event whose name fits. The same again changes nothing; other values replace the former."""
    made = session.client().subscribe(
        pattern,
        task,
        config=None if config is None else read_json(config, "--config"),
        queue=queue,
        target_queue=target_queue,
        headers=read_pairs(header, "-H") if header else None,
        delay=delay,
        priority=priority,
        max_attempts=max_attempts,
        retry=read_strategy(retry, retry_base, retry_factor, retry_max, retry_jitter),
        cancellation=None if max_delay is None and max_duration is None else Cancellation(max_delay, max_duration),
    )
    events = f'Events "{escape(pattern)}" of queue "{escape(queue)}"'
    session.out.done(f'{events} start task "{escape(task)}" in queue "{escape(target_queue or queue)}"', **asdict(made))


def unsubscribe(session: Session, pattern: Pattern, task: Task, queue: EventQueue = DEFAULT_QUEUE) -> None:
    """End a subscription: nothing more is started by it. Exit status 1 if there is none."""
    if session.client().unsubscribe(pattern, task, queue=queue):
        text = f'Events "{escape(pattern)}" of queue "{escape(queue)}" no longer start task "{escape(task)}"'
        session.out.done(text, queue_name=queue, pattern=pattern, task_name=task, unsubscribed=True)
        return
    if session.out.as_json:
        session.out.json({"queue_name": queue, "pattern": pattern, "task_name": task, "unsubscribed": False})
    missing = f'Task "{escape(task)}" is not subscribed to "{escape(pattern)}" in queue "{escape(queue)}"'
    session.out.note(f"{missing}; list-subscriptions shows what is.")
    raise typer.Exit(1)


def list_subscriptions(session: Session, queue: QueueFilter = None, pattern: PatternFilter = None) -> None:
    """List which events start which tasks, in the order in which they are started."""
    session.require_queue(queue)
    found = session.run(subscriptions.list_subscriptions(queue, pattern))
    if session.out.as_json:
        session.out.json([asdict(row) for row in found])
        return
    columns = [
        Column("QUEUE"),
        Column("PATTERN"),
        Column("TASK"),
        Column("TARGET QUEUE"),
        Column("SINCE"),
        Column("CONFIG"),
        Column("LAST ERROR"),
    ]
    cells: Rows = [
        [
            escape(row.queue_name),
            escape(row.pattern),
            escape(row.task_name),
            escape(row.target_queue or row.queue_name),
            moment_text(row.created_at, session.now),
            "-" if row.config is None else shorten(dump(row.config)),
            "-" if row.last_error is None else shorten(escape(f"{row.last_error} ({row.last_error_at:%Y-%m-%d %H:%M:%S})")),
        ]
        for row in found
    ]
    session.out.table(columns, cells, empty="No subscriptions.")
