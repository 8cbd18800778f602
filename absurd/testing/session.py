"""The whole of a test in one ``with``: a clean database, the application on it, and the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, overload

from absurd.client import Absurd, AsyncAbsurd
from absurd.errors import ConfigurationError
from absurd.testing.app import AsyncTestApp, TestApp
from absurd.testing.databases import database


@overload
def make(app: Absurd, url: str, *, inline: bool = False) -> TestApp: ...


@overload
def make(app: AsyncAbsurd, url: str, *, inline: bool = False) -> AsyncTestApp: ...


def make(app: Any, url: str, *, inline: bool = False) -> Any:
    """The test of an application, of the kind that fits it; it begins when it is entered."""
    if isinstance(app, AsyncAbsurd):
        return AsyncTestApp(app, url, inline=inline)
    if isinstance(app, Absurd):
        return TestApp(app, url, inline=inline)
    raise ConfigurationError(f"an Absurd or AsyncAbsurd application can be tested, not {app!r}; give the one in its module")


@overload
def run(app: Absurd, *, server: str | None = None, inline: bool = False) -> AbstractContextManager[TestApp]: ...


@overload
def run(app: AsyncAbsurd, *, server: str | None = None, inline: bool = False) -> AbstractContextManager[AsyncTestApp]: ...


@contextmanager
def run(app: Any, *, server: str | None = None, inline: bool = False) -> Iterator[Any]:
    """Has an application work on a clean database, under a clock that stands still, for the length of the block.

    Args:
        app: the application under test, for example that of the module which registers its tasks.
        server: the URL of a server on which databases may be created; otherwise as ``database`` says.
        inline: whether ``spawn`` of the application runs the task at once, up to its end or its first wait.

    Example:

        with testing.run(app) as t:
            task = app.spawn(order, {"id": 1})
            t.drain()
            t.assert_completed(task)
    """
    with database(server) as url, make(app, url, inline=inline) as test:
        yield test
