"""What a worker says when its connection for notifications is cut."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from absurd.errors import DatabaseUnavailableError
from absurd.worker.notifications import Notifications
from tests.support import wait_until_async

CUT = (
    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
    " where datname = current_database() and application_name = 'absurd worker: notifications'"
)


async def test_a_cut_is_an_error_that_explains_itself(database_url: str, conn: psycopg.Connection[Any]) -> None:
    """An error of the driver would be logged as a bug, with its traceback, at each restart of PostgreSQL."""
    heard: list[str] = []
    tick = asyncio.create_task(Notifications(database_url, ["default"], heard.append).tick())
    await wait_until_async(lambda: heard)
    assert conn.execute(CUT).fetchone() == (1,)
    with pytest.raises(DatabaseUnavailableError):
        await asyncio.wait_for(tick, 30)
