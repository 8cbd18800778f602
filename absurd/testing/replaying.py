"""Replays the history of a task against code: would this code go on with a task that other code has begun?

No database is needed, and nothing is done: what is recorded is answered from the history, and the first effect that is not
recorded ends the replay before it begins. Code of the handler outside of its steps does run, as it does at every replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import inspect
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absurd.context import set_current_context
from absurd.context.base import BaseContext
from absurd.errors import ConfigurationError, ReplayMismatchError, RunInterrupted
from absurd.registry import Registry, TaskDefinition
from absurd.testing.history import UNFINISHED, TaskHistory, load_history
from absurd.testing.sequences import ADVICE, describe, side_by_side
from absurd.testing.trace import (
    AsyncReplayContext,
    Finding,
    ReplayAbandoned,
    ReplayContext,
    ReplayPort,
    Trace,
    make_core,
)
from absurd.types import SpawnOptions
from absurd.worker.failures import error_name, summary

TIMEOUT = 10.0  # seconds for one replay: recorded steps take no time, so that only an endless loop or real work takes longer
ENDING_SECONDS = 2.0  # that a handler which is told to end gets to do so


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of replaying one history.

    ``ok`` says that the code goes on where the task stopped. Otherwise ``kind`` names the difference, ``step_name`` the first
    step that differs, and ``message`` says it in a sentence. ``recorded`` and ``now`` are both sequences of steps. ``end`` says
    how far the replay came, ``unchecked`` how many recorded steps were not reached because it could not go on.
    """

    history: TaskHistory
    ok: bool
    kind: str | None
    step_name: str | None
    message: str
    recorded: list[str] = field(default_factory=list)
    now: list[str] = field(default_factory=list)
    unchecked: int = 0

    def __str__(self) -> str:
        head = f"{self.history}: {self.message}"
        if self.ok:
            return head
        table = side_by_side(self.history, self.now, self.step_name)
        return "\n".join([head, *(f"    {line}" for line in table), ADVICE[self.kind or ""]])


def replay(
    app_or_handler: Any,
    history: TaskHistory | Mapping[str, Any] | str | Path,
    *,
    timeout: float = TIMEOUT,
    runs: int = 2,
    hooks: bool = True,
) -> Replay:
    """Replays a task's history against the present code.

    Args:
        app_or_handler: the app with which the task is registered, or its handler alone, sync or async.
        history: what ``load_history`` returned, or takes.
        timeout: seconds for each run of the handler.
        runs: how often the handler is run, to notice one that takes other steps each time.
        hooks: whether the app's ``around_execution`` hooks run too.

    Raises:
        ConfigurationError: the history cannot be read, or the first argument is neither an app nor a handler.
    """
    history = load_history(history)
    registry = _registry(app_or_handler, history)
    definition = registry.find(history.task_name)
    if definition is None:
        return _unknown(registry, history)
    attempt = functools.partial(_Attempt, registry, definition, history, timeout, hooks)
    first = attempt({}).run()
    for _ in range(runs - 1 if first.finding is None or first.finding.kind != "endless" else 0):
        again = attempt({}).run()
        if again.names != first.names:
            return _report(history, again, _restless(first, again))
    if first.finding is not None and first.finding.kind == "new":
        return _report(history, first, _explain_new(attempt, first))
    return _report(history, first, first.finding)


def assert_replays(app_or_handler: Any, history: Any, **options: Any) -> Replay:
    """Replays and raises unless the code goes on where the task stopped; arguments as of ``replay``.

    Raises:
        ReplayMismatchError: it does not; the message shows both sequences of steps, the first difference and what to do.
    """
    found = replay(app_or_handler, history, **options)
    if not found.ok:
        raise ReplayMismatchError(str(found))
    return found


def _registry(app_or_handler: Any, history: TaskHistory) -> Registry:
    registry = getattr(app_or_handler, "registry", None)
    if isinstance(registry, Registry):
        return registry
    if not callable(app_or_handler):
        raise ConfigurationError(f"replay takes an app or the handler of a task, not {app_or_handler!r}")
    registry = Registry()
    registry.register(app_or_handler, history.task_name, SpawnOptions())
    return registry


