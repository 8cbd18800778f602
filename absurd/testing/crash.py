"""Runs a task once for each moment at which its worker may die, and compares what came of it with a run without a crash."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from absurd.client import Absurd, AsyncAbsurd
from absurd.db import run
from absurd.errors import ConfigurationError
from absurd.queries import testing as queries
from absurd.testing.app import BaseTestApp, outside_of_loops
from absurd.testing.crash_points import CrashPoint, CrashPoints, number_ids
from absurd.testing.databases import Databases
from absurd.testing.history import export_task
from absurd.testing.session import make
from absurd.types import DEFAULT_MAX_ATTEMPTS
from absurd.worker import drain

# How often a task is driven on before it is taken for one that never ends.
MAX_ROUNDS = 1000

Drive = Callable[[Any], Any]

_HINTS = {
    "context.called": "The function of the step has run twice. Give the other side a key by which it notices the repetition, "
    'made of what does not change, like f"{{ctx.task_id}}:{step}"; or, if the effect is in the task\'s '
    "database, use ctx.transaction.",
    "context.recorded-in-transaction": "The transaction was rolled back and run again. What its function does must go through "
    "the connection that it is given.",
    "": "No step ran twice here, but the code between the steps did. Whatever has an effect, or may differ from run to run, "
    "belongs into a step; so do values that depend on ctx.attempt.",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: its state, its result or failure, and what ``effects`` returned."""

    state: str
    result: Any
    failure: Any
    effects: Any

    def difference(self, other: Outcome) -> str | None:
        """What is different, expected (self) above got (other); ``None`` if nothing is."""
        for name in ("state", "result", "failure", "effects"):
            expected, got = getattr(self, name), getattr(other, name)
            if expected != got and _without_ids(expected) != _without_ids(got):
                return f"{name}: expected {_short(expected)}\n{' ' * len(name)}  got      {_short(got)}"
        return None


@dataclass(frozen=True, slots=True)
class Crash:
    """What came of a crash at one point; ``problem`` is ``None`` if it made no difference."""

    point: CrashPoint
    outcome: Outcome
    problem: str | None

    def __str__(self) -> str:
        if self.problem is None:
            return f"{self.point}: no difference"
        hint = _HINTS.get(self.point.failpoint, _HINTS[""]).format(step=self.point.step_name)
        return f"{self.point}:\n  " + f"{self.problem}\n{hint}".replace("\n", "\n  ")


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What ``crash_everywhere`` has found: the outcome without a crash, and every crash."""

    task_name: str
    expected: Outcome
    crashes: list[Crash] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no crash made a difference."""
        return not self.differences

    @property
    def differences(self) -> list[Crash]:
        """The crashes that made a difference."""
        return [crash for crash in self.crashes if crash.problem is not None]

    def __str__(self) -> str:
        found = self.differences
        head = f'task "{self.task_name}" was killed at {len(self.crashes)} points, '
        if not found:
            end = (
                ""
                if self.expected.state == "completed"
                else f"; it is {self.expected.state} in each run: {_short(self.expected.failure)}"
            )
            return head + "without a difference" + end
        return "\n\n".join([head + f"with another outcome at {len(found)}:", *map(str, found)])


