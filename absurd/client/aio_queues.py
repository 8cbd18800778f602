"""Queues, as methods of clients; generated from ``queues.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from typing import Any, Unpack

from absurd.client.queue_options import QueueKeywords, queue_options
from absurd.client.shells import AsyncShell
from absurd.errors import QueueNotFoundError
from absurd.queries import queues, retention
from absurd.queries.retention import QueueOptions
from absurd.spawning import check_payload_limit, check_queue_name


class AsyncQueueMethods(AsyncShell):
    """What ``AsyncAbsurd`` does with queues. Without a name the app's own queue is meant."""

    async def create_queue(self, name: str | None = None, *, conn: Any = None, **options: Unpack[QueueKeywords]) -> None:
        """Creates a queue. One that exists stays as it is, with the options that it has: ``set_queue_options`` changes them.

        Args:
            name: of the queue.
            conn: as for ``spawn``.
            options: see ``QueueKeywords``; without any, everything is kept for ever.
        """
        queue = self._queue(name)
        if options:
            await self._run(retention.make_queue(queue, queue_options(options)), conn)
        else:
            await self._run(queues.create_queue(queue), conn)

    async def drop_queue(self, name: str, *, conn: Any = None) -> None:
        """Drops a queue with all its tasks and events. Nothing happens if it does not exist."""
        await self._run(queues.drop_queue(check_queue_name(name)), conn)

    async def list_queues(self, *, conn: Any = None) -> list[str]:
        """The names of all queues, in order."""
        return await self._run(queues.list_queues(), conn)

    async def pause_queue(self, name: str | None = None, *, conn: Any = None) -> None:
        """Stops the start of tasks of a queue; what runs goes on, and new tasks are accepted."""
        await self._run(queues.pause_queue(self._queue(name)), conn)

    async def resume_queue(self, name: str | None = None, *, conn: Any = None) -> None:
        """Lets tasks of a queue start again."""
        await self._run(queues.resume_queue(self._queue(name)), conn)

    async def set_queue_limits(self, name: str | None = None, *, max_payload_bytes: int, conn: Any = None) -> None:
        """Sets how large params, results, step states and payloads of a queue may be.

        Args:
            name: of the queue; otherwise the app's.
            max_payload_bytes: 1 kB to 256 MB; 10 MB at first.
            conn: as for ``spawn``.
        """
        await self._run(queues.set_max_payload_bytes(self._queue(name), check_payload_limit(max_payload_bytes)), conn)

    async def set_queue_options(self, name: str | None = None, *, conn: Any = None, **options: Unpack[QueueKeywords]) -> None:
        """Changes options of a queue, those that are given: how long it keeps what has ended, and how large values may be.

        Workers delete the rest at once, in small batches. Living tasks, events that nobody has taken, tasks that somebody waits
        for and finished children of living tasks stay in any case.

        Args:
            name: of the queue.
            conn: as for ``spawn``.
            options: see ``QueueKeywords``.
        """
        await self._run(retention.set_queue_options(self._queue(name), queue_options(options)), conn)

    async def queue_options(self, name: str | None = None, *, conn: Any = None) -> QueueOptions:
        """The options of a queue, and how much of it has been deleted so far. Raises ``QueueNotFoundError``."""
        queue = self._queue(name)
        for found in await self._run(retention.queue_options(queue), conn):
            return found
        raise QueueNotFoundError(f'queue "{queue}" does not exist; create it with app.create_queue() or absurdctl create-queue')
