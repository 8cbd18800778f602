"""A row that somebody else keeps locked holds up its own task, and nobody else's."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from absurd import TaskCancelledError, failpoints
from absurd.worker.writer import LOCK_SECONDS
from tests.support import DEFAULT_TIMEOUT, wait_until
from tests.support_proxy import LossyProxy
from tests.support_tasks import KINDS, Clock, Play, count


@pytest.fixture
def held(play: Play) -> threading.Event:
    """Opens the gate of a task that then does a step and sleeps a moment, beside one that does nothing."""
    gate = threading.Event()

    @play.task("held")
    async def held_task(params: Any, ctx: Any) -> str:
        if not ctx.is_replaying:
            play.seen.append("started")
        await ctx.step("before", lambda: None)
        await play.hold(gate)
        await ctx.step("effect", lambda: play.seen.append("effect"))
        await ctx.sleep_for(0.01)
        return "done"

    @play.task("quick")
    async def quick(params: Any, ctx: Any) -> int:
        return int(await ctx.step("value", lambda: params))

    return gate


def test_a_task_locked_by_a_long_transaction_holds_up_nobody_else(
    play: Play, held: threading.Event, conn: psycopg.Connection[Any], database_url: str
) -> None:
    with play.worker(), psycopg.connect(database_url) as other:
        task = play.spawn("held")
        play.wait_for_state(task.task_id, "running")
        other.execute("select absurd.cancel_task('default', %s)", (task.task_id,))
        held.set()
        clock = Clock()
        handles = [play.spawn("quick", number) for number in range(30)]
        assert [handle.result(DEFAULT_TIMEOUT) for handle in handles] == list(range(30))
        assert clock.seconds < 5
        assert play.app.get_result(task.task_id).state == "running"
        other.rollback()
        assert task.result(DEFAULT_TIMEOUT) == "done"
    assert play.seen.count("effect") == 1, "the step before the sleep was put off, and must not be lost by the sleep"
    assert count(conn, "select count(*) from absurd.attempts") == 0


def test_a_task_that_such_a_transaction_cancels_in_the_end_is_cancelled(
    play: Play, held: threading.Event, database_url: str
) -> None:
    with play.worker(), psycopg.connect(database_url) as other:
        task = play.spawn("held")
        play.wait_for_state(task.task_id, "running")
        other.execute("select absurd.cancel_task('default', %s)", (task.task_id,))
        held.set()
        assert play.spawn("quick", 1).result(DEFAULT_TIMEOUT) == 1
        other.commit()
        with pytest.raises(TaskCancelledError):
            task.result(DEFAULT_TIMEOUT)
        assert play.spawn("quick", 2).result(DEFAULT_TIMEOUT) == 2


def test_leases_are_renewed_while_one_run_is_locked(
    play: Play, held: threading.Event, conn: psycopg.Connection[Any], database_url: str
) -> None:
    with play.worker(lease_seconds=1.0), psycopg.connect(database_url) as other:
        locked, free = play.spawn("held"), play.spawn("held")
        play.wait_for_state(locked.task_id, "running")
        play.wait_for_state(free.task_id, "running")
        other.execute("select from absurd.runs where task_id = %s for update", (locked.task_id,))
        clock = Clock()
        while clock.seconds < 2.5:
            assert (
                count(conn, "select count(*) from absurd.runs where task_id = %s and lease_expires_at > now()", free.task_id) == 1
            )
            conn.execute("select pg_sleep(0.1)")
        other.rollback()
        held.set()
        assert [locked.result(DEFAULT_TIMEOUT), free.result(DEFAULT_TIMEOUT)] == ["done", "done"]
    assert play.seen.count("started") == 2


def test_many_tasks_locked_by_one_transaction_hold_up_nobody_else(
    play: Play, held: threading.Event, conn: psycopg.Connection[Any], database_url: str
) -> None:
    with play.worker(concurrency=64), psycopg.connect(database_url) as other:
        tasks = [play.spawn("held") for _ in range(40)]
        wait_until(lambda: play.seen.count("started") == 40, what="the start of all")
        wait_until(lambda: count(conn, "select count(*) from absurd.runs where state = 'running'") == 40)
        other.execute("select from absurd.runs for update")
        held.set()
        clock = Clock()
        handles = [play.spawn("quick", number) for number in range(5)]
        assert [handle.result(DEFAULT_TIMEOUT) for handle in handles] == list(range(5))
        assert clock.seconds < 8
        other.rollback()
        assert {task.result(DEFAULT_TIMEOUT) for task in tasks} == {"done"}
    assert play.seen.count("effect") == 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_transaction_whose_answer_was_lost_is_asked_for_until_its_locked_run_can_be_looked_at(
    conn: psycopg.Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The only attempt does not fail because somebody holds the row when the worker asks what became of its commit."""
    conn.execute("create table public.effects (n int)")
    with LossyProxy(database_url) as proxy, psycopg.connect(database_url) as other:
        rule = proxy.lose("COMMIT", "answer", "transactions")
        waiting = threading.Thread(target=lambda: other.execute("select from absurd.runs for update"))

        def hook(point: str, where: object) -> None:
            if point == "context.recorded-in-transaction":
                monkeypatch.setattr(failpoints, "hook", None)
                waiting.start()
                wait_until(lambda: count(conn, "select count(*) from pg_locks where not granted"), what="the one who waits")

        monkeypatch.setattr(failpoints, "hook", hook)
        play = Play(proxy.url, kind)

        @play.task("once", max_attempts=1)
        async def once(params: Any, ctx: Any) -> str:
            def effect(tx: Any) -> Any:
                return tx.execute("insert into public.effects values (1)") and None if kind == "sync" else later(tx)

            async def later(tx: Any) -> None:
                await tx.execute("insert into public.effects values (1)")

            await ctx.transaction("effect", effect)
            return "done"

        with play.worker():
            task = play.spawn("once")
            wait_until(lambda: rule.applied, what="the loss of the answer")
            waiting.join(DEFAULT_TIMEOUT)
            time.sleep(3 * LOCK_SECONDS)
            other.rollback()
            assert task.result(DEFAULT_TIMEOUT) == "done"
        play.close()
    assert count(conn, "select count(*) from public.effects") == 1
