"""What hold still on noisy machines: processor time, WAL, commits, fsyncs and statements."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

TICKS = os.sysconf("SC_CLK_TCK")
WAL = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
COMMITS = "select xact_commit + xact_rollback from pg_stat_database where datname = %s"
STATEMENTS = """
    select coalesce(sum(calls), 0) from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = %s"""
# PostgreSQL 18 counts the flushes of WAL with all other I/O.
FSYNCS_OLD = "select wal_sync from pg_stat_wal"
FSYNCS = "select sum(fsyncs) from pg_stat_io where object = 'wal'"


@dataclass(frozen=True)
class Processors:
    """Seconds of processor time, and when they were read."""

    at: float
    server: float
    client: float

    def since(self, before: Processors) -> Processors:
        """What was used since then."""
        return Processors(self.at - before.at, self.server - before.server, self.client - before.client)


def read_processors(postmaster: int, clients: Iterable[int]) -> Processors:
    """Processor time of the server with all its processes, those that have ended included, and of some clients."""
    server = _own_time(postmaster) + _ended_time(postmaster) + sum(_own_time(pid) for pid in _children(postmaster))
    return Processors(time.monotonic(), server, sum(_own_time(pid) for pid in clients))


def _own_time(pid: int) -> float:
    """Seconds of a process: in nanoseconds of its living threads, or in ticks of all, if some that have ended make it more."""
    return max(sum(_times(pid)[:2]) / TICKS, sum(_thread_times(pid)) / 1e9)


def _ended_time(pid: int) -> float:
    """Seconds of its children that have ended."""
    return sum(_times(pid)[2:]) / TICKS


def _times(pid: int) -> Sequence[int]:
    """Ticks of user and system, and the same of children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return (0, 0, 0, 0)
    return [int(field) for field in fields[11:15]]


def _thread_times(pid: int) -> Iterator[int]:
    """Nanoseconds of each of its threads; nothing where the kernel does not count them."""
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            yield int(thread.read_text().split()[0])


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return [child for child in _all_processes() if _parent(child) == pid]


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@dataclass(frozen=True)
class Work:
    """What a server did: bytes of WAL, commits, flushes, statements."""

    wal_bytes: int
    commits: int
    fsyncs: int
    statements: int

    def since(self, before: Work) -> Work:
        """What it did since then."""
        return Work(
            self.wal_bytes - before.wal_bytes,
            self.commits - before.commits,
            self.fsyncs - before.fsyncs,
            self.statements - before.statements,
        )


def read_work(admin: psycopg.Connection[Any], database: str) -> Work:
    """The counters; exact when nobody is connected to the database, because sessions report with a delay."""
    fsyncs = FSYNCS if admin.info.server_version >= 180000 else FSYNCS_OLD
    admin.execute("select pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    return Work(
        _number(admin, WAL), _number(admin, COMMITS, database), _number(admin, fsyncs), _number(admin, STATEMENTS, database)
    )


def _number(admin: psycopg.Connection[Any], statement: str, *args: Any) -> int:
    row = admin.execute(statement.encode(), args).fetchone()
    return int(row[0] or 0) if row else 0
