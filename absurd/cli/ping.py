"""ping-worker: whether the worker processes of this machine go on, for whoever restarts those that hang."""

from __future__ import annotations

from typing import Annotated

import typer

from absurd.cli.command import command
from absurd.cli.options import seconds
from absurd.cli.session import Session
from absurd.cli.text import duration
from absurd.errors import AbsurdError
from absurd.worker.health import health_files

HealthPath = Annotated[str, typer.Argument(metavar="PATH", help="What the worker was given as --health-file.")]
MaxAge = Annotated[
    float,
    typer.Option(
        "--max-age",
        metavar="DURATION",
        help="How long the event loop of a worker may be blocked, by user code that computes, before it counts as hanging.",
        parser=seconds,
        show_default="1m",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app, "ping-worker", ping_worker, "absurdctl ping-worker /run/absurd/health",
        "absurdctl ping-worker /run/absurd/health --max-age 5m", group="Workers",
    )  # fmt: skip


def ping_worker(session: Session, path: HealthPath, max_age: MaxAge = 60.0) -> None:
    """Say whether the workers of this machine go on; exit 1 if one hangs, or there is none.

    Needs no database, and says nothing of it: a worker that cannot reach its database connects anew by itself.
    """
    found = health_files(path)
    if not found:
        raise AbsurdError(f"no worker touches {path}.PID; it is starting, has ended, or was not given --health-file {path}")
    hanging = {pid: age for pid, age in found.items() if age > max_age}
    if hanging:
        pid, age = max(hanging.items(), key=lambda item: item[1])
        raise AbsurdError(
            f"the event loop of worker process {pid} has not gone round for {duration(age)}: user code blocks it, or it stopped"
        )
    text = f"{len(found)} worker process(es) go on"
    session.out.done(text, alive=True, processes=[{"pid": pid, "seconds": age} for pid, age in sorted(found.items())])
