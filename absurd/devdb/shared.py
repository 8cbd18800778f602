"""The one server of this user, which client, worker and command line share when no database URL is given."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from absurd import schema
from absurd.devdb.cluster import data_version
from absurd.devdb.paths import HOME_VARIABLE, home
from absurd.devdb.process import find_postmaster
from absurd.devdb.server import Server
from absurd.errors import EmbeddedPostgresError

DATABASE = "absurd"
CONNECT_TIMEOUT = 30  # seconds


@dataclass(frozen=True, slots=True)
class Status:
    """What is known about the user's server."""

    running: bool
    home: Path
    data: Path
    log: Path
    pid: int | None
    url: str | None
    version: int | None
    """Major version of the data directory; None before the first start."""


def ensure() -> str:
    """Return the URL of the user's database, after starting the server and installing or upgrading the schema as needed.

    Raises:
        EmbeddedPostgresError: there are no binaries, or the server does not start; the message says what to do.
        SchemaError: the database was upgraded by a newer release of this package.
    """
    server = _server()
    if not server.running:
        server.start(on_create=_announce)
    try:
        _prepare(server)
    except psycopg.OperationalError:
        # It was being stopped when it was found running.
        server.start(on_create=_announce)
        _prepare_or_explain(server)
    return server.url(DATABASE)


def status() -> Status:
    """Return where the user's server is and whether it runs; nothing is started."""
    server = _server()
    postmaster = find_postmaster(server.data)
    running = postmaster is not None and postmaster.ready
    return Status(
        running=running,
        home=server.directory,
        data=server.data,
        log=server.log,
        pid=postmaster.pid if postmaster else None,
        url=server.url(DATABASE) if running else None,
        version=data_version(server.data) if server.data.exists() else None,
    )


def stop() -> bool:
    """Stop the user's server, disconnecting its clients, and return whether it ran. The data stay."""
    return _server().stop("fast")


def _server() -> Server:
    return Server(home())


def _announce(data: Path) -> None:
    print(f"absurd: started a PostgreSQL of your own; its data are in {data} ({HOME_VARIABLE} overrides)", file=sys.stderr)  # noqa: T201


def _prepare(server: Server) -> None:
    """Make sure that the database exists and has the schema of this release."""
    url = _url(server)
    try:
        connection = psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT, autocommit=True)
    except psycopg.OperationalError:
        _create_database(server)
        connection = psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT, autocommit=True)
    with connection:
        schema.ensure(connection)


def _prepare_or_explain(server: Server) -> None:
    try:
        _prepare(server)
    except psycopg.OperationalError as error:
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL in {server.directory} runs, but takes no connection: {error}. Its log is {server.log}."
        ) from error


def _url(server: Server) -> str:
    try:
        return server.url(DATABASE)
    except EmbeddedPostgresError as error:
        raise psycopg.OperationalError(str(error)) from error


def _create_database(server: Server) -> None:
    statement = sql.SQL("create database {}").format(sql.Identifier(DATABASE))
    with (
        psycopg.connect(server.url(), connect_timeout=CONNECT_TIMEOUT, autocommit=True) as connection,
        # Another process may be first.
        suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation),
    ):
        connection.execute(statement)
