"""Emit and wait at the same moment, in every order that two transactions can take: the task wakes, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd.db import run
from absurd.queries import runs as queries
from absurd.types import ClaimedRun
from absurd.writes import CheckWaits, Complete, Holder, Suspend, Wait
from tests.support import wait_until
from tests.support_tasks import Play, count

Connection = psycopg.Connection[Any]
WAIT = Wait("$await:e", "default", "e")


@pytest.fixture
def holder(sync_play: Play, conn: Connection) -> Holder:
    """A running task that is about to wait for event e."""
    sync_play.spawn("task")
    return _holder(_claim(conn)[0])


@pytest.fixture
def emitter(database_url: str) -> Iterator[Connection]:
    """A connection whose transactions the test ends."""
    with psycopg.connect(database_url) as made:
        yield made


@pytest.fixture
def worker(database_url: str) -> Iterator[Connection]:
    """Likewise."""
    with psycopg.connect(database_url) as made:
        made.execute("set lock_timeout = '5s'")
        made.commit()
        yield made


def _claim(conn: Connection, limit: int = 1) -> list[ClaimedRun]:
    return run(conn, queries.claim_runs("default", "w", 30, limit))


def _holder(claimed: ClaimedRun) -> Holder:
    return Holder(claimed.queue_name, claimed.task_id, claimed.run_id, claimed.epoch)


def _check(conn: Connection, holder: Holder) -> str:
    return run(conn, queries.check_waits([CheckWaits(holder, 0, 1, [WAIT])]))[0].status


def _suspend(conn: Connection, holder: Holder, timeout: float | None = None) -> str:
    suspension = Suspend(holder, 0, 1, [WAIT], timeout=timeout, timer_step=WAIT.step_name, timer_kind="timeout")
    return run(conn, queries.suspend_runs([suspension]))[0].status


def _emit(conn: Connection, payload: str = '"p"') -> None:
    conn.execute("select absurd.append_event('default', 'e', %s)", (payload,))


def _assert_woken_once(conn: Connection, payload: object = "p") -> None:
    assert conn.execute("select kind, state from absurd.checkpoints").fetchall() == [("event", payload)]
    assert count(conn, "select count(*) from absurd.waits") == 0
    assert len(_claim(conn, 10)) == 1
    assert _claim(conn, 10) == []


def test_emit_then_check(conn: Connection, holder: Holder) -> None:
    _emit(conn)
    assert _check(conn, holder) == "ok"
    assert conn.execute("select kind, state from absurd.checkpoints").fetchall() == [("event", "p")]


def test_emit_between_check_and_suspend(conn: Connection, holder: Holder) -> None:
    assert _check(conn, holder) == "waiting"
    _emit(conn)
    assert _suspend(conn, holder) == "ok"
    _assert_woken_once(conn)


def test_suspend_then_emit(conn: Connection, holder: Holder) -> None:
    assert _suspend(conn, holder) == "ok"
    _emit(conn)
    _emit(conn, '"second"')
    _assert_woken_once(conn)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_an_emit_in_an_open_transaction_makes_the_wait_ask_again(
    conn: Connection, emitter: Connection, holder: Holder, ends: str
) -> None:
    _emit(emitter)
    assert _check(conn, holder) == "busy"
    assert _suspend(conn, holder) == "busy"
    assert count(conn, "select count(*) from absurd.runs where state = 'running'") == 1
    getattr(emitter, ends)()
    if ends == "commit":
        assert _check(conn, holder) == "ok"
    else:
        assert _check(conn, holder) == "waiting"
        assert _suspend(conn, holder) == "ok"
        _emit(conn, '"later"')
        _assert_woken_once(conn, "later")


@pytest.mark.parametrize("first", ["commit", "rollback"])
def test_an_emit_waits_for_a_suspension_that_is_not_committed(
    conn: Connection, worker: Connection, emitter: Connection, holder: Holder, first: str
) -> None:
    assert _suspend(worker, holder) == "ok"
    emitting = threading.Thread(target=lambda: (_emit(emitter), emitter.commit()))
    emitting.start()
    wait_until(lambda: count(conn, "select count(*) from pg_locks where locktype = 'advisory' and not granted"))
    getattr(worker, first)()
    emitting.join(10)
    assert not emitting.is_alive()
    if first == "rollback":
        assert _suspend(conn, holder) == "ok"
    _assert_woken_once(conn)


def test_two_emits_at_once_wake_once_with_the_first(
    conn: Connection, worker: Connection, emitter: Connection, holder: Holder
) -> None:
    assert _suspend(conn, holder) == "ok"
    _emit(emitter, '"first"')
    second = threading.Thread(target=lambda: (_emit(worker, '"second"'), worker.commit()))
    second.start()
    wait_until(lambda: count(conn, "select count(*) from pg_locks where locktype = 'advisory' and not granted"))
    emitter.commit()
    second.join(10)
    _assert_woken_once(conn, "first")


@pytest.mark.parametrize("order", ["emit first", "timeout first"])
def test_an_event_and_a_timeout_at_the_same_moment_leave_one_answer(
    conn: Connection, worker: Connection, emitter: Connection, holder: Holder, order: str
) -> None:
    assert _suspend(conn, holder, timeout=0) == "ok"
    if order == "emit first":
        _emit(emitter)
        # The emit has locked the run: the promotion leaves it to the emit.
        assert run(worker, queries.promote_due("default"))[0] == 0
        emitter.commit()
        worker.commit()
        expected = ("event", "p")
    else:
        assert run(worker, queries.promote_due("default"))[0] == 1
        emitting = threading.Thread(target=lambda: (_emit(emitter), emitter.commit()))
        emitting.start()
        wait_until(lambda: count(conn, "select count(*) from pg_locks where not granted"))
        worker.commit()
        emitting.join(10)
        expected = ("timeout", None)
    assert conn.execute("select kind, state from absurd.checkpoints").fetchall() == [expected]
    assert count(conn, "select count(*) from absurd.waits") == 0
    assert len(_claim(conn, 10)) == 1


@pytest.mark.parametrize("first", ["child ends", "parent sleeps"])
def test_a_child_that_ends_while_its_parent_goes_to_sleep_wakes_it(
    sync_play: Play, conn: Connection, worker: Connection, emitter: Connection, holder: Holder, first: str
) -> None:
    child_handle = sync_play.spawn("child")
    child = _holder(_claim(conn)[0])
    assert child.task_id == child_handle.task_id
    wait = Wait("$await_task", task_id=child.task_id)
    suspend = queries.suspend_runs([Suspend(holder, 0, 1, [wait])])
    complete = queries.complete_runs([Complete(child, "7")])
    if first == "child ends":
        assert run(emitter, complete)[0].status == "ok"
        assert run(worker, suspend)[0].status == "busy"
        worker.commit()
        emitter.commit()
        assert run(conn, suspend)[0].status == "ok"
    else:
        assert run(worker, suspend)[0].status == "ok"
        ending = threading.Thread(target=lambda: (run(emitter, complete), emitter.commit()))
        ending.start()
        wait_until(lambda: count(conn, "select count(*) from pg_locks where not granted"))
        worker.commit()
        ending.join(10)
    (state,) = conn.execute("select state from absurd.checkpoints").fetchall()
    assert state[0]["result"] == 7
    assert len(_claim(conn, 10)) == 1


def test_cancel_and_complete_at_once_leave_one_final_state(
    conn: Connection, worker: Connection, emitter: Connection, holder: Holder
) -> None:
    assert run(worker, queries.complete_runs([Complete(holder, "1")]))[0].status == "ok"
    cancelling = threading.Thread(
        target=lambda: (emitter.execute("select absurd.cancel_task('default', %s)", (holder.task_id,)), emitter.commit())
    )
    cancelling.start()
    wait_until(lambda: count(conn, "select count(*) from pg_locks where not granted"))
    worker.commit()
    cancelling.join(10)
    assert not cancelling.is_alive()
    assert conn.execute("select outcome, result from absurd.tasks").fetchall() == [("completed", 1)]
    assert count(conn, "select count(*) from absurd.attempts") == 0


def test_an_emit_in_a_long_transaction_holds_up_nobody_but_its_namesakes(play: Play, emitter: Connection) -> None:
    @play.task("waiter")
    async def waiter(params: Any, ctx: Any) -> Any:
        return await ctx.await_event("e", timeout=None)

    @play.task("emitting")
    async def emitting(params: Any, ctx: Any) -> None:
        await ctx.emit_event("e", "second")

    @play.task("neighbour")
    async def neighbour(params: Any, ctx: Any) -> Any:
        await ctx.emit_event(f"other {params}", params)
        return [await ctx.await_event(f"other {params}"), await ctx.step("same", lambda: params)]

    with play.worker(concurrency=4):
        _emit(emitter, '"first"')
        held = [play.spawn("waiter"), play.spawn("emitting")]
        for handle in held:
            play.wait_for_state(handle.task_id, "running")
        neighbours = [play.spawn("neighbour", n) for n in range(20)]
        assert [handle.result(20) for handle in neighbours] == [[n, n] for n in range(20)]
        assert [handle.state() for handle in held] == ["running", "running"]
        emitter.commit()
        assert held[0].result(20) == "first"
        held[1].result(20)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_an_emit_that_cannot_see_a_newer_wait_wakes_it_all_the_same(
    play: Play, emitter: Connection, conn: Connection, level: str
) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return await ctx.await_event("e")

    emitter.execute(f"set transaction isolation level {level}")
    emitter.execute("select 1 from absurd.queues")  # takes the snapshot before the wait
    with play.worker():
        handle = play.spawn()
        play.wait_for_state(handle.task_id, "sleeping")
        _emit(emitter, '"seen"')
        emitter.commit()
        assert handle.result(20) == "seen"


def test_many_tasks_and_emits_at_random_all_wake(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        if params % 2:
            await ctx.step("work", lambda: None)
        return await ctx.await_event(f"event {params}")

    with play.worker(concurrency=8), play.worker(concurrency=8):
        handles = []
        for n in range(120):
            handles.append(play.spawn("task", n))
            play.app.emit_event(f"event {max(n - 2, 0)}", max(n - 2, 0))
        for n in (118, 119):
            play.app.emit_event(f"event {n}", n)
        assert [handle.result(30) for handle in handles] == list(range(120))
