"""Pools survive what happens to connections, and say when they cannot."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from absurd.db import AsyncPool, Pool, async_pool, pool
from absurd.errors import DatabaseError, DatabaseUnavailableError
from absurd.queries.query import Query, scalar
from tests.conftest import MakeServer
from tests.ending import cut_others
from tests.support import wait_until

T = TypeVar("T")
PID: Query[int] = Query("select pg_backend_pid()", (), scalar)


def blocked_pid(conn: psycopg.Connection[Any]) -> int:
    """The one session of this database that waits for an advisory lock."""

    def look() -> int:
        row = conn.execute(
            "select a.pid from pg_locks l join pg_stat_activity a using (pid)"
            " where l.locktype = 'advisory' and not l.granted and a.datname = current_database()"
        ).fetchone()
        return row[0] if row else 0

    return wait_until(look, what="a blocked session")


@contextmanager
def held(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Holds advisory lock 1; let go at the latest at the end, so that a test which fails does not hang."""
    conn.execute("select pg_advisory_lock(1)")
    try:
        yield
    finally:
        conn.execute("select pg_advisory_unlock_all()")


def in_thread(executor: ThreadPoolExecutor, connections: Pool, query: Query[T]) -> Future[T]:
    return executor.submit(connections.run, query)


def test_connections_are_kept_and_a_cut_one_is_replaced(database_url: str, conn: psycopg.Connection[Any]) -> None:
    connections = Pool(database_url)
    first = connections.run(PID)
    assert connections.run(PID) == first
    assert cut_others(conn) == 1
    assert connections.run(PID) != first
    connections.close()


def test_a_query_that_must_not_be_repeated_finds_a_cut_connection_before_it_is_sent(
    database_url: str, conn: psycopg.Connection[Any]
) -> None:
    connections = Pool(database_url)
    first = connections.run(PID)
    assert cut_others(conn) == 1
    assert connections.run(Query("select pg_backend_pid()", (), scalar, repeatable=False)) != first
    connections.close()


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_cut_in_the_middle_of_a_query(database_url: str, conn: psycopg.Connection[Any], repeatable: bool) -> None:
    """A repeatable one is sent again; of another it is said that nobody knows."""
    connections = Pool(database_url)
    query: Query[int] = Query("select 7 from pg_advisory_xact_lock(1)", (), scalar, repeatable=repeatable)
    with ThreadPoolExecutor() as executor, held(conn):
        answer = in_thread(executor, connections, query)
        conn.execute("select pg_terminate_backend(%s)", [blocked_pid(conn)])
        if repeatable:
            blocked_pid(conn)
            conn.execute("select pg_advisory_unlock_all()")
            assert answer.result(20) == 7
        else:
            with pytest.raises(DatabaseUnavailableError, match="unknown whether it took effect"):
                answer.result(20)
    connections.close()


def test_the_victim_of_a_deadlock_is_sent_again(database_url: str, conn: psycopg.Connection[Any]) -> None:
    connections = Pool(database_url)
    both = Query("with a as materialized (select pg_advisory_xact_lock(1)) select 7 from a, pg_advisory_xact_lock(2)", (), scalar)
    both = Query(both.sql, (), scalar, repeatable=False)  # the server has undone it: even then
    conn.execute("set deadlock_timeout = '1h'")
    with ThreadPoolExecutor() as executor, conn.transaction():
        conn.execute("select pg_advisory_xact_lock(2)")
        answer = in_thread(executor, connections, both)
        blocked_pid_with(conn, holding=1)
        conn.execute("select pg_advisory_xact_lock(1)")
    assert answer.result(20) == 7
    connections.close()


def blocked_pid_with(conn: psycopg.Connection[Any], holding: int) -> None:
    def look() -> Any:
        return conn.execute(
            "select 1 from pg_locks h join pg_locks w using (pid) where h.locktype = 'advisory' and h.granted and h.objid = %s"
            " and w.locktype = 'advisory' and not w.granted",
            [holding],
        ).fetchone()

    wait_until(look, what="a session that holds one lock and waits for the other")


def test_a_restart_of_the_server_is_survived(make_server: MakeServer) -> None:
    server = make_server()
    connections = Pool(server.url())
    assert connections.run(PID)
    server.stop("fast")
    with ThreadPoolExecutor() as executor:
        answer = in_thread(executor, connections, PID)
        server.start()
        assert answer.result(40)
    server.restart("immediate")
    assert connections.run(PID)
    connections.close()


