"""The database of the dashboard: a client of its own, which only reads when the dashboard only shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from absurd.client import AsyncAbsurd
from absurd.db import AsyncPool
from absurd.queries.dashboard import limit_session
from absurd.web.backend import LOCK_SECONDS, Backend

# Connections at most. A page takes one, for milliseconds.
CONNECTIONS = 5


@dataclass(slots=True)
class DashboardBackend(Backend):
    """The application that is shown, and the client that does it."""

    read_only: bool = False

    def _make(self) -> AsyncAbsurd:
        # Not super(): a dataclass with slots is another class than the one that this body belongs to.
        client = Backend._make(self)
        client._pool_made = AsyncPool(
            client.database_url,
            max_size=CONNECTIONS,
            application_name="absurd dashboard",
            lock_seconds=LOCK_SECONDS,
            set_up=partial(limit_session, self.read_only),
        )
        return client
