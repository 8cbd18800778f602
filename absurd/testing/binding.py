"""Points an application at another database for a while: the one that a module made for production serves the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from absurd.client.base import BaseClient
from absurd.db.pool import finish_all
from absurd.location import VARIABLES

App = TypeVar("App", bound=BaseClient)

# What a client knows of its database. The rest of it, such as its tasks and hooks, stays as it is.
_PLACE = ("_url", "_given_url", "_conn", "_setup_lock", "_pool_made", "_background", "_listener_made")


@contextlib.contextmanager
def bind(app: App, url: str) -> Iterator[App]:
    """Has an ``Absurd`` or ``AsyncAbsurd`` work on another database for the length of the block, and gives it its own back then.

    Clients that are made meanwhile without a URL go there too: ``ABSURD_DATABASE_URL`` is set as well.

    Args:
        app: the application; what was connected for it before stays connected.
        url: of the database, which has the schema.

    Example:

        with testing.database() as url, testing.bind(app, url):
            app.spawn(order, {"id": 1})
    """
    place = vars(app)
    before = {name: place.pop(name) for name in _PLACE if name in place}
    place.update(_url=url, _given_url=url, _conn=None, _setup_lock=threading.Lock())
    try:
        with _environment(url):
            yield app
    finally:
        _disconnect(app)
        for name in _PLACE:
            place.pop(name, None)
        place.update(before)


@contextlib.contextmanager
def _environment(url: str) -> Iterator[None]:
    name = VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = url
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _disconnect(app: Any) -> None:
    """Ends what the client has connected, an async one also when its event loop has gone."""
    made = vars(app).get("_listener_made")
    if made is not None:
        listener, loop = made
        _finish_on(loop, listener.stop)
    if (background := vars(app).get("_background")) is not None:
        background.stop()
    pool = vars(app).get("_pool_made")
    if pool is not None:
        pool._closed = True
        idle, pool._idle[:] = list(pool._idle), []
        finish_all(idle)


def _finish_on(loop: asyncio.AbstractEventLoop, stop: Any) -> None:
    """Stops a loop of ours on its event loop, which may run, be between two tests, or be closed."""
    if loop.is_closed():
        return
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(stop(), loop)
    else:
        loop.run_until_complete(stop())
