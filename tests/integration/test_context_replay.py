"""Replay: long histories, changed code, output that appears once, and contexts that are used at the wrong time."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from absurd import ContextError, SpawnOptions, TaskFailedError, get_current_context
from tests.support import wait_until
from tests.support_tasks import Play, count


def test_a_history_of_many_and_large_checkpoints_replays_right(play: Play, conn: psycopg.Connection[Any]) -> None:
    """More than 1,000 checkpoints, and more than 1 MB of them: they come in pieces."""

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        total = 0
        for n in range(2200):
            total += await ctx.step("small", lambda n=n: play.seen.append(n) or n)
        for n in range(8):
            total += len(await ctx.step(f"large {n}", lambda: play.seen.append("large") or "x" * 400_000))
        replaying = ctx.is_replaying
        await ctx.sleep_for(0.01)
        return [total, replaying]

    with play.worker(strict_replay=True):
        assert play.spawn().result(60) == [sum(range(2200)) + 8 * 400_000, True]
    assert len(play.seen) == 2208
    assert count(conn, "select count(*) from absurd.checkpoints") == 2209


def test_print_and_logger_speak_once(play: Play, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> list[bool]:
        replaying = [ctx.is_replaying]
        for name in ("one", "two", "three"):
            ctx.print("before", name)
            ctx.logger.info("before %s", name)
            await ctx.step(name, lambda: None)
            await ctx.sleep_for(0)
            replaying.append(ctx.is_replaying)
        ctx.print("end")
        return replaying

    with caplog.at_level(logging.INFO, "absurd.task.task"):
        assert play.run() == [True, True, True, False]
    assert capsys.readouterr().out.splitlines() == ["before one", "before two", "before three", "end"]
    records = [record for record in caplog.records if record.name == "absurd.task.task"]
    assert [record.getMessage() for record in records] == ["before one", "before two", "before three"]
    assert all(record.task_name == "task" and record.attempt == 1 for record in records)  # type: ignore[attr-defined]


@pytest.mark.parametrize("strict", [False, True])
def test_code_that_changed_under_a_task_is_reported(play: Play, caplog: pytest.LogCaptureFixture, strict: bool) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> str:
        names = ["a", "b"] if not play.seen else ["b", "new"]
        play.seen.append(names)
        for name in names:
            await ctx.step(name, lambda: None)
        await ctx.sleep_for(0)
        return "done"

    with caplog.at_level(logging.WARNING, "absurd.replay"):
        if strict:
            with pytest.raises(TaskFailedError, match=r"ReplayMismatchError.*does other steps than before"):
                play.run(strict_replay=True)
        else:
            assert play.run() == "done"
            (record,) = [record for record in caplog.records if record.name == "absurd.replay"]
            assert "Recorded: ['a', 'b', '$sleep']. Now: ['b'" in record.getMessage()


def test_repeated_names_are_numbered_and_reserved_ones_refused(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        found = [await ctx.step("same", lambda n=n: n) for n in range(3)]
        for wrong in ("$own", "", "x" * 1001, "a\x00", 5):
            try:
                await ctx.step(wrong, lambda: None)
            except Exception as error:
                found.append(type(error).__name__)
        return found

    assert play.run() == [0, 1, 2, "InvalidOptionError", *["InvalidOptionError"] * 4]
    names = [name for (name,) in conn.execute("select step_name from absurd.checkpoints order by position").fetchall()]
    assert names == ["same", "same#2", "same#3"]


def test_steps_as_decorators_with_arguments_and_retries_in_place(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        @ctx.step
        def plain(a: int, *, b: int = 0) -> int:
            return a + b

        @ctx.step("named", retries=2, retry_delay=0)
        def shaky() -> str:
            play.seen.append("try")
            if len(play.seen) < 3:
                raise ValueError("not yet")
            return "at last"

        decorated = [await plain(1, b=2), await plain(5), await shaky()]
        await ctx.sleep_for(0)
        return [*decorated, await ctx.step("direct", max, 3, 4)]

    assert play.run() == [3, 5, "at last", 4]
    assert play.seen == ["try"] * 3
    names = {name for (name,) in conn.execute("select step_name from absurd.checkpoints").fetchall()}
    assert names == {"plain", "plain#2", "named", "direct", "$sleep"}


def test_retries_in_place_end_and_their_options_are_checked(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        found = []
        for options in ({"retries": 1, "retry_delay": 0}, {"retries": -1}, {"retries": True}, {"retries": 1, "retry_delay": -1}):
            try:
                await ctx.step("bad", lambda: play.seen.append(1) or 1 / 0, **options)
            except Exception as error:
                found.append(type(error).__name__)
        return found

    assert play.run() == ["ZeroDivisionError", *["InvalidOptionError"] * 3]
    assert len(play.seen) == 2


def test_the_current_context_is_found_inside_a_task_and_nowhere_else(play: Play) -> None:
    def helper() -> str:
        return str(get_current_context().task_id)

    @play.task()
    async def task(params: Any, ctx: Any) -> list[str]:
        return [helper(), await ctx.step("inside", helper), str(ctx.task_id)]

    assert len(set(play.run())) == 1
    with pytest.raises(ContextError, match="no task is running here"):
        get_current_context()


def test_a_context_that_is_used_after_its_run_has_no_effect(play: Play, conn: psycopg.Connection[Any]) -> None:
    kept: list[Any] = []

    @play.task()
    async def task(params: Any, ctx: Any) -> str:
        kept.append(ctx)
        return "done"

    with play.worker():
        assert play.spawn().result(20) == "done"
        if play.kind == "sync":
            stray = threading.Thread(target=_use_late, args=(kept[0].plain, play.seen))
            stray.start()
            stray.join(20)
            assert not stray.is_alive()
            assert play.seen
    assert count(conn, "select count(*) from absurd.checkpoints") == 0
    assert count(conn, "select count(*) from absurd.events") == 0


def _use_late(ctx: Any, seen: list[Any]) -> None:
    try:
        ctx.emit_event("late")
    except BaseException as error:
        seen.append(type(error).__name__)


def test_hooks_see_and_change_spawns_and_surround_each_run(play: Play) -> None:
    @play.app.before_spawn
    def tag(name: str, params: Any, options: SpawnOptions) -> SpawnOptions | None:
        if name == "child":
            return None
        return SpawnOptions(headers={**(options.headers or {}), "tag": name})

    @play.app.around_execution
    def note(ctx: Any, execute: Any) -> Any:
        play.seen.append(f"before {ctx.task_name}")
        return execute()

    @play.task("child")
    async def child(params: Any, ctx: Any) -> Any:
        return dict(ctx.headers)

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return [dict(ctx.headers), await ctx.await_task(await ctx.spawn("child"))]

    assert play.run() == [{"tag": "task"}, {}]
    # Once more after the wait, unless the child was there before the parent had to sleep.
    assert play.seen in (["before task", "before child", "before task"], ["before task", "before child"])


def test_an_error_in_a_hook_fails_the_spawn_or_the_run_that_it_belongs_to(play: Play) -> None:
    @play.app.before_spawn
    def refuse(name: str, params: Any, options: Any) -> None:
        if params == "refused":
            raise PermissionError("not this one")

    @play.app.around_execution
    def break_some(ctx: Any, execute: Any) -> Any:
        if ctx.headers.get("broken"):
            raise RuntimeError("the hook broke")
        return execute()

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        if params == "parent":
            await ctx.spawn("task", "refused")
        return params

    with pytest.raises(PermissionError, match="not this one"):
        play.spawn("task", "refused")
    with play.worker():
        with pytest.raises(TaskFailedError, match="PermissionError: not this one"):
            play.spawn("task", "parent").result(20)
        with pytest.raises(TaskFailedError, match="RuntimeError: the hook broke"):
            play.spawn("task", 1, headers={"broken": True}).result(20)
        assert play.spawn("task", 2).result(20) == 2


# -- several things at once in an async handler -----------------------------------------------------------------------------


def test_steps_may_run_side_by_side(async_play: Play, conn: psycopg.Connection[Any]) -> None:
    @async_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        async def work(n: int) -> int:
            async_play.seen.append(n)
            await asyncio.sleep(0)
            return n

        gathered = await asyncio.gather(*(ctx.step(f"step {n}", work, n) for n in range(20)))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step(f"group {n}", work, 100 + n)) for n in range(5)]
        await ctx.sleep_for(0)
        return [*gathered, *(task.result() for task in tasks)]

    assert async_play.run(strict_replay=True) == [*range(20), *range(100, 105)]
    assert sorted(async_play.seen) == [*range(20), *range(100, 105)]


def test_suspending_while_a_step_runs_is_a_clear_error(async_play: Play) -> None:
    @async_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        began, release = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            began.set()
            await release.wait()

        running = asyncio.ensure_future(ctx.step("running", work))
        await began.wait()
        try:
            await ctx.await_event("go")
        except ContextError as error:
            release.set()
            await running
            return str(error)

    found = async_play.run()
    assert found.startswith('cannot wait for event "go" while 1 other step(s) of this task are running')


def test_a_failing_step_of_a_group_fails_the_task_and_keeps_what_is_done(async_play: Play) -> None:
    @async_play.task(max_attempts=2)
    async def task(params: Any, ctx: Any) -> Any:
        async def fail() -> None:
            raise ValueError("first time")

        done = await ctx.step("done", lambda: async_play.seen.append("done") or 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("good", lambda: 2))
            if ctx.attempt == 1:
                group.create_task(ctx.step("bad", fail))
        return done

    assert async_play.run() == 1
    assert async_play.seen == ["done"]


def test_an_async_step_in_a_sync_handler_is_refused(sync_play: Play) -> None:
    async def work() -> int:
        return 1

    @sync_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return await ctx.step("async", work)

    with pytest.raises(TaskFailedError, match="is async, but the task's handler is not"):
        sync_play.run()


def test_a_sleep_until_a_moment_wakes_then(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> bool:
        moment = (await ctx.now()) + timedelta(seconds=0.2)
        await ctx.sleep_until(moment)
        return datetime.now(UTC) >= moment

    with play.worker(poll_interval=30):
        handle = play.spawn()
        wait_until(lambda: handle.state() == "completed")
        assert handle.result(0) is True


def test_a_printed_line_is_one_write_so_that_lines_of_two_tasks_never_mix(play: Play) -> None:
    class Stream:
        def __init__(self) -> None:
            self.writes: list[str] = []

        def write(self, text: str) -> None:
            self.writes.append(text)

        def flush(self) -> None:
            self.writes.append("flush")

    stream = Stream()

    @play.task()
    async def task(params: Any, ctx: Any) -> None:
        ctx.print("a", 1, sep="-", file=stream)
        ctx.print("b", end="", file=stream, flush=False)

    play.run()
    assert stream.writes == ["a-1\n", "flush", "b"]
