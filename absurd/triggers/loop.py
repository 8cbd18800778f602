"""The loop that polls the triggers of an application, one in each worker process; each trigger has one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from absurd import failpoints
from absurd.db import AsyncPool
from absurd.errors import AbsurdError, DatabaseUnavailableError
from absurd.loops import Loop
from absurd.queries import triggers as queries
from absurd.queries.triggers import Settlement, TriggerPoll
from absurd.registry import Registry
from absurd.triggers.declared import declared_triggers, definition
from absurd.triggers.polling import Outcome, Poller

logger = logging.getLogger("absurd.triggers")

# Seconds between looks for triggers that are due, and between renewals of the leases of polls that run; a lease is five seconds.
BASE_TICK = 1.0
# Seconds between looks for triggers that the database has lost or did not accept.
REGISTER_INTERVAL = 30.0
REGISTER_AGAIN = 5.0
# Seconds that running polls get when the worker stops, and then the last words to the database.
STOP_SECONDS = 4.0
GOODBYE_SECONDS = 2.0
# Seconds until a settlement is tried again that the database could not take.
SETTLE_AGAIN = 1.0
# Seconds by which a wake-up follows the moment at which a trigger is due.
SLACK = 0.002
# Connections: one for the ticks is always to be had, for at most so many settlements wait for a row that somebody has locked.
SETTLE_CONNECTIONS = 4
_LOCKED = "55P03"


class TriggerLoop(Loop):
    """Registers triggers, polls those that this process holds, and fires."""

    def __init__(self, registry: Registry, url: str, owner: str) -> None:
        super().__init__("triggers", BASE_TICK)
        self._registry = registry
        self._triggers = declared_triggers(registry)
        self._owner = owner
        self._poller = Poller()
        self._tick_pool = AsyncPool(url, max_size=1, application_name="absurd worker: triggers")
        self._settle_pool = AsyncPool(url, max_size=SETTLE_CONNECTIONS, application_name="absurd worker: triggers")
        self._polls: dict[str, tuple[UUID, asyncio.Task[None]]] = {}
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        self._known: set[str] = set()
        self._refusals: dict[str, str] = {}
        self._next_registration = 0.0
        for declared in self._triggers.values():
            declared.trigger.database_url = url

    async def tick(self) -> float | None:
        """Registers what is missing, renews the leases of polls that run and begins those that are due."""
        if time.monotonic() >= self._next_registration:
            await self._register()
        names = [name for name in self._known if name not in self._polls and not self._poller.busy(name)]
        polls = await self._claim(names)
        if failpoints.hook is not None:
            failpoints.hook("triggers.claimed", self)
        for poll in polls:
            self._begin(poll)
        return None

    async def stop(self, *, grace: float = STOP_SECONDS) -> None:
        """Ends the loop: polls that run get ``grace`` seconds, then the triggers are left to other processes."""
        until = time.monotonic() + grace
        await super().stop(grace=grace)
        for alarm in self._alarms.values():
            alarm.cancel()
        try:
            while self._polls and time.monotonic() < until:
                tasks = [task for _, task in self._polls.values()]
                await asyncio.wait(tasks, timeout=min(BASE_TICK, max(until - time.monotonic(), 0)))
                await self._in_time(self._claim([]))
            await self._cancel_polls()
            await self._in_time(self._tick_pool.run(queries.release_triggers(self._owner)))
            if failpoints.hook is not None:
                failpoints.hook("triggers.released", self)
        finally:
            self._poller.stop()
            await self._tick_pool.close()
            await self._settle_pool.close()

    async def _cancel_polls(self) -> None:
        tasks = [task for _, task in self._polls.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _in_time(self, last_words: Coroutine[Any, Any, object]) -> None:
        """What a loop that stops says to a database that may be gone: the leases run out by themselves."""
        with contextlib.suppress(AbsurdError, TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await last_words

    # Registration

    async def _register(self) -> None:
        """Makes the triggers known that are not: at the start all, later those whose rows are gone or were refused before."""
        missing = await self._tick_pool.run(queries.missing_triggers(list(self._triggers)))
        self._known -= set(missing)
        self._next_registration = time.monotonic() + REGISTER_INTERVAL
        for name, declared in self._triggers.items():
            if name in self._known:
                continue
            try:
                await self._tick_pool.run(queries.register_trigger(definition(self._registry, declared)))
                if failpoints.hook is not None:
                    failpoints.hook("triggers.registered", self)
                self._known.add(name)
                self._refusals.pop(name, None)
            except DatabaseUnavailableError:
                raise
            except AbsurdError as error:
                # One that cannot be registered is no reason not to poll the others.
                self._next_registration = time.monotonic() + REGISTER_AGAIN
                if self._refusals.get(name) != str(error):
                    logger.warning('trigger "%s" cannot be registered and is not polled: %s', name, error)
                self._refusals[name] = str(error)

    # Polls

    async def _claim(self, names: list[str]) -> list[TriggerPoll]:
        running = [poll_id for poll_id, _ in self._polls.values()]
        if not names and not running:
            return []
        return await self._tick_pool.run(queries.claim_trigger_polls(self._owner, names, running))

    def _begin(self, poll: TriggerPoll) -> None:
        task = asyncio.create_task(self._poll(poll), name=f"absurd poll {poll.trigger_name}")
        self._polls[poll.trigger_name] = (poll.poll_id, task)

    async def _poll(self, poll: TriggerPoll) -> None:
        name = poll.trigger_name
        try:
            outcome = await self._poller.poll(self._triggers[name].trigger, poll)
            if failpoints.hook is not None:
                failpoints.hook("triggers.polled", self)
            settlement = await self._settle(poll, outcome)
            if failpoints.hook is not None:
                failpoints.hook("triggers.settled", self)
            _report(name, outcome, settlement)
            if settlement.next_in is not None and not self._stopping:
                loop = asyncio.get_running_loop()
                self._alarms[name] = loop.call_later(max(settlement.next_in, 0) + SLACK, self.wake)
        except Exception:
            # Its lease runs out, and it is polled again by whoever comes first.
            logger.exception('the end of a poll of trigger "%s" could not be recorded', name)
        finally:
            del self._polls[name]

    async def _settle(self, poll: TriggerPoll, outcome: Outcome) -> Settlement:
        """Records how a poll ended, however long the database is gone or the row locked: the fence says whether it counts."""
        query = queries.settle_trigger_poll(poll, outcome.fires, outcome.state, outcome.error)
        while True:
            try:
                return await self._settle_pool.run(query)
            except AbsurdError as error:
                if not isinstance(error, DatabaseUnavailableError) and getattr(error.__cause__, "sqlstate", "") != _LOCKED:
                    raise
                logger.warning('trigger "%s": %s; trying again', poll.trigger_name, error)
            await asyncio.sleep(SETTLE_AGAIN)


def _report(name: str, outcome: Outcome, settlement: Settlement) -> None:
    if settlement.status == "lost":
        logger.warning('trigger "%s": another process has taken over; this poll does not count', name)
    elif settlement.status == "disabled":
        logger.info('trigger "%s" was disabled while it was polled; this poll does not count', name)
    elif settlement.message is not None:
        trace = None if isinstance(outcome.cause, (AbsurdError, TimeoutError)) else outcome.cause
        logger.warning(
            'trigger "%s": %s; next poll in %.1f s', name, settlement.message, settlement.next_in or 0.0, exc_info=trace
        )
    for fire, status in zip(outcome.fires, settlement.fires, strict=False):
        if status == "fired":
            logger.info('trigger "%s" fired: task %s', name, fire.task_id)
        elif status == "skipped":
            logger.debug('trigger "%s" did not fire: a task with the same context is active', name)
