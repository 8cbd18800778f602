"""A worker with nothing to do: cheap, and quick when something comes. And workers that run what is ready and end."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from absurd import Absurd, ConfigurationError, InvalidOptionError, QueueNotFoundError
from tests.support import wait_until
from tests.support_tasks import Clock, Play, count


def test_an_idle_worker_starts_a_new_task_long_before_its_next_poll(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return params

    with play.worker(poll_interval=60):
        assert play.spawn("task", 0).result(20) == 0  # connected, and idle from now on
        for n in range(5):
            wait_until(lambda: count(conn, "select count(*) from absurd.workers where idle"))
            clock = Clock()
            assert play.spawn("task", n).result(20) == n
            assert clock.seconds < 5


def test_an_idle_worker_hears_events_delays_and_other_queues(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        await ctx.sleep_for(0.05)
        return await ctx.await_event("e")

    play.app.create_queue("other")
    with play.worker(queues=["default", "other"], poll_interval=60):
        clock = Clock()
        handles = [play.spawn(queue=queue, delay=delay) for queue in ("default", "other") for delay in (None, 0.1)]
        play.app.emit_event("e", 1)
        play.app.emit_event("e", 2, queue="other")
        assert [handle.result(20) for handle in handles] == [1, 1, 2, 2]
        assert clock.seconds < 20


def test_an_idle_worker_sends_few_statements(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> None: ...

    committed = "select xact_commit from pg_stat_database where datname = current_database()"
    with sync_play.worker(poll_interval=1.0), psycopg.connect(sync_play.url, autocommit=True) as own:
        own.execute("set stats_fetch_consistency = none")
        wait_until(lambda: count(conn, "select count(*) from absurd.workers where idle"))
        # Sessions report what they did a second late.
        quiet = Clock()
        wait_until(lambda: quiet.seconds > 1.5)
        began, clock = count(own, committed), Clock()
        wait_until(lambda: clock.seconds > 4)
        # The looks of this test are transactions too: two.
        rate = (count(own, committed) - began - 2) / clock.seconds
    assert rate <= 5


def test_a_paused_queue_starts_nothing_and_goes_on_when_it_is_resumed(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return params

    play.app.pause_queue()
    with play.worker(poll_interval=0.05):
        handle = play.spawn("task", 1)
        clock = Clock()
        wait_until(lambda: clock.seconds > 0.3)
        assert handle.state() == "pending"
        play.app.resume_queue()
        assert handle.result(20) == 1


def test_run_worker_once_runs_what_is_ready_and_what_becomes_ready_by_it(play: Play) -> None:
    @play.task("child")
    async def child(params: Any, ctx: Any) -> Any:
        return params

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return await ctx.await_task(await ctx.spawn("child", params))

    handles = [play.spawn("task", n) for n in range(3)]
    waiting = play.spawn("child", 9, delay=1000)
    # Each parent twice, each child once.
    assert play.app.run_worker_once(concurrency=1) == 9
    assert [handle.result(0) for handle in handles] == [0, 1, 2]
    assert waiting.state() == "sleeping"
    assert play.app.run_worker_once() == 0


def test_priority_comes_first_and_equals_run_in_order(sync_play: Play) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> None:
        sync_play.seen.append(params)

    for n, priority in enumerate((0, 5, -5, 0, 5)):
        sync_play.spawn("task", n, priority=priority)
    sync_play.app.run_worker_once(concurrency=1)
    assert sync_play.seen == [1, 4, 0, 3, 2]


def test_no_more_tasks_run_at_a_time_than_the_worker_has_slots(play: Play) -> None:
    lock, running, most = threading.Lock(), [0], [0]
    release = threading.Event()

    @play.task()
    async def task(params: Any, ctx: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == 3:
                release.set()
        await play.hold(release)
        with lock:
            running[0] -= 1

    with play.worker(concurrency=3):
        for handle in [play.spawn() for _ in range(12)]:
            handle.result(20)
    assert most[0] == 3


def test_a_worker_says_what_keeps_it_from_beginning(database_url: str) -> None:
    with Absurd(database_url, "missing") as app:
        with pytest.raises(ConfigurationError, match="no task is registered with this app"):
            app.run_worker_once()
        app.register_task("task")(lambda params, ctx: None)
        with pytest.raises(
            QueueNotFoundError, match='queue "missing" does not exist; create it with: absurdctl create-queue missing'
        ):
            app.run_worker_once()
        with pytest.raises(QueueNotFoundError, match="missing"), app.worker():
            pass
        for settings in ({"concurrency": 0}, {"lease_seconds": 0}, {"poll_interval": "1"}, {"grace_seconds": -1}):
            with pytest.raises(InvalidOptionError, match=next(iter(settings))):
                app.run_worker_once(**settings)  # type: ignore[arg-type]


def test_a_worker_whose_row_was_swept_away_is_notified_again(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return params

    idle = "select count(*) from absurd.workers where idle"
    with sync_play.worker(poll_interval=60):
        wait_until(lambda: count(conn, idle))
        conn.execute("delete from absurd.workers")
        wait_until(lambda: count(conn, idle))
        clock = Clock()
        assert sync_play.spawn("task", 1).result(20) == 1
        assert clock.seconds < 5
