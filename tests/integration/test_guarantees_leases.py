"""Leases and fences: a long step runs once, and whoever lost a run changes nothing any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import uuid6

from absurd import Absurd
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
from tests.support_proxy import LossyProxy
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


def test_a_step_that_is_recorded_twice_keeps_its_first_value(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    sync_play.spawn("task")
    holder = _claim(conn, "first")
    for value in ("1", "2"):
        assert run(conn, queries.record_checkpoints([RecordCheckpoint(holder, "step", 0, value)])) == [WriteResult("ok")]
    assert conn.execute("select state from absurd.checkpoints").fetchall() == [(1,)]


def test_a_holder_whose_run_sleeps_writes_nothing_more(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    sync_play.spawn("task")
    holder = _claim(conn, "first")
    sleep = Suspend(holder, 0, timeout=60, timer_step="$sleep", timer_kind="sleep")
    assert run(conn, queries.suspend_runs([sleep])) == [WriteResult("ok")]
    before = _everything(conn)
    for name in ("checkpoint", "complete", "fail", "extend", "spawn", "emit", "release"):
        (answer,) = run(conn, WRITES[name](holder))
        assert (name, answer.status) == (name, "lost")
        assert _everything(conn) == before, name


def test_a_write_that_is_repeated_takes_effect_once(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    sync_play.spawn("task")
    holder = _claim(conn, "first")
    for name in ("spawn", "emit"):
        first, second = run(conn, WRITES[name](holder)), run(conn, WRITES[name](holder))
        assert (name, first[0].status, second) == (name, "ok", first)
    assert count(conn, "select count(*) from absurd.tasks where task_name = 'child'") == 1
    assert count(conn, "select count(*) from absurd.events") == 1


def test_a_checkpoint_that_was_not_recorded_is_said_to_be_missing(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    sync_play.spawn("task")
    holder = _claim(conn, "first")
    assert run(conn, queries.verify_checkpoint(holder, "step")) == "missing"
    run(conn, queries.record_checkpoints([RecordCheckpoint(holder, "step", 0, "1")]))
    assert run(conn, queries.verify_checkpoint(holder, "step")) == "ok"


def test_a_transaction_whose_run_was_lost_meanwhile_is_undone(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    conn.execute("create table effects (n integer)")
    ran = threading.Event()

    @sync_play.task()
    async def task(params: Any, ctx: Any) -> None:
        def act(inner: psycopg.Connection[Any]) -> None:
            inner.execute("insert into effects values (1)")
            conn.execute("update absurd.runs set epoch = epoch + 1")
            ran.set()

        await ctx.transaction("act", act)

    with sync_play.worker():
        sync_play.spawn()
        assert ran.wait(20)
    assert count(conn, "select count(*) from effects") == 0
    assert count(conn, "select count(*) from absurd.checkpoints") == 0


def test_a_run_that_is_known_by_an_older_claim_only_is_handed_back(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    sync_play.spawn("task")
    holder = _claim(conn, "first")
    assert run(conn, queries.release_forgotten("first", [holder])) == 0
    run(conn, queries.release_runs([Release(holder)]))
    again = _claim(conn, "first")
    assert run(conn, queries.release_forgotten("first", [holder])) == 1
    assert _claim(conn, "second").epoch == again.epoch + 1


def test_what_a_worker_has_forgotten_is_handed_back_though_a_blocked_loop_has_its_leases_renewed(
    database_url: str, conn: psycopg.Connection[Any]
) -> None:
    """A server that was slow when the connection broke commits a claim long after the worker has looked for such claims."""
    lease = 1.5
    with LossyProxy(database_url) as proxy, Absurd(database_url) as direct:
        play = Play(proxy.url, "async")

        @play.task("blocks", max_attempts=1)
        async def blocks(n: int, ctx: Any) -> None:
            proxy.delay = 0.5
            claimed = direct.spawn("is claimed", n)
            while direct.get_result(claimed.task_id).state != "running":  # noqa: ASYNC110 -- another process decides
                await asyncio.sleep(0.01)
            proxy.delay = 0.0
            with psycopg.connect(database_url) as late:
                late.execute("select from absurd.claim_runs('quiet', 'blocked', %s, 1)", (2 * lease,))
            # The answer of the other claim arrives at the beginning of this, and nobody looks.
            time.sleep(3 * lease)  # noqa: ASYNC251 -- the fault

        @play.task("is claimed", max_attempts=1)
        async def is_claimed(n: int, ctx: Any) -> None:
            pass

        # A second worker, which ends what is not renewed, and takes nothing itself.
        direct.create_queue("other")
        direct.create_queue("quiet")
        forgotten = direct.spawn("forgotten", queue="quiet", max_attempts=1)
        direct.register_task("of the other queue", queue="other")(lambda params, ctx: None)
        with direct.worker(queues=["other"]), play.worker(concurrency=2, lease_seconds=lease, worker_id="blocked"):
            assert play.spawn("blocks", 1).result(60) is None
            wait_until(lambda: direct.get_result(forgotten.task_id).state != "running", what="the end of what was forgotten")
        assert forgotten.state() == "pending"
        play.close()
    assert conn.execute("select cause, failure from absurd.attempts").fetchall() == []
