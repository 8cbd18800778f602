"""What the attacks on servers share."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from absurd import devdb
from tests.conftest import fast_directory, with_database

# What a process has written survives its crash without these; only the machine's would need them. It starts and recovers sooner.
SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def crash_server() -> Iterator[devdb.Server]:
    """A server that tests stop and crash. One for all tests of a process, each of which finds it running."""
    directory = Path(tempfile.mkdtemp(prefix="absurd-", dir=fast_directory()))
    directory.chmod(0o755)
    server = devdb.Server(directory / "crash", settings=SETTINGS)
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def crash_url(crash_server: devdb.Server) -> Iterator[str]:
    """The URL of an empty database on it, for this test alone."""
    crash_server.start()
    name = f"crash_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(crash_server.url(), autocommit=True) as conn:
        conn.execute(f"create database {name}".encode())
    yield with_database(crash_server.url(), name)
    crash_server.start()
    with psycopg.connect(crash_server.url(), autocommit=True) as conn:
        conn.execute(f"drop database {name} with (force)".encode())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait for minutes begin first."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)
