"""The loop that fires schedules: a queue of due times in memory, and a transaction for each firing that decides."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import psycopg

from absurd import failpoints
from absurd.db import Notices, connect_async, run_async, translate
from absurd.db.connect import AsyncConnection
from absurd.errors import AbsurdError, DatabaseUnavailableError
from absurd.loops import Loop
from absurd.queries import schedules as queries
from absurd.queries.inspect import current_time
from absurd.queries.query import Query
from absurd.queries.schedules import Schedule
from absurd.queries.workers import listen, set_lock_timeout
from absurd.schedules.slots import due_plan, first_plan

T = TypeVar("T")

logger = logging.getLogger("absurd.schedules")

# Seconds between looks at the queue in memory.
LOOK_SECONDS = 0.5
# Seconds between readings of all schedules; a notification makes it sooner.
REFRESH_SECONDS = 60.0
# Seconds between two readings at least, however many notifications come.
REFRESH_PAUSE = 0.5
# Seconds for a lock: one schedule in somebody's long transaction must not hold up the others.
LOCK_SECONDS = 1.0
# Seconds until a firing that met an error is tried again.
RETRY_SECONDS = 5.0
# Seconds until the connection is made again.
RECONNECT_SECONDS = 0.5


class ScheduleLoop(Loop):
    """Fires what is due. Any number of these may run: whatever one decides counts only if nobody else was quicker.

    A tick lasts as long as its connection. The clock is the database's, carried on between two readings by a monotonic one.
    """

    def __init__(self, url: str, *, application_name: str = "absurd scheduler") -> None:
        super().__init__("scheduler", RECONNECT_SECONDS)
        self._url = url
        self._application_name = application_name
        self._due: list[tuple[datetime, str]] = []
        self._refresh_at = 0.0
        self._refreshed = 0.0
        self._clock: tuple[datetime, float] | None = None
        self._problems: dict[str, str] = {}

    @property
    def firing(self) -> bool:
        """Whether there is anything to fire: without schedules the loop only waits for some."""
        return bool(self._due)

    async def tick(self) -> float | None:
        """Fires until the connection breaks."""
        conn = await connect_async(self._url, application_name=self._application_name)
        try:
            await run_async(conn, set_lock_timeout(LOCK_SECONDS))
            notices = Notices(conn)
            await run_async(conn, listen(queries.CHANNEL))
            self._refresh_at = 0.0
            while not self._stopping:
                if time.monotonic() >= self._refresh_at:
                    await self._refresh(conn)
                await self._fire_due(conn)
                await self._wait(notices)
            return None
        except psycopg.Error as error:
            raise translate(error, self._url) from error
        finally:
            await conn.close()

    async def stop(self, *, grace: float = 0.0) -> None:
        """Ends the loop at once: a firing is one transaction, and whether it came in time does not matter."""
        await super().stop()

    async def _refresh(self, conn: AsyncConnection) -> None:
        """Reads all schedules anew: the queue then holds the valid ones that are neither paused nor over."""
        self._refreshed = time.monotonic()
        self._refresh_at = self._refreshed + REFRESH_SECONDS
        await self._read_clock(conn)
        found = await run_async(conn, queries.list_times())
        self._due = []
        self._problems = {name: problem for name, problem in self._problems.items() if name in {s.schedule_name for s in found}}
        for schedule in found:
            if schedule.paused_at is not None or schedule.ended_at is not None:
                continue
            if schedule.next_slot is None:
                await self._plan(conn, schedule)
            elif schedule.due_at is not None:
                self._push(schedule.due_at, schedule.schedule_name)

    async def _plan(self, conn: AsyncConnection, schedule: Schedule) -> None:
        """Computes the first slot of a schedule. One that cannot be computed is reported and left alone."""
        try:
            plan = first_plan(schedule)
        except Exception as error:
            await self._reject(conn, schedule, error)
            return
        await self._guarded(conn, schedule, queries.plan_schedule(schedule, plan.next_slot, plan.next_due, None))
        if failpoints.hook is not None:
            failpoints.hook("schedules.planned", self)
        if plan.next_due is not None:
            self._push(plan.next_due, schedule.schedule_name)

    async def _reject(self, conn: AsyncConnection, schedule: Schedule, error: Exception) -> None:
        problem = str(error) or type(error).__name__
        if self._problems.get(schedule.schedule_name) != problem:
            self._problems[schedule.schedule_name] = problem
            logger.error('schedule "%s" cannot be used: %s', schedule.schedule_name, problem)
        await self._guarded(conn, schedule, queries.plan_schedule(schedule, None, None, problem))
        if failpoints.hook is not None:
            failpoints.hook("schedules.rejected", self)

    async def _fire_due(self, conn: AsyncConnection) -> None:
        """Fires what seems due by the clock in memory, after a look at how it stands by now."""
        names = self._take_due()
        if not names:
            return
        now = await self._read_clock(conn)
        # In order of their times, not of their names: what is due first comes first.
        found = {schedule.schedule_name: schedule for schedule in await run_async(conn, queries.list_times(names))}
        for schedule in (found[name] for name in names if name in found):
            if schedule.paused_at is not None or schedule.next_slot is None or schedule.due_at is None:
                continue
            if schedule.due_at > now:
                self._push(schedule.due_at, schedule.schedule_name)
            else:
                await self._fire(conn, schedule, now)

    async def _fire(self, conn: AsyncConnection, schedule: Schedule, now: datetime) -> None:
        try:
            plan = due_plan(schedule, now)
        except Exception as error:
            # The next reading of all schedules tries it again.
            await self._reject(conn, schedule, error)
            return
        query = queries.fire_schedule(schedule, plan.slots, plan.next_slot, plan.next_due)
        outcome = await self._guarded(conn, schedule, query)
        if failpoints.hook is not None:
            failpoints.hook("schedules.fired", self)
        if outcome is None:
            self._push(now + timedelta(seconds=RETRY_SECONDS), schedule.schedule_name)
        elif outcome.status in ("early", "busy", "stale"):
            # Others have decided or are about to: look again at how it stands.
            self._push(now + timedelta(seconds=LOOK_SECONDS), schedule.schedule_name)
        else:
            _log(schedule, plan.slots, outcome)
            if plan.next_due is not None:
                self._push(plan.next_due, schedule.schedule_name)

    async def _guarded(self, conn: AsyncConnection, schedule: Schedule, query: Query[T]) -> T | None:
        """Runs a query about one schedule; an error other than a lost connection is logged and harms no other schedule."""
        try:
            return await run_async(conn, query)
        except DatabaseUnavailableError:
            raise
        except AbsurdError as error:
            logger.warning('schedule "%s": %s; again in %.0f s', schedule.schedule_name, error, RETRY_SECONDS)
            return None

    async def _wait(self, notices: Notices) -> None:
        """Sleeps until the next look, or until a notification; without schedules until the next reading of them."""
        seconds = self._refresh_at - time.monotonic()
        if self._due:
            seconds = min(seconds, LOOK_SECONDS, max((self._due[0][0] - self._now()).total_seconds(), 0.0))
        if await notices.wait(max(seconds, 0.0)):
            self._refresh_at = min(self._refresh_at, max(self._refreshed + REFRESH_PAUSE, time.monotonic()))

    def _take_due(self) -> Sequence[str]:
        now = self._now()
        names: dict[str, None] = {}
        while self._due and self._due[0][0] <= now:
            names[heapq.heappop(self._due)[1]] = None
        return list(names)

    def _push(self, due: datetime, name: str) -> None:
        heapq.heappush(self._due, (due, name))

    async def _read_clock(self, conn: AsyncConnection) -> datetime:
        self._clock = (await run_async(conn, current_time()), time.monotonic())
        return self._clock[0]

    def _now(self) -> datetime:
        """The database's time, as far as it can be known without asking."""
        assert self._clock is not None
        read, at = self._clock
        return read + timedelta(seconds=time.monotonic() - at)


def _log(schedule: Schedule, slots: Sequence[datetime], outcome: queries.FireOutcome) -> None:
    name = schedule.schedule_name
    if outcome.status == "failed":
        logger.error('schedule "%s" failed at its slot and goes on with the next one: %s', name, outcome.message)
    elif outcome.status == "fired":
        logger.info('schedule "%s" fired for %s', name, ", ".join(slot.isoformat() for slot in slots))
    elif not slots:
        logger.warning('schedule "%s" left out what it missed since %s', name, schedule.next_slot)
    else:
        logger.info('schedule "%s" left out %s: its last task is still alive', name, slots[-1].isoformat())
