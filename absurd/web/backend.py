"""What all routes share: the settings, and a client of their own."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

from absurd.client import AsyncAbsurd
from absurd.client.base import BaseClient
from absurd.errors import ConfigurationError

SECRET_VARIABLE = "WEBHOOK_SECRET"
# Bytes of a request's body: 1 MiB, far above what people post and below what could fill a server's memory.
MAX_BODY_BYTES = 1024 * 1024
# Seconds that a request waits for a lock: an open transaction somewhere, which has emitted an event of the same name, say, must
# not take one connection after the other until no other request has any.
LOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How the routes behave; see ``absurd.web.router``."""

    webhook_secret: str | None = None
    allow_unsigned: bool = False
    max_body_bytes: int = MAX_BODY_BYTES


def make_settings(webhook_secret: str | None, allow_unsigned: bool, max_body_bytes: int) -> Settings:
    """The settings, checked; a secret that was not given is read from the environment.

    Raises:
        ConfigurationError: one of them cannot be used.
    """
    if webhook_secret is None:
        webhook_secret = os.environ.get(SECRET_VARIABLE) or None
    if webhook_secret is not None and not (isinstance(webhook_secret, str) and webhook_secret.strip()):
        raise ConfigurationError("webhook_secret must be a string that is not blank")
    if allow_unsigned and webhook_secret is not None:
        raise ConfigurationError(
            f"a webhook secret is set (argument or {SECRET_VARIABLE}), so that allow_unsigned would undo it; give one of them"
        )
    if isinstance(max_body_bytes, bool) or not isinstance(max_body_bytes, int) or max_body_bytes < 1:
        raise ConfigurationError(f"max_body_bytes must be a whole number of 1 or more, not {max_body_bytes!r}")
    return Settings(webhook_secret, allow_unsigned, max_body_bytes)


@dataclass(slots=True)
class Backend:
    """The application that is served, and the client that does it: made at its first use, so that nothing connects before."""

    app: BaseClient | None
    settings: Settings
    _client: AsyncAbsurd | None = field(default=None, init=False)

    async def client(self) -> AsyncAbsurd:
        """A client on the application's database, with its queue, tasks and hooks."""
        if self._client is not None and self.app is not None and self._client.database_url != self.app.database_url:
            await self.close()  # the application was bound to another one
        if self._client is None:
            # On a thread: the embedded PostgreSQL may have to be started first.
            made = await asyncio.to_thread(self._make)
            if self._client is None:
                self._client = made
        return self._client

    def _make(self) -> AsyncAbsurd:
        if self.app is None:
            client = AsyncAbsurd()
            _ = client.database_url
        else:
            client = AsyncAbsurd(self.app.database_url, self.app.queue_name, pool_size=self.app.pool_size)
            client.registry = self.app.registry
        client._lock_seconds = LOCK_SECONDS
        return client

    async def close(self) -> None:
        """Closes the client; the application's own connections are not touched."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def require_app(app: Any) -> BaseClient | None:
    """The application, if it is one.

    Raises:
        ConfigurationError: it is something else.
    """
    if app is None or isinstance(app, BaseClient):
        return app
    raise ConfigurationError(f"absurd.web takes an Absurd or AsyncAbsurd application, not {app!r}")
