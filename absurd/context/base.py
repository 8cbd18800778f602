"""What sync and async contexts have in common: who the run is, replay-aware output, and the way to the engine."""

from __future__ import annotations

import builtins
import functools
import io
import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol
from uuid import UUID

from absurd.codec import decode
from absurd.context.core import Core
from absurd.errors import ContextError
from absurd.queries.query import Query
from absurd.registry import Registry
from absurd.writes import Write, WriteFuture, WriteResult

_current: ContextVar[BaseContext | None] = ContextVar("absurd_current_context", default=None)


class Port(Protocol):
    """The engine, as a context sees it."""

    registry: Registry
    lease_seconds: float

    def send(self, write: Write, future: WriteFuture) -> None:
        """Sends a write; to be called on the engine's loop."""

    def send_threadsafe(self, write: Write, future: WriteFuture) -> None:
        """Sends a write from any thread."""

    async def run_query(self, query: Query[Any]) -> Any:
        """Runs a read of the engine's own; on its loop."""

    def run_query_threadsafe(self, query: Query[Any]) -> Any:
        """The same from a thread, blocking."""

    def connection(self) -> Any:
        """A context manager with a psycopg connection, for a transaction of a sync handler."""

    def async_connection(self) -> Any:
        """The same for an async handler."""


class BaseContext:
    """Identity and output of a run."""

    def __init__(self, core: Core, port: Port) -> None:
        self._core = core
        self._port = port
        self._headers: Mapping[str, Any] | None = None

    @functools.cached_property
    def logger(self) -> ReplayAwareLogger:
        """A logger that is silent during replay and says which task it speaks of."""
        return ReplayAwareLogger(self._core)

    @property
    def task_id(self) -> UUID:
        """Id of the task; the same over all attempts."""
        return self._core.run.task_id

    @property
    def run_id(self) -> UUID:
        """Id of this attempt."""
        return self._core.run.run_id

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._core.run.attempt

    @property
    def max_attempts(self) -> int | None:
        """How many attempts the task has in all; ``None`` without limit."""
        return self._core.run.max_attempts

    @property
    def task_name(self) -> str:
        """Name under which the task is registered."""
        return self._core.run.task_name

    @property
    def queue_name(self) -> str:
        """Queue of the task."""
        return self._core.run.queue_name

    @property
    def parent_task_id(self) -> UUID | None:
        """The task that spawned this one, if a task did."""
        return self._core.run.parent_task_id

    @property
    def headers(self) -> Mapping[str, Any]:
        """What the spawner gave along beside the params."""
        if self._headers is None:
            self._headers = decode(self._core.run.headers) if self._core.run.headers else {}
        return self._headers

    @property
    def is_replaying(self) -> bool:
        """Whether the handler is still doing again what an earlier run of it did."""
        return self._core.history.is_replaying

    def print(self, *values: object, **options: Any) -> None:
        """``print`` that is silent during replay, so that each line appears once; and whole, whoever else prints meanwhile."""
        if self.is_replaying:
            return
        stream = options.pop("file", None) or sys.stdout
        flush = options.pop("flush", True)
        # The builtin writes the values and the end of the line one by one: those of two threads could mix.
        line = io.StringIO()
        builtins.print(*values, **options, file=line)
        if stream is not None:
            stream.write(line.getvalue())
            if flush:
                stream.flush()


class ReplayAwareLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that is silent during replay and says which task, run, attempt and queue a record belongs to."""

    def __init__(self, core: Core) -> None:
        run = core.run
        identity = {
            "task_name": run.task_name,
            "task_id": str(run.task_id),
            "run_id": str(run.run_id),
            "attempt": run.attempt,
            "queue_name": run.queue_name,
        }
        super().__init__(logging.getLogger(f"absurd.task.{run.task_name}"), identity)
        self._history = core.history

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        """Whether a record of that level would be written now."""
        return not self._history.is_replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Adds the identity to the record's extra."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_current_context() -> Any:
    """The context of the task that is running here.

    Raises:
        ContextError: no task is running here.
    """
    context = _current.get()
    if context is None:
        raise ContextError("no task is running here; get_current_context() works inside a handler and what it calls")
    return context


def current_context() -> BaseContext | None:
    """The same, or ``None``."""
    return _current.get()


def set_current_context(context: BaseContext | None) -> None:
    """Makes a context the current one of this thread or asyncio task."""
    _current.set(context)


class Undo(Exception):
    """Rolls back the transaction of a ``ctx.transaction`` whose run is in other hands."""

    def __init__(self, answer: WriteResult) -> None:
        super().__init__(answer.status)
        self.answer = answer

    @classmethod
    def unless_ok(cls, answer: WriteResult) -> None:
        """Raises unless the run is still ours."""
        if answer.status != "ok":
            raise cls(answer)
