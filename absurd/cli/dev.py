"""dev: the embedded PostgreSQL of this user."""

from __future__ import annotations

from typing import Annotated

import typer

from absurd import devdb
from absurd.cli.command import command
from absurd.cli.session import Session
from absurd.cli.text import escape
from absurd.errors import ConfigurationError

Stop = Annotated[bool, typer.Option("--stop", help="Stop it. Its data stay.")]
Status = Annotated[bool, typer.Option("--status", help="Say whether it runs and where its files are; exit 1 if it does not.")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        "dev",
        dev,
        "absurdctl dev",
        'export ABSURD_DATABASE_URL="$(absurdctl dev)"',
        "absurdctl dev --status --json",
        "absurdctl dev --stop",
        group="Database",
    )


def dev(session: Session, stop: Stop = False, status: Status = False) -> None:
    """Start the embedded PostgreSQL if it does not run, and print its URL.

    It is shared by all processes of this user and goes on until it is stopped. Commands without a database given use it
    and start it by themselves. ABSURD_HOME says where its data are.
    """
    if session.database is not None:
        raise ConfigurationError("dev is about the embedded PostgreSQL of this user; leave out -d/--database")
    if stop and status:
        raise typer.BadParameter("give one of --stop and --status", param_hint="--stop")
    if stop:
        _stop(session)
    elif status:
        _status(session)
    else:
        _start(session)


def _start(session: Session) -> None:
    with session.out.progress("Starting the embedded PostgreSQL"):
        url = devdb.ensure()
    if session.out.as_json:
        session.out.json({"url": url, "running": True})
    else:
        session.out.line(url)


def _stop(session: Session) -> None:
    with session.out.progress("Stopping the embedded PostgreSQL"):
        stopped = devdb.stop()
    session.out.done("Stopped the embedded PostgreSQL" if stopped else "The embedded PostgreSQL did not run", stopped=stopped)


def _status(session: Session) -> None:
    found = devdb.status()
    facts = {
        "running": found.running,
        "url": found.url,
        "pid": found.pid,
        "version": found.version,
        "home": str(found.home),
        "data": str(found.data),
        "log": str(found.log),
    }
    if session.out.as_json:
        session.out.json(facts)
    else:
        facts["running"] = "yes" if found.running else "no"
        for key, value in facts.items():
            session.out.line(f"{key + ':':<9} {'-' if value is None else escape(str(value))}")
    if not found.running:
        raise typer.Exit(1)
