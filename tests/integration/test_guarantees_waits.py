"""Waits, timeouts and sleeps: what a wait decided holds for ever, and no ``except`` of the user's swallows a suspension."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from absurd import TimeoutError as AbsurdTimeoutError
from tests.support import wait_until
from tests.support_tasks import Play, count


def test_two_waits_with_timeouts_in_a_row_both_end(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> list[str]:
        found = []
        for name in ("first", "second"):
            try:
                await ctx.await_event(name, timeout=0.05)
            except TimeoutError as error:
                found.append(f"{name}: {type(error).__name__}")
        return found

    assert play.run() == ["first: TimeoutError", "second: TimeoutError"]


def test_a_caught_timeout_stays_one_on_every_replay_also_when_the_event_comes_later(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> list[Any]:
        found: list[Any] = []
        try:
            found.append(await ctx.await_event("late", timeout=0.05))
        except AbsurdTimeoutError:
            found.append("timeout")
        play.seen.append(list(found))
        await ctx.await_event("go")
        await ctx.sleep_for(0)
        return found

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: ["timeout"] in play.seen)
        play.wait_for_state(handle.task_id, "sleeping")
        play.app.emit_event("late", "too late")
        play.app.emit_event("go")
        assert handle.result(20) == ["timeout"]
    assert len(play.seen) >= 3
    assert all(found == ["timeout"] for found in play.seen)


def test_waiting_again_for_the_same_event_after_a_caught_timeout_waits(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            return await ctx.await_event("answer", timeout=0.05)
        except TimeoutError:
            play.seen.append("timed out")
        return await ctx.await_event("answer")

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: play.seen)
        play.wait_for_state(handle.task_id, "sleeping")
        play.app.emit_event("answer", 42)
        assert handle.result(20) == 42


def test_an_event_that_came_after_the_timeout_answers_the_second_wait(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            await ctx.await_event("answer", timeout=0.01)
        except TimeoutError:
            await ctx.emit_event("answer", "own")
        return await ctx.await_event("answer", timeout=20)

    assert play.run() == "own"


@pytest.mark.parametrize("payload_given", [True, False])
def test_a_null_payload_is_no_timeout(play: Play, payload_given: bool) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> list[Any]:
        first = await ctx.await_event("nothing", timeout=20)
        again = await ctx.await_event("nothing", timeout=20)
        await ctx.sleep_for(0)
        return [first, again]

    with play.worker():
        handle = play.spawn()
        play.wait_for_state(handle.task_id, "sleeping")
        if payload_given:
            play.app.emit_event("nothing", None)
        else:
            with psycopg.connect(play.url, autocommit=True) as conn:
                conn.execute("select absurd.emit_event('default', 'nothing')")
        assert handle.result(20) == [None, None]


def test_a_timeout_is_not_waited_for_again_after_a_later_suspension(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> str:
        with contextlib.suppress(TimeoutError):
            await ctx.await_event("never", timeout=0.05)
        await ctx.await_event("go")
        return "done"

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: count(conn, "select count(*) from absurd.waits where event_name = 'go'"))
        # Only the later wait is registered, and no timer.
        rows = conn.execute("select kind, event_name from absurd.waits").fetchall()
        assert rows == [("event", "go")]
        play.app.emit_event("go")
        assert handle.result(20) == "done"
    # One claim for the start, one after the timeout, one after the event: no further look at the first wait.
    assert count(conn, "select epoch from absurd.tasks where task_id = %s", handle.task_id) == 3


def test_a_zero_timeout_takes_an_event_that_is_there_and_times_out_otherwise(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> list[Any]:
        found = [await ctx.await_event("there", timeout=0)]
        try:
            await ctx.await_event("not there", timeout=0)
        except TimeoutError:
            found.append("timeout")
        return found

    play.app.emit_event("there", {"a": 1})
    assert play.run() == [{"a": 1}, "timeout"]


async def _except_exception(suspend: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await suspend()
    except Exception:
        return "swallowed"


async def _bare_except(suspend: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await suspend()
    except:  # noqa: E722
        return "swallowed"


async def _suppress_everything(suspend: Callable[[], Awaitable[Any]]) -> Any:
    with contextlib.suppress(BaseException):
        return await suspend()
    return "swallowed"


async def _return_in_finally(suspend: Callable[[], Awaitable[Any]]) -> Any:
    answer = "swallowed"
    try:
        answer = await suspend()
    finally:
        return answer  # noqa: B012


@pytest.mark.parametrize("guard", [_except_exception, _bare_except, _suppress_everything, _return_in_finally])
@pytest.mark.parametrize("what", ["wait", "sleep", "child"])
def test_no_except_around_a_suspension_swallows_it(play: Play, guard: Any, what: str) -> None:
    @play.task("child")
    async def child(params: Any, ctx: Any) -> str:
        await ctx.await_event("go")
        return "go"

    async def suspend(ctx: Any) -> Any:
        if what == "wait":
            return await ctx.await_event("go")
        if what == "child":
            return await ctx.await_task(await ctx.spawn("child"))
        await ctx.sleep_for(0.05)
        return "go"

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return await guard(lambda: suspend(ctx))

    with play.worker():
        handle = play.spawn()
        play.wait_for_state(handle.task_id, "sleeping", "completed")
        play.app.emit_event("go", "go")
        assert handle.result(20) == "go"


def test_a_run_that_is_ready_again_as_soon_as_it_sleeps_is_run_by_the_same_worker(
    play: Play, conn: psycopg.Connection[Any]
) -> None:
    """The event comes after the wait was checked and before the run sleeps: suspension and next claim are one batch then."""
    waiting, emitted = threading.Event(), threading.Event()

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            return await ctx.await_event("go")
        finally:
            waiting.set()
            await play.hold(emitted)

    # A single slot: the worker wants the next run as soon as this one leaves it.
    with play.worker(concurrency=1):
        handle = play.spawn()
        assert waiting.wait(20)
        play.app.emit_event("go", "went")
        emitted.set()
        assert handle.result(10) == "went"
    assert count(conn, "select epoch from absurd.tasks") == 2


def test_code_that_swallowed_a_suspension_has_no_further_effect(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            answer = await ctx.await_event("go")
        except BaseException:
            answer = "swallowed"
        play.seen.append(answer)
        return await ctx.step("effect", lambda: play.seen.append("effect") or answer)

    with play.worker():
        handle = play.spawn()
        play.wait_for_state(handle.task_id, "sleeping")
        assert play.seen == ["swallowed"]
        assert count(conn, "select count(*) from absurd.checkpoints where task_id = %s", handle.task_id) == 0
        play.app.emit_event("go", "go")
        assert handle.result(20) == "go"
    assert play.seen == ["swallowed", "go", "effect"]


def test_an_event_emitted_before_the_wait_is_found_and_no_slot_is_given_up(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return await ctx.await_event("early")

    play.app.emit_event("early", [1, 2])
    with play.worker():
        handle = play.spawn()
        assert handle.result(20) == [1, 2]
    assert count(conn, "select epoch from absurd.tasks where task_id = %s", handle.task_id) == 1


def test_everybody_gets_the_first_emission_and_next_event_the_later_ones(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> list[Any]:
        first = await ctx.next_event("tick")
        second = await ctx.next_event("tick", first)
        third = await ctx.next_event("tick", second.seq, timeout=20)
        return [await ctx.await_event("tick"), first.payload, second.payload, third.payload]

    play.app.emit_event("tick", 1)
    play.app.emit_event("tick", 2)
    with play.worker():
        handle = play.spawn()
        play.wait_for_state(handle.task_id, "sleeping")
        play.app.emit_event("tick", 3)
        assert handle.result(20) == [1, 1, 2, 3]


def test_a_broadcast_reaches_every_waiter(sync_play: Play) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return [params, await ctx.await_event("all")]

    with sync_play.worker():
        handles = sync_play.app.spawn_many(sync_play.handlers["task"], range(30))
        for handle in handles:
            sync_play.wait_for_state(handle.task_id, "sleeping")
        sync_play.app.emit_event("all", "hello")
        assert [handle.result(20) for handle in handles] == [[i, "hello"] for i in range(30)]


def test_a_wait_for_an_event_of_a_missing_queue_fails_with_its_name(sync_play: Play) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            await ctx.await_event("x", queue="nowhere")
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    assert sync_play.run().startswith("QueueNotFoundError: one of the queues ['nowhere'] does not exist")


def test_times_of_sleeps_and_waits_may_be_texts(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        await ctx.sleep_for("10ms")
        try:
            await ctx.await_any(["a", "b"], timeout="10ms")
        except TimeoutError:
            return "nothing came"

    with play.worker():
        assert play.spawn().result(20) == "nothing came"
