"""Deletes what queues need not keep any longer, in small batches beside the work."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from absurd import failpoints
from absurd.db import connect_async, run_async
from absurd.db.connect import AsyncConnection
from absurd.loops import Loop
from absurd.queries.retention import Retained, apply_retention, hold_retention_lock
from absurd.queries.workers import set_lock_timeout

logger = logging.getLogger("absurd.retention")

# Seconds between looks of a process that had nothing to delete: none is due, or another process does it.
LOOK_SECONDS = 60.0
# Seconds that a batch should take on the server: a claim that meets one waits no longer than that for the disk.
BATCH_SECONDS = 0.03
# Rows of a batch: where it begins, and how far the time it takes may move it.
FIRST_LIMIT, LEAST_LIMIT, MOST_LIMIT = 200, 20, 2000
# The part of the time in which it deletes.
SHARE = 0.25
# Seconds for the answer to a claim, its way not counted, from which on claims are slow; those for which a batch is put off then.
SLOW_CLAIM = 0.1
PUT_OFF = 1.0
# Seconds after which a batch comes all the same: claims may be slow for other reasons, and the tables must not grow for ever.
LONGEST_PUT_OFF = 10.0
# Seconds for a lock. Batches pass over rows that are locked; what is left is somebody who changes the options of a queue.
LOCK_SECONDS = 1.0
# Seconds of rest for which the connection is kept.
KEPT_SECONDS = 5.0


class RetentionLoop(Loop):
    """Applies the retention of all queues. Any number of processes may run it: the one whose session holds a lock deletes.

    It keeps the lock from batch to batch, so that the pauses between them are nobody else's; with its connection the lock goes.
    ``claim_seconds`` says how long the last claim of this worker took, its way to the server and back with it.
    """

    def __init__(self, url: str, claim_seconds: Callable[[], float]) -> None:
        super().__init__("retention", LOOK_SECONDS)
        self._url = url
        self._claim_seconds = claim_seconds
        self._conn: AsyncConnection | None = None
        self._limit = FIRST_LIMIT
        self._last_batch = -math.inf
        # Seconds that the way to the server and back takes, with the commit: the shortest seen on this connection.
        self._way = math.inf
        self._tasks = self._events = 0

    async def tick(self) -> float | None:
        """One batch; returns the seconds until the next one."""
        if self._must_wait():
            return PUT_OFF
        try:
            done = await self._delete()
        except BaseException:
            await self._disconnect()
            raise
        self._last_batch = time.monotonic()
        self._note(done)
        if done.next_in is None or done.next_in > 0:
            pause = LOOK_SECONDS if done.next_in is None or not self._report() else min(max(done.next_in, 1.0), LOOK_SECONDS)
            if pause > KEPT_SECONDS:
                await self._disconnect()
            return pause
        self._adapt(done.seconds)
        return done.seconds * (1 / SHARE - 1)

    async def stop(self, *, grace: float = 0.0) -> None:
        """Ends the loop, and its connection."""
        await super().stop(grace=grace)
        await self._disconnect()

    def _must_wait(self) -> bool:
        way = self._way if self._way < math.inf else 0.0
        return self._claim_seconds() - way > SLOW_CLAIM and time.monotonic() - self._last_batch < LONGEST_PUT_OFF

    async def _delete(self) -> Retained:
        if self._conn is None:
            self._conn = await connect_async(self._url, application_name="absurd worker: retention")
            self._way = math.inf
            await run_async(self._conn, set_lock_timeout(LOCK_SECONDS))
            if not await run_async(self._conn, hold_retention_lock()):
                return Retained(0, 0, LOOK_SECONDS, busy=True, seconds=0.0)
        began = time.monotonic()
        done = await run_async(self._conn, apply_retention(self._limit))
        self._way = min(self._way, max(time.monotonic() - began - done.seconds, 0.0))
        if failpoints.hook is not None:
            failpoints.hook("retention.batch-deleted", self)
        return done

    def _adapt(self, seconds: float) -> None:
        """Makes the next batch smaller or larger, so that it takes its time and no more."""
        factor = 0.5 if seconds > BATCH_SECONDS else 1.25 if seconds < BATCH_SECONDS / 2 else 1.0
        self._limit = round(min(max(self._limit * factor, LEAST_LIMIT), MOST_LIMIT))

    def _note(self, done: Retained) -> None:
        self._tasks += done.tasks_deleted
        self._events += done.events_deleted

    def _report(self) -> bool:
        """Says what a round of batches has deleted; whether that was anything."""
        if not self._tasks and not self._events:
            return False
        logger.info("retention: deleted %s task(s) and %s event(s)", self._tasks, self._events)
        self._tasks = self._events = 0
        return True

    async def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