class _Attempt:
    """One run of the handler over the history."""

    def __init__(
        self,
        registry: Registry,
        definition: TaskDefinition,
        history: TaskHistory,
        timeout: float,
        hooks: bool,
        aliases: Mapping[str, str],
    ) -> None:
        self._registry = registry
        self._definition = definition
        self._history = history
        self._timeout = timeout
        self._hooks = list(reversed(registry.around_execution)) if hooks else []
        self.trace = Trace(history, aliases)
        self._core = make_core(history, self.trace)
        self._task: asyncio.Task[Any] | None = None
        self.end = ""

    @property
    def finding(self) -> Finding | None:
        """What is wrong, if something is."""
        return self.trace.finding

    @property
    def names(self) -> list[str]:
        """The steps that were asked for, in order."""
        return [asked.name for asked in self.trace.asked]

    def run(self) -> _Attempt:
        """Runs the handler on a thread of its own, within the time that it has."""
        thread = threading.Thread(target=self._run, name="absurd-replay", daemon=True)
        thread.start()
        thread.join(self._timeout)
        if thread.is_alive():
            self.trace.find_out("endless", self._last(), f"{self._after()} the handler did not go on within {self._timeout:g} s")
            self._core.interrupt(ReplayAbandoned("the replay took too long"))
            self._stop(thread)
        return self

    def _last(self) -> str | None:
        return self.names[-1] if self.names else None

    def _after(self) -> str:
        return f"after {describe(self.names[-1])}" if self.names else "before its first step"

    def _stop(self, thread: threading.Thread) -> None:
        """Ends a handler that loops or waits. One that blocks outside of Python stays, on its daemon thread."""
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # its loop has just closed
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            thread.join(ENDING_SECONDS)
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(ReplayAbandoned))
            thread.join(ENDING_SECONDS)

    def _run(self) -> None:
        try:
            params = self._definition.params.decode(self._core.run.params, f'params of task "{self._history.task_name}"')
        except Exception as error:
            self.trace.find_out("params", None, f"the recorded params do not fit the task any more: {error}")
            return
        try:
            result = self._handle(params)
            self._core.check_usable()
            self._returned(result)
        except BaseException as error:
            self._raised(error)

    def _handle(self, params: Any) -> Any:
        port: Any = ReplayPort(self._registry)
        if self._definition.is_async:
            return asyncio.run(self._await(AsyncReplayContext(self._core, port), params))
        return self._call(ReplayContext(self._core, port), params)

    async def _await(self, context: BaseContext, params: Any) -> Any:
        self._task = asyncio.current_task()
        result = self._call(context, params)
        return await result if inspect.isawaitable(result) else result

    def _call(self, context: BaseContext, params: Any) -> Any:
        set_current_context(context)
        execute: Callable[[], Any] = functools.partial(self._definition.handler, params, context)
        for hook in self._hooks:
            execute = functools.partial(hook, context, execute)
        return execute()

    # -- how it ended -------------------------------------------------------------------------------------------------------

    def _returned(self, result: Any) -> None:
        history, unseen = self._history, self.trace.unseen
        if unseen:
            name = unseen[0].step_name
            self.trace.find_out("early", name, f"{describe(name)} is recorded, but the handler returned without it")
        elif history.state in UNFINISHED and history.waits:
            name = history.waits[0]
            self.trace.find_out("wait", name, f"the task sleeps in {describe(name)}, but the handler returned without it")
        elif history.state == "completed":
            self._compare(result)
        self.end = "returned what is recorded" if history.state == "completed" else "replayed to its end"

    def _compare(self, result: Any) -> None:
        try:
            found = json.loads(self._definition.result.encode(result, "result"))
        except Exception as error:
            self.trace.find_out("result", None, f"the result cannot be stored any more: {error}")
            return
        # By their texts: to Python 1, 1.0 and True are equal.
        if json.dumps(found, sort_keys=True) != json.dumps(self._history.result, sort_keys=True):
            self.trace.find_out("result", None, f"it returned {_short(found)}; recorded is {_short(self._history.result)}")

    def _raised(self, error: BaseException) -> None:
        """The handler raised: a signal of ours, what is recorded as the failure of an attempt, or something new."""
        trace, history = self.trace, self._history
        if trace.finding is not None or isinstance(self._core.interruption, ReplayAbandoned):
            return
        if isinstance(self._core.interruption or error, RunInterrupted):
            self._stopped()
        elif trace.unseen:
            place = trace.unseen[0].step_name
            trace.find_out("raised", place, f"{describe(place)} is recorded, but the handler raised before it: {summary(error)}")
        elif error_name(error) in history.failures:
            self.end = f"raised {error_name(error)}, as an attempt did before"
        else:
            trace.find_out("raised", self._last(), f"{self._after()} the handler raised {summary(error)}")

    def _stopped(self) -> None:
        """It came to something that is not recorded, with all before it recorded or under way."""
        history, asked = self._history, self.trace.stopped_at
        if asked is None:
            return
        if history.state == "completed" and not self.trace.unseen:
            what = f"{describe(asked.name)} is new behind the last step of a task that had completed"
            self.trace.find_out("longer", asked.name, what)
        elif history.waits and not any(_belongs(wait, asked.name) for wait in history.waits) and not self.trace.unseen:
            what = f"{describe(asked.name)} is new where the task sleeps in {describe(history.waits[0])}"
            self.trace.find_out("wait", asked.name, what)
        self.end = f"replayed; {describe(asked.name)} is next"


