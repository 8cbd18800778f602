"""What a test finds in its database: tasks and events, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task, as it stands in the database at this moment. ``params`` and ``result`` are JSON values."""

    task_id: UUID
    name: str
    queue: str
    state: str
    """``pending``, ``running``, ``sleeping``, ``completed``, ``failed`` or ``cancelled``."""
    attempt: int | None
    params: Any
    headers: Any
    result: Any
    failure: Any
    """Name, message and traceback of the latest attempt that failed, if any did."""
    parent_task_id: UUID | None
    idempotency_key: str | None
    available_at: datetime | None
    """When a sleeping task wakes by itself; ``None`` when it waits for something else alone."""
    note: str | None
    """Why no worker could run it."""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event that was emitted."""

    seq: int
    name: str
    queue: str
    payload: Any
    emitted_at: datetime
