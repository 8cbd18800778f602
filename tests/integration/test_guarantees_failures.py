"""Whatever a handler raises or returns fails its own task, with a reason; the worker and the neighbours go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypedDict, cast

import psycopg
import pytest

from absurd import NonRetryableError, TaskFailedError
from tests.support import DEFAULT_TIMEOUT
from tests.support_tasks import Play, count


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class PrintsNoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class QuitsWhenPrinted(Exception):
    def __str__(self) -> str:
        raise SystemExit("printed")


class Odd(BaseException):
    pass


class Order(TypedDict):
    amount: int


def _raise(error: BaseException) -> Any:
    raise error


def _recurse() -> Any:
    return _recurse()


def _cause() -> Any:
    try:
        raise KeyError("a\x00b")
    except KeyError as error:
        raise ValueError("outer") from error


def _endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


RAISED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "nul": (lambda: _raise(ValueError("a\x00b")), "ValueError", "a\\x00b"),
    "surrogate": (lambda: _raise(ValueError("a\ud800b")), "ValueError", "a\\ud800b"),
    "unprintable": (lambda: _raise(Unprintable()), "Unprintable", "__str__ raised RuntimeError"),
    "prints no text": (lambda: _raise(PrintsNoText()), "PrintsNoText", "__str__ raised TypeError"),
    "quits": (lambda: _raise(QuitsWhenPrinted()), "QuitsWhenPrinted", "__str__ raised SystemExit"),
    "huge": (lambda: _raise(ValueError("x" * 1_000_000)), "ValueError", "characters left out"),
    "recursion": (_recurse, "RecursionError", "maximum recursion depth"),
    "cause": (_cause, "ValueError", "outer"),
    "group": (
        lambda: _raise(ExceptionGroup("many", [ValueError("1"), KeyError("2")])),
        "ExceptionGroup",
        "many (2 sub-exceptions)",
    ),
    "exit": (lambda: _raise(SystemExit(3)), "SystemExit", "3"),
    "interrupt": (lambda: _raise(KeyboardInterrupt()), "KeyboardInterrupt", ""),
    "generator exit": (lambda: _raise(GeneratorExit()), "GeneratorExit", ""),
    "cancelled": (lambda: _raise(asyncio.CancelledError("by myself")), "CancelledError", "by myself"),
    "stop iteration": (lambda: next(iter([])), "", ""),
    "odd": (lambda: _raise(Odd("strange")), "Odd", "strange"),
}
RETURNED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "set": (lambda: {1, 2}, "SerializationError", "a value of type set at $"),
    "nan": (lambda: {"a": [float("nan")]}, "SerializationError", "nan at $.a[0]"),
    "infinity": (lambda: float("inf"), "SerializationError", "inf at $"),
    "nul": (lambda: {"a": "x\x00"}, "SerializationError", "NUL character (\\u0000) at $.a"),
    "surrogate": (lambda: ["\udfff"], "SerializationError", "lone surrogate '\\udfff' at $[0]"),
    "key": (lambda: {1: 2}, "SerializationError", "the key 1 (int) at $"),
    "bytes": (lambda: b"raw", "SerializationError", "a value of type bytes at $"),
    "endless": (_endless, "SerializationError", "contains itself"),
    "object": (object, "SerializationError", "a value of type object at $"),
    "large": (lambda: "x" * 3000, "PayloadTooLargeError", 'has 3002 bytes; queue "default" allows 2000'),
}


def _check_failure(play: Play, name: str, message: str) -> dict[str, Any]:
    """Runs the task between neighbours; its failure."""
    with play.worker():
        neighbours = [play.spawn("neighbour", 1)]
        handle = play.spawn()
        neighbours.append(play.spawn("neighbour", 2))
        with pytest.raises(TaskFailedError) as caught:
            handle.result(20)
        neighbours.append(play.spawn("neighbour", 3))
        assert [neighbour.result(20) for neighbour in neighbours] == [1, 2, 3]
    failure = caught.value.failure
    assert isinstance(failure, dict)
    assert name in failure["name"]
    assert message in failure["message"]
    assert failure["traceback"]
    return failure


@pytest.fixture
def played(play: Play) -> Play:
    @play.task("neighbour")
    async def neighbour(params: Any, ctx: Any) -> Any:
        return await ctx.step("same", lambda: params)

    return play


@pytest.mark.parametrize("where", ["handler", "step"])
@pytest.mark.parametrize("kind", RAISED)
def test_whatever_is_raised_fails_the_task_and_nobody_else(played: Play, kind: str, where: str) -> None:
    fn, name, message = RAISED[kind]

    @played.task()
    async def task(params: Any, ctx: Any) -> Any:
        return fn() if where == "handler" else await ctx.step("bad", fn)

    _check_failure(played, name, message)


@pytest.mark.parametrize("where", ["result", "step", "transaction"])
@pytest.mark.parametrize("kind", RETURNED)
def test_what_cannot_be_stored_fails_the_task_at_the_place_that_made_it(
    played: Play, conn: psycopg.Connection[Any], kind: str, where: str
) -> None:
    fn, name, message = RETURNED[kind]

    @played.task(max_attempts=5)
    async def task(params: Any, ctx: Any) -> Any:
        if where == "step":
            return await ctx.step("bad", fn)
        return fn() if where == "result" else await ctx.transaction("bad", lambda connection: fn())

    played.app.set_queue_limits(max_payload_bytes=2000)
    failure = _check_failure(played, name, message)
    assert ('result of task "task"' if where == "result" else 'result of step "bad"') in failure["message"]
    # Another attempt would make the same value.
    assert count(conn, "select count(*) from absurd.attempts") == 1


@pytest.mark.parametrize("where", ["event", "child", "child header"])
def test_a_payload_beyond_the_limit_is_refused_by_name(played: Play, where: str) -> None:
    @played.task()
    async def task(params: Any, ctx: Any) -> Any:
        if where == "event":
            await ctx.emit_event("big", "x" * 3000)
        elif where == "child":
            await ctx.spawn("neighbour", "x" * 3000)
        else:
            await ctx.spawn("neighbour", 1, headers={"h": float("nan")})

    played.app.set_queue_limits(max_payload_bytes=2000)
    _check_failure(played, "SerializationError" if where == "child header" else "PayloadTooLargeError", "")


def test_a_caught_error_of_a_step_leaves_the_task_usable(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> list[Any]:
        found = []
        for fn in (lambda: {1}, lambda: _raise(ValueError("no")), lambda: 3):
            try:
                found.append(await ctx.step("try", fn))
            except Exception as error:
                found.append(type(error).__name__)
        return found

    assert play.run() == ["SerializationError", "ValueError", 3]


@pytest.mark.parametrize("error", [NonRetryableError("stop"), KeyError("listed")])
def test_errors_that_are_not_worth_another_attempt_fail_at_once(
    play: Play, conn: psycopg.Connection[Any], error: Exception
) -> None:
    @play.task(max_attempts=10, no_retry_on=LookupError)
    async def task(params: Any, ctx: Any) -> None:
        play.seen.append(ctx.attempt)
        raise error

    with play.worker(), pytest.raises(TaskFailedError, match=r"stop|listed"):
        play.spawn().result(20)
    assert play.seen == [1]


def test_other_errors_are_tried_again_as_often_as_the_task_says(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task(max_attempts=4)
    async def task(params: Any, ctx: Any) -> None:
        await ctx.step("once", lambda: play.seen.append("step"))
        play.seen.append(ctx.attempt)
        raise ValueError(ctx.attempt)

    with play.worker(), pytest.raises(TaskFailedError, match="ValueError: 4"):
        play.spawn().result(20)
    assert play.seen == ["step", 1, 2, 3, 4]
    assert count(conn, "select count(*) from absurd.attempts where final") == 1


def test_one_slow_task_delays_none_of_five_hundred_fast_ones(play: Play) -> None:
    release = threading.Event()

    @play.task("slow")
    async def slow(params: Any, ctx: Any) -> str:
        await play.hold(release, 60)
        return "slow"

    @play.task("fast")
    async def fast(params: Any, ctx: Any) -> Any:
        return await ctx.step("same", lambda: params)

    with play.worker(concurrency=4):
        lame = play.spawn("slow")
        play.wait_for_state(lame.task_id, "running")
        handles = play.app.spawn_many(play.handlers["fast"], range(500))
        assert [handle.result(30) for handle in handles] == list(range(500))
        assert lame.state() == "running"
        release.set()
        assert lame.result(20) == "slow"


def test_params_that_do_not_fit_fail_at_once_and_name_the_field(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task(max_attempts=10)
    async def task(params: Order, ctx: Any) -> None:
        play.seen.append(params)

    with play.worker():
        # By SQL, as another service would: nothing checks the type there.
        conn.execute("select absurd.spawn_task('default', 'task', '{\"amount\": \"many\"}')")
        task_id = conn.execute("select task_id from absurd.tasks").fetchall()[0][0]
        play.wait_for_state(task_id, "failed")
    found = play.app.get_result(task_id)
    assert found.failure["name"].endswith("ValidationError")
    assert 'params of task "task"' in found.failure["message"]
    assert "amount" in found.failure["message"]
    assert play.seen == []
    assert count(conn, "select count(*) from absurd.attempts") == 1


def test_a_result_that_does_not_fit_its_declared_type_fails_the_task_at_once(
    sync_play: Play, conn: psycopg.Connection[Any]
) -> None:
    @sync_play.app.register_task("typed", max_attempts=5)
    def typed(params: Any, ctx: Any) -> datetime:
        return cast(datetime, "no moment")

    with sync_play.worker(), pytest.raises(TaskFailedError, match="does not fit datetime"):
        sync_play.app.spawn(typed).result(DEFAULT_TIMEOUT)
    assert count(conn, "select count(*) from absurd.attempts") == 1
