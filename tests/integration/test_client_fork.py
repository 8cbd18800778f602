"""Tasks that go on from a step of another one, and tasks that are run before their time, with a worker that runs them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from absurd import AsyncAbsurd, errors
from tests.support import wait_until
from tests.support_tasks import Play


@pytest.fixture
def order(play: Play) -> Play:
    """A task of three steps and a child, whose last step says which task and attempt it is."""

    @play.task("child")
    async def child(params: Any, ctx: Any) -> int:
        play.seen.append("child")
        return 7

    @play.task("order", max_attempts=1)
    async def handler(params: Any, ctx: Any) -> Any:
        await ctx.step("reserve", lambda: play.seen.append("reserve"))
        kid = await ctx.spawn("child", {})
        number = await ctx.await_task(kid)
        await ctx.step("charge", lambda: play.seen.append("charge"))
        await ctx.sleep_for(0.01)
        return await ctx.step("ship", lambda: [play.seen.append("ship"), number, ctx.headers["absurd-source"]["slot"]][1:])

    return play


def test_a_fork_runs_from_its_step_on_with_what_was_before(order: Play) -> None:
    with order.worker():
        first = order.app.spawn("order", {"n": 1}, headers={"absurd-source": {"kind": "schedule", "name": "s", "slot": 3}})
        assert first.result(20) == [7, 3]
        assert order.seen == ["reserve", "child", "charge", "ship"]
        order.seen.clear()
        copy = first.fork("charge")
        assert copy.created
        assert copy.result(20) == [7, 3]
        assert order.seen == ["charge", "ship"]
        order.seen.clear()
        assert order.app.fork_task(copy.task_id, "ship", max_attempts=4).result(20) == [7, 3]
        assert order.app.fork_task(str(copy.task_id), "reserve").result(20) == [7, 3]
    assert order.seen == ["ship", "reserve", "child", "charge", "ship"]
    assert first.state() == "completed"


def test_a_fork_takes_the_same_steps_as_replay_expects(order: Play) -> None:
    with order.worker(strict_replay=True):
        first = order.app.spawn("order", headers={"absurd-source": {"slot": 1}})
        first.result(20)
        for step in ("reserve", "$spawn:child", f"$await_task:{_child_of(order, first.task_id)}", "charge", "$sleep", "ship"):
            assert first.fork(step).result(20) == [7, 1], step


def _child_of(order: Play, task_id: Any) -> Any:
    with psycopg.connect(order.url) as conn:
        row = conn.execute("select task_id from absurd.tasks where parent_task_id = %s", (task_id,)).fetchone()
    assert row is not None
    return row[0]


def test_what_cannot_be_forked_is_refused(order: Play) -> None:
    task = order.app.spawn("order")
    with pytest.raises(errors.InvalidOptionError, match='no step "refund"'):
        task.fork("refund")
    with pytest.raises(errors.InvalidOptionError, match="step name"):
        task.fork("")
    with pytest.raises(errors.InvalidOptionError, match="max_attempts"):
        task.fork("reserve", max_attempts=0)
    with pytest.raises(errors.TaskNotFoundError):
        order.app.fork_task(uuid4(), "reserve")
    with pytest.raises(errors.TaskNotFoundError):
        order.app.run_task_now(uuid4())


def test_a_delayed_task_is_run_now(order: Play) -> None:
    with order.worker():
        task = order.app.spawn("child", delay=3600)
        task.run_now()
        assert task.result(20) == 7
        with pytest.raises(errors.InvalidOptionError, match="is completed"):
            task.run_now()


def test_a_sleep_ends_now_and_the_task_goes_on(play: Play) -> None:
    @play.task("nap")
    async def nap(params: Any, ctx: Any) -> str:
        await ctx.sleep_for(3600)
        return "awake"

    with play.worker():
        task = play.app.spawn("nap")
        wait_until(lambda: task.state() == "sleeping")
        task.run_now()
        assert task.result(20) == "awake"


async def test_async_clients_do_the_same(order: Play, database_url: str, conn: psycopg.Connection[Any]) -> None:
    async with AsyncAbsurd(database_url) as app:
        with order.worker():
            first = await app.spawn("order", headers={"absurd-source": {"slot": 1}})
            await first.result(20)
            copy = await first.fork("ship")
            assert await copy.result(20) == [7, 1]
            assert await (await app.fork_task(copy.task_id, "charge")).result(20) == [7, 1]
            late = await app.spawn("child", delay=3600)
            await late.run_now()
            assert await late.result(20) == 7
