"""Replay of recorded histories against code that is the same, or has changed: no database, and no step is run."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from absurd import Absurd, AsyncContext, Context, NonRetryableError, ReplayMismatchError, TimeoutError  # noqa: A004
from absurd.errors import ConfigurationError
from absurd.testing.history import load_histories, load_history
from absurd.testing.replaying import assert_replays, replay

TASK = "01890a5d-ac96-774b-bcce-b302099a8057"
RUN = "01890a5d-ac96-774b-bcce-b302099a8058"


def document(
    *points: Any, state: str = "pending", waits: tuple[str, ...] = (), result: Any = None, **more: Any
) -> dict[str, Any]:
    """A history whose checkpoints are names, or tuples of name, state, kind and place."""
    rows = []
    for place, point in enumerate(points):
        name, value, kind, position = (
            (*point, *(None, "step", place)[len(point) - 1 :]) if isinstance(point, tuple) else (point, None, "step", place)
        )
        rows.append({"step_name": name, "position": position, "kind": kind, "state": value, "event_seq": 1})
    return {
        "format": "absurd-history", "version": 1, "task_id": TASK, "run_id": RUN, "task_name": "order", "queue_name": "default",
        "state": state, "parent_task_id": None, "attempt": 2, "params": {"n": 1}, "headers": None,
        "options": {"max_attempts": 5}, "attempts": [], "checkpoints": rows,
        "waits": [{"step_name": name, "kind": "event"} for name in waits], "result": result, "failure": None, **more,
    }  # fmt: skip


def never(*_: Any) -> Any:
    raise AssertionError("a replay ran the function of a step")


def steps(*names: str, result: Any = None) -> Callable[[Any, Context], Any]:
    """A handler of these steps."""

    def handler(params: Any, ctx: Context) -> Any:
        for name in names:
            ctx.step(name, never)
        return result

    return handler


def test_the_same_code_replays_and_no_step_is_run() -> None:
    found = replay(steps("a", "b", "c", "d"), document("a", "b", "c"))
    assert found.ok
    assert found.now == ["a", "b", "c", "d"]
    assert 'step "d" is next' in found.message


def test_every_kind_of_effect_is_answered_from_the_history() -> None:
    child = {"task_id": TASK, "run_id": RUN, "created": True}
    outcome = {"task_id": TASK, "state": "completed", "result": 9, "failure": None}
    names = [
        ("$now", "2030-01-01T00:00:00Z"), ("$uuid", TASK), ("$random", 0.5), ("book", 3),
        ("$spawn:child", [child]), (f"$await_task:{TASK}", outcome, "task"), ("$await:paid", {"sum": 5}, "event"),
        ("$emit:done", None), ("$sleep", None, "sleep"), ("late", None, "timeout"),
        ("$await_any:x|y/0", "X", "event", 10), ("$sleep#2", None, "sleep", 11),
    ]  # fmt: skip

    async def handler(params: Any, ctx: AsyncContext) -> Any:
        values = [(await ctx.now()).year, str(await ctx.uuid4()), await ctx.random(), await ctx.transaction("book", never)]
        task = await ctx.spawn("child", {})
        values += [await ctx.await_task(task), await ctx.await_event("paid")]
        await ctx.emit_event("done", {})
        await ctx.sleep_for(10)
        with pytest.raises(TimeoutError):
            await ctx.await_event("never", timeout=1, step_name="late")
        values.append(list(await ctx.await_any(["x", "y"])))
        await ctx.heartbeat()
        await ctx.sleep_for(1)
        return values

    result = [2030, TASK, 0.5, 3, 9, {"sum": 5}, ["x", "X"]]
    found = replay(handler, document(*names, state="completed", result=result))
    assert found.ok, found
    assert found.message == "returned what is recorded"


@pytest.mark.parametrize(
    ("now", "kind", "message"),
    [
        (("a", "bill", "c"), "renamed", 'step "bill" is new where step "b" was recorded, as if that had been renamed'),
        (("a", "new", "b", "c"), "inserted", 'step "new" is new before step "b", which is recorded'),
        (("a", "c", "b"), "moved", 'step "c" stood at place 2 and stands at 1 now'),
        (("a", "c"), "moved", 'step "c" stood at place 2 and stands at 1 now'),
        (("a", "b"), "early", 'step "c" is recorded, but the handler returned without it'),
        (("x", "y", "z"), "new", 'step "x" is new where step "a" was recorded'),
        ((), "early", 'step "a" is recorded, but the handler returned without it'),
    ],
)
def test_the_first_differing_step_is_shown(now: tuple[str, ...], kind: str, message: str) -> None:
    found = replay(steps(*now), document("a", "b", "c"))
    assert (found.ok, found.kind, found.message) == (False, kind, message)


def test_the_report_shows_both_sequences_the_place_and_what_to_do() -> None:
    with pytest.raises(ReplayMismatchError) as raised:
        assert_replays(steps("a", "bill"), document("a", "b", ("$await:paid", None, "event")))
    assert str(raised.value).splitlines() == [
        f'task "order" {TASK}: step "bill" is new where step "b" was recorded',
        "         recorded                now",
        '       0 step "a"                step "a"',
        '       1 step "b"              ≠ step "bill"',
        '       2 wait for event "paid"   –',
        str(raised.value).splitlines()[-1],
    ]
    assert "register the new code as a task of another name" in str(raised.value)


def test_a_long_history_is_shown_around_the_place() -> None:
    names = [f"s{n}" for n in range(500)]
    found = replay(steps(*names[:250], "other", *names[251:]), document(*names))
    assert found.kind == "renamed"
    assert len(str(found).splitlines()) < 25
    assert "s250" in str(found)
    assert 's0"' not in str(found)


def test_a_step_where_a_wait_was_recorded_is_a_difference() -> None:
    found = replay(steps("approval"), document(("approval", True, "event")))
    assert (found.kind, found.message) == ("kind", '"approval" was recorded as a wait for an event and is a step now')


@dataclass
class Price:
    amount: int
    currency: str


def test_a_result_that_does_not_fit_its_type_any_more_is_a_difference_even_if_the_handler_swallows_the_error() -> None:
    def handler(params: Any, ctx: Context) -> Any:
        try:
            return ctx.step("price", never, result_type=Price)
        except Exception:
            return "swallowed"

    found = replay(handler, document(("price", {"amount": 3})))
    assert (found.kind, found.step_name) == ("value", "price")
    assert "currency" in found.message
    assert replay(handler, document(("price", {"amount": 3, "currency": "EUR"}))).ok


def test_params_that_do_not_fit_any_more_are_a_difference() -> None:
    def handler(params: Price, ctx: Context) -> None: ...

    found = replay(handler, document())
    assert found.kind == "params"
    assert "amount" in found.message


def test_a_handler_that_raises_is_a_difference_unless_an_attempt_failed_so() -> None:
    def handler(params: Any, ctx: Context) -> Any:
        ctx.step("a", never)
        raise NonRetryableError("broken")

    found = replay(handler, document("a"))
    assert (found.kind, found.message) == (
        "raised",
        'after step "a" the handler raised absurd.errors.NonRetryableError: broken',
    )
    failed = [{"failure": {"name": "absurd.errors.NonRetryableError", "message": "broken"}}]
    assert replay(handler, document("a", attempts=failed)).ok
    assert replay(handler, document("a", "b", attempts=failed)).step_name == "b"


def test_another_result_of_a_completed_task_is_a_difference() -> None:
    assert replay(steps("a", result={"n": 1}), document("a", state="completed", result={"n": 1})).ok
    found = replay(steps("a", result={"n": True}), document("a", state="completed", result={"n": 1}))
    assert (found.kind, found.message) == ("result", 'it returned {"n": true}; recorded is {"n": 1}')
    assert replay(steps("a", "b"), document("a", state="completed")).kind == "longer"


def test_the_wait_in_which_a_task_sleeps_must_be_where_the_code_goes_on() -> None:
    def waits(params: Any, ctx: Context) -> Any:
        ctx.step("a", never)
        return ctx.await_any(["paid", "cancelled"], timeout=60)

    asleep = document("a", state="sleeping", waits=("$await_any:cancelled|paid/0", "$await_any:cancelled|paid"))
    assert replay(waits, asleep).ok
    found = replay(steps("a", "b"), asleep)
    assert (found.kind, found.message) == ("wait", 'step "b" is new where the task sleeps in wait for any of cancelled|paid')
    assert "(sleeps in) wait for any of cancelled|paid" in str(found)
    assert replay(steps("a"), asleep).kind == "wait"


def test_a_handler_that_takes_other_steps_each_time_is_noticed() -> None:
    names = itertools.cycle(["b", "c"])
    found = replay(lambda params, ctx: (ctx.step("a", never), ctx.step(next(names), never)), document("a"))
    assert (found.ok, found.kind) == (False, "restless")
    assert 'step "b" in one replay, step "c" at the same place in another' in found.message


def loops(params: Any, ctx: Context) -> None:
    ctx.step("a", never)
    while True:
        pass


async def sleeps(params: Any, ctx: AsyncContext) -> None:
    await ctx.step("a", never)
    await asyncio.sleep(3600)


def heartbeats(params: Any, ctx: Context) -> None:
    ctx.step("a", never)
    while True:
        ctx.heartbeat()


@pytest.mark.parametrize("handler", [loops, sleeps, heartbeats])
def test_a_handler_that_does_not_go_on_is_stopped(handler: Any) -> None:
    began = time.monotonic()
    found = replay(handler, document("a"), timeout=0.5)
    assert (found.kind, found.message) == ("endless", 'after step "a" the handler did not go on within 0.5 s')
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_steps_side_by_side_may_be_recorded_with_gaps(missing: int) -> None:
    async def handler(params: Any, ctx: AsyncContext) -> Any:
        return await asyncio.gather(*(ctx.step(name, never) for name in ("a", "b", "c")))

    points = [(name, None, "step", place) for place, name in enumerate("abc") if place != missing]
    found = replay(handler, document(*points))
    assert found.ok, found
    assert found.unchecked == 0
    assert sorted(found.now) == ["a", "b", "c"]


def test_steps_in_threads_may_be_recorded_with_gaps() -> None:
    def handler(params: Any, ctx: Context) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return [future.result() for future in [pool.submit(ctx.step, name, never) for name in ("a", "b")]]

    assert replay(handler, document(("b", None, "step", 1))).ok


def test_a_step_that_failed_and_was_caught_leaves_a_gap_behind_which_nothing_can_be_checked() -> None:
    def handler(params: Any, ctx: Context) -> Any:
        try:
            ctx.step("card", never)
        except ValueError:
            ctx.step("invoice", never)

    found = replay(handler, document(("invoice", None, "step", 1)))
    assert found.ok
    assert found.unchecked == 1
    assert "1 behind it could not be checked" in found.message


def test_output_is_silent_and_the_app_gives_types_and_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    app = Absurd("postgresql://nobody@127.0.0.1:1/nothing")
    seen: list[str] = []

    @app.around_execution
    def hook(ctx: Context, execute: Callable[[], Any]) -> Any:
        seen.append("hook")
        return execute()

    @app.register_task("order")
    def order(params: Any, ctx: Context) -> int:
        ctx.print("hello")
        ctx.logger.error("hello")
        ctx.step("a", never)
        return 12345678901234567890

    found = replay(app, document("a", state="completed", result=12345678901234567890), runs=1)
    assert found.ok, found
    assert seen == ["hook"]
    assert replay(app, document("a"), hooks=False).ok
    assert seen == ["hook"]
    assert capsys.readouterr() == ("", "")
    unknown = replay(app, document(task_name="gone"))
    assert (unknown.kind, unknown.ok) == ("unknown", False)
    assert "registered are: order" in unknown.message


def test_ids_and_attempt_are_those_of_the_task() -> None:
    def handler(params: Any, ctx: Context) -> Any:
        return [str(ctx.task_id), str(ctx.run_id), ctx.attempt, ctx.max_attempts, ctx.queue_name, dict(ctx.headers), params]

    result = [TASK, RUN, 2, 5, "default", {"who": "me"}, {"n": 1}]
    assert_replays(handler, document(state="completed", result=result, headers={"who": "me"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "no history of a task"),
        ({"version": 2}, "this release reads version 1"),
        ({"checkpoints": [{}]}, "no whole history"),
        ({"task_id": "x"}, "no whole history"),
        ({"state": "lost"}, "is none of pending"),
    ],
)
def test_what_is_no_history_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_history({**document(), **change})


def test_neither_an_app_nor_a_handler_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="takes an app or the handler"):
        replay(uuid.UUID(TASK), document())


def test_a_wait_with_a_timeout_is_one_line() -> None:
    found = replay(steps("b"), document("a", state="sleeping", waits=("$await:paid", "$await:paid")))
    assert str(found).count("(sleeps in)") == 1


def test_a_directory_without_histories_is_no_green_test(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no histories \(\*\.json\)"):
        list(load_histories(tmp_path))
    with pytest.raises(ConfigurationError, match="mistyped is no directory"):
        list(load_histories(tmp_path / "mistyped"))


@pytest.mark.parametrize("source", [None, [{}], 5])
def test_what_is_neither_path_nor_dict_is_no_history(source: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"not {type(source).__name__}"):
        load_history(source)
