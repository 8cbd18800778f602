"""What a connection is notified of, and what waiting for it costs."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from absurd.db import Notices, connect_async
from absurd.db.connect import AsyncConnection

Conn = psycopg.Connection[Any]


@pytest.fixture
async def listening(database_url: str) -> AsyncIterator[AsyncConnection]:
    listening = await connect_async(database_url, application_name="listening")
    yield listening
    await listening.close()


@pytest.fixture
async def notices(listening: AsyncConnection) -> Notices:
    notices = Notices(listening)
    await listening.execute("listen news")
    return notices


async def test_what_comes_beside_a_query_and_what_comes_alone_is_heard_in_order(
    listening: AsyncConnection, notices: Notices, conn: Conn
) -> None:
    conn.execute("select pg_notify('news', 'fünf')")
    await listening.execute("select 1")
    conn.execute("select pg_notify('news', 'sechs ✓')")
    heard: list[str] = []
    while len(heard) < 2:
        heard += [notice.payload for notice in await asyncio.wait_for(notices.wait(), 20)]
    assert heard == ["fünf", "sechs ✓"]
    assert await notices.wait(0.05) == []
    assert await notices.wait(0) == []


async def test_a_burst_is_heard_whole(notices: Notices, conn: Conn) -> None:
    """Far more than fits a buffer, in pieces of all lengths."""
    heard: list[str] = []
    conn.execute("select pg_notify('news', n || repeat('x', (n * 37) % 7900)) from generate_series(1, 3000) n")
    while len(heard) < 3000:
        some = await notices.wait(20)
        assert some, f"only {len(heard)} were heard"
        heard += [notice.payload for notice in some]
    assert heard == [f"{n}{'x' * (n * 37 % 7900)}" for n in range(1, 3001)]


async def test_a_connection_that_is_cut_ends_the_wait(notices: Notices, conn: Conn) -> None:
    waiting = asyncio.create_task(notices.wait())
    await asyncio.sleep(0.05)
    conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'listening'")
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(waiting, 20)


async def test_after_a_wait_was_cancelled_the_next_one_hears_everything(notices: Notices, conn: Conn) -> None:
    waiting = asyncio.create_task(notices.wait())
    await asyncio.sleep(0)
    conn.execute("select pg_notify('news', 'early')")
    waiting.cancel()
    await asyncio.wait({waiting})
    conn.execute("select pg_notify('news', 'late')")
    heard: list[str] = []
    while "late" not in heard:
        heard += [notice.payload for notice in await asyncio.wait_for(notices.wait(), 20)]
    assert heard == ["early", "late"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the switches of a thread")
def test_who_waits_sleeps(database_url: str) -> None:
    async def wait() -> int:
        async with await connect_async(database_url) as listening:
            notices = Notices(listening)
            await listening.execute("listen news")
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            assert await notices.wait(1.0) == []
            return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    assert asyncio.run(wait()) <= 4
