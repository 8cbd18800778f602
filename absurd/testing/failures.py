"""The errors that tasks of a test have raised, with their tracebacks as if the test had called the handler itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import psycopg

from absurd.db import run
from absurd.queries import testing as queries
from absurd.registry import Registry

_LIBRARY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that ended with an error."""

    task_id: UUID
    task_name: str
    attempt: int
    final: bool
    failure: Any
    error: Exception | None


class TaskErrors(AssertionError):
    """Handlers have raised during a ``drain``. The first of the errors is its cause; ``errors`` holds all, in order.

    ``drain(raise_failures=False)`` is for tests in which they are to.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        self.failures = list(failures)
        self.errors = [failure.error for failure in failures if failure.error is not None]
        super().__init__("\n".join([_summary(failures), *map(_line, failures), *_tracebacks(failures)]))


class Failures:
    """Collects the errors of one application: what they were from the database, the exceptions themselves from a hook."""

    def __init__(self, conn: psycopg.Connection[Any], registry: Registry) -> None:
        self._conn = conn
        self._registry = registry
        self._seen: set[UUID] = set()
        self._errors: dict[tuple[UUID, int], Exception] = {}

    def watch(self) -> None:
        """Begins to listen to handlers."""
        self._registry.around_execution.insert(0, self._around)

    def forget(self) -> None:
        """Ends that."""
        self._registry.around_execution[:] = [hook for hook in self._registry.around_execution if hook != self._around]

    def take(self) -> list[Failure]:
        """The failures since the last call."""
        found = []
        for run_id, task_id, name, attempt, final, failure in run(self._conn, queries.failed_attempts()):
            if run_id not in self._seen:
                self._seen.add(run_id)
                found.append(Failure(task_id, name, attempt, final, failure, self._errors.get((task_id, attempt))))
        return found

    def raise_new(self) -> None:
        """Raises ``TaskErrors`` for the failures since the last call, if there are any."""
        __tracebackhide__ = True
        found = self.take()
        if not found:
            return
        errors = [failure.error for failure in found if failure.error is not None]
        for error in errors:
            error.with_traceback(_from_handler_on(error.__traceback__))
        raise TaskErrors(found) from (errors[0] if errors else None)

    def _around(self, ctx: Any, execute: Callable[[], Any]) -> Any:
        try:
            result = execute()
        except Exception as error:
            self._note(ctx, error)
            raise
        return self._awaited(ctx, result) if inspect.isawaitable(result) else result

    async def _awaited(self, ctx: Any, result: Any) -> Any:
        try:
            return await result
        except Exception as error:
            self._note(ctx, error)
            raise

    def _note(self, ctx: Any, error: Exception) -> None:
        self._errors[ctx.task_id, ctx.attempt] = error


def _from_handler_on(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the lines of this library that come before the handler: they tell nobody anything."""
    start = trace
    while start is not None and Path(start.tb_frame.f_code.co_filename).is_relative_to(_LIBRARY):
        start = start.tb_next
    return trace if start is None else start


def _summary(failures: Sequence[Failure]) -> str:
    return "a task has raised an error:" if len(failures) == 1 else f"tasks have raised {len(failures)} errors:"


def _line(failure: Failure) -> str:
    what = failure.failure if isinstance(failure.failure, dict) else {}
    then = "it has failed for good" if failure.final else "it is to be tried again"
    reason = ": ".join(str(what[part]) for part in ("name", "message") if what.get(part))
    return f"  {failure.task_name} (attempt {failure.attempt}, {then}): {reason or failure.failure}"


def _tracebacks(failures: Sequence[Failure]) -> list[str]:
    """Those of errors that were raised in another process, or outside of the handler: nothing else shows them."""
    shown = [str(f.failure.get("traceback") or "") for f in failures if f.error is None and isinstance(f.failure, dict)]
    return ["", *shown] if any(shown) else []
