"""How an application runs its own worker: until a signal, in the background, or until nothing is ready."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set
from typing import TypedDict, Unpack

from absurd.client.base import BaseClient
from absurd.errors import InvalidOptionError
from absurd.worker import BackgroundWorker, WorkerOptions, drain, run_worker, serve, serve_once

# How long run_worker_once() waits at its end for what still runs: in tests and scripts a leftover must not hold things up.
ONCE_GRACE_SECONDS = 5.0


class WorkerSettings(TypedDict, total=False):
    """Keyword arguments of the methods that run a worker; see ``WorkerOptions`` for their meaning and defaults."""

    concurrency: int
    lease_seconds: float
    poll_interval: float
    grace_seconds: float
    unknown_task_delay: float
    strict_replay: bool
    scheduler: bool
    triggers: bool
    retention: bool
    health_file: str | None
    worker_id: str


class WorkerMethods(BaseClient):
    """What both clients do to run tasks, with the registry, ``queue_name`` and ``database_url`` of the application."""

    def worker_options(self, queues: Sequence[str] | str | None = None, **settings: Unpack[WorkerSettings]) -> WorkerOptions:
        """The options of a worker of this application.

        Args:
            queues: what it serves; the application's queue and those that its tasks name, if nothing is said.
            settings: see ``WorkerOptions``.

        Raises:
            InvalidOptionError: one of them is unknown or out of its range.
        """
        known = {field.name for field in dataclasses.fields(WorkerOptions)} - {"queues"}
        unknown = set(settings) - known
        if unknown:
            raise InvalidOptionError(f"a worker has no option {sorted(unknown)}; known are {', '.join(sorted(known))}")
        if queues is not None and not isinstance(queues, (str, Sequence, Set)):
            raise InvalidOptionError(f"queues must be a list of queue names, or one name, not {queues!r}")
        names = [queues] if isinstance(queues, str) else list(queues) if queues is not None else self._task_queues()
        return WorkerOptions(queues=tuple(dict.fromkeys(self._queue(name) for name in names)), **settings)

    def _task_queues(self) -> list[str]:
        return [self.queue_name, *(task.defaults.queue for task in self.registry if task.defaults.queue is not None)]

    def worker(self, queues: Sequence[str] | str | None = None, **settings: Unpack[WorkerSettings]) -> BackgroundWorker:
        """A worker on a thread of its own, for a ``with`` or ``async with`` block; it serves before the block begins.

        Args:
            queues: what it serves; the application's queue and those that its tasks name, if nothing is said.
            settings: see ``WorkerOptions``.
        """
        return BackgroundWorker(self.registry, self.database_url, self.worker_options(queues, **settings))


class SyncWorkerMethods(WorkerMethods):
    """The worker methods of ``Absurd``."""

    def start_worker(self, queues: Sequence[str] | str | None = None, **settings: Unpack[WorkerSettings]) -> None:
        """Runs a worker here until SIGTERM or SIGINT.

        Then running tasks may end within ``grace_seconds``; the rest is handed back without charging an attempt.

        Args:
            queues: what it serves; the application's queue and those that its tasks name, if nothing is said.
            settings: ``concurrency`` (tasks at a time, 32), ``lease_seconds`` (30), ``poll_interval`` (1), ``grace_seconds``
                (30) and the other fields of ``WorkerOptions``.

        Raises:
            ConfigurationError: no task is registered, or a setting is out of range.
            QueueNotFoundError, SchemaError, DatabaseUnavailableError: the worker cannot begin.
        """
        run_worker(self.registry, self.database_url, self.worker_options(queues, **settings))

    def run_worker_once(self, queues: Sequence[str] | str | None = None, **settings: Unpack[WorkerSettings]) -> int:
        """Runs what is ready, in this thread, until nothing is; returns the number of runs. Sleeping tasks are left asleep.

        Args:
            queues: what it serves; the application's queue and those that its tasks name, if nothing is said.
            settings: see ``WorkerOptions``.
        """
        settings.setdefault("grace_seconds", ONCE_GRACE_SECONDS)
        return drain(self.registry, self.database_url, self.worker_options(queues, **settings))


class AsyncWorkerMethods(WorkerMethods):
    """The worker methods of ``AsyncAbsurd``."""

    async def start_worker(self, queues: Sequence[str] | str | None = None, **settings: Unpack[WorkerSettings]) -> None:
        """Runs a worker on the running event loop; see ``Absurd.start_worker``. Cancelling it ends the worker."""
        await serve(self.registry, self.database_url, self.worker_options(queues, **settings))

    async def run_worker_once(self, queues: Sequence[str] | str | None = None, **settings: Unpack[WorkerSettings]) -> int:
        """Runs what is ready until nothing is; see ``Absurd.run_worker_once``."""
        settings.setdefault("grace_seconds", ONCE_GRACE_SECONDS)
        return await serve_once(self.registry, self.database_url, self.worker_options(queues, **settings))
