"""An application for tests whose handlers are written once, as async functions, and run as sync or as async ones."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import psycopg

from absurd import Absurd, TaskHandle
from absurd.worker import BackgroundWorker
from tests.support import DEFAULT_TIMEOUT, wait_until

KINDS = ("sync", "async")
QUICK: dict[str, Any] = {"concurrency": 8, "poll_interval": 0.5, "grace_seconds": 5.0, "unknown_task_delay": 0.2}


class Finished:
    """A value that can be awaited, for handlers that are written as async functions but run as sync ones."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        return self.value
        yield


class AwaitableContext:
    """The context of a sync handler; what its methods return can be awaited, and is there already."""

    def __init__(self, ctx: Any) -> None:
        self.plain = ctx

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.plain, name)
        if name in ("print", "logger") or not inspect.ismethod(found):
            return found
        return functools.partial(_finished, found)


def _finished(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    value = method(*args, **options)
    return functools.wraps(value)(functools.partial(_finished, value)) if callable(value) else Finished(value)


def run_coroutine(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that never waits for anything."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a handler that runs as a sync one has to wait with play.hold")


class Play:
    """An application and the kind of its handlers."""

    def __init__(self, url: str, kind: str = "sync", queue: str = "default") -> None:
        self.url = url
        self.kind = kind
        self.app = Absurd(url, queue)
        self.app.create_queue()
        self.seen: list[Any] = []
        self.handlers: dict[str, Callable[..., Any]] = {}

    def task(self, name: str = "task", **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Registers an async function ``(params, ctx)`` in the kind of this play."""

        def register(handler: Callable[..., Any]) -> Callable[..., Any]:
            chosen = handler
            if self.kind == "sync":

                @functools.wraps(handler)
                def chosen(params: Any, ctx: Any) -> Any:
                    return run_coroutine(handler(params, AwaitableContext(ctx)))

            options.setdefault("retry", {"kind": "fixed", "base_seconds": 0} if "max_attempts" in options else "none")
            self.handlers[name] = self.app.register_task(name, **options)(chosen)
            return self.handlers[name]

        return register

    async def hold(self, gate: threading.Event, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Waits in a handler until the test opens the gate."""
        opened = gate.wait(timeout) if self.kind == "sync" else await asyncio.to_thread(gate.wait, timeout)
        assert opened, "nobody opened the gate"

    async def hold_briefly(self) -> None:
        """Takes a breath between two looks of a sync handler."""
        threading.Event().wait(0.02)

    def worker(self, **settings: Any) -> BackgroundWorker:
        """A worker in the background, with short times."""
        return self.app.worker(**{**QUICK, **settings})

    def spawn(self, name: str = "task", params: Any = None, **options: Any) -> TaskHandle[Any]:
        """Spawns one of the tasks."""
        return self.app.spawn(self.handlers.get(name, name), params, **options)

    def run(self, name: str = "task", params: Any = None, **settings: Any) -> Any:
        """Spawns a task, and its result by a worker that is started for it."""
        with self.worker(**settings):
            return self.spawn(name, params).result(DEFAULT_TIMEOUT)

    def wait_for_state(self, task_id: UUID, *states: str) -> None:
        """Waits until a task is in one of these states."""
        wait_until(lambda: self.app.get_result(task_id).state in states, what=f"state of {task_id} in {states}")

    def close(self) -> None:
        """Closes the application."""
        self.app.close()


def count(conn: psycopg.Connection[Any], sql: str, *args: Any) -> int:
    """The number that a query answers."""
    row = conn.execute(sql, args).fetchone()
    assert row is not None
    return int(row[0])


class Clock:
    """Measures seconds."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self.began
