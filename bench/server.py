"""One embedded PostgreSQL for all systems, and a fresh database for each measurement."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from absurd.devdb import Server

# The same for everybody. Durable commits; no checkpoint by time or volume falls into a measurement by chance.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_sync_method": "fdatasync",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "300",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "top",
    "track_io_timing": "off",
    "jit": "off",
}


class Databases:
    """The databases of one server: a template for each configuration, copied for each measurement."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.admin = psycopg.connect(server.url(), autocommit=True)
        self.admin.execute("create extension if not exists pg_stat_statements")
        self.version = str(self._one("show server_version"))
        self._templates: set[str] = set()
        self._count = 0

    def _one(self, statement: str) -> Any:
        row = self.admin.execute(statement.encode()).fetchone()
        return row[0] if row else None

    @property
    def postmaster(self) -> int:
        """The process id of the server."""
        pid = self.server.pid
        assert pid is not None
        return pid

    def has_template(self, name: str) -> bool:
        """Whether there is a template of that name."""
        return name in self._templates

    def create_template(self, name: str) -> str:
        """Makes an empty database that is to become a template; its URL."""
        self._create(name, "template0")
        self._templates.add(name)
        return self.server.url(name)

    @contextmanager
    def fresh(self, template: str) -> Iterator[str]:
        """A copy of a template for the length of a block; its URL."""
        self._count += 1
        name = f"bench_{self._count}"
        self.wait_until_left(template)
        self._create(name, template)
        try:
            yield self.server.url(name)
        finally:
            self._execute("drop database {} with (force)", name)

    def wait_until_left(self, name: str) -> None:
        """Ends whoever is still connected to a database; all that they counted is then in the statistics."""
        self.admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()", (name,)
        )

    def _create(self, name: str, template: str) -> None:
        self._execute("drop database if exists {} with (force)", name)
        self._execute("create database {} template {}", name, template)

    def _execute(self, statement: str, *names: str) -> None:
        self.admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def databases(directory: str | None = None) -> Iterator[Databases]:
    """Runs a server in a temporary directory."""
    home = Path(tempfile.mkdtemp(prefix="absurd-bench-", dir=directory))
    home.chmod(0o755)
    try:
        with Server(home, settings=SETTINGS) as server:
            found = Databases(server)
            try:
                yield found
            finally:
                found.admin.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
