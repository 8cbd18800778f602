"""Listeners, as methods of clients; ``aio_listeners.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from typing import Any

import psycopg

from absurd.client.shells import SyncShell
from absurd.queries import listeners
from absurd.queries.listeners import ListenerInfo
from absurd.registry import check_name


class ListenerMethods(SyncShell):
    """What ``Absurd`` does with listeners."""

    def list_listeners(self, name: str | None = None, *, conn: psycopg.Connection[Any] | None = None) -> list[ListenerInfo]:
        """The listener processes, or those of one name, the oldest first; see ``ListenerInfo`` for what is known of each."""
        return self._run(listeners.list_listeners(None if name is None else check_name("listener name", name)), conn)
