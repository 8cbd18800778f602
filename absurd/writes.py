"""What a running task asks the writer for: one named tuple per kind, and who holds the run that asks.

Each write is answered by a ``WriteResult`` through a future; the writer sends everything that is pending as one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from absurd.types import SpawnRequest


class Holder(NamedTuple):
    """The fence of a run: nobody but the holder of this epoch may write for it."""

    queue_name: str
    task_id: UUID
    run_id: UUID
    epoch: int


class RecordCheckpoint(NamedTuple):
    """A step is done; ``state`` is JSON text."""

    holder: Holder
    step_name: str
    position: int
    state: str


class Wait(NamedTuple):
    """One awaited thing: an event of a queue after ``since``, the end of a task, or the answer to a token of the same task."""

    step_name: str
    event_queue: str | None = None
    event_name: str | None = None
    since: int | None = None
    task_id: UUID | None = None
    token_id: UUID | None = None

    @property
    def kind(self) -> str:
        """What its arrival is recorded as: event, task or token."""
        return "task" if self.task_id is not None else "token" if self.token_id is not None else "event"

    def to_json(self) -> dict[str, Any]:
        """The form that the SQL functions take."""
        if self.task_id is not None:
            return {"step": self.step_name, "task": str(self.task_id)}
        if self.token_id is not None:
            return {"step": self.step_name, "token": str(self.token_id)}
        return {"step": self.step_name, "queue": self.event_queue, "event": self.event_name, "since": self.since}


class CheckWaits(NamedTuple):
    """Is the wait over already? ``needed`` of ``waits`` have to arrive."""

    holder: Holder
    position: int
    needed: int
    waits: Sequence[Wait]


class Suspend(NamedTuple):
    """Put the run to sleep until its time or its arrivals, whichever is first.

    ``timer_step`` and ``timer_kind`` (sleep, timeout) say what to record when the time passes: the earlier of ``wake_at`` and
    now plus ``timeout`` seconds.
    """

    holder: Holder
    position: int
    needed: int = 0
    waits: Sequence[Wait] = ()
    wake_at: datetime | None = None
    timeout: float | None = None
    timer_step: str | None = None
    timer_kind: str | None = None


class SpawnChildren(NamedTuple):
    """Spawn tasks and record who they are as one step of the parent."""

    holder: Holder
    step_name: str
    position: int
    requests: Sequence[SpawnRequest]


class CreateToken(NamedTuple):
    """Make a token and record it as a step; ``timeout`` in seconds, ``json_schema`` is JSON text."""

    holder: Holder
    step_name: str
    position: int
    token_name: str
    timeout: float | None
    title: str | None
    description: str | None
    json_schema: str | None


class EmitEvent(NamedTuple):
    """Emit an event and record that as a step; ``payload`` is JSON text, and so is ``trace``, for the event's source."""

    holder: Holder
    step_name: str
    position: int
    event_queue: str
    event_name: str
    payload: str | None
    trace: str | None = None


class ExtendLease(NamedTuple):
    """Renew the lease now, for ``seconds``."""

    holder: Holder
    seconds: float


class Complete(NamedTuple):
    """The handler returned; ``result`` is JSON text."""

    holder: Holder
    result: str


class Fail(NamedTuple):
    """The handler raised; ``failure`` is JSON text."""

    holder: Holder
    failure: str
    retryable: bool = True
    retry_at: datetime | None = None


class Release(NamedTuple):
    """Hand the run back without charging an attempt, after ``delay`` seconds; ``note`` says why."""

    holder: Holder
    delay: float = 0.0
    note: str | None = None


Write = (
    RecordCheckpoint | CheckWaits | Suspend | SpawnChildren | CreateToken | EmitEvent | ExtendLease | Complete | Fail | Release
)
ENDINGS = (Complete, Fail, Suspend, Release)


class WriteResult(NamedTuple):
    """How a write went; ``detail`` depends on its kind.

    ``ok``, ``lost``, ``cancelled``; ``waiting`` (nothing decided yet); ``no_queue``, ``no_task``, ``no_token``, ``invalid``,
    ``too_large``.
    """

    status: str
    detail: Any = None


OK = WriteResult("ok")


class WriteFuture(Protocol):
    """Where an answer goes: an ``asyncio.Future`` of the engine's loop or a ``concurrent.futures.Future``."""

    def set_result(self, result: WriteResult, /) -> None:
        """Takes the answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Takes an error."""

    def done(self) -> bool:
        """Whether it has one of them."""
        ...
