"""Children, fan-out and fan-in, and waits for several things at once."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from absurd import TaskCancelledError, TaskFailedError
from tests.support import wait_until
from tests.support_tasks import Play, count


@pytest.fixture
def family(play: Play) -> Play:
    @play.task("child")
    async def child(params: Any, ctx: Any) -> Any:
        if params == "fails":
            raise ValueError("the child failed")
        if params == "waits":
            await ctx.await_event("never")
        return [params, str(ctx.parent_task_id)]

    return play


def test_children_in_the_same_queue_need_no_second_slot(family: Play) -> None:
    @family.task()
    async def task(depth: int, ctx: Any) -> Any:
        if depth == 0:
            return 1
        return sum(await ctx.gather(*[await ctx.spawn("task", depth - 1) for _ in range(2)]))

    assert family.run("task", 4, concurrency=1) == 16


def test_a_child_knows_its_parent_and_is_spawned_once(family: Play, conn: psycopg.Connection[Any]) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        first = await ctx.spawn("child", 1)
        second = await ctx.spawn("child", 1)
        assert first.task_id != second.task_id
        await ctx.sleep_for(0.01)
        return [await ctx.await_task(first), await ctx.await_task(str(second.task_id)), str(ctx.task_id)]

    one, two, own = family.run()
    assert one == two == [1, own]
    assert count(conn, "select count(*) from absurd.tasks") == 3


def test_gather_keeps_the_order_and_takes_duplicates_and_nothing(family: Play) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        spawned = await ctx.spawn_many("child", list(range(30)))
        found = await ctx.gather(*reversed(spawned), spawned[3])
        assert await ctx.gather() == []
        return [value for value, _ in found]

    assert family.run() == [*reversed(range(30)), 3]


def test_spawn_many_is_all_or_nothing(family: Play, conn: psycopg.Connection[Any]) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            await ctx.spawn_many("child", [1, "x" * 3000, 3])
        except Exception as error:
            return type(error).__name__

    family.app.set_queue_limits(max_payload_bytes=2000)
    assert family.run() == "PayloadTooLargeError"
    assert count(conn, "select count(*) from absurd.tasks") == 1


def test_the_failure_of_a_child_reaches_its_parent(family: Play) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        bad, good = await ctx.spawn("child", "fails"), await ctx.spawn("child", 1)
        try:
            await ctx.await_task(bad)
        except TaskFailedError as error:
            family.seen.append(error.failure)
        found = await ctx.gather(good, bad, return_exceptions=True)
        assert found[0][0] == 1
        assert isinstance(found[1], TaskFailedError)
        await ctx.gather(bad, good)

    with pytest.raises(TaskFailedError, match="ValueError: the child failed"):
        family.run()
    assert {failure["name"] for failure in family.seen} == {"ValueError"}


def test_a_cancelled_child_reaches_its_parent(family: Play) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        child = await ctx.spawn("child", "waits")
        family.seen.append(child.task_id)
        try:
            await ctx.await_task(child)
        except TaskCancelledError:
            return "cancelled"

    with family.worker():
        handle = family.spawn()
        wait_until(lambda: family.seen)
        family.wait_for_state(family.seen[0], "sleeping")
        family.app.cancel_task(family.seen[0])
        assert handle.result(20) == "cancelled"


@pytest.mark.parametrize("how", ["one", "gather"])
def test_waiting_for_children_times_out_for_ever(family: Play, how: str) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        slow, quick = await ctx.spawn("child", "waits"), await ctx.spawn("child", 1)
        try:
            await (ctx.await_task(slow, timeout=0.1) if how == "one" else ctx.gather(quick, slow, timeout=0.1))
        except TimeoutError:
            await ctx.sleep_for(0)
            return "timeout"

    assert family.run(strict_replay=True) == "timeout"


def test_a_missing_task_or_none_at_all_is_refused(family: Play) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        found = []
        for wrong in ("01890000-0000-7000-8000-000000000001", "no id", None):
            try:
                await ctx.await_task(wrong)
            except Exception as error:
                found.append(type(error).__name__)
        return found

    assert family.run() == ["TaskNotFoundError", "InvalidOptionError", "InvalidOptionError"]


def test_an_idempotency_key_makes_parents_share_a_child(family: Play, conn: psycopg.Connection[Any]) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        child = await ctx.spawn("child", 1, idempotency_key="shared")
        await ctx.await_task(child)
        return [str(child.task_id), child.created]

    with family.worker():
        found = [handle.result(20) for handle in [family.spawn() for _ in range(3)]]
    assert len({task_id for task_id, _ in found}) == 1
    assert sorted(created for _, created in found) == [False, False, True]


# -- several events ---------------------------------------------------------------------------------------------------------


def test_await_any_takes_the_first_and_holds_on_to_it(family: Play) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        found = await ctx.await_any(["yes", "no", "maybe"])
        family.seen.append(found)
        await ctx.await_event("go")
        return found

    with family.worker(strict_replay=True):
        handle = family.spawn()
        family.wait_for_state(handle.task_id, "sleeping")
        family.app.emit_event("no", {"because": 1})
        wait_until(lambda: family.seen)
        family.app.emit_event("yes")
        family.app.emit_event("go")
        assert handle.result(20) == ["no", {"because": 1}]
    assert set(map(str, family.seen)) == {str(("no", {"because": 1}))}


def test_await_all_waits_for_each_in_any_order(family: Play) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        found = await ctx.await_all(["a", "b", "c"], timeout=20)
        await ctx.sleep_for(0)
        return found

    family.app.emit_event("b", 2)
    with family.worker(strict_replay=True):
        handle = family.spawn()
        for name in ("c", "a"):
            family.wait_for_state(handle.task_id, "sleeping")
            family.app.emit_event(name, name)
        assert handle.result(20) == {"a": "a", "b": 2, "c": "c"}


@pytest.mark.parametrize("method", ["await_any", "await_all"])
def test_a_timeout_of_several_events_holds_whatever_comes_later(family: Play, method: str) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            await getattr(ctx, method)(["a", "b"], timeout=0.1)
        except TimeoutError:
            family.seen.append("timeout")
        await ctx.await_event("go")
        return family.seen

    if method == "await_all":
        family.app.emit_event("a")
    with family.worker(strict_replay=True):
        handle = family.spawn()
        wait_until(lambda: family.seen)
        for name in ("a", "b", "go"):
            family.app.emit_event(name)
        assert set(handle.result(20)) == {"timeout"}


@pytest.mark.parametrize("names", [[], "abc", ["a", "a"], [""], [None]])
def test_names_that_make_no_sense_are_refused(family: Play, names: Any) -> None:
    @family.task()
    async def task(params: Any, ctx: Any) -> Any:
        found = []
        for method in (ctx.await_any, ctx.await_all):
            try:
                await method(names)
            except Exception as error:
                found.append(isinstance(error, ValueError | TypeError) or type(error).__name__ == "ConfigurationError")
        return found

    assert family.run() == [True, True]
