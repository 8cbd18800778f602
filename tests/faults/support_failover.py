"""A pair of servers that is looked after as Patroni looks after its own: who dies is replaced, comes back and may lead again."""

from __future__ import annotations

import contextlib
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from absurd.devdb.account import choose_account
from absurd.devdb.binaries import find_binaries
from absurd.devdb.cluster import clean_environment, relocate
from absurd.devdb.server import Server
from tests.faults.programs.field import Field
from tests.faults.programs.outside import Outside
from tests.faults.programs.workers import WorkerSlot
from tests.faults.support_standby import TIMEOUT, Pair
from tests.support import wait_until

SYNCHRONOUS = "select from pg_stat_replication where sync_state = 'sync'"
HELD_UP = "select from pg_stat_activity where wait_event = 'SyncRep' and datname = %s and application_name like %s"


class Cluster(Pair):
    """``primary`` and ``standby`` are whoever is that now. Connections go over TCP, by one URL in a fixed order."""

    database = "postgres"
    """Which one its URLs lead to."""

    def __init__(self, directory: Path, settings: dict[str, str] | None = None) -> None:
        # pg_rewind wants both; Patroni sets both. In a file too, where the recovery that pg_rewind starts finds them.
        super().__init__(directory, {"wal_log_hints": "on", **(settings or {})})
        for server in (self.primary, self.standby):
            with psycopg.connect(server.url(), autocommit=True) as conn:
                conn.execute("alter system set wal_keep_size = '256MB'")
                conn.execute("alter system set wal_log_hints = on")
                conn.execute("select pg_reload_conf()")

    @property
    def url(self) -> str:
        """A URL of both, which leads to the one that takes writes."""
        return self._url(*self.ports)

    def url_of(self, *servers: Server) -> str:
        """The same with the servers in this order."""
        return self._url(*(server.settings["port"] for server in servers))

    def _url(self, *ports: int | str) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://absurd@{hosts}/{self.database}?target_session_attrs=read-write"

    def use(self, database: str) -> None:
        """Makes a database, with the schema."""
        with psycopg.connect(self.primary.url("template1"), autocommit=True) as conn:
            conn.execute(f"create database {database} template postgres".encode())
        self.database = database

    # -- what Patroni does -------------------------------------------------------------------------------------------------

    def promote(self) -> None:
        """Makes the standby the primary, whatever the primary of before does meanwhile."""
        with psycopg.connect(self.standby.url(), autocommit=True) as conn:
            self._wait_for_standby(conn, "")
            assert conn.execute("select pg_promote(true, 60)").fetchone() == (True,)
        self.primary, self.standby = self.standby, self.primary

    def rejoin(self) -> None:
        """The primary of before, which is down, becomes a synchronous standby: what only it had written is undone."""
        wait_until(lambda: not _inhabited(self.standby.data), TIMEOUT, "the end of the killed server's processes")
        (self.standby.data / "postmaster.pid").unlink(missing_ok=True)  # PostgreSQL would take a zombie for a server
        self._run("pg_rewind", "-D", str(self.standby.data), "-R", f"--source-server={self.primary.url()}")
        self.standby.start()
        self.expect_standby()

    def switch_over(self) -> None:
        """Planned: the primary stops when the standby has everything, and follows it."""
        self.primary.stop("fast")
        self.promote()
        signal = self.standby.data / "standby.signal"
        signal.touch()
        choose_account(self.standby.data).own(signal)
        with (self.standby.data / "postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = '{self.primary.url().replace('/postgres?', '/?')}'\n")
        self.standby.start()
        self.expect_standby()

    def expect_standby(self) -> None:
        """From now on commits wait for the standby, which is there."""
        with psycopg.connect(self.primary.url(), autocommit=True) as conn:
            wait_until(lambda: conn.execute("select from pg_stat_replication").fetchall(), TIMEOUT, "a standby")
            self._wait_for_standby(conn, "*")
            wait_until(lambda: conn.execute(SYNCHRONOUS).fetchall(), TIMEOUT, "a synchronous standby")

    def _wait_for_standby(self, conn: psycopg.Connection[Any], names: str) -> None:
        conn.execute(f"alter system set synchronous_standby_names = '{names}'".encode())
        conn.execute("select pg_reload_conf()")

    # -- what happens to the cluster ---------------------------------------------------------------------------------------

    def stop_replication(self) -> None:
        """The network between both breaks: the standby gets no more, and the primary does not know for how long."""
        self._follow("")
        with psycopg.connect(self.primary.url(), autocommit=True) as conn:
            wait_until(lambda: not conn.execute("select from pg_stat_replication").fetchall(), TIMEOUT, "no standby")

    def resume_replication(self) -> None:
        """It is whole again."""
        self._follow(self.primary.url().replace("/postgres?", "/?"))

    def _follow(self, conninfo: str) -> None:
        with psycopg.connect(self.standby.url(), autocommit=True) as conn:
            conn.execute(f"alter system set primary_conninfo = '{conninfo}'".encode())
            conn.execute("select pg_reload_conf()")

    def forget_standby(self) -> None:
        """Replication is asynchronous from now on."""
        with psycopg.connect(self.primary.url(), autocommit=True) as conn:
            self._wait_for_standby(conn, "")
            wait_until(lambda: not conn.execute(SYNCHRONOUS).fetchall(), TIMEOUT, "no synchronous standby")

    def held_up(self, server: Server, program: str = "%") -> int:
        """How many commits of a program, a pattern of application names, wait for the standby of this server."""
        with psycopg.connect(server.url(), autocommit=True) as conn:
            return len(conn.execute(HELD_UP, (self.database, program)).fetchall())

    def stop(self) -> None:
        """Ends both at once."""
        for server in (self.primary, self.standby):
            server.stop("immediate")

    def _run(self, program: str, *arguments: str) -> None:
        account = choose_account(self.primary.data)
        binaries = relocate(find_binaries(), self.primary.directory, account)
        command = [*account.prefix, str(binaries.directory / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, env=clean_environment(), cwd="/", **account.options()
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _inhabited(data: Path) -> bool:
    """Whether a process lives in a data directory."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd") == str(data):
                return True
    return False


class ClusterField(Field):
    """The field of random programs, on a cluster instead of one server, and without a proxy."""

    def __init__(self, directory: Path, cluster: Cluster, workers: int = 2) -> None:
        super().__init__(directory, workers)
        self.cluster = cluster

    def __enter__(self) -> ClusterField:
        with ExitStack() as exits:
            self.url = self.cluster.url
            self._prepare()
            self.outside = exits.enter_context(Outside(self.url))
            exits.callback(self._end_workers)
            for place in range(self._count):
                slot = WorkerSlot(place, self.url, self.url, self._directory, mortal=place > 0, settings=self._settings)
                self.slots.append(slot)
                slot.start()
            self._exits = exits.pop_all()
        return self

    @property
    def ended(self) -> int:
        """How many tasks have ended."""
        return self._count_ended()

    @property
    def quiet(self) -> bool:
        """Whether nothing is left to do."""
        return self.outside.done and self._count_unfinished() == 0
