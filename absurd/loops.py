"""One base for every background loop: start, stop, tick, wake, and back-off after an error. And a thread with an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from absurd.errors import AbsurdError

T = TypeVar("T")

logger = logging.getLogger("absurd.loops")

# Seconds after the first error in a row, doubled with each further one, up to the second figure.
FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 5.0
# Seconds that the end of a loop thread may take.
STOP_SECONDS = 5.0


class Loop:
    """Calls ``tick`` again and again on the running event loop, until it is stopped. An error in a tick never ends the loop."""

    def __init__(self, name: str, interval: float) -> None:
        self._name = name
        self._interval = interval
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stopping = False

    async def tick(self) -> float | None:
        """One round of work. Returns the seconds until the next one; ``None`` is the usual interval."""
        raise NotImplementedError(f"{type(self).__name__} must say what a tick does")

    @property
    def running(self) -> bool:
        """Whether the loop has been started and has not ended."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begins ticking, at once; to be called on the event loop. Nothing happens if it runs already."""
        if not self.running:
            self._stopping = False
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"absurd {self._name}")

    def wake(self) -> None:
        """Makes the next tick come now; after the running one, if there is one. To be called on the event loop."""
        self._woken.set()

    async def stop(self, *, grace: float = 0.0) -> None:
        """Ends the loop. A running tick gets ``grace`` seconds to finish and is cancelled then, wherever it is."""
        self._stopping = True
        self._woken.set()
        task, self._task = self._task, None
        if task is None:
            return
        if grace > 0:
            await asyncio.wait({task}, timeout=grace)
        task.cancel()
        await asyncio.wait({task})

    async def _run(self) -> None:
        while not self._stopping:
            # Before the tick: a wake during the tick belongs to work that it may have missed.
            self._woken.clear()
            try:
                delay = await self.tick()
                self._failures = 0
            except Exception as error:
                self._failures += 1
                delay = min(FIRST_BACKOFF * 2 ** min(self._failures - 1, 20), LONGEST_BACKOFF)
                self.on_error(error, delay)
            await self._pause(self._interval if delay is None else delay)

    def on_error(self, error: Exception, delay: float) -> None:
        """Reports an error of a tick; the next one follows in ``delay`` seconds."""
        # Errors of the library explain themselves; others are bugs, and their place matters.
        trace = None if isinstance(error, AbsurdError) else error
        logger.warning("%s: %s; again in %.1f s", self._name, error or type(error).__name__, delay, exc_info=trace)

    async def _pause(self, seconds: float) -> None:
        if self._stopping:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass


class LoopThread:
    """A daemon thread with an event loop of its own, for sync code. It starts with the first ``submit``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs, in this process: a fork leaves it behind."""
        return self._pid == os.getpid() and self._thread is not None and self._thread.is_alive()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs a coroutine on the thread's loop; its outcome comes through the future."""
        return asyncio.run_coroutine_threadsafe(work, self._ensure())

    def _ensure(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
            self._loop = self._thread = None
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def stop(self, *, timeout: float = STOP_SECONDS) -> None:
        """Cancels what runs on the loop and ends the thread; returns after ``timeout`` seconds at the latest."""
        if not self.alive or self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=STOP_SECONDS))
