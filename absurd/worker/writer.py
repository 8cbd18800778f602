"""Group commit: everything that running tasks write goes through one queue and one connection.

While one batch is being committed the next one collects, so a lone write is sent at once and a busy worker commits hundreds
together. There is no timer. The claim for free slots rides in the same transaction as the endings that free them.

Every write may be repeated, so a batch whose answer was lost is simply sent again; before that, what the lost batch may have
claimed is handed back. A batch that fails for another reason is taken apart, so that one bad item never fails its neighbours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import psycopg

from absurd import failpoints, telemetry
from absurd.db import connect_async, run_async, send, translate
from absurd.errors import AbsurdError, DatabaseUnavailableError, RunLost
from absurd.queries import runs as queries
from absurd.queries.query import Query
from absurd.queries.workers import await_standby, set_lock_timeout
from absurd.types import ClaimedRun
from absurd.worker.batch import plan_batch, take_batch
from absurd.worker.setbacks import CANCELED, LOCKED, READ_ONLY, TRANSIENT, passes, sqlstate
from absurd.writes import ENDINGS, Holder, Write, WriteFuture, WriteResult

logger = logging.getLogger("absurd.worker")

# Seconds until an item that found its event name or task locked is asked again: from the first to the last, doubling.
BUSY_DELAYS = (0.002, 0.25)
# Seconds between attempts to reach a database that went away.
RECONNECT_DELAYS = (0.05, 1.0)
# Seconds after a reconnect at which the worker looks once more for claims that it knows nothing of: a server that was slow when
# the connection broke commits a claim after the first look. Well within the usual lease, whose end would cost an attempt.
FORGOTTEN_LOOKS = (1.0, 5.0, 15.0)
# Seconds that a batch waits for a row that somebody else has locked, such as a task that a long transaction cancels.
# Then the batch is taken apart, the item concerned is put off, and its neighbours go on.
LOCK_SECONDS = 0.5
# The same for each item of such a batch alone: the lock has been waited for already, and there may be hundreds of them.
LOCK_SECONDS_ALONE = 0.01
PUT_OFF_SECONDS = 1.0
# Seconds between warnings of items that are put off: a server without room refuses each item of each batch, once in a second.
WARNING_INTERVAL = 10.0


@dataclass(slots=True)
class Item:
    """A write, where its answer goes, and how often it found a lock taken."""

    write: Write
    future: WriteFuture
    tries: int = 0
    cancels: int = 0


class ClaimSource(Protocol):
    """The engine, as the writer sees it: who wants runs, and which runs it knows."""

    worker_id: str

    def wanted_claim(self, endings: int) -> Query[list[ClaimedRun]] | None:
        """The claim to send along with a batch that frees so many slots; ``None`` for none."""

    def take_claimed(self, runs: list[ClaimedRun], seconds: float) -> None:
        """Receives what was claimed, and how long the transaction that claimed it took."""

    def held(self) -> Sequence[Holder]:
        """The runs that are in the engine's hands."""


