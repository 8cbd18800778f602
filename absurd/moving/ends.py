"""The databases of a move: source, target, and the router before them if there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from absurd import errors, schema
from absurd.db import connect
from absurd.errors import ConfigurationError

Connection = psycopg.Connection[Any]

APPLICATION_NAME = "absurdctl"
# For so long at a time others' calls queue up behind our wait for a lock, and for so long they may pass in between.
LOCK_TIMEOUT = "1s"
LET_PASS_SECONDS = 0.2


class Ends:
    """Connections to all of them, in autocommit."""

    def __init__(self, source: str, target: str, router: str | None) -> None:
        self._urls = (source, target, router)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        source, target, router = self._urls
        with ExitStack() as stack:
            self.source = self._open(stack, source)
            self.target = self._open(stack, target)
            self.router = None if router is None else self._open(stack, router)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack, url: str) -> Connection:
        conn = stack.enter_context(connect(url, application_name=APPLICATION_NAME))
        conn.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'".encode())
        return conn

    def require_fit(self) -> None:
        """Refuses databases between which rows cannot be copied as they are.

        Raises:
            SchemaError: one of them has no schema, or one that does not fit this release.
            ConfigurationError: the schemas differ.
        """
        for conn in (self.source, self.target):
            schema.check(conn)
        here, there = schema.installed_version(self.source), schema.installed_version(self.target)
        if here != there:
            raise ConfigurationError(
                f"the source has version {here} of the schema and the target {there}; bring both to one: absurdctl migrate"
            )

    def identity(self) -> str:
        """What the source is known by."""
        sql = """
            select c.system_identifier || ' ' || d.oid
            from pg_control_system() c, pg_database d
            where d.datname = current_database()"""
        return str(_one(self.source, sql))

    def lock_move(self, queues: Sequence[str]) -> None:
        """Makes sure that nobody else moves these queues, and that the two are not the same.

        Raises:
            ConfigurationError: they are, or somebody does.
        """
        sql = "select bool_and(pg_try_advisory_lock(hashtextextended('absurd move ' || q, 0))) from unnest(%s::text[]) as u(q)"
        if not _one(self.source, sql, list(queues)):
            raise ConfigurationError("another process is moving one of these queues")
        if not _one(self.target, sql, list(queues)):
            raise ConfigurationError(
                "source and target are the same database, or another process is moving one of these queues there"
            )

    @contextmanager
    def frozen(self, queues: Sequence[str], deadline: float) -> Iterator[None]:
        """Keeps spawns, emits and all else that takes the lock of a queue out of the source for a while: they wait."""
        names = sorted(queues)
        self._lock_queues(names, deadline)
        try:
            yield
        finally:
            if not self.source.broken:
                self._unlock_queues(names)

    def _lock_queues(self, names: Sequence[str], deadline: float) -> None:
        while True:
            try:
                for name in names:
                    self.source.execute("select pg_advisory_lock(absurd.queue_lock_key(%s))", (name,))
                return
            except psycopg.errors.LockNotAvailable:
                self._unlock_queues(names)
                let_pass(deadline, "a transaction at the source that has spawned or emitted is still open")

    def _unlock_queues(self, names: Sequence[str]) -> None:
        sql = """
            select pg_advisory_unlock(k.key)
            from (select absurd.queue_lock_key(u.q) as key from unnest(%s::text[]) as u(q)) k
            join pg_locks l on l.pid = pg_backend_pid() and l.locktype = 'advisory' and l.mode = 'ExclusiveLock'
              and (l.classid::bigint << 32) | l.objid::bigint = k.key"""
        self.source.execute(sql, (list(names),))

    @contextmanager
    def held(self, queues: Sequence[str], deadline: float) -> Iterator[None]:
        """Has the router keep calls for these queues waiting, and has it look at the end where the queues are now."""
        if self.router is None:
            yield
            return
        with self._held(self.router, queues, deadline):
            yield
            self.router.execute("select absurd_router.find_again(%s::text[])", (list(queues),))

    @contextmanager
    def _held(self, router: Connection, queues: Sequence[str], deadline: float) -> Iterator[None]:
        while not _hold(router, queues):
            let_pass(deadline, "a transaction at the router that has called one of these queues is still open")
        try:
            yield
            router.execute("commit")
        finally:
            if not router.closed and router.info.transaction_status != TransactionStatus.IDLE:
                router.execute("rollback")


def _hold(router: Connection, queues: Sequence[str]) -> bool:
    """Opens a transaction that holds calls for these queues; false if one of them is under way."""
    router.execute("begin")
    try:
        router.execute("select absurd_router.hold(%s::text[])", (list(queues),))
    except psycopg.errors.LockNotAvailable:
        router.execute("rollback")
        return False
    return True


def let_pass(deadline: float, what: str) -> None:
    """Waits for a moment. Raises ``TimeoutError`` after the deadline, with what is waited for."""
    if time.monotonic() > deadline:
        raise errors.TimeoutError(f"{what}; nothing was moved. Try again later, or wait longer (--wait)")
    time.sleep(LET_PASS_SECONDS)


def _one(conn: Connection, sql: str, *args: Any) -> Any:
    row = conn.cursor(row_factory=tuple_row).execute(sql.encode(), args or None).fetchone()
    return None if row is None else row[0]