def test_a_server_that_was_never_reached_is_reported_at_once_and_without_the_password() -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        Pool("postgresql://ann:s3cret@127.0.0.1:1/orders").run(PID)
    message = str(caught.value)
    assert "postgresql://ann:***@127.0.0.1:1/orders" in message
    assert "ABSURD_DATABASE_URL" in message
    assert "s3cret" not in message
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_a_full_pool_says_what_to_raise(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LIMIT", 0.05)
    connections = Pool(database_url, max_size=1)
    with connections.connection(), pytest.raises(DatabaseUnavailableError, match=r"all 1 connections .* raise pool_size"):
        connections.run(PID)
    assert connections.run(PID)
    connections.close()


def test_no_more_connections_than_allowed(database_url: str, conn: psycopg.Connection[Any]) -> None:
    connections = Pool(database_url, max_size=3)
    with ThreadPoolExecutor(12) as executor:
        pids = set(executor.map(lambda _: connections.run(PID), range(200)))
    assert 1 <= len(pids) <= 3
    connections.close()


def test_what_a_block_leaves_open_is_rolled_back(database_url: str) -> None:
    connections = Pool(database_url, max_size=1)
    with connections.connection() as lent:
        lent.autocommit = False
        lent.execute("select absurd.create_queue('forgotten')")
    with connections.connection() as again:
        assert again is lent
        assert again.autocommit
        assert again.execute("select count(*) from absurd.queues where queue_name = 'forgotten'").fetchone() == (0,)
    connections.close()


def test_a_closed_pool_refuses_and_closes_what_comes_back(database_url: str, conn: psycopg.Connection[Any]) -> None:
    connections = Pool(database_url)
    with connections.connection() as lent:
        connections.close()
        assert not lent.closed
    assert lent.closed
    with pytest.raises(DatabaseUnavailableError, match="has been closed"):
        connections.run(PID)


def test_sessions_are_read_committed_whatever_the_role_says(database_url: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute(f"alter database \"{conn.info.dbname}\" set default_transaction_isolation = 'serializable'".encode())
    connections = Pool(database_url)
    settings: Query[Any] = Query("select array[current_setting('transaction_isolation'), current_setting('jit')]", (), scalar)
    assert connections.run(settings) == ["read committed", "off"]
    connections.close()


FORKING = """
import os, sys
from absurd.db import Pool
from absurd.queries.query import Query, scalar
pool = Pool(sys.argv[1])
query = Query("select pg_backend_pid()", (), scalar)
before = pool.run(query)
child = os.fork()
if child == 0:
    other = pool.run(query)
    os._exit(0 if other != before else 1)
assert os.waitpid(child, 0)[1] == 0
assert pool.run(query) == before
"""


def test_a_forked_child_leaves_the_connections_to_its_parent(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", FORKING, database_url], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


async def test_the_async_pool_replaces_cut_connections(database_url: str, conn: psycopg.Connection[Any]) -> None:
    connections = AsyncPool(database_url)
    first = await connections.run(PID)
    assert await connections.run(PID) == first
    assert cut_others(conn) == 1
    assert await connections.run(PID) != first
    again = await connections.run(PID)
    assert cut_others(conn) == 1
    assert await connections.run(Query("select pg_backend_pid()", (), scalar, repeatable=False)) != again
    await connections.close()
    with pytest.raises(DatabaseUnavailableError, match="has been closed"):
        await connections.run(PID)


async def test_the_async_pool_survives_a_cancelled_query(database_url: str, conn: psycopg.Connection[Any]) -> None:
    connections = AsyncPool(database_url, max_size=1)
    conn.execute("select pg_advisory_lock(1)")
    task = asyncio.create_task(connections.run(Query("select pg_advisory_xact_lock(1)", (), scalar)))
    await asyncio.to_thread(blocked_pid, conn)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await connections.run(Query("select 7", (), scalar)) == 7
    await connections.close()


@pytest.mark.parametrize("moments", range(4))
async def test_a_cancellation_in_the_moment_in_which_a_connection_is_free_is_heard(database_url: str, moments: int) -> None:
    connections = AsyncPool(database_url, max_size=1)
    async with connections.connection():
        waiting = asyncio.create_task(connections.run(PID))
        for _ in range(5):
            await asyncio.sleep(0)  # lets it come to where it waits
    for _ in range(moments):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await connections.run(PID)
    await connections.close()


async def test_the_async_pool_reports_a_full_pool(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_pool, "LIMIT", 0.05)
    connections = AsyncPool(database_url, max_size=1)
    async with connections.connection():
        with pytest.raises(DatabaseUnavailableError, match="raise pool_size"):
            await connections.run(PID)
    await connections.close()


def test_the_async_pool_follows_from_loop_to_loop(database_url: str) -> None:
    connections = AsyncPool(database_url)
    first = asyncio.run(connections.run(PID))
    assert asyncio.run(connections.run(PID)) != first
    asyncio.run(connections.close())


def test_an_error_of_the_server_is_not_repeated(database_url: str, conn: psycopg.Connection[Any]) -> None:
    connections = Pool(database_url)
    conn.execute("create sequence tries")
    with pytest.raises(DatabaseError, match="division by zero"):
        connections.run(Query("select nextval('tries') / %s", (0,), scalar))
    # A sequence keeps its value when a statement fails.
    assert connections.run(Query("select last_value from tries", (), scalar)) == 1
    connections.close()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"dbname": "nowhere"}, "Create the database, or correct its name in the URL that was given"),
        ({"user": "nobody_knows"}, "Create the role, or correct its name in the URL that was given"),
        ({"port": "1"}, "Start it, or correct host, port, database and role in the URL that was given"),
    ],
)
def test_who_cannot_connect_is_told_what_to_correct(database_url: str, changes: dict[str, str], advice: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match=advice):
        Pool(make_conninfo(database_url, **changes)).run(PID)
