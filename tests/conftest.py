"""Databases for tests: one throw-away server per test process, one fresh database per test.

``ABSURD_TEST_DATABASE_URL`` names a server to use instead (its role must be allowed to create databases), and
``ABSURD_TEST_POSTGRES_BIN`` the PostgreSQL binaries to start; ``ABSURD_TEST_TEMPLATE`` a database of that server to copy instead
of a new one with the schema. No test touches the user's own embedded server.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from absurd import devdb, schema
from absurd.devdb.account import choose_account
from absurd.devdb.paths import socket_directory

SERVER_URL_VARIABLE = "ABSURD_TEST_DATABASE_URL"
BINARIES_VARIABLE = "ABSURD_TEST_POSTGRES_BIN"
TEMPLATE_VARIABLE = "ABSURD_TEST_TEMPLATE"
FAST_AND_UNSAFE = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",  # it would hold a database for a moment which is to be dropped or copied
    "max_wal_size": "4GB",
}
CALLERS_VARIABLES = (
    "ABSURD_DATABASE_URL",
    "ABSURD_APP",
    "ABSURD_HOME",
    "ABSURD_POSTGRES_BIN",
    "ABSURD_API_KEY",
    "ABSURD_AMQP_URL",
    "ABSURD_OTEL",
    "WEBHOOK_SECRET",
)
LIBPQ_VARIABLES = tuple(name for name in os.environ if name.startswith("PG"))

# What the shared server may take in memory: its log of max_wal_size, and the largest test.
MEMORY_BYTES = 8 * 2**30

MakeServer = Callable[..., devdb.Server]


def _isolate() -> Path:
    """Nothing of the caller's environment reaches a test, and no test reaches the caller's server."""
    for name in (*CALLERS_VARIABLES, *LIBPQ_VARIABLES):
        os.environ.pop(name, None)
    for number in (signal.SIGINT, signal.SIGQUIT):
        # A shell has its background jobs ignore them, and whatever they start; tests send them to what they start.
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    home = Path(tempfile.mkdtemp(prefix="absurd-test-", dir=fast_directory()))
    home.chmod(0o755)  # the account that the server of root may have to run as enters it too
    os.environ["ABSURD_HOME"] = str(home / "home")
    if BINARIES_VARIABLE in os.environ:
        os.environ["ABSURD_POSTGRES_BIN"] = os.environ[BINARIES_VARIABLE]
    atexit.register(_remove, home)
    return home


def fast_directory() -> str:
    """Memory, where there is plenty: each test makes and deletes a database of 400 files, which a disk is slow for."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return str(memory)
    return "/tmp"


def _remove(home: Path) -> None:
    for directory in home.iterdir():
        devdb.Server(directory).stop("immediate")
    shutil.rmtree(home, ignore_errors=True)


TEST_HOME = _isolate()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """What a test has logged or printed may hold lone surrogates, which pytest-xdist cannot send to the process that reports."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def server_url() -> str:
    """The URL of a server on which databases may be created."""
    named = os.environ.get(SERVER_URL_VARIABLE)
    if named:
        return named
    server = devdb.Server(TEST_HOME / "server", settings=FAST_AND_UNSAFE)
    server.start()
    return server.url()


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """The name of a database with the schema, which the tests' databases are copied from."""
    if named := os.environ.get(TEMPLATE_VARIABLE):
        yield named
        return
    name = f"absurd_template_{uuid.uuid4().hex[:12]}"
    _create(server_url, name)
    with psycopg.connect(with_database(server_url, name), autocommit=True) as connection:
        schema.install(connection)
    yield name
    _drop(server_url, name)


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    """The URL of a database with the schema, for this test alone."""
    name = f"absurd_test_{uuid.uuid4().hex[:12]}"
    _create(server_url, name, template)
    yield with_database(server_url, name)
    _drop(server_url, name)


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """The URL of a database without the schema, for this test alone."""
    name = f"absurd_empty_{uuid.uuid4().hex[:12]}"
    _create(server_url, name)
    yield with_database(server_url, name)
    _drop(server_url, name)


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the test's database, in autocommit."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def empty_conn(empty_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database without the schema, in autocommit."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a path short enough for a socket, that every user may enter; servers in it are stopped at the end."""
    directory = Path(tempfile.mkdtemp(prefix="absurd-", dir=fast_directory()))
    directory.chmod(0o755)
    yield directory
    for data in directory.rglob("data"):
        devdb.Server(data.parent).stop("immediate")
        shutil.rmtree(socket_directory(data.parent, choose_account(data)), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def make_server(short_directory: Path) -> MakeServer:
    """Starts private servers for tests that stop, crash or configure one; as durable as a real one unless told otherwise."""
    count = 0

    def make(settings: Mapping[str, str] | None = None) -> devdb.Server:
        nonlocal count
        count += 1
        server = devdb.Server(short_directory / f"server{count}", settings=settings)
        server.start()
        return server

    return make


def with_database(url: str, name: str) -> str:
    """Return ``url``, a URL or a connection string, with another database."""
    if url.startswith(("postgresql://", "postgres://")):
        head, mark, query = url.partition("?")
        scheme, _, rest = head.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/{name}{mark}{query}"
    return conninfo.make_conninfo(url, dbname=name)


def _create(server_url: str, name: str, template: str = "template0") -> None:
    _execute(server_url, "create database {} template {}", name, template)


def _drop(server_url: str, name: str) -> None:
    _execute(server_url, "drop database if exists {} with (force)", name)


def _execute(server_url: str, statement: str, *names: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
