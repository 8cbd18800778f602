"""The order workflow's surroundings: a database of its own, and an application on the queue of the examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from absurd import Absurd
from tests.acceptance.programs import environment


@pytest.fixture
def env(database_url: str) -> dict[str, str]:
    """The environment of programs that work on the test's database."""
    return environment(ABSURD_DATABASE_URL=database_url)


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    """An application on the queue ``examples``, which exists."""
    with Absurd(database_url, "examples") as application:
        application.create_queue()
        yield application
