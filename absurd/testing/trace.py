"""The steps that a handler takes over a recorded history: what is compared with it, without a database and without effects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from absurd.context import AsyncContext, Context, Core
from absurd.context.base import ReplayAwareLogger
from absurd.context.core import Steps
from absurd.context.history import KINDS, History
from absurd.errors import RunInterrupted, SerializationError, ValidationError
from absurd.registry import Registry
from absurd.testing.history import TaskHistory
from absurd.testing.sequences import describe
from absurd.types import Checkpoint, ClaimedRun
from absurd.writes import OK, ExtendLease, Write, WriteFuture

# Nothing is recorded here, so that no value is too large.
NO_LIMIT = 1 << 40
# How often steps that run side by side with one that is new may go on, before the replay ends there.
TURNS = 50
THREAD_TURN = 0.05  # seconds for the same in threads


class ReplayEnded(RunInterrupted):
    """The handler has come to something that is not recorded, or differs from it: nothing of that is done."""


class ReplayAbandoned(RunInterrupted):
    """The handler took too long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One effect that the handler asked for: its name, its place, and what it is."""

    name: str
    position: int
    kind: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, in one word, and the step at which it shows."""

    kind: str
    step_name: str | None
    detail: str


class Trace(History):
    """A history that notes what is asked of it, and ends the replay at the first effect that it does not hold.

    ``aliases`` maps names that are new to recorded ones: what if the step was only renamed?
    """

    def __init__(self, history: TaskHistory, aliases: Mapping[str, str]) -> None:
        self._old_names = dict(aliases)
        new_names = {old: new for new, old in aliases.items()}
        points = [
            Checkpoint(new_names.get(p.step_name, p.step_name), p.position, p.kind, p.state, p.event_seq)
            for p in history.checkpoints
        ]
        super().__init__(None, len(points), task=history, strict=False)
        self._recorded = {point.step_name: point for point in points}
        self._unseen = dict(self._recorded)
        self.asked: list[Asked] = []
        self.finding: Finding | None = None
        self.stopped_at: Asked | None = None

    @property
    def unseen(self) -> list[Checkpoint]:
        """What is recorded and has not been asked for, in order."""
        return sorted(self._unseen.values(), key=lambda point: (point.position, point.step_name))

    def find_out(self, kind: str, step_name: str | None, detail: str) -> None:
        """Notes a difference; the first one counts."""
        if self.finding is None:
            self.finding = Finding(kind, step_name, detail)

    def replay(self, checkpoint: Checkpoint, position: int, kind: str | None = None) -> None:
        """Notes that the handler has asked for a recorded effect."""
        if self._unseen.pop(checkpoint.step_name, None) is None:
            return
        wanted = kind or checkpoint.kind
        self.asked.append(Asked(checkpoint.step_name, position, wanted))
        if wanted != checkpoint.kind:
            self.find_out(
                "kind",
                checkpoint.step_name,
                f'"{checkpoint.step_name}" was recorded as {KINDS[checkpoint.kind]} and is {KINDS[wanted]} now',
            )
        elif position != checkpoint.position:
            what = describe(checkpoint.step_name)
            self.find_out(
                "moved", checkpoint.step_name, f"{what} stood at place {checkpoint.position} and stands at {position} now"
            )
        if self.finding is not None:
            raise ReplayEnded(checkpoint.step_name)
        if not self._unseen:
            self._live = True

    def go_live(self, step_name: str, position: int) -> NoReturn:
        """Ends the replay: the handler would now do something for the first time."""
        passed = [point for point in self.unseen if point.position <= position]
        asked = Asked(step_name, position, "new")
        if self.stopped_at is None:
            self.asked.append(asked)
            self.stopped_at = asked
        if passed:
            what = f"{describe(step_name)} is new where {describe(passed[0].step_name)} was recorded"
            self.find_out("new", step_name, what)
        raise ReplayEnded(step_name)

    def finish(self) -> None:
        """Nothing: who made the trace looks at what is left."""


class ReplayPort:
    """Stands where a worker's engine stands: it answers a heartbeat, and nothing else is ever asked of it."""

    lease_seconds = 30.0

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def send(self, write: Write, future: WriteFuture) -> None:
        """Says that the lease is renewed."""
        if isinstance(write, ExtendLease):
            future.set_result(OK)
        else:
            future.set_exception(AssertionError(f"a replay must not write, but was asked to: {write!r}"))

    send_threadsafe = send

    async def run_query(self, query: Any) -> Any:
        """Never called: the whole history is here."""
        raise AssertionError(f"a replay has no database, but was asked for: {query!r}")

    run_query_threadsafe = run_query

    def connection(self) -> Any:
        """Never called: a transaction that is not recorded ends the replay before it begins."""
        raise AssertionError("a replay has no database")

    async_connection = connection


class _Silent(ReplayAwareLogger):
    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        return False


class _Muted:
    """A context that says nothing: what a replay comes past was said when it ran."""

    _core: Core

    @property
    def logger(self) -> ReplayAwareLogger:
        """A logger that says nothing."""
        return _Silent(self._core)

    def print(self, *values: object, **options: Any) -> None:
        """Prints nothing."""


class ReplayContext(_Muted, Context):
    """What a sync handler holds in a replay."""

    def _drive(self, steps: Steps) -> Any:
        try:
            return super()._drive(steps)
        except ReplayEnded as end:
            if _others_may_follow(self._core):
                time.sleep(THREAD_TURN)
            self._core.interrupt(end)
            raise
        except (ValidationError, SerializationError) as error:
            _note_unreadable(self._core, error)
            raise


class AsyncReplayContext(_Muted, AsyncContext):
    """What an async handler holds in a replay."""

    async def _drive(self, steps: Steps) -> Any:
        try:
            return await super()._drive(steps)
        except ReplayEnded as end:
            for _ in range(TURNS if _others_may_follow(self._core) else 0):
                await asyncio.sleep(0)
            self._core.interrupt(end)
            raise
        except (ValidationError, SerializationError) as error:
            _note_unreadable(self._core, error)
            raise


def _others_may_follow(core: Core) -> bool:
    """Whether effects were recorded behind the one that is new: steps that ran side by side may still ask for theirs."""
    trace = core.history
    return isinstance(trace, Trace) and trace.finding is None and bool(trace.unseen)


def _note_unreadable(core: Core, error: Exception) -> None:
    """A recorded value does not fit the declared type any more; the handler may swallow the error, so it is noted here."""
    trace = core.history
    if isinstance(trace, Trace) and trace.asked:
        name = trace.asked[-1].name
        trace.find_out("value", name, f"what is recorded of {describe(name)} cannot be read any more: {error}")


def make_core(history: TaskHistory, trace: Trace) -> Core:
    """The core of a context whose history is the trace."""
    run = ClaimedRun(
        queue_name=history.queue_name,
        task_id=history.task_id,
        run_id=history.run_id,
        epoch=1,
        attempt=history.attempt,
        task_name=history.task_name,
        params=json.dumps(history.params),
        headers=None if history.headers is None else json.dumps(history.headers),
        max_attempts=history.max_attempts,
        parent_task_id=history.parent_task_id,
        deadline_at=None,
        checkpoint_count=0,
        checkpoints=None,
    )
    core = Core(run, max_payload_bytes=NO_LIMIT)
    core.history = trace
    return core
