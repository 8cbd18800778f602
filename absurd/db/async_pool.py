"""The pool for asyncio: the same behaviour as ``Pool``, and it follows its user from one event loop to the next."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from absurd import failpoints
from absurd.db.connect import AsyncConnection, connect_async, is_pooled
from absurd.db.execution import run_async, run_whole_async
from absurd.db.patience import LIMIT, Patience
from absurd.db.pool import MAX_IDLE, finish_all, inherited
from absurd.db.translate import is_read_only, mask
from absurd.errors import AbsurdError, DatabaseUnavailableError
from absurd.queries.query import Query
from absurd.queries.workers import await_standby, set_lock_timeout

T = TypeVar("T")


class AsyncPool:
    """Connections in autocommit, made when they are first needed, at most ``max_size`` of them.

    ``lock_seconds`` is how long a statement waits for a lock; ``None`` leaves that to the database: usually for ever.
    ``set_up`` makes the query that sets up a session, or with ``True`` a transaction: those of a pooler's connection each get
    it anew, for the session behind is somebody else's between them.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int = 10,
        application_name: str = "absurd client",
        lock_seconds: float | None = None,
        set_up: Callable[[bool], Query[None]] | None = None,
    ) -> None:
        self.url = url
        self._max_size = max_size
        self._application_name = application_name
        self._set_up: list[Callable[[bool], Query[None]]] = []
        if lock_seconds is not None:
            self._set_up.append(partial(set_lock_timeout, lock_seconds))
        if set_up is not None:
            self._set_up.append(set_up)
        self._reached = False
        self._closed = False
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._idle: list[tuple[AsyncConnection, float]] = []
        self._finalizer = weakref.finalize(self, finish_all, self._idle)

    async def run(self, query: Query[T], *, whole: bool = False) -> T:
        """See ``Pool.run``."""
        patience = Patience(repeatable=query.repeatable)
        while True:
            try:
                async with self.connection(checked=not query.repeatable) as conn:
                    if patience.may_have_happened:
                        await run_async(conn, await_standby())
                    patience.sent = True
                    answer = await self._answer(conn, query, whole)
                    if failpoints.hook is not None:
                        failpoints.hook("async-pool.committed", query)
                    return answer
            except AbsurdError as error:
                if not self._reached:
                    raise
                delay = patience.delay_after(error)
            await asyncio.sleep(delay)

    async def _answer(self, conn: AsyncConnection, query: Query[T], whole: bool) -> T:
        if self._set_up and is_pooled(conn):
            return await run_whole_async(conn, query, [make(True) for make in self._set_up])
        return await (run_whole_async(conn, query) if whole else run_async(conn, query))

    @asynccontextmanager
    async def connection(self, *, checked: bool = True) -> AsyncIterator[AsyncConnection]:
        """See ``Pool.connection``."""
        self._follow()
        free = self._free
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes in the moment in which a connection is free.
            async with asyncio.timeout(LIMIT):
                await free.acquire()
        except TimeoutError:
            raise DatabaseUnavailableError(
                f"all {self._max_size} connections to {mask(self.url)} have been in use for {LIMIT:.0f} s; raise pool_size"
            ) from None
        try:
            conn = await self._take(checked)
            try:
                yield conn
            except Exception as error:
                if is_read_only(error):
                    await conn.close()  # the next one may find the primary
                raise
            finally:
                await self._give_back(conn)
        finally:
            free.release()

    def _follow(self) -> None:
        """Begins anew in another event loop or a forked child: what was made there cannot be used here."""
        here = (os.getpid(), asyncio.get_running_loop())
        if self._owner == here:
            return
        if self._owner is not None and self._owner[0] == here[0]:
            finish_all(self._idle)
        else:
            inherited.append(self._idle)
        self._finalizer.detach()
        self._idle = []
        self._finalizer = weakref.finalize(self, finish_all, self._idle)
        self._free = asyncio.BoundedSemaphore(self._max_size)
        self._owner = here

    async def _take(self, checked: bool) -> AsyncConnection:
        if self._closed:
            raise DatabaseUnavailableError(f"the client of {mask(self.url)} has been closed; make a new one")
        while self._idle:
            conn = self._idle.pop()[0]
            if not checked or await _is_alive(conn):
                return conn
            await self._discard_idle()
        conn = await connect_async(self.url, application_name=self._application_name)
        self._reached = True
        try:
            for make in self._set_up if not is_pooled(conn) else ():
                await run_async(conn, make(False))
        except BaseException:
            await conn.close()
            raise
        return conn

    async def _give_back(self, conn: AsyncConnection) -> None:
        if not await _is_reusable(conn):
            await conn.close()
            await self._discard_idle()
            return
        now = time.monotonic()
        self._idle.append((conn, now))
        cold = [c for c, since in self._idle if since < now - MAX_IDLE]
        self._idle[:] = [entry for entry in self._idle if entry[1] >= now - MAX_IDLE]
        for old in cold:
            await old.close()
        if self._closed:
            await self._discard_idle()

    async def _discard_idle(self) -> None:
        idle, self._idle[:] = list(self._idle), []
        for conn, _ in idle:
            await conn.close()

    async def close(self) -> None:
        """Closes the idle connections; those in use are closed when they come back."""
        self._closed = True
        await self._discard_idle()


async def _is_alive(conn: AsyncConnection) -> bool:
    try:
        await conn.execute(b"")
    except psycopg.Error:
        await conn.close()
        return False
    return True


async def _is_reusable(conn: AsyncConnection) -> bool:
    try:
        if conn.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            await conn.rollback()
        if not conn.autocommit:
            await conn.set_autocommit(True)
    except BaseException as error:
        # A cancellation here leaves the connection in a state that nobody knows.
        await conn.close()
        if not isinstance(error, psycopg.Error):
            raise
        return False
    return conn.info.transaction_status == TransactionStatus.IDLE
