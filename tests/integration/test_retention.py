"""Workers and the command line keep what queues are told to keep, and no more."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, AsyncAbsurd, InvalidOptionError, QueueNotFoundError, schema
from absurd.db import run_async
from absurd.queries.retention import Retained, apply_retention
from absurd.worker import health
from absurd.worker.retention import LONGEST_PUT_OFF, LOOK_SECONDS, PUT_OFF, RetentionLoop
from tests.cli import invoke, refused
from tests.support import wait_until
from tests.support_roles import logins
from tests.support_tasks import Play, count

Conn = psycopg.Connection[Any]
BASELINE = Path(__file__).parents[1] / "baselines" / "1.sql"
OLD = "update absurd.tasks set spawned_at = spawned_at - interval '1 day', finished_at = finished_at - interval '1 day'"


def finished(play: Play, conn: Conn, number: int) -> None:
    """Tasks that ended a day ago."""

    if "task" not in play.handlers:

        @play.task("task")
        async def task(params: Any, ctx: Any) -> Any:
            return await ctx.step("only", lambda: params)

    play.app.spawn_many("task", list(range(number)))
    assert play.app.run_worker_once() == number
    conn.execute(OLD)


def test_a_worker_deletes_what_its_queue_need_not_keep(sync_play: Play, conn: Conn) -> None:
    finished(sync_play, conn, 500)
    sync_play.app.set_queue_options(keep_completed="1h")
    fresh = sync_play.spawn("task", 1)
    with sync_play.worker():
        assert fresh.result(20) == 1
        wait_until(lambda: count(conn, "select count(*) from absurd.tasks") == 1)
    assert count(conn, "select count(*) from absurd.checkpoints") == 1
    assert sync_play.app.queue_options().tasks_deleted == 500


def test_a_worker_that_is_told_not_to_leaves_it_to_the_others(sync_play: Play, conn: Conn) -> None:
    finished(sync_play, conn, 3)
    sync_play.app.set_queue_options(keep_completed=60)
    with sync_play.worker(retention=False):
        sync_play.spawn("task", 1).result(20)
        assert sync_play.app.queue_options().visited_at is None
    with sync_play.worker():
        wait_until(lambda: count(conn, "select count(*) from absurd.tasks") == 1)


def test_the_role_of_workers_suffices_and_that_of_readers_sees(conn: Conn) -> None:
    conn.execute("select absurd.set_queue_options('default', '{\"keep_completed\": 60}')")
    with logins(conn) as urls:
        with psycopg.connect(urls["worker"]) as worker:
            worker.execute("select * from absurd.apply_retention()")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute("select absurd.set_queue_options('default', '{}')")
        with psycopg.connect(urls["reader"]) as reader:
            assert reader.execute("select keep_completed from absurd.queue_options()").fetchall() == [(60,)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("select * from absurd.apply_retention()")


def test_options_are_given_at_the_creation_and_changed_later(database_url: str) -> None:
    with Absurd(database_url, "mail") as app:
        app.create_queue(keep_completed=timedelta(days=7), keep_failed="90d", keep_count=1000, max_payload_bytes=4096)
        app.create_queue(keep_completed=60)
        found = app.queue_options()
        assert (found.keep_completed, found.keep_failed, found.keep_cancelled) == (604_800, 7_776_000, None)
        assert (found.keep_count, found.keep_events, found.max_payload_bytes) == (1000, None, 4096)
        assert not found.keeps_all
        app.set_queue_options(keep_completed=None, keep_failed=None, keep_count=None)
        assert app.queue_options().keeps_all


async def test_the_same_by_the_async_client(database_url: str) -> None:
    async with AsyncAbsurd(database_url, "mail") as app:
        await app.create_queue(keep_events="1h")
        await app.set_queue_options(keep_count=5)
        found = await app.queue_options()
        assert (found.keep_events, found.keep_count) == (3600, 5)


@pytest.mark.parametrize(
    "options",
    [{"keep_completed": 59}, {"keep_failed": "soon"}, {"keep_events": -1}, {"keep_count": 0}, {"keep_count": True},
     {"keep_count": 2.0}, {"keep": 60}],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    app = Absurd("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        app.set_queue_options(**options)
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        app.create_queue("mail", **options)


def test_options_of_no_queue_are_refused(database_url: str) -> None:
    with Absurd(database_url) as app:
        with pytest.raises(QueueNotFoundError, match="create-queue"):
            app.queue_options("nowhere")
        with pytest.raises(QueueNotFoundError):
            app.set_queue_options("nowhere", keep_count=1)


def test_the_command_line_sets_and_shows_options(database_url: str) -> None:
    invoke("create-queue", "mail", "--keep-completed", "7d", "--keep-count", "10", database=database_url)
    again = invoke("create-queue", "mail", "--keep-completed", "1d", "--json", database=database_url).json()
    assert again == {"queue_name": "mail", "created": False}
    shown = invoke("set-queue", "mail", "--keep-failed", "90d", "--keep-count", "all", "--json", database=database_url).json()
    assert (shown["keep_completed"], shown["keep_failed"], shown["keep_count"]) == (604_800, 7_776_000, None)
    table = invoke("set-queue", "mail", "--keep-completed", "forever", database=database_url).out.splitlines()
    assert [line.split() for line in table[:3]] == [["OPTION", "mail"], ["keep_completed", "forever"], ["keep_failed", "90d"]]
    assert "60 seconds" in refused("set-queue", "mail", "--keep-failed", "1s", database=database_url)
    assert "does not exist" in refused("set-queue", "nowhere", database=database_url)
    assert "--keep-count" in refused("set-queue", "mail", "--keep-count", "some", database=database_url, code=2)


def test_cleanup_goes_by_the_options_where_there_are_some(sync_play: Play, conn: Conn, database_url: str) -> None:
    finished(sync_play, conn, 30)
    conn.execute("update absurd.queues set cleanup_limit = 7")
    sync_play.app.set_queue_options(keep_completed="2d")
    [kept] = invoke("cleanup", "--json", database=database_url).json()
    assert kept == {"queue_name": "default", "older_than_seconds": None, "tasks_deleted": 0, "events_deleted": 0}
    sync_play.app.set_queue_options(keep_completed="12h")
    assert invoke("cleanup", database=database_url).out.splitlines()[1].split() == ["default", "as", "set", "30", "0"]
    finished(sync_play, conn, 3)
    # Its walks rest now; who asks by hand means now.
    assert invoke("cleanup", "--json", database=database_url).json()[0]["tasks_deleted"] == 3


async def test_the_loop_waits_while_claims_are_slow_but_not_for_ever(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    loop = RetentionLoop(database_url, lambda: seconds[0])
    now = [1000.0]
    monkeypatch.setattr("absurd.worker.retention.time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    assert await loop.tick() != PUT_OFF
    seconds[0] = 1.0
    assert await loop.tick() == PUT_OFF
    now[0] += LONGEST_PUT_OFF + 1
    assert await loop.tick() != PUT_OFF
    await loop.stop()


async def test_one_process_deletes_and_the_others_look_again_later(database_url: str) -> None:
    first, second = (RetentionLoop(database_url, lambda: 0.0) for _ in range(2))
    await first._delete()
    assert (await second._delete()).busy
    await second.stop()
    await first.stop()
    assert not (await second._delete()).busy
    await second.stop()
    assert await second.tick() == LOOK_SECONDS  # nothing was deleted


def slow_link(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[Any], tuple[float, float]]) -> list[float]:
    """A clock that moves as if each batch took so long, on the server and on its way; the time."""
    now = [1000.0]

    async def run(conn: Any, query: Any) -> Any:
        found = await run_async(conn, query)
        server, way = seconds(found)
        now[0] += server + way
        return dataclasses.replace(found, seconds=server) if isinstance(found, Retained) else found

    monkeypatch.setattr("absurd.worker.retention.time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    monkeypatch.setattr("absurd.worker.retention.run_async", run)
    return now


def test_batches_take_their_time_and_no_more(sync_play: Play, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(sync_play, conn, 400)
    sync_play.app.set_queue_options(keep_completed=60)
    measured = [(0.0, 0.0)]
    slow_link(monkeypatch, lambda found: measured[0])
    loop = RetentionLoop(sync_play.url, lambda: 0.0)

    async def ticks() -> None:
        for slow, way, limit in ((1.0, 0.0, 100), (1.0, 0.0, 50), (0.001, 0.0, 62), (0.001, 5.0, 78)):
            measured[0] = slow, way
            assert await loop.tick() == pytest.approx(slow * 3)
            assert loop._limit == limit
        await loop.stop()

    asyncio.run(ticks())


async def test_claims_that_are_slow_by_their_way_alone_put_nothing_off(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = [0.41]
    slow_link(monkeypatch, lambda found: (0.01, 0.4))
    with psycopg.connect(database_url) as conn:
        conn.execute("select absurd.set_queue_options('default', '{\"keep_count\": 1}')")
    loop = RetentionLoop(database_url, lambda: claims[0])
    try:
        for _ in range(3):
            assert await loop.tick() != PUT_OFF
        claims[0] = 0.52
        assert await loop.tick() == PUT_OFF
    finally:
        await loop.stop()


async def test_the_server_says_how_long_a_batch_took(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as conn:
        done = await run_async(conn, apply_retention(10))
    assert 0 < done.seconds < 60


def test_the_upgrade_locks_no_table_that_is_in_use(empty_conn: Conn, empty_database_url: str) -> None:
    empty_conn.execute(BASELINE.read_bytes())
    with psycopg.connect(empty_database_url) as spawner, psycopg.connect(empty_database_url) as claimer:
        # Transactions of a user, open for as long as he likes: they have read and written every hot table.
        spawner.execute("select absurd.spawn_task('default', 'a', '1')")
        spawner.execute("select absurd.emit_event('default', 'e')")
        claimer.execute("select * from absurd.claim_task('default', 'w')")
        empty_conn.execute("set lock_timeout = '2s'")
        assert schema.migrate(empty_conn) == ["0002_retention"]
        spawner.commit()
        claimer.rollback()
    assert empty_conn.execute("select outcome from absurd.tasks").fetchall() == [(None,)]


def test_a_retention_that_meets_errors_disturbs_no_worker(sync_play: Play, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    conn.execute("drop function absurd.apply_retention")

    @sync_play.task("task")
    async def task(params: Any, ctx: Any) -> Any:
        return params

    with sync_play.worker():
        assert sync_play.spawn("task", 7).result(20) == 7
        wait_until(lambda: "retention" in caplog.text)


def test_ping_worker_tells_a_worker_that_goes_on_from_one_that_hangs(
    sync_play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TOUCH_SECONDS", 3600.0)  # it hangs after its first touch
    path = str(tmp_path / "health")
    sync_play.app.register_task("nothing")(lambda params, ctx: None)
    assert "no worker" in refused("ping-worker", path)
    with sync_play.worker(health_file=path):
        file = tmp_path / f"health.{os.getpid()}"
        wait_until(file.exists)
        assert invoke("ping-worker", path, "--json", database=sync_play.url).json()["alive"] is True
        os.utime(file, (time.time() - 120, time.time() - 120))
        assert "has not gone round" in refused("ping-worker", path, "--max-age", "60s")
    assert not file.exists()


async def test_the_health_file_needs_no_thread_that_calls_of_users_may_have_taken(tmp_path: Path) -> None:
    loop, done = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    call = loop.run_in_executor(None, done.wait)
    file, written = health.HealthFile(str(tmp_path / "health")), tmp_path / f"health.{os.getpid()}"
    try:
        async with asyncio.timeout(10):
            await file.tick()
            assert written.exists()
            await file.stop()
            assert not written.exists()
    finally:
        done.set()
        await call


def test_ping_worker_forgets_processes_that_are_gone(sync_play: Play, tmp_path: Path) -> None:
    path = str(tmp_path / "health")
    sync_play.app.register_task("nothing")(lambda params, ctx: None)
    (tmp_path / "health.999999999").write_text("")
    with sync_play.worker(health_file=path):
        wait_until((tmp_path / f"health.{os.getpid()}").exists)
        os.utime(tmp_path / "health.999999999", (0, 0))
        invoke("ping-worker", path, database=sync_play.url)
    assert list(tmp_path.iterdir()) == []