def _belongs(wait: str, name: str) -> bool:
    return wait == name or wait.startswith(f"{name}/")


def _unknown(registry: Registry, history: TaskHistory) -> Replay:
    known = ", ".join(sorted(definition.name for definition in registry)) or "none"
    message = f'no task "{history.task_name}" is registered, so that nobody would go on with it; registered are: {known}'
    return Replay(history, False, "unknown", None, message, [p.step_name for p in history.checkpoints])


def _restless(first: _Attempt, again: _Attempt) -> Finding:
    pairs = zip([*first.names, None], [*again.names, None], strict=False)
    one, other = next((pair for pair in pairs if pair[0] != pair[1]), (None, None))
    detail = (
        f"the handler takes other steps each time it runs: {describe(one) if one else 'its end'} in one replay, "
        f"{describe(other) if other else 'its end'} at the same place in another"
    )
    return Finding("restless", None if other is None else other, detail)


def _explain_new(attempt: Callable[[Mapping[str, str]], _Attempt], first: _Attempt) -> Finding | None:
    """Whether a step that is new was put in, or is a recorded one under another name: then all others follow as recorded."""
    found, asked = first.finding, first.trace.stopped_at
    passed = [point.step_name for point in first.trace.unseen if asked is not None and point.position <= asked.position]
    if asked is None or not passed:
        return found
    new, old = asked.name, passed[0]
    renamed = attempt({new: old}).run()
    if renamed.finding is None and not renamed.trace.unseen:
        return Finding("renamed", new, f"{describe(new)} is new where {describe(old)} was recorded, as if that had been renamed")
    if old in renamed.names:
        return Finding("inserted", new, f"{describe(new)} is new before {describe(old)}, which is recorded")
    return found


def _report(history: TaskHistory, attempt: _Attempt, finding: Finding | None) -> Replay:
    recorded = [point.step_name for point in history.checkpoints]
    left = len(attempt.trace.unseen)
    if finding is None:
        message = attempt.end
        if left:
            message += f", which ran side by side with steps that are recorded, or raised; {left} behind it could not be checked"
        return Replay(history, True, None, None, message, recorded, attempt.names, left)
    return Replay(history, False, finding.kind, finding.step_name, finding.detail, recorded, attempt.names, left)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
