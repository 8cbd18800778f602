"""A pool of connections for sync code. It has no threads and connects in the caller's, so that errors reach the caller."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from absurd import failpoints
from absurd.db.connect import Connection, connect
from absurd.db.execution import run, run_whole
from absurd.db.patience import LIMIT, Patience
from absurd.db.translate import is_read_only, mask
from absurd.errors import AbsurdError, DatabaseUnavailableError
from absurd.queries.query import Query
from absurd.queries.workers import await_standby

T = TypeVar("T")

# Seconds after which a connection that nobody used is closed, at the next use of the pool.
MAX_IDLE = 600.0

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
# A child's copies of its parent's connections: closing them, or letting them go, would meddle with sessions that are not its own.
inherited: list[object] = []


class Pool:
    """Connections in autocommit, made when they are first needed, at most ``max_size`` of them. Safe to share between threads."""

    def __init__(self, url: str, *, max_size: int = 10, application_name: str = "absurd client") -> None:
        self.url = url
        self._max_size = max_size
        self._application_name = application_name
        # A server that was never reached is reported at once: most likely the URL is wrong. Later ones are waited for.
        self._reached = False
        self._start()
        _pools.add(self)

    def _start(self) -> None:
        self._idle: list[tuple[Connection, float]] = []
        self._lock = threading.Lock()
        # How many connections are out, and who waits for one: a semaphore would be a second lock.
        self._used = 0
        self._freed = threading.Condition(self._lock)
        self._closed = False
        # At interpreter exit or when the pool is forgotten: the connections end properly, and nothing is waited for.
        self._finalizer = weakref.finalize(self, finish_all, self._idle)

    def run(self, query: Query[T], *, whole: bool = False) -> T:
        """Runs a query in a transaction of its own, again on another connection if that broke and a repetition is harmless.

        ``whole``: nothing of it stays if the query's decoder refuses the answer.
        Raises ``DatabaseUnavailableError`` after about 30 s without getting through.
        """
        patience = Patience(repeatable=query.repeatable)
        while True:
            try:
                conn = self._borrow(checked=not query.repeatable)
                try:
                    if patience.may_have_happened:
                        run(conn, await_standby())
                    patience.sent = True
                    answer = run_whole(conn, query) if whole else run(conn, query)
                    if failpoints.hook is not None:
                        failpoints.hook("pool.committed", query)
                    return answer
                except Exception as error:
                    _leave_standby(conn, error)
                    raise
                finally:
                    self._give_back(conn)
            except AbsurdError as error:
                if not self._reached:
                    raise
                time.sleep(patience.delay_after(error))

    @contextmanager
    def connection(self, *, checked: bool = True) -> Iterator[Connection]:
        """A connection for the length of the block; open transactions are rolled back at its end.

        ``checked`` asks an idle connection for a sign of life before it is handed out.
        """
        conn = self._borrow(checked)
        try:
            yield conn
        except Exception as error:
            _leave_standby(conn, error)
            raise
        finally:
            self._give_back(conn)

    def _borrow(self, checked: bool) -> Connection:
        with self._lock:
            if self._used >= self._max_size and not self._freed.wait_for(lambda: self._used < self._max_size, LIMIT):
                raise DatabaseUnavailableError(
                    f"all {self._max_size} connections to {mask(self.url)} have been in use for {LIMIT:.0f} s; raise pool_size"
                )
            self._used += 1
            conn = self._idle.pop()[0] if self._idle else None
        try:
            return self._take(conn, checked)
        except BaseException:
            with self._lock:
                self._free_one()
            raise

    def _take(self, conn: Connection | None, checked: bool) -> Connection:
        if self._closed:
            if conn is not None:
                conn.close()
            raise DatabaseUnavailableError(f"the client of {mask(self.url)} has been closed; make a new one")
        while conn is not None:
            if not checked or _is_alive(conn):
                return conn
            self._discard_idle()
            with self._lock:
                conn = self._idle.pop()[0] if self._idle else None
        conn = connect(self.url, application_name=self._application_name)
        self._reached = True
        return conn

    def _free_one(self) -> None:
        """Lets the next one have a connection. To be called with the lock held."""
        self._used -= 1
        self._freed.notify()

    def _give_back(self, conn: Connection) -> None:
        reusable = False
        try:
            reusable = _is_reusable(conn)
            if not reusable:
                conn.close()
        finally:
            with self._lock:
                self._free_one()
                old = self._keep(conn) if reusable else []
        for one, _ in old:
            one.close()
        if not reusable or self._closed:
            # What broke this one has most likely broken the others too.
            self._discard_idle()

    def _keep(self, conn: Connection) -> list[tuple[Connection, float]]:
        """Puts a connection with the idle ones; those that have grown cold, to be closed. To be called with the lock held."""
        now = time.monotonic()
        # The last used comes first, so that the oldest stand in front.
        self._idle.append((conn, now))
        cold = 0
        while self._idle[cold][1] < now - MAX_IDLE:
            cold += 1
        old, self._idle[:cold] = self._idle[:cold], []
        return old

    def _discard_idle(self) -> None:
        with self._lock:
            idle, self._idle[:] = list(self._idle), []
        for conn, _ in idle:
            conn.close()

    def close(self) -> None:
        """Closes the idle connections; those in use are closed when they come back."""
        self._closed = True
        self._discard_idle()

    def _forget(self) -> None:
        """In a forked child: the connections belong to the parent, and the locks may be held by threads that are not here."""
        closed = self._closed
        self._finalizer.detach()
        inherited.append(self._idle)
        self._start()
        self._closed = closed


def _leave_standby(conn: Connection, error: Exception) -> None:
    """Closes a connection whose server only reads: the next one may find the primary."""
    if is_read_only(error):
        conn.close()


def _is_alive(conn: Connection) -> bool:
    try:
        conn.execute(b"")
    except psycopg.Error:
        conn.close()
        return False
    return True


def _is_reusable(conn: Connection) -> bool:
    """Whether a connection may be used again, after its transaction was ended and its settings were put back."""
    try:
        if conn.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            conn.rollback()
        if not conn.autocommit:
            conn.autocommit = True
    except psycopg.Error:
        return False
    return conn.pgconn.transaction_status == TransactionStatus.IDLE


def finish_all(idle: list[tuple[Any, float]]) -> None:
    """Ends connections, sync or async, without waiting for anything."""
    for conn, _ in idle:
        conn.pgconn.finish()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
