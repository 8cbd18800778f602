"""One bad item, one locked row or one lost connection never stops a worker; what ends it does not leave it hanging."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest

from absurd import TaskFailedError
from absurd.worker.supervisor import Supervisor
from absurd.writes import RecordCheckpoint, WriteResult
from tests.support import DEFAULT_TIMEOUT, wait_until
from tests.support_proxy import LossyProxy
from tests.support_tasks import Play, count

Connection = psycopg.Connection[Any]
# What PostgreSQL reads and Python does not: too deep, too many digits, or both of which nobody would have thought.
UNREADABLE = ["[" * 3000 + "]" * 3000, "9" * 5000, '{"a": [' + "-" + "7" * 4301 + "]}"]


@pytest.mark.parametrize("value", UNREADABLE, ids=["deep", "long", "long within"])
def test_params_that_python_cannot_read_fail_their_task_at_once(play: Play, conn: Connection, value: str) -> None:
    @play.task("reads", max_attempts=3)
    async def reads(params: Any, ctx: Any) -> Any:
        play.seen.append("began")

    conn.execute("select absurd.spawn_task('default', %s, %s::text::jsonb)", ("reads", value))
    with play.worker():
        wait_until(lambda: count(conn, "select count(*) from absurd.tasks where outcome = 'failed'"))
    assert play.seen == []
    failure = conn.execute("select failure ->> 'name', failure ->> 'message' from absurd.attempts").fetchall()
    assert [name for name, _ in failure] == ["absurd.errors.SerializationError"]
    assert "cannot be read" in failure[0][1]


@pytest.mark.parametrize("value", UNREADABLE, ids=["deep", "long", "long within"])
def test_an_event_that_python_cannot_read_fails_those_who_take_it_and_nobody_else(
    play: Play, conn: Connection, value: str
) -> None:
    @play.task("waits", max_attempts=3)
    async def waits(params: Any, ctx: Any) -> Any:
        return await ctx.await_event("deep")

    @play.task("quick")
    async def quick(params: Any, ctx: Any) -> Any:
        return params

    with play.worker():
        waiting = play.spawn("waits")
        play.wait_for_state(waiting.task_id, "sleeping")
        conn.execute("select absurd.append_event('default', 'deep', %s)", (value,))
        with pytest.raises(TaskFailedError, match="cannot be read"):
            waiting.result(DEFAULT_TIMEOUT)
        assert play.spawn("quick", 7).result(DEFAULT_TIMEOUT) == 7
    assert count(conn, "select count(*) from absurd.attempts") == 1


@pytest.mark.parametrize("queue", ["\ud800", 7, "no\x00pe"])
def test_a_queue_name_that_cannot_be_sent_fails_the_task_and_nobody_else(play: Play, queue: Any) -> None:
    @play.task("emits", max_attempts=1)
    async def emits(params: Any, ctx: Any) -> Any:
        await ctx.emit_event("e", queue=queue)

    @play.task("waits", max_attempts=1)
    async def waits(params: Any, ctx: Any) -> Any:
        await ctx.await_event("e", queue=queue)

    @play.task("quick")
    async def quick(params: Any, ctx: Any) -> Any:
        return params

    with play.worker():
        for name in ("emits", "waits"):
            with pytest.raises(TaskFailedError):
                play.spawn(name).result(DEFAULT_TIMEOUT)
        assert play.spawn("quick", 7).result(DEFAULT_TIMEOUT) == 7


def test_a_worker_that_is_stopped_without_a_database_ends(database_url: str) -> None:
    with LossyProxy(database_url) as proxy:
        play = Play(proxy.url)
        gate = threading.Event()

        @play.task()
        async def task(params: Any, ctx: Any) -> None:
            play.seen.append("started")
            await play.hold(gate)

        worker = play.worker(grace_seconds=0.2)
        worker.start()
        play.spawn()
        wait_until(lambda: play.seen, what="the start of the task")
        proxy.cut()
        worker.stop()
        assert not worker._thread.is_alive()
        gate.set()
        play.close()


def test_heartbeat_never_shortens_a_lease(play: Play, conn: Connection) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> None:
        await ctx.heartbeat(params)
        play.seen.append(count(conn, "select extract(epoch from lease_expires_at - now())::int from absurd.runs"))

    with play.worker(lease_seconds=30.0):
        play.spawn("task", 1).result(DEFAULT_TIMEOUT)
        play.spawn("task", 600).result(DEFAULT_TIMEOUT)
    assert play.seen[0] >= 25
    assert play.seen[1] >= 590


def test_steps_side_by_side_all_begin_after_what_came_before_is_durable(async_play: Play, conn: Connection) -> None:
    @async_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        def look() -> int:
            return count(conn, "select count(*) from absurd.checkpoints where step_name = 'before'")

        await ctx.step("before", lambda: 1)
        return await asyncio.gather(*(ctx.step(f"step {n}", look) for n in range(3)))

    assert async_play.run() == [1, 1, 1]


def test_a_write_that_the_driver_cannot_encode_fails_alone(sync_play: Play) -> None:
    @sync_play.task("odd", max_attempts=1)
    async def odd(params: Any, ctx: Any) -> Any:
        context = ctx.plain
        answer: Future[WriteResult] = Future()
        context._port.send_threadsafe(RecordCheckpoint(context._core.holder, "\ud800", 0, "1"), answer)
        answer.result(DEFAULT_TIMEOUT)

    @sync_play.task("quick")
    async def quick(params: Any, ctx: Any) -> Any:
        return await ctx.step("value", lambda: params)

    with sync_play.worker():
        with pytest.raises(TaskFailedError, match="UnicodeEncodeError"):
            sync_play.spawn("odd").result(DEFAULT_TIMEOUT)
        assert sync_play.spawn("quick", 7).result(DEFAULT_TIMEOUT) == 7


def test_a_signal_that_comes_while_a_process_is_started_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor([sys.executable, "-c", "import time; time.sleep(60)"], 2)
    made = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    killer = threading.Timer(DEFAULT_TIMEOUT, lambda: [process.kill() for process in made])
    killer.start()
    supervisor.run()
    killer.cancel()
    assert [process.returncode for process in made] == [-signal.SIGTERM]


def test_a_claim_that_is_committed_after_the_worker_has_reconnected_is_handed_back(database_url: str, conn: Connection) -> None:
    conn.execute("""
        create function hold_claim() returns trigger language plpgsql set lock_timeout = 0 as $$
        begin
          perform pg_advisory_xact_lock_shared(77);
          return new;
        end $$""")
    conn.execute(
        "create trigger hold before update on absurd.runs for each row when (new.state = 'running') execute function hold_claim()"
    )
    claims = """
        select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'absurd worker: writer'
          and position('claim_runs' in query) > 0"""
    with LossyProxy(database_url) as proxy:
        play = Play(proxy.url)

        @play.task()
        async def task(params: Any, ctx: Any) -> Any:
            return params

        with play.worker(lease_seconds=300.0):
            conn.execute("select pg_advisory_lock(77)")
            handle = play.spawn("task", 7, max_attempts=1)
            wait_until(lambda: count(conn, f"{claims} and wait_event = 'advisory'"), what="the claim")
            proxy.cut_links()
            wait_until(lambda: count(conn, f"{claims} and state = 'idle'"), what="a claim on a new connection")
            conn.execute("select pg_advisory_unlock(77)")
            assert handle.result(DEFAULT_TIMEOUT) == 7
        play.close()
    assert count(conn, "select count(*) from absurd.attempts") == 0


def test_a_handler_whose_answer_is_still_awaited_when_its_worker_ends_ends_too(sync_play: Play, database_url: str) -> None:
    ended = threading.Event()

    @sync_play.task()
    async def task(params: Any, ctx: Any) -> None:
        try:
            await ctx.emit_event("taken")
        finally:
            ended.set()

    with psycopg.connect(database_url) as other:
        other.execute("select absurd.append_event('default', 'taken')")
        with sync_play.worker(grace_seconds=0.1):
            task_id = sync_play.spawn().task_id
            sync_play.wait_for_state(task_id, "running")
        assert ended.wait(DEFAULT_TIMEOUT)
        assert sync_play.app.get_result(task_id).state == "pending"


def test_a_full_disk_does_not_fill_the_log_too(async_play: Play, conn: Connection, caplog: pytest.LogCaptureFixture) -> None:
    play = async_play

    @play.task("step")
    async def step(n: int, ctx: Any) -> int:
        return await ctx.step("step", lambda: n)

    conn.execute("""
        create function refuse() returns trigger language plpgsql as
          $$ begin raise exception 'no space left on device' using errcode = '53100'; end $$;
        create trigger refuse before insert on absurd.checkpoints execute function refuse()""")
    with play.worker():
        handles = [play.spawn("step", n) for n in range(8)]
        wait_until(lambda: "no space left on device" in caplog.text)
        with pytest.raises(TimeoutError):
            handles[0].result(2.5)
        conn.execute("drop trigger refuse on absurd.checkpoints")
        assert [handle.result(DEFAULT_TIMEOUT) for handle in handles] == list(range(8))
    assert caplog.text.count("is put off") == 1
    assert count(conn, "select count(*) from absurd.attempts") == 0
