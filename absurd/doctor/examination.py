"""All checks, one after the other: what one of them meets is a finding, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg

from absurd import schema
from absurd.db import connect, mask, run, translate
from absurd.db.pooler import find_pooling
from absurd.doctor import server, tables, work
from absurd.doctor.finding import Finding, error, ok, warning
from absurd.errors import AbsurdError, DatabaseUnavailableError, SchemaError
from absurd.queries import doctor as queries
from absurd.queries import inspect

Connection = psycopg.Connection[Any]
Check = Callable[[], Iterator[Finding]]

# Seconds that a question may take: the doctor is asked when things are bad, and must not hang with them.
PATIENCE_SECONDS = 15


def examine(url: str, version: str) -> list[Finding]:
    """Looks at the database; ``version`` is that of this library. Changes nothing."""
    try:
        conn = connect(url, application_name="absurdctl doctor")
    except AbsurdError as problem:
        return [error("connection", f"{problem}", "Nothing works without it.", "Give the right URL, or start PostgreSQL.")]
    with conn:
        conn.execute(f"set statement_timeout = '{PATIENCE_SECONDS}s'".encode())
        return list(_examine(conn, url, version))


def _examine(conn: Connection, url: str, version: str) -> Iterator[Finding]:
    began = datetime.now(UTC)
    facts = run(conn, queries.server_facts())
    ended = datetime.now(UTC)
    yield ok("connection", f"PostgreSQL {facts.version_text}, database {facts.database}, as {facts.user}, at {mask(url)}")
    yield from _guarded("server", lambda: server.check_server(facts))
    yield from _guarded("clock", lambda: server.check_clock(facts.clock, began, ended))
    # Those that a new session has: this one's own differ, by what it was given above.
    yield from _guarded("settings", lambda: server.check_settings(_fresh_settings(url), facts))
    yield from _guarded("pooler", lambda: server.check_pooling(asyncio.run(find_pooling(url))))
    fits = True
    for finding in _check_schema(conn, version):
        fits = finding.level == "ok"
        yield finding
    if not fits:
        return
    yield from _guarded("roles", lambda: server.check_roles(facts))
    yield from _guarded("transactions", lambda: tables.check_holders(run(conn, queries.old_holders(tables.OLD_SECONDS)), facts))
    yield from _guarded("tables", lambda: tables.check_tables(run(conn, queries.table_facts())))
    yield from _guarded("workers", lambda: work.check_workers(run(conn, inspect.list_workers()), facts, version))
    now = facts.clock
    yield from _guarded("queues", lambda: work.check_queues(run(conn, queries.queue_facts()), now))
    yield from _guarded("late", lambda: work.check_late(run(conn, queries.late_work()), now))


def _fresh_settings(url: str) -> dict[str, str]:
    with connect(url, application_name="absurdctl doctor") as conn:
        return run(conn, queries.settings())


def _check_schema(conn: Connection, version: str) -> Iterator[Finding]:
    why = "Programs of this release do not run with it."
    try:
        schema.check(conn)
    except SchemaError as problem:
        text = str(problem)
        command = "absurdctl init" if "init" in text else "absurdctl migrate" if "migrate" in text else "pip install -U absurd"
        yield error("schema", text.partition(". ")[0], why, command)
    except psycopg.Error as problem:
        yield error("schema", str(translate(problem)), why, "absurdctl init --roles, and grant absurd_reader to this role")
    else:
        yield ok("schema", f"version {schema.installed_version(conn)}, which serves absurd {version}")


def _guarded(check: str, body: Check) -> Iterator[Finding]:
    try:
        yield from body()
    except (AbsurdError, psycopg.Error) as problem:
        shown = problem if isinstance(problem, AbsurdError) else translate(problem)
        todo = (
            "Look again when the database answers."
            if isinstance(shown, DatabaseUnavailableError)
            else ("Ask as the owner of the schema, or as a role that has absurd_reader: absurdctl doctor -d postgresql://…")
        )
        yield warning(check, f"could not be looked at: {shown}", "What cannot be seen may be wrong.", todo)
