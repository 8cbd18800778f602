"""What the database refuses a task → the error that its handler sees."""

from __future__ import annotations

from collections.abc import Sequence

from absurd.context.arguments import shown
from absurd.errors import AbsurdError, InvalidOptionError, PayloadTooLargeError, QueueNotFoundError, TaskNotFoundError
from absurd.writes import Wait, WriteResult


def raise_missing(answer: WriteResult, waits: Sequence[Wait]) -> None:
    """Raises unless everything that is waited for exists."""
    if answer.status == "no_queue":
        names = sorted({w.event_queue for w in waits if w.event_queue})
        raise QueueNotFoundError(f"one of the queues {names} does not exist; create it with absurdctl create-queue")
    if answer.status == "no_task":
        raise TaskNotFoundError(f"one of the tasks {shown([str(w.task_id) for w in waits])} does not exist")
    if answer.status == "no_token":
        raise AbsurdError(f"token {waits[0].token_id} is gone from the database, so that nobody can answer it")


def raise_refusal(answer: WriteResult, no_queue: str | None = None) -> None:
    """Raises unless the write was accepted."""
    if answer.status == "ok":
        return
    message = answer.detail or no_queue or answer.status
    kinds: dict[str, type[AbsurdError]] = {
        "no_queue": QueueNotFoundError,
        "too_large": PayloadTooLargeError,
        "invalid": InvalidOptionError,
    }
    raise kinds.get(answer.status, AbsurdError)(no_queue if answer.status == "no_queue" and no_queue else str(message))
