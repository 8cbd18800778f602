"""The engine of a worker process: claim → run → record, and everything around that."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from absurd import failpoints, telemetry
from absurd.context import Core
from absurd.db import AsyncPool, Pool
from absurd.db.pooler import require_sessions
from absurd.errors import AbsurdError, QueueNotFoundError, RunCancelled, RunInterrupted, RunLost, RunReleased
from absurd.queries import workers as queries
from absurd.queries.query import Query
from absurd.registry import Registry
from absurd.types import ClaimedRun
from absurd.worker.background import Companions
from absurd.worker.claiming import Claims
from absurd.worker.health import HealthFile
from absurd.worker.leases import LeaseKeeper
from absurd.worker.notifications import Notifications
from absurd.worker.options import WorkerOptions
from absurd.worker.promoter import Promoter
from absurd.worker.refusals import STOPPED, Refusals
from absurd.worker.running import Ending, Running, outcome
from absurd.worker.threads import Threads
from absurd.worker.writer import Writer
from absurd.writes import Fail, Holder, Release, Suspend, Write, WriteFuture, WriteResult

logger = logging.getLogger("absurd.worker")

# Seconds before each of the looks of a worker that has become idle. What commits later still is found by polling.
IDLE_LOOKS = (0.0, 0.1)
# Connections for ctx.transaction at most, per process and kind of handler: a server has about a hundred in all.
MAX_TRANSACTIONS = 32
# Seconds that cancelled async handlers get to unwind before their runs are handed back.
UNWIND_SECONDS = 1.0
# Seconds for the last writes of a worker that stops. Without a database they would wait for ever; the runs come back by their
# leases then.
LAST_WRITES_SECONDS = 5.0
# Seconds between looks at the limits of the queues.
LIMITS_INTERVAL = 30.0


class Engine:
    """Runs tasks of some queues until it is told to stop. Belongs to one event loop."""

    def __init__(self, registry: Registry, url: str, options: WorkerOptions, version: str) -> None:
        self.registry = registry
        self.lease_seconds = options.lease_seconds
        self.worker_id = options.worker_id
        self.on_ready: Callable[[], None] = _nothing
        self._url = url
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._active: dict[UUID, Running] = {}
        self._registered = False
        self._draining = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._limits: dict[str, int] = {}
        self._limits_read = 0.0
        self._errands: set[asyncio.Task[Any]] = set()
        self._threads = Threads(options.concurrency)
        self._writer = Writer(url, self)
        self._refusals = Refusals(self._writer, options.unknown_task_delay)
        self._claims = Claims(options, self._writer.wake, self._say_idle)
        self._leases = LeaseKeeper(url, options, self, version)
        self._companions = Companions(registry, url, options, lambda: self._claims.answer_seconds)
        self._health = HealthFile(options.health_file) if options.health_file is not None else None
        self._notifications = Notifications(url, options.queues, self._claims.look)
        self._promoter = Promoter(self._writer, options.queues, options.poll_interval, self._claims.look)
        connections = min(options.concurrency, MAX_TRANSACTIONS)
        self._pool = Pool(url, max_size=connections, application_name="absurd worker: transactions")
        self._async_pool = AsyncPool(url, max_size=connections, application_name="absurd worker: transactions")
        self._writing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    # -- life ---------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until ``stop`` is called, then lets running tasks end within the grace period and hands back the rest."""
        await self._begin()
        logger.info(
            "worker %s serves %s with %s slots, knowing %s task(s)",
            self.worker_id,
            ", ".join(self._options.queues),
            self._options.concurrency,
            len(self.registry),
        )
        try:
            next_look = time.monotonic() + self._options.poll_interval
            while not self._stopping:
                # A claim that found nothing is a change too: it must not be the reason for the next one.
                await self._wait_for_change(next_look - time.monotonic())
                if time.monotonic() < next_look:
                    continue
                next_look = time.monotonic() + self._options.poll_interval
                for queue in self._options.queues:
                    self._claims.look(queue)
                if time.monotonic() - self._limits_read > LIMITS_INTERVAL:
                    self._errand(self._read_limits())
        finally:
            await self._end()

    async def drain(self) -> int:
        """Works until nothing is ready and nothing runs; returns how many runs there were."""
        self._draining = True
        self._claims.drain()
        await self._begin()
        found = 0
        try:
            while not self._stopping:
                await self._wait_for_change(0.05)
                if self._active or self._claims.pending or await self._promoter.promote_now():
                    continue
                if self._claims.count == found:
                    break
                # What ran since the last look may have made other runs ready: those that waited for it, or its own next one.
                found = self._claims.count
                for queue in self._options.queues:
                    self._claims.look(queue)
        finally:
            await self._end()
        return self._claims.count

    def stop(self) -> None:
        """Asks the engine to stop: no more claims. On its loop."""
        self._stopping = True
        self._changed.set()

    async def _begin(self) -> None:
        await require_sessions(self._url)
        await self._writer.open()
        self._writing = asyncio.create_task(self._writer.run(), name="absurd writer")
        self._writing.add_done_callback(self._writer_ended)
        try:
            await self._read_limits()
            missing = [queue for queue in self._options.queues if queue not in self._limits]
            if missing:
                raise QueueNotFoundError(
                    f'queue "{missing[0]}" does not exist; '
                    f"create it with: absurdctl create-queue {shlex.quote(missing[0])}, or app.create_queue()"
                )
            await asyncio.to_thread(self._leases.start)
            self._registered = True
            if telemetry.metrics is not None:
                telemetry.metrics.worker_began(self._options.concurrency)
            if failpoints.hook is not None:
                failpoints.hook("engine.registered", self)
        except BaseException:
            self._stopping = True
            await self._stop_writer()
            raise
        if not self._draining:
            self._notifications.start()
            self._promoter.start()
            self._companions.start()
            if self._health is not None:
                self._health.start()
        self._writer.wake()
        self.on_ready()

    async def _end(self) -> None:
        self._stopping = True
        companions = asyncio.create_task(self._companions.stop())
        await self._let_finish()
        if failpoints.hook is not None:
            failpoints.hook("engine.handed-back", self)
        await companions
        if self._health is not None:
            await self._health.stop()
        await self._notifications.stop()
        await self._promoter.stop()
        await self._stop_writer()
        if failpoints.hook is not None:
            failpoints.hook("engine.wrote-last", self)
        await asyncio.to_thread(self._leases.stop)
        if telemetry.metrics is not None:
            telemetry.metrics.worker_ended(self._options.concurrency)
        if failpoints.hook is not None:
            failpoints.hook("engine.unregistered", self)
        self._threads.stop()
        self._pool.close()
        await self._async_pool.close()
        if self._failure is not None:
            raise self._failure

    async def _let_finish(self) -> None:
        """Waits for running tasks, up to the grace period; hands the others back without charging an attempt."""
        limit = time.monotonic() + self._options.grace_seconds
        while self._active and time.monotonic() < limit:
            await self._wait_for_change(limit - time.monotonic())
        if not self._active:
            return
        logger.warning("handing back %s run(s) that did not end within %s s", len(self._active), self._options.grace_seconds)
        for running in list(self._active.values()):
            running.core.interrupt(RunReleased(STOPPED))
            if running.task is not None:
                running.task.cancel()
        limit = time.monotonic() + UNWIND_SECONDS
        while any(r.task is not None for r in self._active.values()) and time.monotonic() < limit:
            await self._wait_for_change(limit - time.monotonic())
        for running in list(self._active.values()):
            self._finish(running, Release(running.core.holder, note=STOPPED))
        limit = time.monotonic() + LAST_WRITES_SECONDS
        while self._active and time.monotonic() < limit:
            await self._wait_for_change(limit - time.monotonic())

    async def _stop_writer(self) -> None:
        self._writer.stop()
        if self._writing is not None:
            # What is still active has waited that long already.
            patience = 0.0 if self._active else LAST_WRITES_SECONDS
            done, _ = await asyncio.wait([self._writing], timeout=patience)
            if not done:
                self._writing.cancel()
                await asyncio.wait([self._writing])

    def _writer_ended(self, writing: asyncio.Task[None]) -> None:
        """A worker whose writer has failed could run nothing any more, and nobody would notice: it ends, with that error."""
        if not writing.cancelled() and (error := writing.exception()) is not None:
            logger.critical("the worker stops, for its writer has failed", exc_info=error)
            self._failure = error
            self.stop()

    async def _wait_for_change(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), max(seconds, 0))
        self._changed.clear()

    async def _read_limits(self) -> None:
        self._limits_read = time.monotonic()
        self._limits = await self._writer.perform(queries.queue_limits(self._options.queues))

    # -- claiming: the writer asks with each batch --------------------------------------------------------------------------

    def wanted_claim(self, endings: int) -> Query[list[ClaimedRun]] | None:
        """The claim to send along with a batch that frees so many slots; ``None`` for none."""
        free = self._options.concurrency - len(self._active) + endings
        if self._stopping or not self._registered or free <= 0:
            return None
        return self._claims.next(free)

    def take_claimed(self, runs: list[ClaimedRun], seconds: float) -> None:
        """Starts what was claimed."""
        if self._claims.took(runs, seconds):
            self._changed.set()
        for run in runs:
            if self._stopping:
                self._refusals.stopped(run)
            else:
                self._start(run)
        self._claims.go_on()

    @property
    def idle(self) -> bool:
        """Whether it waits for work, and has to be notified of it."""
        return self._claims.idle

    def _say_idle(self, idle: bool) -> None:
        self._errand(self._tell_idle(idle))

    async def _tell_idle(self, idle: bool) -> None:
        await self._writer.perform(queries.set_worker_idle(self.worker_id, idle))
        if failpoints.hook is not None:
            failpoints.hook("engine.told-idle", self)
        # What was spawned before that was seen has notified nobody; what was on its way at that moment is found a little later.
        for delay in IDLE_LOOKS if idle else ():
            await asyncio.sleep(delay)
            for queue in self._options.queues:
                self._claims.look(queue)

    # -- running ------------------------------------------------------------------------------------------------------------

    def _start(self, run: ClaimedRun) -> None:
        definition = self.registry.find(run.task_name)
        if definition is None:
            self._refusals.unknown(run)
            return
        limit = self._limits.get(run.queue_name, 0) or 10 * 1024 * 1024
        try:
            core = Core(run, max_payload_bytes=limit, strict=self._options.strict_replay)
        except Exception as error:
            self._refusals.unreadable(run, error)
            return
        running = Running(core, definition, self.registry, self)
        self._active[run.run_id] = running
        if telemetry.metrics is not None:
            telemetry.metrics.run_began()
        if definition.is_async:
            running.task = self._loop.create_task(self._run_async(running))
        else:
            self._threads.submit(functools.partial(self._run_in_thread, running))

    async def _run_async(self, running: Running) -> None:
        ending = await running.run_async()
        running.task = None
        self._finish(running, ending)

    def _run_in_thread(self, running: Running) -> None:
        ending = running.run_blocking()
        self._on_loop(self._finish, running, ending)

    def _on_loop(self, call: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the worker has ended without the thread that says this; its loop is closed
            self._loop.call_soon_threadsafe(call, *args)

    def _finish(self, running: Running, ending: Write | None) -> None:
        """Sends the write that ends a run; its slot is free when that is done."""
        run_id = running.core.run.run_id
        if self._active.get(run_id) is not running:
            return
        if ending is None:
            self._forget(running, outcome(None, running.core.interruption))
            return
        self._writer.send(ending, Ending(functools.partial(self._ended, running, ending)))

    def _ended(self, running: Running, ending: Write, answer: WriteResult | BaseException) -> None:
        if isinstance(answer, BaseException):
            logger.error("could not record the end of %s; its lease will bring it back: %s", running, answer)
        elif answer.status != "ok":
            logger.info("the end of %s came too late: %s", running, answer.status)
        elif isinstance(ending, Suspend):
            self._promoter.expect(ending)
        status = answer.status if isinstance(answer, WriteResult) else "unrecorded"
        self._forget(running, outcome(ending, None, status), ending)

    def _forget(self, running: Running, how: str, ending: Write | None = None) -> None:
        if telemetry.metrics is not None and not running.over:
            running.over = True
            retried = isinstance(ending, Fail) and ending.retryable and running.core.run.attempts_left
            telemetry.metrics.run_ended(running.core.run, how, time.monotonic() - running.began, retried=retried)
        # A run whose wait was over at once may have been claimed again with the very batch that put it to sleep.
        if self._active.get(running.core.run.run_id) is running:
            del self._active[running.core.run.run_id]
        self._changed.set()
        self._writer.wake()

    def _errand(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._errands.add(task)
        task.add_done_callback(self._errand_ended)

    def _errand_ended(self, task: asyncio.Task[Any]) -> None:
        """What the server refuses here ends no worker: limits are read again, and polling finds what nobody notified of."""
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            trace = None if isinstance(error, AbsurdError) else error
            logger.warning("an errand of the worker met an error: %s", error, exc_info=trace)

    # -- for contexts (Port) ------------------------------------------------------------------------------------------------

    def send(self, write: Write, future: WriteFuture) -> None:
        """Sends a write; to be called on the engine's loop."""
        self._writer.send(write, future)

    def send_threadsafe(self, write: Write, future: WriteFuture) -> None:
        """Sends a write from any thread."""
        self._writer.send_threadsafe(write, future)

    async def run_query(self, query: Query[Any]) -> Any:
        """Asks for a task that is running."""
        return await self._writer.ask(query)

    def run_query_threadsafe(self, query: Query[Any]) -> Any:
        """The same from a thread, blocking."""
        return asyncio.run_coroutine_threadsafe(self._writer.ask(query), self._loop).result()

    def connection(self) -> Any:
        """A connection for a transaction of a sync handler."""
        return self._pool.connection()

    def async_connection(self) -> Any:
        """The same for an async handler."""
        return self._async_pool.connection()

    # -- for the lease keeper, from its thread ------------------------------------------------------------------------------

    def held(self) -> Sequence[Holder]:
        """The runs that are in the engine's hands."""
        return [running.core.holder for running in list(self._active.values())]

    @property
    def claiming_since(self) -> float | None:
        """When the claim that waits for its answer was made, by time.monotonic()."""
        return self._claims.sent_at

    def look_for_forgotten(self) -> None:
        """Has runs handed back that are this worker's and unknown to it."""
        self._on_loop(self._writer.look_for_forgotten)

    def lost(self, holder: Holder, status: str) -> None:
        """Takes note that a run is lost or cancelled: its handler ends at its next call of the context."""
        running = self._active.get(holder.run_id)
        # It may have gone to sleep and been claimed again since the lease keeper looked: that is another epoch.
        if running is not None and running.core.holder == holder:
            signal: RunInterrupted = RunCancelled("cancelled") if status == "cancelled" else RunLost("the lease was lost")
            running.core.interrupt(signal)


def _nothing() -> None:
    pass
