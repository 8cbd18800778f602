"""Hears what a connection is notified of, and sleeps until then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg

from absurd.db.connect import AsyncConnection


class Notices:
    """What a connection for LISTEN hears. Belongs to one event loop, and nothing else may wait on the connection meanwhile.

    The driver's ``notifies()`` looks ten times a second whether something has come, for as long as it waits: more than all that a
    worker at rest does otherwise. This one is woken by the socket alone.
    """

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        self._heard: list[psycopg.Notify] = []
        # What comes along with the answers of queries.
        conn.add_notify_handler(self._heard.append)

    async def wait(self, seconds: float | None = None) -> Sequence[psycopg.Notify]:
        """All that has been heard since the last time, as soon as it is anything; nothing after so many seconds.

        Raises:
            psycopg.OperationalError: the connection is lost.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._heard:
                    await self._readable()
                    self._read()
        except TimeoutError:
            pass
        heard = self._heard.copy()
        self._heard.clear()
        return heard

    async def _readable(self) -> None:
        loop, descriptor = asyncio.get_running_loop(), self._conn.fileno()
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)

    def _read(self) -> None:
        server, encoding, before = self._conn.pgconn, self._conn.info.encoding, -1
        # Until there is nothing more: what TLS has read already does not make the socket readable.
        while before < len(self._heard):
            before = len(self._heard)
            server.consume_input()
            while (notify := server.notifies()) is not None:
                channel, payload = notify.relname.decode(encoding), notify.extra.decode(encoding)
                self._heard.append(psycopg.Notify(channel, payload, notify.be_pid))
