"""spawn-task: a task by its name, with every option of a spawn."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from absurd.cli.arguments import read_pairs, read_params
from absurd.cli.command import command
from absurd.cli.complete import complete_queue
from absurd.cli.options import TaskName, moment, seconds
from absurd.cli.session import Session
from absurd.cli.text import dump, escape
from absurd.types import DEFAULT_MAX_ATTEMPTS, DEFAULT_QUEUE, DEFAULT_RETRY, Cancellation, RetryStrategy


class Retry(StrEnum):
    """Kinds of retry strategies."""

    FIXED = "fixed"
    EXPONENTIAL = "exponential"
    NONE = "none"


PARAMS_PANEL = "Params"
RETRY_PANEL = "Retries and limits"

Pairs = Annotated[
    list[str] | None,
    typer.Option("-P", "--param", metavar="KEY=VALUE", help="One param: key=text or key:=json.", rich_help_panel=PARAMS_PANEL),
]
Params = Annotated[
    str | None,
    typer.Option(
        "--params", metavar="JSON", help="All params: JSON, @file, or - for standard input.", rich_help_panel=PARAMS_PANEL
    ),
]
Headers = Annotated[
    list[str] | None,
    typer.Option("-H", "--header", metavar="KEY=VALUE", help="One header: key=text or key:=json.", rich_help_panel=PARAMS_PANEL),
]
Queue = Annotated[
    str, typer.Option("-q", "--queue", metavar="QUEUE", help="Queue to spawn it in.", autocompletion=complete_queue)
]
Delay = Annotated[
    float | None, typer.Option("--delay", metavar="DURATION", help="Start it after this time, like 90s or 2h.", parser=seconds)
]
At = Annotated[datetime | None, typer.Option("--at", metavar="MOMENT", help="Start it at this moment (ISO 8601).", parser=moment)]
Priority = Annotated[
    int | None, typer.Option("--priority", metavar="N", help="Higher ones are claimed first; the usual one is 0.")
]
Key = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="KEY", help="Spawn nothing if this key has been used in the queue.")
]
MaxAttempts = Annotated[
    int | None,
    typer.Option(
        "--max-attempts", metavar="N", help=f"Attempts in all. Usual: {DEFAULT_MAX_ATTEMPTS}.", rich_help_panel=RETRY_PANEL
    ),
]
RetryKind = Annotated[
    Retry | None,
    typer.Option(
        "--retry",
        help=f"How attempts follow each other. Usual: {DEFAULT_RETRY.kind}, "
        f"{DEFAULT_RETRY.base_seconds:.0f}s doubling up to {DEFAULT_RETRY.max_seconds:.0f}s.",
        rich_help_panel=RETRY_PANEL,
    ),
]
RetryBase = Annotated[
    float | None,
    typer.Option("--retry-base", metavar="DURATION", help="The (first) delay.", parser=seconds, rich_help_panel=RETRY_PANEL),
]
RetryFactor = Annotated[
    float | None,
    typer.Option("--retry-factor", metavar="X", help="Growth of an exponential delay.", rich_help_panel=RETRY_PANEL),
]
RetryMax = Annotated[
    float | None,
    typer.Option("--retry-max", metavar="DURATION", help="The longest delay.", parser=seconds, rich_help_panel=RETRY_PANEL),
]
RetryJitter = Annotated[
    float | None,
    typer.Option(
        "--retry-jitter", metavar="X", help="Part of a delay, 0 to 1, that is left to chance.", rich_help_panel=RETRY_PANEL
    ),
]
MaxDelay = Annotated[
    float | None,
    typer.Option(
        "--max-delay",
        metavar="DURATION",
        help="Cancel it if it has not started by then.",
        parser=seconds,
        rich_help_panel=RETRY_PANEL,
    ),
]
MaxDuration = Annotated[
    float | None,
    typer.Option(
        "--max-duration",
        metavar="DURATION",
        help="Cancel it when it has run so long, sleep not counted.",
        parser=seconds,
        rich_help_panel=RETRY_PANEL,
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the result and print it; exit 1 if the task fails.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="DURATION", help="Wait no longer; without it for ever.", parser=seconds)
]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        "spawn-task",
        spawn_task,
        "absurdctl spawn-task send-mail -P to=ann@example.com -P copies:=2",
        """absurdctl spawn-task send-mail --params '{"to": "ann@example.com"}' -q mail --wait""",
        "absurdctl spawn-task report --params @params.json --delay 2h --max-attempts 3 --retry fixed --retry-base 30s",
        group="Tasks",
    )


def spawn_task(
    session: Session,
    name: TaskName,
    param: Pairs = None,
    params: Params = None,
    header: Headers = None,
    queue: Queue = DEFAULT_QUEUE,
    delay: Delay = None,
    at: At = None,
    priority: Priority = None,
    idempotency_key: Key = None,
    max_attempts: MaxAttempts = None,
    retry: RetryKind = None,
    retry_base: RetryBase = None,
    retry_factor: RetryFactor = None,
    retry_max: RetryMax = None,
    retry_jitter: RetryJitter = None,
    max_delay: MaxDelay = None,
    max_duration: MaxDuration = None,
    wait: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Spawn a task by its name. A worker that knows the name runs it, now or later."""
    if timeout is not None and not wait:
        raise typer.BadParameter("it says how long to wait; give --wait too", param_hint="--timeout")
    handle = session.client(queue).spawn(
        name,
        read_params(params, param or []),
        queue=queue,
        delay=delay,
        available_at=at,
        priority=priority,
        idempotency_key=idempotency_key,
        max_attempts=max_attempts,
        retry=read_strategy(retry, retry_base, retry_factor, retry_max, retry_jitter),
        cancellation=None if max_delay is None and max_duration is None else Cancellation(max_delay, max_duration),
        headers=read_pairs(header, "-H") if header else None,
    )
    facts: dict[str, Any] = {
        "task_id": handle.task_id,
        "run_id": handle.run_id,
        "attempt": handle.attempt,
        "created": handle.created,
        "queue_name": queue,
        "task_name": name,
    }
    if not session.out.as_json:
        session.out.line(_told(facts))
    if wait:
        _wait(session, handle, timeout, facts)
    elif session.out.as_json:
        session.out.json(facts)


def _told(facts: dict[str, Any]) -> str:
    name, queue = escape(facts["task_name"]), escape(facts["queue_name"])
    first = (
        f'✓ Spawned "{name}" in queue "{queue}"'
        if facts["created"]
        else "✓ The idempotency key is known; the task is there already"
    )
    return f"{first}\n  Task ID: {facts['task_id']}\n  Run ID:  {facts['run_id']}"


def _wait(session: Session, handle: Any, timeout: float | None, facts: dict[str, Any]) -> None:
    with session.out.progress("Waiting for the result"):
        result = handle.result(timeout=timeout)
    if session.out.as_json:
        session.out.json({**facts, "state": "completed", "result": result})
    else:
        session.out.line("✓ Completed")
        session.out.line(dump(result, indent=True))


def read_strategy(
    kind: Retry | None, base: float | None, factor: float | None, longest: float | None, jitter: float | None
) -> RetryStrategy | None:
    """The retry strategy that the options describe; ``None`` when they say nothing."""
    if kind is None:
        if (base, factor, longest, jitter) == (None, None, None, None):
            return None
        raise typer.BadParameter("give --retry fixed or --retry exponential with it", param_hint="--retry-…")
    return RetryStrategy(kind.value, base_seconds=base, factor=factor, max_seconds=longest, jitter=jitter)
