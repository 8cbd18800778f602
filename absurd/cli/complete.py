"""Shell completion from the database, when it answers at once; a completion never starts a server and never complains."""

from __future__ import annotations

import os
import threading
from typing import Any

import typer

from absurd import devdb
from absurd.cli.text import is_safe
from absurd.db import connect, run
from absurd.location import database_url
from absurd.queries import inspect, triggers
from absurd.queries.query import Query

PATIENCE = 1.0  # seconds; who presses TAB does not wait longer


def complete_queue(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of queues."""
    return _matching(_ask(ctx, inspect.queue_names()), incomplete)


def complete_task_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of tasks that have been spawned before."""
    return _matching(_ask(ctx, inspect.task_names()), incomplete)


def complete_trigger(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of triggers."""
    return _matching(_ask(ctx, triggers.trigger_names()), incomplete)


def _matching(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete) and all(map(is_safe, name))]


def _ask(ctx: typer.Context, query: Query[list[str]]) -> list[str]:
    """The answer, or nothing: in a thread that is left behind when the database takes too long."""
    found: list[str] = []

    def work() -> None:
        try:
            url = _url(ctx)
            if url is not None:
                with connect(url, application_name="absurdctl completion") as connection:
                    found.extend(run(connection, query))
        except Exception:
            return  # no database, no suggestions

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return list(found)


def _url(ctx: typer.Context) -> str | None:
    """The database that the command would use; the embedded one only if it runs."""
    given: Any = None
    context: Any = ctx
    while context is not None and given is None:
        given = context.params.get("database")
        context = context.parent
    if given or os.environ.get("ABSURD_DATABASE_URL") or os.environ.get("PGDATABASE"):
        return database_url(given)
    return devdb.status().url
