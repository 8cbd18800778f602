"""One base for every background loop: start, stop, wake, tick, and back-off after an error. And a thread with an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from absurd.errors import AbsurdError

logger = logging.getLogger("absurd.loops")

T = TypeVar("T")

# Seconds until the next tick after an error: the first, doubling up to the last.
ERROR_DELAYS = (0.1, 5.0)


class Loop:
    """Calls ``tick`` again and again, on the running event loop, until it is stopped. An error is logged and never ends it."""

    def __init__(self, name: str, interval: float) -> None:
        self._name = name
        self._interval = interval
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def tick(self) -> float | None:
        """Does one round; returns the seconds until the next one, ``None`` for the usual interval."""
        raise NotImplementedError(f"{type(self).__name__} must implement tick()")

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._run(), name=f"absurd {self._name}")

    async def stop(self) -> None:
        """Ends the loop, in the middle of a tick if need be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def wake(self) -> None:
        """Makes the next tick come now."""
        self._wake.set()

    async def _run(self) -> None:
        delay = ERROR_DELAYS[0]
        while True:
            self._wake.clear()
            try:
                pause = await self.tick()
                delay = ERROR_DELAYS[0]
            except Exception as error:
                expected = isinstance(error, AbsurdError)
                logger.warning("%s failed, again in %.2g s: %s", self._name, delay, error, exc_info=None if expected else error)
                pause, delay = delay, min(delay * 2, ERROR_DELAYS[1])
            try:
                await asyncio.wait_for(self._wake.wait(), self._interval if pause is None else pause)
            except asyncio.TimeoutError:
                pass


class LoopThread:
    """A daemon thread that runs an event loop, for the background work of sync code."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs a coroutine there; starts the thread when it is needed first."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def stop(self) -> None:
        """Ends the loop; what still runs there is abandoned."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._serve, args=(self._loop,), name=self._name, daemon=True).start()
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