class Writer:
    """The one writer of a worker process."""

    def __init__(self, url: str, source: ClaimSource) -> None:
        self._url = url
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._errands: deque[tuple[Query[Any], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._signalled = False
        self._signal_lock = threading.Lock()
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._stopping = False
        self._ended = False
        self._put_off_runs: dict[UUID, list[Item]] = {}
        self._busy: dict[int, Item] = {}
        self._may_have_forgotten = False
        self._quiet_until = 0.0
        self.batches = 0

    # -- for those who write ------------------------------------------------------------------------------------------------

    def send(self, write: Write, future: WriteFuture) -> None:
        """Queues a write. On the engine's loop."""
        self._items.append(Item(write, future))
        self._wake.set()

    def send_threadsafe(self, write: Write, future: WriteFuture) -> None:
        """Queues a write from another thread; the loop is woken once for all that come until it looks."""
        self._items.append(Item(write, future))
        with self._signal_lock:
            if self._signalled:
                return
            self._signalled = True
        self._loop.call_soon_threadsafe(self._hear)

    def _hear(self) -> None:
        with self._signal_lock:
            self._signalled = False
        self._wake.set()

    def wake(self) -> None:
        """Makes the writer look whether a claim is wanted."""
        self._wake.set()

    def look_for_forgotten(self) -> None:
        """Hands back, after the batch on its way, what the worker has claimed and does not know."""
        self._may_have_forgotten = True
        self._wake.set()

    async def ask(self, query: Query[Any]) -> Any:
        """``perform`` for a task that is running: what the server cannot take just now is asked again, as writes are."""
        cancels = 0
        while True:
            try:
                return await self.perform(query)
            except AbsurdError as error:
                cause = error.__cause__ or error
                cancels += sqlstate(cause) == CANCELED
                if not passes(cause, cancels):
                    raise
            await asyncio.sleep(PUT_OFF_SECONDS)

    async def perform(self, query: Query[Any]) -> Any:
        """Runs another query on the writer's connection, beside the batches."""
        if self._ended:
            raise RunLost("the worker has stopped")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._errands.append((query, future))
        self._wake.set()
        return await future

    # -- the loop -----------------------------------------------------------------------------------------------------------

    async def open(self) -> psycopg.AsyncConnection[Any]:
        """Connects; raises what keeps it from it."""
        self._conn = conn = await connect_async(self._url, application_name="absurd worker: writer")
        await run_async(conn, set_lock_timeout(LOCK_SECONDS))
        return conn

    async def run(self) -> None:
        """Writes until it is stopped and nothing is left."""
        try:
            while True:
                if not self._items and not self._errands and not self._may_have_forgotten:
                    if self._stopping:
                        return
                    await self._wake.wait()
                self._wake.clear()
                await self._turn()
        finally:
            self._fail_rest()
            if self._conn is not None:
                await self._conn.close()

    def stop(self) -> None:
        """Asks the loop to end when everything queued has been written."""
        self._stopping = True
        self._wake.set()

    async def _turn(self) -> None:
        if self._may_have_forgotten:
            self._may_have_forgotten = False
            with contextlib.suppress(AbsurdError):  # the next reconnect looks again
                await self._hand_back_forgotten(await self._connection())
        while self._errands:
            await self._run_errand(*self._errands.popleft())
        items = self._take_items()
        endings = sum(isinstance(item.write, ENDINGS) for item in items)
        claim = None if self._stopping else self._source.wanted_claim(endings)
        if items or claim is not None:
            await self._write(items, claim)

    def _take_items(self) -> list[Item]:
        items = take_batch(self._items)
        if not self._put_off_runs:
            return items
        for item in items:
            if item.write.holder.run_id in self._put_off_runs:
                self._put_off(item)
        return [item for item in items if item.write.holder.run_id not in self._put_off_runs]

    async def _run_errand(self, query: Query[Any], future: asyncio.Future[Any]) -> None:
        while not future.done():
            try:
                found = await run_async(await self._connection(), query)
                if failpoints.hook is not None:
                    failpoints.hook("writer.errand-done", self)
            except DatabaseUnavailableError:
                await self._reconnect()
            except Exception as error:
                if (state := sqlstate(error.__cause__)) == READ_ONLY:
                    await self._reconnect()
                elif state not in TRANSIENT and not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(found)

    async def _write(self, items: list[Item], claim: Query[list[ClaimedRun]] | None) -> None:
        """Commits a batch and hands out its answers, however often the connection breaks on the way."""
        while True:
            try:
                await self._connection()
                began = time.perf_counter()
                answers, claimed = await self._commit(items, claim)
                seconds = time.perf_counter() - began
                break
            except psycopg.Error as error:
                if self._conn is None or self._conn.broken or self._conn.closed or error.sqlstate == READ_ONLY:
                    logger.warning("lost the database connection: %s", translate(error, self._url))
                    await self._reconnect()
                elif error.sqlstate not in TRANSIENT:
                    await self._take_apart(items, claim, error)
                    return
            except Exception as error:
                # Not even sent: a value that the driver cannot encode. Whose it is shows when each goes alone.
                await self._take_apart(items, claim, error)
                return
        if failpoints.hook is not None:
            failpoints.hook("writer.committed", self)
        for item, answer in zip(items, answers, strict=True):
            self._answer(item, answer)
        if failpoints.hook is not None:
            failpoints.hook("writer.answered", self)
        if claim is not None:
            self._source.take_claimed(claimed, seconds)

    async def _commit(
        self, items: Sequence[Item], claim: Query[list[ClaimedRun]] | None
    ) -> tuple[list[WriteResult], list[ClaimedRun]]:
        """One transaction for a batch; the answers in the order of the items."""
        plan = plan_batch([item.write for item in items])
        if claim is not None:
            plan.append((claim, []))
        began = time.perf_counter()
        found = await self._send([query for query, _ in plan])
        if telemetry.metrics is not None and items:
            telemetry.metrics.batch(len(items), time.perf_counter() - began)
        self.batches += 1
        claimed = found.pop() if claim is not None else []
        answers: list[WriteResult] = [WriteResult("lost")] * len(items)
        for (_, places), results in zip(plan, found, strict=False):
            for place, result in zip(places, results, strict=True):
                answers[place] = result
        return answers, claimed

    async def _send(self, plan: Sequence[Query[Any]]) -> list[Any]:
        """Runs queries as one transaction, in one round trip."""
        conn = await self._connection()
        if len(plan) == 1:
            cursor = await send(conn, plan[0])
            return [plan[0].decode(await cursor.fetchall())]
        try:
            async with conn.pipeline():
                await conn.execute("begin")
                cursors = [await send(conn, query) for query in plan]
                await conn.execute("commit")
            return [query.decode(await cursor.fetchall()) for query, cursor in zip(plan, cursors, strict=True)]
        except Exception:
            if not conn.broken and not conn.closed:
                await conn.rollback()
            raise

    async def _take_apart(self, items: list[Item], claim: Query[list[ClaimedRun]] | None, error: Exception) -> None:
        """Sends the items of a refused batch one by one; only those at fault are told so, or put off."""
        if len(items) + (claim is not None) > 1:
            locked = sqlstate(error) == LOCKED
            if locked:
                await self._set_lock_timeout(LOCK_SECONDS_ALONE)
            await self._write_alone(items, claim)
            if locked:
                await self._set_lock_timeout(LOCK_SECONDS)
            return
        problem = translate(error, self._url) if isinstance(error, psycopg.Error) else error
        for item in items:
            item.cancels += sqlstate(error) == CANCELED
            if passes(error, item.cancels):
                if sqlstate(error) != LOCKED:
                    self._warn_put_off(item, problem)
                self._put_off(item)
            elif not item.future.done():
                item.future.set_exception(problem)
        if claim is not None:
            logger.error("a claim was refused: %s", problem)
            self._source.take_claimed([], 0.0)
            await asyncio.sleep(RECONNECT_DELAYS[1])

    def _warn_put_off(self, item: Item, problem: Exception) -> None:
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + WARNING_INTERVAL
            logger.warning("%s is put off, as others may be: %s", type(item.write).__name__, problem)

    async def _write_alone(self, items: list[Item], claim: Query[list[ClaimedRun]] | None) -> None:
        for item in items:
            # What follows an item that was put off must not overtake it: a sleep would drop the step before it.
            if item.write.holder.run_id in self._put_off_runs:
                self._put_off(item)
            else:
                await self._write([item], None)
                if failpoints.hook is not None:
                    failpoints.hook("writer.written-alone", self)
        if claim is not None:
            await self._write([], claim)

    async def _set_lock_timeout(self, seconds: float) -> None:
        with contextlib.suppress(AbsurdError):  # a new connection has the usual one
            await run_async(await self._connection(), set_lock_timeout(seconds))

    def _put_off(self, item: Item) -> None:
        """Sends an item again later, and with it, in order, whatever else its run writes meanwhile."""
        run_id = item.write.holder.run_id
        if run_id not in self._put_off_runs:
            self._put_off_runs[run_id] = []
            self._loop.call_later(PUT_OFF_SECONDS, self._resume, run_id)
        self._put_off_runs[run_id].append(item)

    def _resume(self, run_id: UUID) -> None:
        self._items.extend(self._put_off_runs.pop(run_id))
        self._wake.set()

    def _answer(self, item: Item, answer: WriteResult) -> None:
        if answer.status == "busy":
            item.tries += 1
            delay = min(BUSY_DELAYS[0] * 2 ** min(item.tries, 20), BUSY_DELAYS[1])
            self._busy[id(item)] = item
            self._loop.call_later(delay, self._again, item)
        elif not item.future.done():
            item.future.set_result(answer)

    def _again(self, item: Item) -> None:
        del self._busy[id(item)]
        self._items.append(item)
        self._wake.set()

    # -- the connection -----------------------------------------------------------------------------------------------------

    async def _connection(self) -> psycopg.AsyncConnection[Any]:
        if self._conn is None or self._conn.closed:
            await self._reconnect()
        assert self._conn is not None
        return self._conn

    async def _reconnect(self) -> None:
        """Connects again, however long it takes, and hands back what a lost answer may have claimed."""
        delay = RECONNECT_DELAYS[0]
        if telemetry.metrics is not None:
            telemetry.metrics.reconnected()
        while True:
            if self._conn is not None:
                await self._conn.close()
                self._conn = None
            try:
                conn = await self.open()
                if failpoints.hook is not None:
                    failpoints.hook("writer.reconnected", self)
                await run_async(conn, await_standby())
                await self._hand_back_forgotten(conn)
                if failpoints.hook is not None:
                    failpoints.hook("writer.forgotten-handed-back", self)
                for later in FORGOTTEN_LOOKS:
                    self._loop.call_later(later, self.look_for_forgotten)
                return
            except AbsurdError as error:
                logger.warning("cannot reach the database, trying again in %.2g s: %s", delay, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RECONNECT_DELAYS[1])

    async def _hand_back_forgotten(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """To be called between batches only: with one on its way it is not known which runs are held."""
        lost = queries.release_forgotten(self._source.worker_id, self._source.held())
        if forgotten := await run_async(conn, lost):
            logger.info("handed back %s run(s) whose claim was never answered", forgotten)

    def _fail_rest(self) -> None:
        self._ended = True
        for item in [*self._items, *self._busy.values(), *(item for items in self._put_off_runs.values() for item in items)]:
            if not item.future.done():
                item.future.set_exception(RunLost("the worker has stopped"))
        self._items.clear()
        for _, future in self._errands:
            future.cancel()
        self._errands.clear()