class CrashTest:
    """A task that is to be killed: for a test of your own around each point; ``crash_everywhere`` goes through all of them.

    Arguments as of ``crash_everywhere``; close it at the end, or use it in a ``with`` block.
    """

    def __init__(
        self,
        app: Absurd | AsyncAbsurd,
        task: Any,
        params: Any = None,
        *,
        drive: Drive | None = None,
        effects: Callable[[], Any] | None = None,
        setup: Callable[[], Any] | None = None,
        server: str | None = None,
    ) -> None:
        if not isinstance(app, (Absurd, AsyncAbsurd)):
            raise ConfigurationError(
                f"an Absurd or AsyncAbsurd application can be tested, not {app!r}; give the one in its module"
            )
        definition = app.registry.find(task)
        if definition is None:
            raise ConfigurationError(f"{task!r} is no task of this app; give its name, or the function that is registered")
        self.task_name = definition.name
        of_app = app.registry.defaults.max_attempts
        self._attempts = definition.defaults.max_attempts or of_app or DEFAULT_MAX_ATTEMPTS
        self._app = app
        self._params = params
        self._drive = drive
        self._effects = effects
        self._setup = setup
        self._databases = Databases(server)
        self._expected: Outcome | None = None
        self._points: list[CrashPoint] = []

    def __enter__(self) -> CrashTest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the databases."""
        self._databases.close()

    @property
    def expected(self) -> Outcome:
        """What comes of the task without a crash; runs it the first time.

        Raises:
            AssertionError: the task does not come to its end, or fails before its first effect.
        """
        if self._expected is None:
            outcome, points = self._run(None)
            if outcome.state not in ("completed", "failed", "cancelled"):
                raise AssertionError(
                    f'task "{self.task_name}" does not come to its end even without a crash; it is {outcome.state}. If it waits '
                    "for an event, let drive= emit it: drive=lambda t: app.emit_event(…)"
                )
            if outcome.state != "completed" and not points.reached:
                raise AssertionError(
                    f'task "{self.task_name}" is {outcome.state} even without a crash, before it has done anything at which it '
                    f"could be killed: {_short(outcome.failure)}. Does setup= make what it needs?"
                )
            self._expected, self._points = outcome, points.reached
        return self._expected

    def points(self) -> list[CrashPoint]:
        """The points at which it can be killed, in the order in which it comes to them."""
        assert self.expected is not None
        return list(self._points)

    def crash_at(self, point: CrashPoint) -> Crash:
        """Runs the task on a clean state, kills it at that point, and lets it go on to its end."""
        expected = self.expected
        outcome, points = self._run(point)
        problem = expected.difference(outcome)
        if not points.crashed:
            problem = "this point was not reached again: the task takes other steps from run to run"
        return Crash(point, outcome, problem)

    def _run(self, target: CrashPoint | None) -> tuple[Outcome, CrashPoints]:
        url = self._databases.create()
        try:
            with make(self._app, url) as test, self._spawned(url, target) as task_id:
                points = CrashPoints(task_id, target)
                with points.watching():
                    _Ride(self._app, test, task_id, points, self._drive).to_the_end()
                document = export_task(test._conn, task_id)
                effects = self._effects() if self._effects is not None else None
            failure = document["failure"]
            if isinstance(failure, dict):  # without its traceback
                failure = {name: failure.get(name) for name in ("name", "message")}
            return Outcome(document["state"], document["result"], failure, effects), points
        finally:
            self._databases.drop(url)

    @contextmanager
    def _spawned(self, url: str, target: CrashPoint | None) -> Iterator[Any]:
        """Makes the clean state, and spawns the task with an attempt more for the crash."""
        if self._setup is not None:
            self._setup()
        with closing(Absurd(url, self._app.queue_name)) as client:
            client.registry = self._app.registry
            attempts = self._attempts + (0 if target is None else 1)
            yield client.spawn(self.task_name, self._params, max_attempts=attempts).task_id


class _Ride:
    """One run of the task to its end."""

    def __init__(self, app: Any, test: BaseTestApp[Any], task_id: Any, points: CrashPoints, drive: Drive | None) -> None:
        self._app = app
        self._test = test
        self._task_id = task_id
        self._points = points
        self._drive = drive
        self._recovered = False

    def to_the_end(self) -> None:
        """Works, drives and lets time pass until the task has ended, or nothing moves it any more."""
        for _ in range(MAX_ROUNDS):
            self._work()
            if self._over():
                return
            if self._drive is not None:
                self._call_drive(self._drive)
                if self._work():
                    continue
            if self._over() or not self._test._jump(None):
                return

    def _work(self) -> int:
        """Runs what is ready; how many runs there were. A crash is noticed at once: the clock stands where it stood."""
        test, count = self._test, 0
        while True:
            count += outside_of_loops(lambda: drain(self._app.registry, test.database_url, test._options()))
            if self._recovered or not self._points.crashed:
                return count
            self._recovered = True
            run(test._conn, queries.lose_worker(self._task_id))

    def _over(self) -> bool:
        return run(self._test._conn, queries.has_ended(self._task_id))

    def _call_drive(self, drive: Drive) -> None:
        async def drive_async() -> None:
            try:
                await drive(self._test)
            finally:
                if isinstance(self._app, AsyncAbsurd):
                    await self._app.close()

        if inspect.iscoroutinefunction(drive):
            outside_of_loops(lambda: asyncio.run(drive_async()) or 0)
        else:
            drive(self._test)


def crash_everywhere(
    app: Absurd | AsyncAbsurd,
    task: Any,
    params: Any = None,
    *,
    drive: Drive | None = None,
    effects: Callable[[], Any] | None = None,
    setup: Callable[[], Any] | None = None,
    server: str | None = None,
) -> CrashReport:
    """Kills the worker of a task at every moment between two commits, and checks that this makes no difference.

    The task is run once without a crash, and then once for each effect and each moment of it: after a step's function and before
    its checkpoint, after the checkpoint, within a transaction and behind its commit, after a spawn, an emit or a wait, before a
    sleep. Each run begins with a clean database, is killed, and goes on in the next attempt to its end. Then its state and
    result, and what ``effects`` returns, must be as without a crash.

    Args:
        app: the application that the task is registered with.
        task: its name, or its function.
        params: what it is spawned with; each run has the same.
        drive: called with the test's app when the task sleeps: to emit an event that it waits for, or to move ``t.clock``.
            Afterwards, and without it, time is moved to the next moment at which something is due.
        effects: returns what the task has done outside of it, in a form that can be compared: the rows of a table, the calls that
            a fake gateway took, by their idempotency keys. UUIDs in it, which are others in each run, compare by their order.
        setup: called before each run, when the app works on the clean database: makes tables, empties fakes.
        server: the URL of a server on which databases may be created; otherwise as ``database`` says.

    Returns:
        A report of all crashes.

    Raises:
        AssertionError: a crash made a difference, or the task does not end; the message says at which step and moment, what was
            expected, and what to do.

    Example:

        report = crash_everywhere(app, "order", {"id": 1}, setup=bank.clear, effects=lambda: bank.charges)
    """
    __tracebackhide__ = True
    with CrashTest(app, task, params, drive=drive, effects=effects, setup=setup, server=server) as test:
        report = CrashReport(test.task_name, test.expected, [test.crash_at(point) for point in test.points()])
    if not report.ok:
        raise AssertionError(str(report))
    return report


def _without_ids(value: Any) -> str:
    """Ids of tasks, and all that is made of them, are others in each run: they compare by the order in which they come up."""
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return number_ids(text, {})


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]}…"
