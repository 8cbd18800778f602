"""How an application runs its own worker: until a signal, in the background, or until nothing is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypedDict, Unpack

from absurd.client.base import BaseClient
from absurd.worker import runner
from absurd.worker.options import WorkerOptions


class WorkerKeywords(TypedDict, total=False):
    """Settings of a worker; ``WorkerOptions`` says what they mean and what they are when they are not given."""

    concurrency: int
    lease_seconds: float
    poll_interval: float
    grace_seconds: float
    unknown_task_delay: float
    strict_replay: bool
    worker_id: str


class _Workers(BaseClient):
    def _options(self, queues: Sequence[str] | None, settings: WorkerKeywords) -> WorkerOptions:
        names = (self.queue_name,) if queues is None else (queues,) if isinstance(queues, str) else tuple(queues)
        return WorkerOptions(queues=names, **settings)


class SyncWorkerMethods(_Workers):
    """The worker methods of ``Absurd``."""

    def start_worker(self, queues: Sequence[str] | None = None, **settings: Unpack[WorkerKeywords]) -> None:
        """Runs the tasks of these queues (the app's, if none are named) until SIGTERM or SIGINT; what runs gets its grace period.

        Raises:
            ConfigurationError: no task is registered, or a setting is out of range.
            QueueNotFoundError, SchemaError, DatabaseUnavailableError: the worker cannot begin.
        """
        runner.run_worker(self.registry, self.database_url, self._options(queues, settings))

    def run_worker_once(self, queues: Sequence[str] | None = None, **settings: Unpack[WorkerKeywords]) -> int:
        """Runs what is ready in these queues, in this thread, until nothing is; returns how many runs there were."""
        return runner.drain(self.registry, self.database_url, self._options(queues, settings))

    def worker(self, queues: Sequence[str] | None = None, **settings: Unpack[WorkerKeywords]) -> runner.BackgroundWorker:
        """A worker in the background for the length of a ``with`` block. It serves before the block begins."""
        return runner.BackgroundWorker(self.registry, self.database_url, self._options(queues, settings))


class AsyncWorkerMethods(_Workers):
    """The worker methods of ``AsyncAbsurd``."""

    async def start_worker(self, queues: Sequence[str] | None = None, **settings: Unpack[WorkerKeywords]) -> None:
        """Runs the tasks of these queues on the running event loop; see ``Absurd.start_worker``."""
        await runner.serve(self.registry, self.database_url, self._options(queues, settings))

    async def run_worker_once(self, queues: Sequence[str] | None = None, **settings: Unpack[WorkerKeywords]) -> int:
        """Runs what is ready in these queues until nothing is; returns how many runs there were."""
        return await runner.serve_once(self.registry, self.database_url, self._options(queues, settings))

    @asynccontextmanager
    async def worker(
        self, queues: Sequence[str] | None = None, **settings: Unpack[WorkerKeywords]
    ) -> AsyncIterator[runner.BackgroundWorker]:
        """A worker on a thread and an event loop of its own, for the length of an ``async with`` block."""
        background = runner.BackgroundWorker(self.registry, self.database_url, self._options(queues, settings))
        await asyncio.to_thread(background.start)
        try:
            yield background
        finally:
            await asyncio.to_thread(background.stop)
