"""Clients and workers behind a real PgBouncer: what works in session mode and what in transaction mode."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd import Absurd, AsyncAbsurd, ConfigurationError, QueueNotFoundError
from absurd.db import connect
from absurd.db.pooler import Pooling, find_pooling
from tests.cli import absurdctl, invoke, refused, write_app
from tests.support_dashboard import visiting
from tests.support_pgbouncer import pgbouncer
from tests.support_roles import logins
from tests.support_tasks import Play, count
from tests.support_web import serving

Conn = psycopg.Connection[Any]


@pytest.fixture
def session_url(database_url: str) -> Iterator[str]:
    with pgbouncer(database_url, "session") as url:
        yield url


@pytest.fixture
def transaction_url(database_url: str) -> Iterator[str]:
    """Few sessions for many clients, so that they do change hands."""
    with pgbouncer(database_url, "transaction", pool_size=3) as url:
        yield url


async def test_poolers_are_told_apart(database_url: str, session_url: str, transaction_url: str) -> None:
    assert await find_pooling(database_url) is Pooling.NONE
    assert await find_pooling(session_url) is Pooling.SESSION
    assert await find_pooling(transaction_url) is Pooling.TRANSACTION


async def test_a_pool_of_one_session_is_told_too(database_url: str) -> None:
    with pgbouncer(database_url, "transaction", pool_size=1) as url:
        assert await find_pooling(url) is Pooling.TRANSACTION


def test_a_worker_and_its_clients_work_in_session_mode(session_url: str, sync_play: Play) -> None:
    play = Play(session_url)

    @play.task("program")
    async def program(params: Any, ctx: Any) -> Any:
        await ctx.step("first", lambda: 1)
        await ctx.transaction("booked", lambda conn: conn.execute("select 1").fetchone()[0])
        child = await ctx.spawn("child", params)
        return [await ctx.await_event("go"), await ctx.await_task(child)]

    @play.task("child")
    async def child(params: Any, ctx: Any) -> Any:
        await ctx.sleep_for(0.05)
        return params

    with play.worker():
        handle = play.spawn("program", 7)
        play.app.emit_event("go", "now")
        assert handle.result(20) == ["now", 7]
        quick = play.spawn("child", 8)
        assert quick.result(20) == 8
    play.close()


def test_in_transaction_mode_clients_spawn_emit_and_get_results(transaction_url: str, sync_play: Play, conn: Conn) -> None:
    @sync_play.task("program")
    async def program(params: Any, ctx: Any) -> Any:
        return [params, await ctx.await_event(f"go {params}")]

    with sync_play.worker(), Absurd(transaction_url) as client:
        # More than five times the same statement: from then on a driver prepares it, which no other session would know.
        handles = [client.spawn("program", number, idempotency_key=f"key {number}") for number in range(30)]
        more = client.spawn_many("program", range(30, 40))
        for number in range(40):
            client.emit_event(f"go {number}", number)
        assert [handle.result(60) for handle in (*handles, *more)] == [[n, n] for n in range(40)]
        assert client.spawn("program", 0, idempotency_key="key 0").created is False
        assert client.get_result(handles[0].task_id).state == "completed"
        client.cancel_task(client.spawn("program", 99).task_id)
        with pytest.raises(QueueNotFoundError):
            client.spawn("program", queue="nowhere")


def test_in_transaction_mode_many_threads_share_few_sessions(transaction_url: str, sync_play: Play, conn: Conn) -> None:
    with Absurd(transaction_url) as client:

        def spawn(first: int) -> None:
            for number in range(first, first + 20):
                client.spawn("task", number, idempotency_key=str(number))

        threads = [threading.Thread(target=spawn, args=(20 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert count(conn, "select count(*) from absurd.tasks") == 160


async def test_in_transaction_mode_the_async_client_works_too(transaction_url: str, sync_play: Play) -> None:
    @sync_play.task("double")
    async def double(params: Any, ctx: Any) -> Any:
        return 2 * params

    worker = sync_play.worker()
    await asyncio.to_thread(worker.__enter__)
    try:
        async with AsyncAbsurd(transaction_url) as client:
            handles = [await client.spawn("double", number) for number in range(12)]
            assert await asyncio.gather(*(handle.result(60) for handle in handles)) == [2 * n for n in range(12)]
    finally:
        await asyncio.to_thread(worker.__exit__, None, None, None)


def test_in_transaction_mode_a_spawn_is_part_of_the_callers_transaction(
    transaction_url: str, sync_play: Play, conn: Conn
) -> None:
    with Absurd(transaction_url) as client, connect(transaction_url, autocommit=False) as mine:
        client.spawn("task", 1, conn=mine)
        mine.rollback()
        client.spawn("task", 2, conn=mine)
        mine.commit()
    assert conn.execute("select params::text from absurd.tasks").fetchall() == [("2",)]


@pytest.mark.parametrize("read_only", [False, True])
def test_in_transaction_mode_the_dashboard_works_and_leaves_its_settings_with_nobody(
    database_url: str, conn: Conn, read_only: bool
) -> None:
    with pgbouncer(database_url, "transaction", pool_size=1) as url, Absurd(url) as client, logins(conn):
        task = client.spawn("task", {"a": 1})
        client.emit_event("e", 1)
        with visiting(client, read_only=read_only) as visitor, connect(url) as other:
            for place in ("", "tasks", f"tasks/{task.task_id}", "events/1", "waits", "schedules", "queues", "workers"):
                visitor.get(place)
            if read_only:
                visitor.post(f"tasks/{task.task_id}/cancel", {}, 403)
            else:
                assert "is cancelled" in visitor.press(f"tasks/{task.task_id}", "Cancel")
            names = ("statement_timeout", "lock_timeout", "default_transaction_read_only", "role")
            assert [other.execute(f"show {name}".encode()).fetchone() for name in names] == [("0",), ("0",), ("off",), ("none",)]


def test_in_transaction_mode_the_http_api_works_and_leaves_its_settings_with_nobody(database_url: str, conn: Conn) -> None:
    with pgbouncer(database_url, "transaction", pool_size=1) as url, Absurd(url) as app, connect(url) as other:
        app.register_task("task")(lambda params, ctx: params)
        with serving(app) as api:
            # More than five times the same: from then on a driver prepares a statement, which no other session would know.
            for number in range(8):
                spawned = api.post("/api/tasks/task", json={"params": number})
                assert spawned.status_code == 201, spawned.text
            assert api.post("/api/events/trigger/e", json={"a": 1}).is_success
            assert api.get(f"/api/tasks/{spawned.json()['task_id']}").json()["state"] == "pending"
        assert other.execute(b"select current_setting('lock_timeout')").fetchone() == ("0",)


def test_in_transaction_mode_a_worker_refuses_and_says_what_to_do(transaction_url: str, tmp_path: Any) -> None:
    app = Absurd(transaction_url)
    app.register_task("task")(lambda params, ctx: None)
    with pytest.raises(ConfigurationError, match=r"transaction mode.*pool_mode=session"), app.worker():
        pass
    with pytest.raises(ConfigurationError, match="transaction mode"):
        app.run_worker_once()
    app.close()
    write_app(tmp_path)
    error = refused("worker", "--app", "shop:app", database=transaction_url, cwd=tmp_path)
    assert "transaction mode" in error


def test_the_command_line_works_in_transaction_mode(transaction_url: str) -> None:
    spawned = absurdctl("spawn-task", "add", "--json", database=transaction_url).json()
    assert absurdctl("show-task", spawned["task_id"], "--json", database=transaction_url).json()["state"] == "pending"
    done = invoke("doctor", "--json", database=transaction_url, code=2).json()
    [pooler] = [finding for finding in done["findings"] if finding["check"] == "pooler"]
    assert pooler["level"] == "warning"
    assert "pool_mode=session" in pooler["todo"]


def test_the_doctor_knows_a_pooler_in_session_mode(session_url: str) -> None:
    done = invoke("doctor", "--json", database=session_url, code=2).json()
    [pooler] = [finding for finding in done["findings"] if finding["check"] == "pooler"]
    assert (pooler["level"], "session mode" in pooler["what"]) == ("ok", True)
