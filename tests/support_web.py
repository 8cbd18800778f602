"""Clients of the HTTP API for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.testclient import TestClient

import absurd.web
from absurd.client.base import BaseClient

KEY = "a-key-for-tests"
SECRET = "a-webhook-secret"


@contextmanager
def serving(app: BaseClient | None, **settings: Any) -> Iterator[TestClient]:
    """A client of the HTTP API of an application, in this process, which names the API key."""
    web = absurd.web.create_app(app, **{"api_key": KEY, "webhook_secret": SECRET, **settings})
    # Errors that the server did not answer itself must not look like answers of 500.
    with TestClient(web, headers={"X-API-Key": KEY}, raise_server_exceptions=True) as client:
        yield client
