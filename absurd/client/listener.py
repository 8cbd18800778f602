"""Hears that tasks have ended: one connection per client, on a channel of its own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg

from absurd.db import Notices, connect_async, run_async, translate
from absurd.loops import Loop
from absurd.queries.workers import listen

# Seconds until the next attempt to connect; those who wait look by themselves meanwhile.
RECONNECT_SECONDS = 0.5


class Listener(Loop):
    """Calls back whoever waits for a task that ends, and everybody after a reconnect. A tick lasts as long as its connection."""

    def __init__(self, url: str) -> None:
        super().__init__("result notifications", RECONNECT_SECONDS)
        self._url = url
        # Never one of somebody else's: the channel is part of the watch that the database keeps.
        self.channel = f"absurd_client_{uuid.uuid4().hex}"
        self.listening = False
        # Waiters come from any thread, notifications on the loop.
        self._lock = threading.Lock()
        self._waiters: dict[str, list[Callable[[], None]]] = {}

    @contextmanager
    def waiter(self, task_id: UUID, call: Callable[[], object]) -> Iterator[None]:
        """Has ``call`` called, on the loop's thread, whenever there may be news of the task, for the length of the block."""

        def wake() -> None:
            call()

        key = str(task_id)
        with self._lock:
            self._waiters.setdefault(key, []).append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._waiters[key].remove(wake)
                if not self._waiters[key]:
                    del self._waiters[key]

    async def tick(self) -> float | None:
        """Listens until the connection breaks."""
        conn = await connect_async(self._url, application_name="absurd client: results")
        try:
            notices = Notices(conn)
            await run_async(conn, listen(self.channel))
            self.listening = True
            # Whatever was said before this moment was not heard: all have to look, and to ask again.
            self._call(None)
            while True:
                for notice in await notices.wait():
                    self._call(notice.payload)
        except psycopg.Error as error:
            raise translate(error, self._url) from error
        finally:
            self.listening = False
            await conn.close()

    def _call(self, key: str | None) -> None:
        with self._lock:
            groups = list(self._waiters.values()) if key is None else [self._waiters.get(key, [])]
            calls = [wake for group in groups for wake in group]
        for wake in calls:
            wake()
