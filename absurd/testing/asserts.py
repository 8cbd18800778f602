"""What a test asserts of tasks and events; a message shows what there was instead."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from unittest.mock import ANY
from uuid import UUID

import psycopg

from absurd.client.base import BaseClient
from absurd.client.handles import AsyncTaskHandle, TaskHandle
from absurd.db import run
from absurd.errors import InvalidOptionError
from absurd.queries import testing as queries
from absurd.testing import shown
from absurd.testing.clock import VirtualClock
from absurd.testing.records import EventRecord, TaskRecord

TaskLike: TypeAlias = TaskHandle[Any] | AsyncTaskHandle[Any] | TaskRecord | UUID | str | Callable[..., Any]
"""A task: its handle, its record, its id; or a name or a handler, where one task of that name has been spawned."""


class Asserts:
    """The looks of a test into its database. All of them are plain calls, in tests of async applications too."""

    app: Any
    clock: VirtualClock
    _conn: psycopg.Connection[Any]

    def __init__(self, app: BaseClient) -> None:
        self.app = app

    # Looking

    def tasks(self, task: str | Callable[..., Any] | None = None, *, state: str | None = None) -> list[TaskRecord]:
        """All tasks of the database in the order in which they were spawned, or those of one name, or in one state."""
        name = None if task is None else self.app._task_name(task)
        found = [TaskRecord(*row) for row in run(self._conn, queries.tasks())]
        return [t for t in found if (name is None or t.name == name) and (state is None or t.state == state)]

    def task(self, task: TaskLike) -> TaskRecord:
        """One task as it stands now.

        Raises:
            AssertionError: there is none, or several have that name.
        """
        __tracebackhide__ = True
        every = self.tasks()
        if (task_id := _id_of(task)) is not None:
            found = [t for t in every if t.task_id == task_id]
            what = f"task {task_id}"
        else:
            if inspect.iscoroutine(task):
                raise InvalidOptionError(f"{task.__qualname__}(…) was not awaited, and a coroutine is no task: await it")
            name = self.app._task_name(task)
            found = [t for t in every if t.name == name]
            what = f'one task "{name}"'
        if len(found) != 1:
            raise AssertionError(f"expected {what}, found {shown.number(len(found))}.\n{shown.tasks(every, what)}")
        return found[0]

    def events(self, name: str | None = None) -> list[EventRecord]:
        """All events that were emitted, in order, or those of one name."""
        found = [EventRecord(*row) for row in run(self._conn, queries.events())]
        return [event for event in found if name is None or event.name == name]

    def steps(self, task: TaskLike) -> list[str]:
        """The names of the steps that a task has completed, in its order; not what the library records of its own."""
        __tracebackhide__ = True
        recorded = run(self._conn, queries.checkpoints(self.task(task).task_id))
        return [name for name, kind, _ in recorded if kind == "step" and not name.startswith("$")]

    # Asserting

    def assert_spawned(
        self,
        task: str | Callable[..., Any],
        params: Any = ANY,
        *,
        count: int | None = None,
        queue: str | None = None,
        headers: Any = ANY,
    ) -> TaskRecord:
        """A task was spawned: by the code under test, by another task, an event or a schedule.

        Args:
            task: its name, or its handler.
            params: what it was spawned with, as JSON or as its handler's declared type. ``unittest.mock.ANY`` fits anything, also
                within; a function is called with the params and says whether they fit.
            count: how many such tasks there are to be; at least one otherwise.
            queue: where; anywhere otherwise.
            headers: likewise, in full.

        Returns:
            The first one.

        Raises:
            AssertionError: there are none, or another number of them.
        """
        __tracebackhide__ = True
        name, wanted = self.app._task_name(task), shown.plain(params)
        named = self.tasks(name)
        found = [
            t
            for t in named
            if shown.fits(wanted, t.params) and queue in (None, t.queue) and shown.fits(shown.plain(headers), t.headers)
        ]
        if (len(found) != count) if count is not None else not found:
            what = shown.expectation(name, params=params, queue=queue, headers=headers)
            number = "a task" if count is None else f"{count} of a task"
            raise AssertionError(
                f"expected {number} {what}, found {shown.number(len(found))}.\n"
                + (shown.differences(wanted, [t.params for t in named]) or shown.tasks(self.tasks(), name))
            )
        return found[0] if found else named[0] if named else _none()

    def assert_not_spawned(self, task: str | Callable[..., Any], params: Any = ANY) -> None:
        """No such task was spawned. The arguments are those of ``assert_spawned``."""
        __tracebackhide__ = True
        name = self.app._task_name(task)
        found = [t for t in self.tasks(name) if shown.fits(shown.plain(params), t.params)]
        if found:
            what = shown.expectation(name, params=params)
            raise AssertionError(f"expected no task {what}, found {shown.number(len(found))}.\n{shown.tasks(found, name)}")

    def assert_emitted(self, name: str, payload: Any = ANY, *, count: int | None = None, queue: str | None = None) -> EventRecord:
        """An event was emitted. ``payload`` and ``count`` are as in ``assert_spawned``. Returns the first one."""
        __tracebackhide__ = True
        named, wanted = self.events(name), shown.plain(payload)
        found = [event for event in named if shown.fits(wanted, event.payload) and queue in (None, event.queue)]
        if (len(found) != count) if count is not None else not found:
            what = shown.expectation(name, payload=payload, queue=queue)
            number = "an event" if count is None else f"{count} of an event"
            raise AssertionError(
                f"expected {number} {what}, found {shown.number(len(found))}.\n"
                + (shown.differences(wanted, [event.payload for event in named]) or shown.events(self.events(), name))
            )
        return found[0] if found else _none()

    def assert_not_emitted(self, name: str, payload: Any = ANY) -> None:
        """No such event was emitted."""
        __tracebackhide__ = True
        found = [event for event in self.events(name) if shown.fits(shown.plain(payload), event.payload)]
        if found:
            what = shown.expectation(name, payload=payload)
            raise AssertionError(f"expected no event {what}, found {shown.number(len(found))}.\n{shown.events(found, name)}")

    def assert_waiting(self, event: str | None = None, *, task: TaskLike | None = None, until: datetime | None = None) -> None:
        """A task waits.

        Args:
            event: the name of the event that it waits for; otherwise for anything: another task, a token, a time.
            task: which task; any, if none is given.
            until: when it goes on anyway.

        Raises:
            AssertionError: none does; the message says what tasks wait for.
        """
        __tracebackhide__ = True
        task_id = None if task is None else self.task(task).task_id
        waits = run(self._conn, queries.waits())
        for waiting, _, kind, name, _, _, at in waits:
            fits_event = (kind == "event" and name == event) if event is not None else True
            if fits_event and task_id in (None, waiting) and until in (None, at):
                return
        what = "something" if event is None else f'event "{event}"'
        who = "a task" if task is None else f"task {task_id}"
        when = "" if until is None else f" until {until.isoformat()}"
        message = f"expected {who} to wait for {what}{when}.\n{shown.waits(waits)}"
        raise AssertionError(message if task is None else f"{message}\n{self._describe(self.task(task).task_id)}")

    def assert_steps(self, task: TaskLike, steps: Sequence[str]) -> None:
        """A task has completed exactly these steps, in this order; waits, sleeps and spawns are none."""
        __tracebackhide__ = True
        there = self.steps(task)
        if there != list(steps):
            record = self.task(task)
            raise AssertionError(
                f"the steps of {shown.task_line(record)} are not those expected:\n{shown.sequences(list(steps), there)}"
            )

    def assert_completed(self, task: TaskLike, result: Any = ANY) -> None:
        """A task has completed, with this result if one is given: JSON, or a value of its declared type."""
        __tracebackhide__ = True
        record = self._in_state(task, "completed")
        if not shown.fits(shown.plain(result), record.result):
            raise AssertionError(
                f"the result of {shown.task_line(record)} is not the one expected:\n"
                + shown.differences(shown.plain(result), [record.result])
            )

    def assert_failed(self, task: TaskLike, error: type[BaseException] | str | None = None, match: str | None = None) -> None:
        """A task has failed for good.

        Args:
            task: which one.
            error: the type of its last exception, or the name of that.
            match: a regular expression that its message holds.
        """
        __tracebackhide__ = True
        record = self._in_state(task, "failed")
        failure = record.failure if isinstance(record.failure, dict) else {}
        name = error.__name__ if isinstance(error, type) else error
        told = f"{failure.get('name')}: {failure.get('message')}"
        if name is not None and str(failure.get("name")).rpartition(".")[2] != name.rpartition(".")[2]:
            raise AssertionError(f"expected {shown.task_line(record)} to fail with {name}, but it was {told}")
        if match is not None and not re.search(match, str(failure.get("message"))):
            raise AssertionError(f"expected the failure of {shown.task_line(record)} to match {match!r}, but it was {told}")

    def assert_cancelled(self, task: TaskLike) -> None:
        """A task was cancelled: by hand, or by a limit of its own."""
        __tracebackhide__ = True
        self._in_state(task, "cancelled")

    def _in_state(self, task: TaskLike, state: str) -> TaskRecord:
        __tracebackhide__ = True
        record = self.task(task)
        if record.state != state:
            raise AssertionError(f"expected {shown.task_line(record)} to be {state}.\n{self._describe(record.task_id)}")
        return record

    def _describe(self, task_id: UUID) -> str:
        """All that a message should say of one task."""
        record = next((t for t in self.tasks() if t.task_id == task_id), None)
        if record is None:
            return f"There is no task {task_id}."
        waits = [wait for wait in run(self._conn, queries.waits()) if wait[0] == task_id]
        recorded = [name for name, _, _ in run(self._conn, queries.checkpoints(task_id))]
        return shown.task(record, recorded, waits)

    def _describe_tasks(self) -> str:
        return shown.tasks([t for t in self.tasks() if t.state in ("pending", "running", "sleeping")], "")


def _id_of(task: TaskLike) -> UUID | None:
    if isinstance(task, UUID):
        return task
    if isinstance(task, (TaskHandle, AsyncTaskHandle, TaskRecord)):
        return task.task_id
    try:
        return UUID(task) if isinstance(task, str) else None
    except ValueError:
        return None


def _none() -> Any:
    """What ``count=0`` returns."""
    return None
