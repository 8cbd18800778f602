"""Listeners, as methods of clients; generated from ``listeners.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from typing import Any

import psycopg

from absurd.client.shells import AsyncShell
from absurd.queries import listeners
from absurd.queries.listeners import ListenerInfo
from absurd.registry import check_name


class AsyncListenerMethods(AsyncShell):
    """What ``AsyncAbsurd`` does with listeners."""

    async def list_listeners(
        self, name: str | None = None, *, conn: psycopg.AsyncConnection[Any] | None = None
    ) -> list[ListenerInfo]:
        """The listener processes, or those of one name, the oldest first; see ``ListenerInfo`` for what is known of each."""
        return await self._run(listeners.list_listeners(None if name is None else check_name("listener name", name)), conn)
