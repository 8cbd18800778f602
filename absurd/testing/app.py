"""An application in the hands of a test: on a clean database, its tasks run when the test says so, and so does the clock."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from absurd.client import Absurd, AsyncAbsurd
from absurd.client.base import BaseClient
from absurd.db import connect, run
from absurd.queries import queues as queue_queries
from absurd.queries import testing as queries
from absurd.testing.asserts import Asserts
from absurd.testing.binding import bind
from absurd.testing.clock import VirtualClock, later
from absurd.testing.due_schedules import DueSchedules
from absurd.testing.failures import Failures
from absurd.testing.inline import Inline
from absurd.testing.waiting import Patience
from absurd.worker import WorkerOptions, drain, serve_once

App = TypeVar("App", bound=BaseClient)

# Jumps of the clock in one run_until_idle or run_for: what goes on for longer than that goes on for ever.
MAX_JUMPS = 10_000
# Seconds of real time that running tasks get when a drain is over; there are none unless it was interrupted.
GRACE_SECONDS = 5.0


class BaseTestApp(Asserts, Generic[App]):
    """What the test of a sync and of an async application have in common; a context manager."""

    __test__ = False  # pytest would take a name that begins with Test for a test

    def __init__(self, app: App, url: str, *, inline: bool = False) -> None:
        """Prepares a test; entering it begins.

        Args:
            app: the application under test.
            url: of a clean database: from the fixture ``absurd_database_url``, or from ``database()``.
            inline: whether ``spawn`` of the application runs the task at once, up to its end or its first wait.
        """
        super().__init__(app)
        self.app: App = app
        """The application, which works on the test's database."""
        self.database_url = url
        self._wants_inline = inline
        self._exit = ExitStack()

    def _begin(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(bind(self.app, self.database_url))
            self._conn = stack.enter_context(connect(self.database_url, application_name="absurd testing"))
            self.clock = VirtualClock(self._conn)
            stack.callback(self.clock.forget)
            self.clock.stop()
            self._failures = Failures(self._conn, self.app.registry)
            stack.callback(self._failures.forget)
            self._failures.watch()
            self._schedules = DueSchedules(self._conn, self.app.registry)
            stack.enter_context(Patience(self.app, self._describe))
            if self._wants_inline:
                stack.enter_context(Inline(self.app, self._work))
            self._create_queues()
            self._exit = stack.pop_all()

    def _end(self) -> None:
        self._exit.close()

    def _create_queues(self) -> list[str]:
        """Makes the queues that the application and its tasks name, and returns those that there are."""
        there = run(self._conn, queue_queries.list_queues())
        for name in dict.fromkeys(self.app._task_queues()):  # type: ignore[attr-defined]
            if name not in there:
                run(self._conn, queue_queries.create_queue(name))
                there.append(name)
        return there

    def _work(self) -> Any:
        """Runs what is ready, once."""
        raise NotImplementedError

    def _options(self) -> WorkerOptions:
        return WorkerOptions(tuple(self._create_queues()), strict_replay=True, grace_seconds=GRACE_SECONDS)

    def _fire(self) -> int:
        return self._schedules.fire(self.clock.now())

    def _next_task(self) -> datetime | None:
        return run(self._conn, queries.next_due(self._create_queues()))

    def _jump(self, until: datetime | None) -> bool:
        """Moves the clock to the next moment at which something is due; false if there is none, or none until then.

        Schedules go on for ever: alone they are no reason to move, unless there is an end.
        """
        task_at = self._next_task()
        if task_at is None and until is None:
            return False
        moments = [at for at in (task_at, self._schedules.next_due()) if at is not None]
        at = min(moments, default=None)
        if at is None or (until is not None and at > until):
            return False
        self.clock.set(max(at, self.clock.now()))
        return True

    def _too_long(self) -> AssertionError:
        return AssertionError(
            f"time was moved {MAX_JUMPS:,} times, to {self.clock.now().isoformat()}, and something is still due; "
            f"use run_for to say when to stop.\n{self._describe_tasks()}"
        )


class TestApp(BaseTestApp[Absurd]):
    """The test of an ``Absurd`` application.

    Example:

        with testing.run(app) as t:
            task = app.spawn(order, {"id": 1})
            t.drain()
            assert task.state() == "sleeping"
    """

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def drain(self, *, raise_failures: bool = True) -> int:
        """Runs tasks, and fires schedules, until nothing is ready at this moment of the clock; returns the number of runs.

        Tasks run in this thread's time: when this returns, nothing goes on. Sleeping tasks are left asleep.

        Args:
            raise_failures: whether to raise when a handler raises, also where the task is to be tried again; at the end, after
                everything else has run.

        Raises:
            TaskErrors: handlers have raised.
            ReplayMismatchError: as its cause, when a task takes other steps than it has recorded.
        """
        __tracebackhide__ = True
        count = self._work()
        if raise_failures:
            self._failures.raise_new()
        return count

    def run_until_idle(self, *, raise_failures: bool = True) -> int:
        """Drains, moves the clock to the next moment at which a task is due, drains, and so on; returns the number of runs.

        Ends when no task is left that time alone would move; what waits for an event without a timeout goes on waiting.
        Schedules fire on the way, but are no reason to go on.

        Args:
            raise_failures: as for ``drain``.

        Raises:
            TaskErrors: handlers have raised.
            AssertionError: there is no end to it.
        """
        __tracebackhide__ = True
        return self._run(None, raise_failures)

    def run_for(self, by: timedelta | None = None, *, raise_failures: bool = True, **parts: float) -> int:
        """Lets time pass, with a worker and a scheduler that are never late; returns the number of runs.

        Everything that is due on the way happens at its moment, also the slots of schedules.

        Args:
            by: how long.
            raise_failures: as for ``drain``.
            parts: the same in the words of ``timedelta``: ``days=3``, ``hours=1.5``, ``seconds=…``.

        Raises:
            TaskErrors: handlers have raised.
            AssertionError: more happens in that time than a test should have.
        """
        __tracebackhide__ = True
        until = later(self.clock.now(), by, parts)
        count = self._run(until, raise_failures=False)
        self.clock.set(until)
        return count + self.drain(raise_failures=raise_failures)

    def _run(self, until: datetime | None, raise_failures: bool) -> int:
        __tracebackhide__ = True
        count = self._work()
        for _ in range(MAX_JUMPS):
            if not self._jump(until):
                break
            count += self._work()
        else:
            raise self._too_long()
        if raise_failures:
            self._failures.raise_new()
        return count

    def _work(self) -> int:
        self._fire()
        count = 0
        while True:
            count += outside_of_loops(lambda: drain(self.app.registry, self.database_url, self._options()))
            if not self._fire():  # what a task has scheduled for this moment
                return count


class AsyncTestApp(BaseTestApp[AsyncAbsurd]):
    """The test of an ``AsyncAbsurd`` application: what runs tasks is awaited, all else is as for ``TestApp``.

    Handlers run on the test's own event loop.
    """

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.app.close()
        self._end()

    async def drain(self, *, raise_failures: bool = True) -> int:
        """Runs tasks, and fires schedules, until nothing is ready at this moment of the clock; see ``TestApp.drain``."""
        __tracebackhide__ = True
        count = await self._work()
        if raise_failures:
            self._failures.raise_new()
        return count

    async def run_until_idle(self, *, raise_failures: bool = True) -> int:
        """Drains, and moves the clock, until no task is left that time alone would move; see ``TestApp.run_until_idle``."""
        __tracebackhide__ = True
        return await self._run(None, raise_failures)

    async def run_for(self, by: timedelta | None = None, *, raise_failures: bool = True, **parts: float) -> int:
        """Lets time pass, with a worker and a scheduler that are never late; see ``TestApp.run_for``."""
        __tracebackhide__ = True
        until = later(self.clock.now(), by, parts)
        count = await self._run(until, raise_failures=False)
        self.clock.set(until)
        return count + await self.drain(raise_failures=raise_failures)

    async def _run(self, until: datetime | None, raise_failures: bool) -> int:
        __tracebackhide__ = True
        count = await self._work()
        for _ in range(MAX_JUMPS):
            if not self._jump(until):
                break
            count += await self._work()
        else:
            raise self._too_long()
        if raise_failures:
            self._failures.raise_new()
        return count

    async def _work(self) -> int:
        self._fire()
        count = 0
        while True:
            count += await serve_once(self.app.registry, self.database_url, self._options())
            if not self._fire():  # what a task has scheduled for this moment
                return count


def outside_of_loops(call: Callable[[], int]) -> int:
    """Calls what runs an event loop of its own, also from within one: on another thread then."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with concurrent.futures.ThreadPoolExecutor(1, "absurd-testing") as thread:
        return thread.submit(call).result()
