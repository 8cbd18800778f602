"""A primary and its synchronous standby, reached over TCP by one URL that names both."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg

from absurd import devdb, schema
from absurd.devdb.account import choose_account
from absurd.devdb.binaries import find_binaries
from absurd.devdb.cluster import clean_environment, relocate
from tests.support import wait_until

TIMEOUT = 120.0  # seconds, for a copy of an empty database on a loaded machine
HBA = "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\n"


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Pair:
    """Starts both in a directory, with these settings beside the usual ones; commits wait until the standby has them."""

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.ports = (free_port(), free_port())
        self.primary = _server(directory / "primary", self.ports[0], settings or {})
        self.standby = _server(directory / "standby", self.ports[1], settings or {})
        self.primary.start()
        (self.primary.data / "pg_hba.conf").write_text(HBA)
        with psycopg.connect(self.primary.url(), autocommit=True) as conn:
            conn.execute("select pg_reload_conf()")
            schema.install(conn)
        self._copy()
        self.standby.start()
        with psycopg.connect(self.primary.url(), autocommit=True) as conn:
            conn.execute("alter system set synchronous_standby_names = '*'")
            conn.execute("select pg_reload_conf()")
            sync = "select from pg_stat_replication where sync_state = 'sync'"
            wait_until(lambda: conn.execute(sync).fetchall(), TIMEOUT, "a synchronous standby")

    def _copy(self) -> None:
        self.standby.directory.mkdir(mode=0o755)
        account = choose_account(self.primary.data)
        account.own(self.standby.directory)
        binaries = relocate(find_binaries(), self.primary.directory, account)
        command = [str(binaries.directory / "pg_basebackup"), "-D", str(self.standby.data), "-R", "-X", "stream", "-c", "fast"]
        subprocess.run(
            [*account.prefix, *command, "-d", self.primary.url().replace("/postgres?", "/?")],
            check=True,
            timeout=TIMEOUT,
            env=clean_environment(),
            **account.options(),
        )

    @property
    def url(self) -> str:
        """A URL of both, which leads to the one that takes writes."""
        one, two = self.ports
        return f"postgresql://absurd@127.0.0.1:{one},127.0.0.1:{two}/postgres?target_session_attrs=read-write"

    @property
    def keywords(self) -> str:
        """The same as a connection string."""
        one, two = self.ports
        return f"host=127.0.0.1,127.0.0.1 port={one},{two} user=absurd dbname=postgres target_session_attrs=read-write"

    def fail_over(self) -> None:
        """Kills the primary, and makes the standby the new one."""
        self.primary.kill()
        with psycopg.connect(self.standby.url(), autocommit=True) as conn:
            # There is no standby now to wait for; whoever promotes it says so.
            conn.execute("alter system set synchronous_standby_names = ''")
            conn.execute("select pg_reload_conf()")
            assert conn.execute("select pg_promote(true, 60)").fetchone() == (True,)


def _server(directory: Path, port: int, settings: Mapping[str, str]) -> devdb.Server:
    usual = {"listen_addresses": "127.0.0.1", "port": str(port), "fsync": "off", "max_wal_senders": "4"}
    return devdb.Server(directory, settings={**usual, **settings})
