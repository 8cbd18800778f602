"""What a worker process does beside running tasks: loops on threads of their own, so that neither holds up the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from absurd.loops import Loop, LoopThread
from absurd.registry import Registry
from absurd.schedules import Reconciliation, ScheduleLoop, declared_schedules
from absurd.triggers.loop import TriggerLoop
from absurd.worker.options import WorkerOptions
from absurd.worker.retention import RetentionLoop

logger = logging.getLogger("absurd.worker")

# Seconds that a loop gets for the round which it is in, when the worker stops.
GRACE_SECONDS = 4.0
# Seconds after which it is left to itself: it may hang in the code of a user.
PATIENCE_SECONDS = 12.0


class Companions:
    """The loops that start and stop with a worker."""

    def __init__(self, registry: Registry, url: str, options: WorkerOptions, claim_seconds: Callable[[], float]) -> None:
        self._loops: list[tuple[Loop, LoopThread]] = []
        self._add(Reconciliation(url, registry.queue_name, declared_schedules(registry)))
        if options.scheduler:
            self._add(ScheduleLoop(url, application_name="absurd worker: schedules"))
        if options.triggers and registry.triggers:
            self._add(TriggerLoop(registry, url, options.worker_id))
        if options.retention:
            self._add(RetentionLoop(url, claim_seconds))

    def _add(self, loop: Loop) -> None:
        self._loops.append((loop, LoopThread(f"absurd-{type(loop).__name__}")))

    def start(self) -> None:
        """Starts them; what they meet is their own business and ends no worker."""
        for loop, thread in self._loops:
            thread.submit(_start(loop))

    async def stop(self) -> None:
        """Ends them, all at the same time."""
        await asyncio.gather(*(self._stop(loop, thread) for loop, thread in self._loops))

    async def _stop(self, loop: Loop, thread: LoopThread) -> None:
        if not thread.alive:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                try:
                    await asyncio.wrap_future(thread.submit(loop.stop(grace=GRACE_SECONDS)))
                except Exception:
                    logger.exception("the end of a loop met an error")
        await asyncio.to_thread(thread.stop)


async def _start(loop: Loop) -> None:
    loop.start()
