"""The pytest plugin: fixtures for tests of tasks. It imports nothing of the library before a test asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, overload

import pytest

if TYPE_CHECKING:
    from absurd import Absurd, AsyncAbsurd
    from absurd.testing import AsyncTestApp, Databases, TestApp


class AppFactory(Protocol):
    """What the fixture ``absurd_test`` is, for annotations."""

    @overload
    def __call__(self, app: Absurd, *, inline: bool = False) -> TestApp: ...

    @overload
    def __call__(self, app: AsyncAbsurd, *, inline: bool = False) -> AsyncTestApp: ...


@pytest.fixture(scope="session")
def absurd_prepare_database() -> Callable[[str], object] | None:
    """Override it to add to every clean database what your application needs: return a function that is given a URL.

    It is called once; its database, with your tables in it, is what each test's is copied from.
    """
    return None


@pytest.fixture(scope="session")
def absurd_databases(absurd_prepare_database: Callable[[str], object] | None) -> Iterator[Databases]:
    """Makes the clean databases of this run, on ``ABSURD_TEST_DATABASE_URL`` or on a throw-away server."""
    from absurd.testing.databases import Databases

    databases = Databases(prepare=absurd_prepare_database)
    yield databases
    databases.close()


@pytest.fixture
def absurd_database_url(absurd_databases: Databases) -> Iterator[str]:
    """The URL of a clean database for this test alone, with the schema and the queue ``default``. Its clock is the real one."""
    url = absurd_databases.create()
    yield url
    absurd_databases.drop(url)


@pytest.fixture
def absurd_test(absurd_database_url: str) -> Iterator[AppFactory]:
    """Takes an application into the test: ``t = absurd_test(app)``.

    Until the end of the test it works on ``absurd_database_url``, where time stands still. With ``inline=True`` the tasks that it
    spawns run at once. Returns a ``TestApp``, for an ``AsyncAbsurd`` an ``AsyncTestApp``; for the same application the same one.
    """
    from absurd.errors import ConfigurationError
    from absurd.testing.session import make

    made: dict[int, tuple[Any, bool]] = {}
    with ExitStack() as stack:

        def test(app: Any, *, inline: bool = False) -> Any:
            if id(app) not in made:
                made[id(app)] = stack.enter_context(make(app, absurd_database_url, inline=inline)), inline
            found, is_inline = made[id(app)]
            if inline != is_inline:
                raise ConfigurationError(
                    f"absurd_test(app, inline={inline}): the application is in this test already, with inline={is_inline}; "
                    "call it once, or alike"
                )
            return found

        yield test
