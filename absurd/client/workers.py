"""How an application runs its own worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

from absurd.client.base import BaseClient
from absurd.worker.options import WorkerOptions


class WorkerKeywords(TypedDict, total=False):
    """Settings of a worker; see ``WorkerOptions`` for their meaning and defaults."""

    concurrency: int
    lease_seconds: float
    poll_interval: float
    grace_seconds: float
    unknown_task_delay: float
    strict_replay: bool
    worker_id: str


class WorkerMethods(BaseClient):
    """What both clients have in common to run tasks."""

    def _worker_options(self, queues: Sequence[str] | None, settings: WorkerKeywords) -> WorkerOptions:
        return WorkerOptions(queues=(self.queue_name,) if queues is None else _names(queues), **settings)


def _names(queues: Sequence[str]) -> tuple[str, ...]:
    return (queues,) if isinstance(queues, str) else tuple(queues)


__all__ = ["Unpack", "WorkerKeywords", "WorkerMethods"]
