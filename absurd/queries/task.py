"""One task, as the HTTP API shows it."""

from __future__ import annotations

from uuid import UUID

from absurd.queries.query import Query, scalar


def read_task(task_id: UUID) -> Query[str | None]:
    """What a caller needs of a task, as JSON text of a bounded number of fields; ``None`` if there is no such task.

    While a task is retried, ``failure`` is that of its last attempt.
    """
    return Query("select absurd.read_task(%s)::text", (task_id,), scalar)
