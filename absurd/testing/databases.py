"""A clean database for each test: copied from a template that holds the schema, and dropped afterwards."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql

from absurd import schema
from absurd.db import connect
from absurd.testing.server import server_url

VIRTUAL_CLOCK = Path(__file__).with_name("virtual_clock.sql").read_text(encoding="utf-8")
PREFIX = "absurd_testing"
# Copying files costs a checkpoint, which is cheap where nothing is synced to disk; the other way writes all 9 MB to the log.
STRATEGY = "file_copy"
# Databases that are made ahead, while a test runs.
AHEAD = 1

Prepare = Callable[[str], object]


class Databases:
    """Makes clean databases on one server. Safe to use from several processes at once; close it at the end.

    Args:
        server: the URL of the server; ``ABSURD_TEST_DATABASE_URL`` or a throw-away server of its own, if none is given.
        prepare: called with the URL of a new database that holds the schema of this library, once: what it adds, such as the
            tables of your application, is in every database that is made here.

    Example:

        databases = Databases(prepare=run_my_migrations)
        url = databases.create()
    """

    def __init__(self, server: str | None = None, prepare: Prepare | None = None) -> None:
        self._server = server_url() if server is None else server
        self._prepare = prepare
        self._template: str | None = None
        # One connection and one thread: databases are made and dropped one after the other anyway, and off the test's way.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "absurd-testing")
        self._conn: psycopg.Connection[Any] | None = None
        self._ready: list[concurrent.futures.Future[str]] = []

    def create(self) -> str:
        """The URL of a clean database."""
        while len(self._ready) <= AHEAD:
            self._ready.append(self._thread.submit(self._copy))
        return with_database(self._server, self._ready.pop(0).result())

    def drop(self, url: str) -> None:
        """Drops a database that ``create`` made, with all connections to it; returns at once."""
        self._thread.submit(self._drop, str(conninfo.conninfo_to_dict(url)["dbname"]))

    def close(self) -> None:
        """Drops what was made ahead and is not needed."""
        for future in self._ready:
            with contextlib.suppress(Exception):
                self._thread.submit(self._drop, future.result())
        self._ready.clear()
        self._thread.submit(self._end).result()
        self._thread.shutdown()

    # On the thread

    def _copy(self) -> str:
        if self._template is None:
            self._template = self._make_template()
        name = f"{PREFIX}_{uuid.uuid4().hex[:16]}"
        self._execute(f"create database {{}} template {{}} strategy {STRATEGY}", name, self._template)
        return name

    def _make_template(self) -> str:
        """A template is known by what is in it, so that processes share it; one with tables of the caller's is his alone."""
        digest = hashlib.sha256(f"{schema.CONTENTS.digest} {VIRTUAL_CLOCK}".encode()).hexdigest()[:16]
        shared = f"{PREFIX}_template_{digest}"
        conn = self._connection()
        # Held for the session: others wait until it is ready, and a process that dies frees it.
        conn.execute("select pg_advisory_lock(hashtextextended('absurd testing', 0))")
        try:
            if conn.execute("select from pg_database where datname = %s", [shared]).fetchone() is None:
                self._build(shared)
        finally:
            conn.execute("select pg_advisory_unlock(hashtextextended('absurd testing', 0))")
        if self._prepare is None:
            return shared
        own = f"{PREFIX}_own_{uuid.uuid4().hex[:16]}"
        self._execute("create database {} template {}", own, shared)
        self._prepare(with_database(self._server, own))
        return own

    def _build(self, name: str) -> None:
        """Under another name first: a template that is half done must not be taken for one."""
        unfinished = f"{PREFIX}_new_{uuid.uuid4().hex[:16]}"
        self._execute("create database {} template template0", unfinished)
        try:
            with connect(with_database(self._server, unfinished), application_name="absurd testing") as conn:
                schema.install(conn)
                conn.execute(VIRTUAL_CLOCK.encode())
            self._execute("alter database {} rename to {}", unfinished, name)
        except BaseException:
            self._drop(unfinished)
            raise

    def _drop(self, name: str) -> None:
        self._execute("drop database if exists {} with (force)", name)

    def _end(self) -> None:
        if self._prepare is not None and self._template is not None:
            self._drop(self._template)
        if self._conn is not None:
            self._conn.close()

    def _execute(self, statement: str, *names: str) -> None:
        self._connection().execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _connection(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._server, application_name="absurd testing")
        return self._conn


@contextlib.contextmanager
def database(server: str | None = None) -> Iterator[str]:
    """A clean database with the schema and the queue ``default``, for the length of the block; yields its URL.

    Its clock is the real one until a ``VirtualClock`` stops it.

    Args:
        server: the URL of a server on which databases may be created; ``ABSURD_TEST_DATABASE_URL``, or a throw-away server that
            is started once for this process, if none is given.

    Raises:
        EmbeddedPostgresError: there is no server to use.
        DatabaseUnavailableError: it does not answer.
    """
    databases = Databases(server)
    try:
        url = databases.create()
        try:
            yield url
        finally:
            databases.drop(url)
    finally:
        databases.close()


def with_database(url: str, name: str) -> str:
    """The URL or connection string with another database."""
    if url.startswith(("postgresql://", "postgres://")):
        head, mark, query = url.partition("?")
        scheme, _, rest = head.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/{name}{mark}{query}"
    return conninfo.make_conninfo(url, dbname=name)
