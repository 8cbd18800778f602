"""Applications for tests of running tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support_tasks import KINDS, Play


@pytest.fixture(params=KINDS)
def play(request: pytest.FixtureRequest, database_url: str) -> Iterator[Play]:
    """An application on the test's database; the test runs once with sync and once with async handlers."""
    made = Play(database_url, request.param)
    yield made
    made.close()


@pytest.fixture
def sync_play(database_url: str) -> Iterator[Play]:
    """The same with sync handlers only, where the kind of handler makes no difference."""
    made = Play(database_url, "sync")
    yield made
    made.close()


@pytest.fixture
def async_play(database_url: str) -> Iterator[Play]:
    """The same with async handlers only."""
    made = Play(database_url, "async")
    yield made
    made.close()
