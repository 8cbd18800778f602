"""The moments at which a worker may die between two commits of a task, found while the task runs."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any
from uuid import UUID

from absurd import failpoints
from absurd.context import BaseContext
from absurd.errors import RunLost
from absurd.testing.sequences import describe

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Failpoints at which something has just happened for an effect, in words.
MOMENTS = {
    "context.called": "after its function, before its checkpoint",
    "context.sent": "after its checkpoint",
    "context.answered": "after the database has answered",
    "context.recorded-in-transaction": "in its transaction, before the commit",
    "context.transacted": "after its commit",
    "context.settled": "before it begins",  # of sleeps alone: all others do something themselves at which to be killed
}


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """One moment of one effect; ``time`` counts from 1 how often it has come to that moment, for what is retried."""

    step_name: str
    failpoint: str
    time: int = 1

    @property
    def moment(self) -> str:
        """When, in words."""
        return MOMENTS[self.failpoint]

    def __str__(self) -> str:
        again = f" (time {self.time})" if self.time > 1 else ""
        return f"{describe(self.step_name)}, {self.moment}{again}"


class CrashPoints:
    """Notes the points that a task comes to; at one of them, if it is told so, the worker dies as far as the task can tell.

    What it has sent is still committed, and nothing else of it.
    """

    def __init__(self, task_id: UUID, target: CrashPoint | None) -> None:
        self.reached: list[CrashPoint] = []
        self.crashed = False
        self._task_id = task_id
        self._target = target
        self._times: dict[tuple[str, str], int] = {}
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches all tasks of this process for the length of the block."""
        before = failpoints.hook

        def hook(name: str, subject: object) -> None:
            if before is not None:
                before(name, subject)
            frame = inspect.currentframe()
            if name in MOMENTS and isinstance(subject, BaseContext) and subject.task_id == self._task_id:
                caller = frame.f_back if frame is not None else None
                if name != "context.settled" or _sleeps(caller):
                    self._reach(name, subject, _step_name(caller))

        failpoints.hook = hook
        try:
            yield
        finally:
            failpoints.hook = before

    def _reach(self, name: str, context: BaseContext, step_name: str | None) -> None:
        if step_name is None:  # a heartbeat: the task does not change
            return
        with self._lock:
            step_name = number_ids(step_name, self._ids)
            time = self._times[name, step_name] = self._times.get((name, step_name), 0) + 1
            point = CrashPoint(step_name, name, time)
            self.reached.append(point)
            if self.crashed or point != self._target:
                return
            self.crashed = True
        signal = RunLost(f"the worker dies: {point}")
        # Also for code that catches everything, and for steps that run side by side.
        context._core.interrupt(signal)
        raise signal


def number_ids(text: str, known: dict[str, int]) -> str:
    """The text with ids, which are others in each run, numbered in the order in which they come up."""
    return _UUID.sub(lambda match: f"#{known.setdefault(match[0], len(known) + 1)}", text)


def _sleeps(frame: FrameType | None) -> bool:
    """Whether a shell works on ``Core.sleep``: the engine records it when nothing of the handler runs any more."""
    steps = frame.f_locals.get("steps") if frame is not None else None
    return inspect.isgenerator(steps) and steps.gi_code.co_name == "sleep"


def _step_name(frame: FrameType | None) -> str | None:
    """The name of the effect that a shell works on; a failpoint itself tells only in which context it is reached."""
    place: dict[str, Any] = frame.f_locals if frame is not None else {}
    op = place.get("op")
    name = getattr(op, "step_name", None) or getattr(getattr(op, "write", None), "step_name", None)
    steps = place.get("steps")
    while name is None and inspect.isgenerator(steps):
        name = inspect.getgeneratorlocals(steps).get("key")
        steps = steps.gi_yieldfrom
    return None if name is None else str(name)
