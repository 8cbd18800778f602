"""A row that somebody else keeps locked holds up its own task, and nobody else's."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from absurd import TaskCancelledError
from tests.support import DEFAULT_TIMEOUT, wait_until
from tests.support_tasks import Clock, Play, count


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
