"""Values that cross module borders: frozen dataclasses, aliases, and named tuples for what is made for every
task, in half the time. Without behaviour that needs anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can hold."""

TaskState: TypeAlias = Literal["pending", "running", "sleeping", "completed", "failed", "cancelled"]

DEFAULT_QUEUE = "default"
DEFAULT_MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class RetryStrategy:
    """When the next attempt follows a failed one. Make one with ``fixed``, ``exponential`` or ``none``.

    The delay before attempt n + 1 is ``base_seconds`` (fixed) or ``base_seconds * factor ** (n - 1)``, at most ``max_seconds``
    (exponential); ``jitter`` takes away a random part of it, up to that fraction, so that many failures do not return together.
    """

    kind: Literal["fixed", "exponential", "none"]
    base_seconds: float | None = None
    factor: float | None = None
    max_seconds: float | None = None
    jitter: float | None = None

    @classmethod
    def fixed(cls, seconds: float = 60, *, jitter: float | None = None) -> RetryStrategy:
        """The same delay, in seconds, before every attempt."""
        return cls("fixed", base_seconds=seconds, jitter=jitter)

    @classmethod
    def exponential(
        cls, seconds: float = 30, *, factor: float = 2, max_seconds: float | None = None, jitter: float | None = None
    ) -> RetryStrategy:
        """A delay, in seconds, that grows by ``factor`` with each attempt, up to ``max_seconds``."""
        return cls("exponential", base_seconds=seconds, factor=factor, max_seconds=max_seconds, jitter=jitter)

    @classmethod
    def none(cls) -> RetryStrategy:
        """No second attempt."""
        return cls("none")

    def to_json(self) -> dict[str, Any]:
        """The form that the SQL functions take: only what is set."""
        names = ("kind", "base_seconds", "factor", "max_seconds", "jitter")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


DEFAULT_RETRY = RetryStrategy("exponential", base_seconds=1, factor=2, max_seconds=300, jitter=0.2)
"""What a task gets that says nothing of its own: 1 s, 2 s, 4 s, … up to 5 minutes."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Limits past which a task is cancelled, in seconds.

    ``max_delay`` counts from the moment the task may start to its first start; ``max_duration`` counts the time it runs, over all
    attempts; time asleep or waiting in the queue does not count.
    """

    max_delay: float | None = None
    max_duration: float | None = None

    def to_json(self) -> dict[str, float]:
        """The form that the SQL functions take: only what is set."""
        both = {"max_delay": self.max_delay, "max_duration": self.max_duration}
        return {name: value for name, value in both.items() if value is not None}


class SpawnRequest(NamedTuple):
    """One task to spawn, checked and encoded: what the SQL function ``spawn_tasks`` takes. ``params`` … are JSON texts."""

    queue_name: str
    task_id: UUID
    run_id: UUID
    task_name: str
    params: str
    headers: str | None
    options: str | None
    idempotency_key: str | None


class Spawned(NamedTuple):
    """What a spawn answered. ``created`` is false when the idempotency key was known and names an earlier task."""

    task_id: UUID
    run_id: UUID
    attempt: int
    created: bool


@dataclass(frozen=True, slots=True)
class TaskResult:
    """State of a task and, at its end, its result or failure."""

    task_id: UUID
    state: TaskState
    result: Any = None
    failure: Any = None


@dataclass(frozen=True, slots=True)
class Event:
    """One emission: ``seq`` is its place in the log, to ask for later ones with ``since=``."""

    name: str
    payload: Any
    seq: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One recorded effect of a task."""

    step_name: str
    position: int
    kind: str
    state: Any
    event_seq: int | None = None


class ClaimedRun(NamedTuple):
    """A run that this worker holds, as the claim returned it; ``params``, ``headers`` and ``checkpoints`` are JSON texts."""

    queue_name: str
    task_id: UUID
    run_id: UUID
    epoch: int
    attempt: int
    task_name: str
    params: str
    headers: str | None
    max_attempts: int | None
    parent_task_id: UUID | None
    deadline_at: datetime | None
    checkpoint_count: int
    checkpoints: str | None

    @property
    def attempts_left(self) -> bool:
        """Whether a failure of this attempt may be followed by another one."""
        return self.max_attempts is None or self.attempt < self.max_attempts

    def __str__(self) -> str:
        return f'task "{self.task_name}" {self.task_id}'

    # how far the claim got, in one of its runs
    next_after: str | None = None
    # seconds from the moment it became ready to the claim
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SpawnOptions:
    """Options of one spawn, or the defaults of a task; ``None`` leaves a choice to the next level."""

    queue: str | None = None
    delay: float | None = None
    available_at: datetime | None = None
    priority: int | None = None
    max_attempts: int | None = None
    retry: RetryStrategy | Mapping[str, Any] | str | None = None
    cancellation: Cancellation | Mapping[str, float] | None = None
    headers: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    parent_task_id: UUID | None = field(default=None)


# Those of a spawn that says nothing of its own.
NO_OPTIONS = SpawnOptions()


class Settled(NamedTuple):
    """The options of a spawn, merged, checked and encoded; ``defaults`` and ``of_all`` are those of its task and of all tasks."""

    defaults: SpawnOptions
    of_all: SpawnOptions
    queue: str | None
    headers: str | None
    options: str
    idempotency_key: str | None
