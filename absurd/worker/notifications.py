"""Hears that a queue has work. What it misses, polling finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg

from absurd import failpoints
from absurd.db import Notices, connect_async, run_async, translate
from absurd.loops import Loop
from absurd.queries import workers as queries

# Seconds until the next attempt to connect; polling serves meanwhile.
RECONNECT_SECONDS = 0.5


class Notifications(Loop):
    """Listens on the channels of some queues and calls back with the queue's name. One tick lasts as long as its connection."""

    def __init__(self, url: str, queue_names: Sequence[str], notify: Callable[[str], None]) -> None:
        super().__init__("notifications", RECONNECT_SECONDS)
        self._url = url
        self._queue_names = queue_names
        self._notify = notify

    async def tick(self) -> float | None:
        """Listens until the connection breaks."""
        conn = await connect_async(self._url, application_name="absurd worker: notifications")
        try:
            notices = Notices(conn)
            channels = {await run_async(conn, queries.queue_channel(name)): name for name in self._queue_names}
            for channel in channels:
                await run_async(conn, queries.listen(channel))
            if failpoints.hook is not None:
                failpoints.hook("notifications.listening", self)
            for name in self._queue_names:
                self._notify(name)
            while True:
                for channel in {notice.channel for notice in await notices.wait()}:
                    self._notify(channels[channel])
        except psycopg.Error as error:
            raise translate(error, self._url) from error
        finally:
            await conn.close()
