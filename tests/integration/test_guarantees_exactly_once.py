"""Lost answers: whatever statement the network swallows, or whose answer it swallows, each effect happens once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd import Absurd, DatabaseUnavailableError
from tests.support_proxy import LossyProxy
from tests.support_tasks import KINDS, Play, count

WRITES = (
    "absurd.claim_runs",
    "absurd.record_checkpoints",
    "absurd.check_waits",
    "absurd.suspend_runs",
    "absurd.promote_due",
    "absurd.spawn_children",
    "absurd.emit_events",
    "absurd.extend_leases",
    "absurd.fail_runs",
    "absurd.complete_runs",
)


@pytest.fixture
def proxy(database_url: str) -> Iterator[LossyProxy]:
    with LossyProxy(database_url) as made:
        yield made


def _make_play(proxy: LossyProxy, conn: psycopg.Connection[Any], kind: str) -> Play:
    """A task that does everything once, and fails in between."""
    conn.execute("create table effects (name text)")
    play = Play(proxy.url, kind)

    @play.task("child")
    async def child(params: Any, ctx: Any) -> str:
        return await ctx.step("work", lambda: play.seen.append("child") or "child's")

    @play.task("parent", max_attempts=2, retry={"kind": "fixed", "base_seconds": 0})
    async def parent(params: Any, ctx: Any) -> list[Any]:
        found = [await ctx.step("one", lambda: play.seen.append("one") or 1)]
        found.append(await ctx.transaction("two", _effect(play.kind), "two"))
        spawned = await ctx.spawn("child")
        found.append(await ctx.await_task(spawned))
        await ctx.emit_event("event", {"from": "parent"})
        found.append(await ctx.await_event("event"))
        await ctx.sleep_for(0.02)
        await ctx.heartbeat()
        if ctx.attempt == 1:
            raise ValueError("the first attempt fails")
        return [*found, await ctx.step("three", lambda: play.seen.append("three") or 3)]

    return play


def _effect(kind: str) -> Any:
    def effect(conn: Any, name: str) -> int:
        conn.execute("insert into effects values (%s)", (name,))
        return 2

    async def effect_async(conn: Any, name: str) -> int:
        await conn.execute("insert into effects values (%s)", (name,))
        return 2

    return effect if kind == "sync" else effect_async


def _check_outcome(play: Play, conn: psycopg.Connection[Any], found: Any) -> None:
    assert found == [1, 2, "child's", {"from": "parent"}, 3]
    assert sorted(play.seen) == ["child", "one", "three"]
    assert conn.execute("select name from effects").fetchall() == [("two",)]
    assert count(conn, "select count(*) from absurd.tasks where outcome = 'completed'") == 2
    assert count(conn, "select count(*) from absurd.tasks") == 2
    assert count(conn, "select count(*) from absurd.events") == 1
    assert count(conn, "select count(*) from absurd.runs") == 0
    assert count(conn, "select count(*) from absurd.waits where kind <> 'client'") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["statement", "answer"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_whose_statement_or_answer_is_lost_takes_effect_once(
    proxy: LossyProxy, conn: psycopg.Connection[Any], write: str, loss: Any, kind: str
) -> None:
    play = _make_play(proxy, conn, kind)
    rule = proxy.lose(write, loss, "absurd worker: writer")
    found = play.run("parent")
    play.close()
    assert rule.applied == 1
    _check_outcome(play, conn, found)
    # No attempt was charged for what the network did.
    assert conn.execute("select cause, attempt from absurd.attempts").fetchall() == [("error", 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["statement", "answer"])
@pytest.mark.parametrize("statement", ["COMMIT", "insert into effects", "absurd.record_checkpoints"])
def test_a_transaction_step_happens_once_whatever_is_lost_of_it(
    proxy: LossyProxy, conn: psycopg.Connection[Any], statement: str, loss: Any, kind: str
) -> None:
    play = _make_play(proxy, conn, kind)
    rule = proxy.lose(statement, loss, "transactions")
    handle = play.spawn("parent", max_attempts=3)
    with play.worker():
        found = handle.result(20)
    play.close()
    assert rule.applied == 1
    if statement == "COMMIT" and loss == "answer":
        assert count(conn, "select count(*) from absurd.attempts") == 1
        _check_outcome(play, conn, found)
    else:
        # What was rolled back is done again by the next attempt, which is the second and does not fail by itself.
        assert found[1:4] == [2, "child's", {"from": "parent"}]
        assert conn.execute("select name from effects").fetchall() == [("two",)]


@pytest.mark.parametrize("loss", ["statement", "answer"])
def test_a_spawn_is_repeated_after_a_lost_answer_and_makes_one_task(
    proxy: LossyProxy, conn: psycopg.Connection[Any], loss: Any
) -> None:
    with Absurd(proxy.url) as app:
        app.create_queue()
        rule = proxy.lose("absurd.spawn_tasks", loss, "absurd")
        handle = app.spawn("anything", {"a": 1})
        many = app.spawn_many("anything", [1, 2, 3])
        keyed = [app.spawn("anything", idempotency_key="k") for _ in range(2)]
    assert rule.applied == 1
    assert conn.execute("select count(*) from absurd.tasks").fetchall() == [(5,)]
    assert handle.created
    assert {h.task_id for h in many}.isdisjoint({handle.task_id})
    assert [h.created for h in keyed] == [True, False]


@pytest.mark.parametrize("loss", ["statement", "answer"])
def test_an_emit_of_a_client_whose_answer_was_lost_says_so_and_is_not_repeated(
    proxy: LossyProxy, conn: psycopg.Connection[Any], loss: Any
) -> None:
    with Absurd(proxy.url) as app:
        app.create_queue()
        proxy.lose("absurd.append_event", loss, "absurd")
        with pytest.raises(DatabaseUnavailableError):
            app.emit_event("once")
        assert count(conn, "select count(*) from absurd.events") == (1 if loss == "answer" else 0)
        app.emit_event("twice")
    assert count(conn, "select count(*) from absurd.events where event_name = 'twice'") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_suspended_and_claimed_again_in_a_batch_without_answer_goes_on(
    proxy: LossyProxy, conn: psycopg.Connection[Any], kind: str
) -> None:
    """The event comes between the check and the suspension, so that the batch that suspends the run claims it again."""
    play = Play(proxy.url, kind)
    waiting, emitted = threading.Event(), threading.Event()

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        try:
            return await ctx.await_event("go")
        finally:
            waiting.set()
            await play.hold(emitted)

    rule = proxy.lose("absurd.suspend_runs", "answer", "absurd worker: writer")
    # A single slot: the worker wants the next run as soon as this one leaves it.
    with play.worker(concurrency=1):
        handle = play.spawn()
        assert waiting.wait(20)
        play.app.emit_event("go", "went")
        emitted.set()
        assert handle.result(10) == "went"
    play.close()
    assert rule.applied == 1
    assert count(conn, "select count(*) from absurd.attempts") == 0
