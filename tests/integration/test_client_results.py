"""Waiting for the end of a task: by notification, through broken connections, and never in vain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest

from absurd import Absurd, AsyncAbsurd, errors, schema
from absurd.client import waiting
from absurd.db import run
from absurd.queries.runs import complete_runs
from absurd.writes import Complete
from tests.conftest import MakeServer
from tests.ending import claim, complete, count, cut_others, fail
from tests.support import wait_until, wait_until_async

Conn = psycopg.Connection[Any]


@dataclass
class Receipt:
    number: int


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as client:
        yield client


@pytest.fixture
def no_safety_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: only what is heard ends a wait."""
    monkeypatch.setattr(waiting, "SAFETY_SECONDS", 3600.0)
    monkeypatch.setattr(waiting, "WATCH_SECONDS", 7200.0)
    monkeypatch.setattr(waiting, "LISTEN_SECONDS", 3600.0)


def watched(conn: Conn) -> int:
    row = conn.execute("select count(*) from absurd.waits where kind = 'client'").fetchone()
    assert row is not None
    return int(row[0])


def listeners(conn: Conn) -> list[int]:
    rows = conn.execute(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'absurd client: results'"
        " and query like 'listen%' and state = 'idle'"
    ).fetchall()
    return [pid for (pid,) in rows]


