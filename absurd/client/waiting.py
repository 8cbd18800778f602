"""How a client waits for the end of a task: the plan, without I/O. A sync and an async shell carry it out.

A plan yields queries, which are answered with their value, and pauses, answered with whether something was heard meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from absurd import errors
from absurd.client.listener import Listener
from absurd.queries.query import Query
from absurd.queries.results import read_result, unwatch_task, watch_task
from absurd.types import TaskResult

FINAL = ("completed", "failed", "cancelled")

# Seconds for which the database keeps a request for a notification, if its client goes away without a word.
WATCH_SECONDS = 60.0
# Seconds between looks at the task in case a notification was lost.
SAFETY_SECONDS = 5.0
# Seconds for the first connection of the listener; without it the looks above have to do.
LISTEN_SECONDS = 2.0
# Seconds between looks on a connection of the caller's, which cannot listen: from, up to.
POLL_SECONDS = (0.01, 0.5)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until something is heard, as many seconds at most."""

    seconds: float


Plan: TypeAlias = Generator[Query[Any] | Pause, Any, TaskResult | None]


class Deadline:
    """The end of a wait. ``None`` seconds: there is none."""

    def __init__(self, timeout: float | None) -> None:
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0):
            raise errors.InvalidOptionError(f"timeout must be a number of seconds, 0 or more, or None; not {timeout!r}")
        self.timeout = timeout
        self._at = math.inf if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._at - time.monotonic()


def watching(task_id: UUID, listener: Listener, deadline: Deadline) -> Plan:
    """Waits by notification. Returns the last state seen, which is not final if the time was over before."""
    if not listener.listening:
        # A watch that is asked for before the channel is open may be answered into the void.
        yield Pause(max(0.0, min(LISTEN_SECONDS, deadline.left)))
    while True:
        found: TaskResult | None = yield watch_task(task_id, listener.channel, WATCH_SECONDS)
        watch_again_at = time.monotonic() + WATCH_SECONDS / 2
        while True:
            if found is None or found.state in FINAL:
                return found
            if deadline.left <= 0:
                yield unwatch_task(task_id, listener.channel)
                return found
            heard = yield Pause(min(SAFETY_SECONDS, deadline.left))
            if heard or time.monotonic() >= watch_again_at:
                break
            found = yield read_result(task_id)


def polling(task_id: UUID, deadline: Deadline) -> Plan:
    """Waits by looking, less and less often."""
    pause, longest = POLL_SECONDS
    while True:
        found: TaskResult | None = yield read_result(task_id)
        if found is None or found.state in FINAL or deadline.left <= 0:
            return found
        yield Pause(max(0.0, min(pause, deadline.left)))
        pause = min(pause * 1.5, longest)


def require_end(task_id: UUID, found: TaskResult | None, deadline: Deadline) -> TaskResult:
    """The final state that was waited for.

    Raises:
        TaskNotFoundError: the task is not there any more.
        TimeoutError: it has not ended.
    """
    if found is None:
        raise errors.TaskNotFoundError(
            f"task {task_id} is gone: its queue was dropped, or it was cleaned up, while it was waited for"
        )
    if found.state not in FINAL:
        raise errors.TimeoutError(f"task {task_id} is still {found.state} after {deadline.timeout:g} s")
    return found


def require_success(found: TaskResult) -> Any:
    """The result of a task that has ended.

    Raises:
        TaskFailedError, TaskCancelledError: it has none.
    """
    if found.state == "completed":
        return found.result
    failure = found.failure if isinstance(found.failure, dict) else {}
    if found.state == "cancelled":
        raise errors.TaskCancelledError(f"task {found.task_id} was cancelled: {failure.get('message', 'no reason is known')}")
    reason = ": ".join(str(failure[part]) for part in ("name", "message") if failure.get(part))
    raise errors.TaskFailedError(f"task {found.task_id} failed: {reason or found.failure}", found.failure)
