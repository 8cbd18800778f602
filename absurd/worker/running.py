"""One run in the worker's hands: its handler, from the first line to the write that ends it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

from absurd import telemetry
from absurd.context import AsyncContext, BaseContext, Context, Core, Port, set_current_context
from absurd.errors import ContextError, RunCancelled, RunInterrupted, RunReleased, RunSuspended
from absurd.logs import bound
from absurd.registry import Registry, TaskDefinition
from absurd.worker.failures import describe, is_retryable, summary
from absurd.writes import Complete, Fail, Release, Suspend, Write, WriteResult

logger = logging.getLogger("absurd.worker")

OUTCOMES: dict[type[Write], str] = {Complete: "completed", Fail: "failed", Suspend: "suspended", Release: "released"}


class Running:
    """A claimed run and its handler."""

    def __init__(self, core: Core, definition: TaskDefinition, registry: Registry, port: Port) -> None:
        self.core = core
        self.definition = definition
        self._registry = registry
        self._port = port
        self.task: asyncio.Task[None] | None = None
        self.began = time.monotonic()
        self.over = False
        self._error: BaseException | None = None

    def run_blocking(self) -> Write | None:
        """Runs a sync handler; the write that ends the run, or ``None`` when it is no longer ours."""
        if telemetry.tracing is None:
            return self._run_blocking()
        with telemetry.tracing.run(self.core.run):
            return self._note(self._run_blocking())

    def _run_blocking(self) -> Write | None:
        context = Context(self.core, self._port)
        try:
            with bound(context):
                result = self._call(context)
            if inspect.isawaitable(result):
                _discard(result)
                raise ContextError(
                    f"{self.definition.handler!r} or a hook around it returned an awaitable, but is no async function"
                )
            return self._complete(result)
        except BaseException as error:
            return self._end(error)

    async def run_async(self) -> Write | None:
        """Runs an async handler."""
        if telemetry.tracing is None:
            return await self._run_async()
        with telemetry.tracing.run(self.core.run):
            return self._note(await self._run_async())

    async def _run_async(self) -> Write | None:
        context = AsyncContext(self.core, self._port)
        try:
            with bound(context):
                result = self._call(context)
                return self._complete(await result if inspect.isawaitable(result) else result)
        except BaseException as error:
            return self._end(error)

    def _call(self, context: BaseContext) -> Any:
        set_current_context(context)
        params = self._params()
        execute: Callable[[], Any] = functools.partial(self.definition.handler, params, context)
        for hook in reversed(self._registry.around_execution):
            execute = functools.partial(hook, context, execute)
        return execute()

    def _params(self) -> Any:
        name = self.definition.name
        return self.definition.params.decode(self.core.run.params, f'params of task "{name}"')

    def _complete(self, result: Any) -> Write:
        """The handler has returned. What it swallowed on the way still holds: a suspension, a cancellation, a lost lease."""
        self.core.check_usable()
        self.core.history.finish()
        return Complete(
            self.core.holder, self.core.encode(self.definition.result, result, f'result of task "{self.definition.name}"')
        )

    def _end(self, error: BaseException) -> Write | None:
        """The write that follows from what the handler raised."""
        signal = self.core.interruption
        if signal is None and isinstance(error, RunInterrupted):
            signal = error
        if isinstance(signal, RunSuspended) and self.core.suspension is not None:
            return self.core.suspension
        if isinstance(signal, RunReleased):
            return Release(self.core.holder, note=str(signal) or None)
        if signal is not None:
            logger.info("stopped %s: %s", self, signal)
            return None
        self._error = error
        retryable = is_retryable(error, self.definition.no_retry_on)
        # A warning, so that a person who has not set up logging sees it too. The traceback is kept with the attempt.
        logger.warning("attempt %s of %s failed: %s", self.core.run.attempt, self, summary(error), exc_info=_loggable(error))
        return Fail(self.core.holder, describe(error), retryable)

    def _note(self, ending: Write | None) -> Write | None:
        """Says in the span of the run how it ends."""
        if telemetry.tracing is not None:
            waits_for = str(self.core.interruption) if isinstance(ending, Suspend) else None
            telemetry.tracing.ended(outcome(ending, self.core.interruption), waits_for, self._error)
        return ending

    def __str__(self) -> str:
        return str(self.core.run)


def outcome(ending: Write | None, interruption: RunInterrupted | None, status: str = "ok") -> str:
    """How a run leaves a worker's hands, in one word, for metrics and traces."""
    if ending is None:
        return "cancelled" if isinstance(interruption, RunCancelled) else "lost"
    return OUTCOMES[type(ending)] if status == "ok" else status


class Ending:
    """Takes the answer to the write that ends a run, and calls back with it at once: a future would do so a turn later."""

    __slots__ = ("_call", "_done")

    def __init__(self, call: Callable[[WriteResult | BaseException], None]) -> None:
        self._call = call
        self._done = False

    def set_result(self, result: WriteResult, /) -> None:
        """Takes the answer."""
        self._done = True
        self._call(result)

    def set_exception(self, exception: BaseException, /) -> None:
        """Takes an error."""
        self._done = True
        self._call(exception)

    def done(self) -> bool:
        """Whether it has one of them."""
        return self._done


def _discard(result: Any) -> None:
    if inspect.iscoroutine(result):
        result.close()


def _loggable(error: BaseException) -> BaseException | None:
    """The error for the log, if debugging asks for tracebacks and formatting it does not raise."""
    if not logger.isEnabledFor(logging.DEBUG):
        return None
    try:
        str(error)
    except BaseException:
        return None
    return error
