"""Leases and fences: a long step runs once, and whoever lost a run changes nothing any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import uuid6

from absurd.db import run
from absurd.queries import runs as queries
from absurd.queries.query import Query
from absurd.types import ClaimedRun, SpawnRequest
from absurd.writes import (
    CheckWaits,
    Complete,
    EmitEvent,
    ExtendLease,
    Fail,
    Holder,
    RecordCheckpoint,
    Release,
    SpawnChildren,
    Suspend,
    Wait,
    WriteResult,
)
from tests.support import wait_until
from tests.support_tasks import Play, count

LEASE = 0.6  # seconds


@pytest.mark.parametrize("blocks_loop", [False, True])
def test_a_step_longer_than_its_lease_runs_once_with_two_workers(
    play: Play, conn: psycopg.Connection[Any], blocks_loop: bool
) -> None:
    """The step lasts five leases. With ``blocks_loop`` the handler occupies its thread or its event loop all the time."""
    outlived = threading.Event()

    @play.task(max_attempts=3)
    async def task(params: Any, ctx: Any) -> int:
        def occupy() -> int:
            play.seen.append("began")
            assert outlived.wait(20)
            return len(play.seen)

        async def pause() -> int:
            play.seen.append("began")
            await play.hold(outlived)
            return len(play.seen)

        return await ctx.step("long", occupy if blocks_loop or play.kind == "sync" else pause)

    with play.worker(lease_seconds=LEASE), play.worker(lease_seconds=LEASE):
        handle = play.spawn()
        past = "select count(*) from absurd.runs where started_at < now() - make_interval(secs => %s)"
        wait_until(lambda: count(conn, past, 5 * LEASE))
        outlived.set()
        assert handle.result(20) == 1
    assert play.seen == ["began"]
    assert count(conn, "select count(*) from absurd.attempts") == 0


def test_an_attempt_that_lost_its_lease_never_overwrites_the_newer_one(play: Play, conn: psycopg.Connection[Any]) -> None:
    let_go = threading.Event()

    @play.task(max_attempts=2)
    async def task(params: Any, ctx: Any) -> str:
        attempt = ctx.attempt
        if attempt == 1:
            play.seen.append("holding")
            await play.hold(let_go)
        value = await ctx.step("contested", lambda: f"by attempt {attempt}")
        await ctx.step("next", lambda: play.seen.append(f"attempt {attempt} went on"))
        return value

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: play.seen)
        conn.execute("update absurd.runs set lease_expires_at = now() - interval '1 second'")
        conn.execute("select absurd.sweep()")
        assert handle.result(20) == "by attempt 2"
        let_go.set()
    assert conn.execute("select state from absurd.checkpoints where step_name = 'contested'").fetchall() == [("by attempt 2",)]
    assert conn.execute("select cause from absurd.attempts").fetchall() == [("lease",)]
    # The contested step of the late attempt ran, for nobody can call it back; what follows it did not.
    assert play.seen == ["holding", "attempt 2 went on"]
    assert handle.snapshot().result == "by attempt 2"


def test_a_cancelled_task_is_stopped_at_its_next_call_of_the_context(play: Play, conn: psycopg.Connection[Any]) -> None:
    let_go = threading.Event()

    @play.task(max_attempts=3)
    async def task(params: Any, ctx: Any) -> None:
        play.seen.append("began")
        await play.hold(let_go)
        try:
            await ctx.heartbeat()
        except Exception:
            play.seen.append("swallowed")
        play.seen.append("went on")

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: play.seen)
        handle.cancel()
        let_go.set()
    assert play.seen == ["began"]
    assert handle.state() == "cancelled"
    assert conn.execute("select cause from absurd.attempts").fetchall() == [("cancel",)]


def test_the_lease_keeper_tells_a_run_that_it_is_cancelled(async_play: Play) -> None:
    """Without a write of its own the handler learns of it by the renewal."""
    told = threading.Event()

    @async_play.task()
    async def task(params: Any, ctx: Any) -> None:
        async_play.seen.append("began")
        while True:
            try:
                ctx._core.check_usable()
            except BaseException as signal:
                async_play.seen.append(type(signal).__name__)
                told.set()
                raise
            await asyncio.sleep(0.01)

    with async_play.worker(lease_seconds=LEASE):
        handle = async_play.spawn()
        wait_until(lambda: async_play.seen)
        handle.cancel()
        assert told.wait(20)
    assert async_play.seen == ["began", "RunCancelled"]


# -- late writes, each kind, by each sort of former holder ------------------------------------------------------------------


def _request() -> SpawnRequest:
    return SpawnRequest("default", uuid6.uuid7(), uuid6.uuid7(), "child", "null", None, None, None)


WRITES: dict[str, Callable[[Holder], Query[list[WriteResult]]]] = {
    "checkpoint": lambda h: queries.record_checkpoints([RecordCheckpoint(h, "late", 0, "1")]),
    "overwrite": lambda h: queries.record_checkpoints([RecordCheckpoint(h, "early", 0, '"late"')]),
    "check_waits": lambda h: queries.check_waits([CheckWaits(h, 0, 1, [Wait("$await:e", "default", "e")])]),
    "suspend": lambda h: queries.suspend_runs([Suspend(h, 0, timeout=60, timer_step="$sleep", timer_kind="sleep")]),
    "suspend_for_event": lambda h: queries.suspend_runs([Suspend(h, 0, 1, [Wait("$await:f", "default", "f")])]),
    "complete": lambda h: queries.complete_runs([Complete(h, '"late"')]),
    "fail": lambda h: queries.fail_runs([Fail(h, '{"name": "Late"}')]),
    "extend": lambda h: queries.extend_leases([h], 1000),
    "heartbeat": lambda h: queries.extend_lease_writes([ExtendLease(h, 1000)]),
    "spawn": lambda h: queries.spawn_children(SpawnChildren(h, "$spawn:child", 0, [_request()])),
    "emit": lambda h: queries.emit_events([EmitEvent(h, "$emit:e", 0, "default", "e", None)]),
    "release": lambda h: queries.release_runs([Release(h, note="late")]),
}


def _claim(conn: psycopg.Connection[Any], worker: str) -> Holder:
    (claimed,) = run(conn, queries.claim_runs("default", worker, 30, 1))
    return _holder(claimed)


def _holder(claimed: ClaimedRun) -> Holder:
    return Holder(claimed.queue_name, claimed.task_id, claimed.run_id, claimed.epoch)


def _same_run_held_again(conn: psycopg.Connection[Any], holder: Holder) -> None:
    run(conn, queries.suspend_runs([Suspend(holder, 0, timeout=0, timer_step="$sleep", timer_kind="sleep")]))
    run(conn, queries.promote_due("default"))
    assert _claim(conn, "second").run_id == holder.run_id


def _next_attempt_held(conn: psycopg.Connection[Any], holder: Holder) -> None:
    conn.execute("update absurd.runs set lease_expires_at = now() - interval '1 second'")
    conn.execute("select absurd.sweep()")
    assert _claim(conn, "second").run_id != holder.run_id


def _completed(conn: psycopg.Connection[Any], holder: Holder) -> None:
    _next_attempt_held(conn, holder)
    conn.execute("update absurd.runs set lease_expires_at = now() - interval '1 second'")
    conn.execute("select absurd.sweep()")
    assert run(conn, queries.complete_runs([Complete(_claim(conn, "third"), '"early"')])) == [WriteResult("ok")]


def _cancelled(conn: psycopg.Connection[Any], holder: Holder) -> None:
    conn.execute("select absurd.cancel_task(%s, %s)", (holder.queue_name, holder.task_id))


def _queue_dropped(conn: psycopg.Connection[Any], holder: Holder) -> None:
    conn.execute("select absurd.drop_queue('default')")


SITUATIONS = {
    "held again": (_same_run_held_again, "lost"),
    "next attempt": (_next_attempt_held, "lost"),
    "completed": (_completed, "lost"),
    "cancelled": (_cancelled, "cancelled"),
    "dropped": (_queue_dropped, "lost"),
}
TABLES = ("tasks", "runs", "attempts", "checkpoints", "events", "waits")


def _everything(conn: psycopg.Connection[Any]) -> list[Any]:
    return [conn.execute(f"select x::text from absurd.{table} x order by 1").fetchall() for table in TABLES]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_late_write_changes_nothing_and_says_why(sync_play: Play, conn: psycopg.Connection[Any], situation: str) -> None:
    happen, expected = SITUATIONS[situation]
    conn.execute("select absurd.emit_event('default', 'e', '1')")
    sync_play.spawn("task", max_attempts=5, retry={"kind": "fixed", "base_seconds": 0})
    holder = _claim(conn, "first")
    assert run(conn, queries.record_checkpoints([RecordCheckpoint(holder, "early", 0, '"early"')])) == [WriteResult("ok")]
    happen(conn, holder)
    before = _everything(conn)
    for name, write in WRITES.items():
        (answer,) = run(conn, write(holder))
        assert (name, answer.status) == (name, expected)
        assert _everything(conn) == before, name


def test_a_late_write_in_a_batch_leaves_its_neighbours_alone(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    for _ in range(3):
        sync_play.spawn("task")
    holders = [_holder(claimed) for claimed in run(conn, queries.claim_runs("default", "first", 30, 3))]
    _cancelled(conn, holders[1])
    answers = run(conn, queries.record_checkpoints([RecordCheckpoint(h, "step", 0, "1") for h in holders]))
    assert [answer.status for answer in answers] == ["ok", "cancelled", "ok"]
    stale = Holder(holders[2].queue_name, holders[2].task_id, holders[2].run_id, holders[2].epoch + 1)
    answers = run(conn, queries.complete_runs([Complete(h, "1") for h in (holders[0], holders[1], stale)]))
    assert [answer.status for answer in answers] == ["ok", "cancelled", "lost"]
    assert count(conn, "select count(*) from absurd.tasks where outcome = 'completed'") == 1