@pytest.mark.usefixtures("no_safety_net")
def test_a_notification_ends_the_wait(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    with ThreadPoolExecutor() as executor:
        waiting_for = executor.submit(handle.result, timeout=60)
        wait_until(lambda: watched(conn) == 1)
        complete(conn, handle.task_id, {"z": 1, "a": 2})
        before = time.monotonic()
        assert list(waiting_for.result(20)) == ["z", "a"]
    assert time.monotonic() - before < 2
    assert watched(conn) == 0


@pytest.mark.usefixtures("no_safety_net")
def test_many_threads_share_one_listener(app: Absurd, conn: Conn) -> None:
    handles = app.spawn_many("work", range(20))
    with ThreadPoolExecutor(20) as executor:
        results = [executor.submit(handle.result, timeout=60) for handle in handles]
        wait_until(lambda: watched(conn) == 20)
        assert len(listeners(conn)) == 1
        done = [Complete(holder, f'"{task_id}"') for task_id, holder in claim(conn).items()]
        assert len(run(conn, complete_runs(done))) == 20
        assert [UUID(result.result(20)) for result in results] == [handle.task_id for handle in handles]


def test_a_task_that_has_ended_needs_no_listener(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    complete(conn, handle.task_id, None)
    assert handle.result(timeout=0) is None
    assert listeners(conn) == []


def test_a_timeout_says_how_far_the_task_is_and_takes_the_watch_back(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    with pytest.raises(TimeoutError, match=rf"task {handle.task_id} is still pending after 0\.05 s"):
        handle.result(timeout=0.05)
    with pytest.raises(errors.TimeoutError):
        handle.result(timeout=0)
    assert watched(conn) == 0


def test_a_failure_is_raised_with_its_name_and_message(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    fail(conn, handle.task_id, "ValueError", "no such card")
    with pytest.raises(errors.TaskFailedError, match=rf"task {handle.task_id} failed: ValueError: no such card") as caught:
        handle.result()
    assert caught.value.failure == {"name": "ValueError", "message": "no such card"}
    assert handle.snapshot().failure == caught.value.failure


@pytest.mark.usefixtures("no_safety_net")
def test_a_cancellation_ends_the_wait(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    with ThreadPoolExecutor() as executor:
        waiting_for = executor.submit(handle.result)
        wait_until(lambda: watched(conn) == 1)
        handle.cancel()
        with pytest.raises(errors.TaskCancelledError, match="was cancelled"):
            waiting_for.result(20)


def test_a_result_comes_in_the_type_that_the_task_declares(app: Absurd, conn: Conn) -> None:
    @app.register_task
    def pay(params: Any, ctx: Any) -> Receipt:
        return Receipt(1)

    handle = app.spawn(pay)
    assert handle.snapshot().result is None
    complete(conn, handle.task_id, {"number": 7})
    assert handle.result(timeout=5) == Receipt(7)
    assert handle.snapshot().result == Receipt(7)
    assert app.task(handle.task_id, pay).result(timeout=5) == Receipt(7)
    assert app.task(handle.task_id).result(timeout=5) == {"number": 7}
    other = app.spawn(pay)
    complete(conn, other.task_id, {"number": "seven"})
    with pytest.raises(errors.ValidationError, match=f"result of task {other.task_id}"):
        other.result(timeout=5)


@pytest.mark.usefixtures("no_safety_net")
def test_a_cut_listener_comes_back_and_hears_the_end(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    with ThreadPoolExecutor() as executor:
        waiting_for = executor.submit(handle.result, timeout=60)
        wait_until(lambda: watched(conn) == 1)
        (before,) = wait_until(lambda: listeners(conn))
        assert cut_others(conn) >= 1
        wait_until(lambda: listeners(conn) not in ([], [before]))
        complete(conn, handle.task_id, "done")
        assert waiting_for.result(20) == "done"


@pytest.mark.usefixtures("no_safety_net")
def test_an_end_that_nobody_heard_is_seen_after_the_reconnect(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    with ThreadPoolExecutor() as executor:
        waiting_for = executor.submit(handle.result, timeout=60)
        wait_until(lambda: watched(conn) == 1)
        with conn.transaction():
            # The notification goes out with this commit, when the listener is gone for certain and not back yet or back already.
            complete(conn, handle.task_id, "done")
            cut_others(conn)
        assert waiting_for.result(20) == "done"


def test_the_safety_net_works_without_a_listener(app: Absurd, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SAFETY_SECONDS", 0.02)
    handle = app.spawn("work")
    with ThreadPoolExecutor() as executor:
        waiting_for = executor.submit(handle.result, timeout=60)
        wait_until(lambda: watched(conn) == 1)
        conn.execute("delete from absurd.waits")
        complete(conn, handle.task_id, "done")
        assert waiting_for.result(20) == "done"


@pytest.mark.usefixtures("no_safety_net")
def test_a_restart_of_the_server_during_a_wait_is_survived(make_server: MakeServer) -> None:
    server = make_server()
    with psycopg.connect(server.url(), autocommit=True) as setup:
        schema.install(setup)
    with Absurd(server.url()) as app, ThreadPoolExecutor() as executor:
        handle = app.spawn("work")
        waiting_for = executor.submit(handle.result, timeout=60)
        with psycopg.connect(server.url(), autocommit=True) as conn:
            wait_until(lambda: watched(conn) == 1)
        server.restart("fast")
        with psycopg.connect(server.url(), autocommit=True) as conn:
            complete(conn, handle.task_id, "done")
        assert waiting_for.result(40) == "done"


def test_waiting_inside_the_open_transaction_is_refused(app: Absurd, database_url: str, conn: Conn) -> None:
    with psycopg.connect(database_url) as mine:
        handle = app.spawn("work", conn=mine)
        with pytest.raises(errors.ConfigurationError, match="still open"):
            handle.result()
        mine.commit()
        mine.execute("select 1")  # a later transaction is no hindrance
        complete(conn, handle.task_id, "done")
        assert handle.result(timeout=20) == "done"
        lost = app.spawn("work", conn=mine)
        mine.rollback()
        with pytest.raises(errors.TaskNotFoundError, match="never committed"):
            lost.result()


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_client_on_a_connection_waits_by_looking(database_url: str, conn: Conn, autocommit: bool) -> None:
    with psycopg.connect(database_url, autocommit=autocommit) as mine:
        app = Absurd(mine)
        handle = app.spawn("work")
        if not autocommit:
            with pytest.raises(errors.ConfigurationError, match="still open"):
                handle.result()
            mine.commit()
        with pytest.raises(errors.TimeoutError):
            handle.result(timeout=0.05)
        assert mine.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        ending = threading.Thread(target=lambda: complete(conn, handle.task_id, "done"))
        ending.start()
        assert handle.result(timeout=20) == "done"
        ending.join()


def test_a_dropped_queue_ends_the_wait(app: Absurd, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SAFETY_SECONDS", 0.02)
    app.create_queue("other")
    handle = app.spawn("work", queue="other")
    with ThreadPoolExecutor() as executor:
        waiting_for = executor.submit(handle.result, timeout=60)
        wait_until(lambda: watched(conn) == 1)
        app.drop_queue("other")
        with pytest.raises(errors.TaskNotFoundError, match="is gone"):
            waiting_for.result(20)


@pytest.mark.usefixtures("no_safety_net")
async def test_async_waits_hear_the_end_also_after_a_cut(database_url: str, conn: Conn) -> None:
    async with AsyncAbsurd(database_url) as app:
        handles = await app.spawn_many("work", range(3))
        results = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
        await wait_until_async(lambda: watched(conn) == 3)
        (before,) = listeners(conn)
        await asyncio.to_thread(complete, conn, handles[0].task_id, 0)
        assert await asyncio.wait_for(results[0], 20) == 0
        await asyncio.to_thread(cut_others, conn)
        await wait_until_async(lambda: listeners(conn) not in ([], [before]))
        conn.execute("update absurd.runs set state = 'pending', worker_id = null, lease_expires_at = null")
        await asyncio.to_thread(complete, conn, handles[1].task_id, 1)
        assert await asyncio.wait_for(results[1], 20) == 1
        results[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await results[2]
        with pytest.raises(errors.TimeoutError, match="still running"):
            await handles[2].result(timeout=0.05)


async def test_async_handles_refuse_an_open_transaction(database_url: str) -> None:
    async with AsyncAbsurd(database_url) as app, await psycopg.AsyncConnection.connect(database_url) as mine:
        handle = await app.spawn("work", conn=mine)
        with pytest.raises(errors.ConfigurationError, match="still open"):
            await handle.result()
        other = await AsyncAbsurd(mine).spawn("work")
        with pytest.raises(errors.ConfigurationError, match="still open"):
            await other.result()


def test_an_async_client_may_go_from_loop_to_loop(database_url: str, conn: Conn) -> None:
    app = AsyncAbsurd(database_url)

    async def once() -> Any:
        handle = await app.spawn("work")
        result = asyncio.create_task(handle.result(timeout=60))
        await wait_until_async(lambda: watched(conn) == 1)
        await asyncio.to_thread(complete, conn, handle.task_id, str(handle.task_id))
        assert await result == str(handle.task_id)

    asyncio.run(once())
    asyncio.run(once())
    asyncio.run(app.close())


def test_closing_ends_the_connections_and_the_thread(database_url: str, conn: Conn) -> None:
    app = Absurd(database_url)
    with pytest.raises(errors.TimeoutError):
        app.spawn("work").result(timeout=0.05)
    wait_until(lambda: listeners(conn))
    assert any(thread.name == "absurd client" for thread in threading.enumerate())
    app.close()
    assert not any(thread.name == "absurd client" for thread in threading.enumerate())
    wait_until(lambda: count_clients(conn) == 0)
    with pytest.raises(errors.DatabaseUnavailableError, match="has been closed"):
        app.spawn("work")


def count_clients(conn: Conn) -> int:
    row = conn.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'absurd client%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


LEAVING = """
import sys
from absurd import Absurd, TimeoutError
app = Absurd(sys.argv[1])
try:
    app.spawn("work").result(timeout=0.3)
except TimeoutError:
    print("late")
"""


def test_a_program_that_never_closes_its_client_ends_all_the_same(database_url: str, conn: Conn) -> None:
    done = subprocess.run([sys.executable, "-X", "dev", "-c", LEAVING, database_url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "late\n", "")
    assert count(conn, "tasks") == 1


def test_a_worker_of_the_app_runs_what_it_spawns(app: Absurd, database_url: str) -> None:
    @app.register_task
    def add(params: dict[str, int], ctx: Any) -> int:
        return params["a"] + params["b"]

    handle = app.spawn(add, {"a": 1, "b": 2})
    assert app.run_worker_once() == 1
    assert handle.result(timeout=0) == 3
    with app.worker(poll_interval=60):
        assert app.spawn(add, {"a": 3, "b": 4}).result(timeout=20) == 7
