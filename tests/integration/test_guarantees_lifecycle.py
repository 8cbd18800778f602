"""Retried, cancelled and unknown tasks; queues of every name; and a claim that costs the same however full the tables are."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from absurd import Absurd, TaskCancelledError, failpoints
from absurd.db import run
from absurd.queries import runs as queries
from tests.support import wait_until
from tests.support_tasks import QUICK, Clock, Play, count

NAMES = [
    "with space",
    'double"quote',
    "single'quote",
    "dots.and.more",
    "semi;colon--",
    "schön ✓ 𝄞",
    "UPPER lower",
    "back\\slash %s {} $1",
    "ü" * 28 + "x",  # 57 bytes
]


def test_retry_after_max_duration_gives_a_new_allowance(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task(max_attempts=5, cancellation={"max_duration": 1.0})
    async def task(params: Any, ctx: Any) -> str:
        await ctx.step("once", lambda: play.seen.append("step"))
        await ctx.heartbeat()
        if ctx.attempt == 1:
            conn.execute("update absurd.runs set deadline_at = now() - interval '1 second'")
            conn.execute("select absurd.sweep()")
        await ctx.heartbeat()
        return f"attempt {ctx.attempt}"

    with play.worker():
        handle = play.spawn()
        with pytest.raises(TaskCancelledError):
            handle.result(20)
        again = handle.retry()
        assert again.result(20) == "attempt 2"
    assert play.seen == ["step"]
    assert conn.execute("select cause from absurd.attempts").fetchall() == [("duration",)]


def test_time_asleep_does_not_count_as_duration(play: Play, conn: psycopg.Connection[Any]) -> None:
    """The task sleeps for longer than it may run in all."""

    @play.task(cancellation={"max_duration": 0.6})
    async def task(params: Any, ctx: Any) -> str:
        await ctx.sleep_for(0.7)
        await ctx.await_event("go")
        return "done"

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: count(conn, "select count(*) from absurd.waits where event_name = 'go'"))
        clock = Clock()
        wait_until(lambda: clock.seconds > 0.7)
        play.app.emit_event("go")
        assert handle.result(20) == "done"


def test_a_cancelled_task_can_be_retried_from_its_last_checkpoint(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        await ctx.step("once", lambda: play.seen.append("step"))
        return await ctx.await_event("go")

    with play.worker():
        handle = play.spawn()
        play.wait_for_state(handle.task_id, "sleeping")
        handle.cancel()
        assert handle.state() == "cancelled"
        again = handle.retry()
        play.wait_for_state(handle.task_id, "sleeping")
        play.app.emit_event("go", 5)
        assert again.result(20) == 5
    assert play.seen == ["step"]


def test_a_task_that_starts_too_late_is_cancelled(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task(cancellation={"max_delay": 0.1})
    async def task(params: Any, ctx: Any) -> None:
        play.seen.append("ran")

    handle = play.spawn()
    wait_until(lambda: count(conn, "select count(*) from absurd.runs where deadline_at < now()"))
    with play.worker():
        play.wait_for_state(handle.task_id, "cancelled")
    assert play.seen == []


def test_an_unknown_task_costs_no_attempt_is_visible_and_runs_where_it_is_known(
    play: Play, conn: psycopg.Connection[Any]
) -> None:
    @play.task("known")
    async def known(params: Any, ctx: Any) -> Any:
        return params

    with play.worker(unknown_task_delay=0.05):
        handle = play.app.spawn("unknown", 7)
        neighbours = [play.spawn("known", n) for n in range(5)]
        assert [neighbour.result(20) for neighbour in neighbours] == list(range(5))
        note = "select count(*) from absurd.runs where note like '%%knows task \"unknown\"%%' and epoch >= 3"
        wait_until(lambda: count(conn, note))
        assert count(conn, "select count(*) from absurd.attempts") == 0

        @play.task("unknown")
        async def unknown(params: Any, ctx: Any) -> Any:
            return [params, ctx.attempt]

        assert handle.result(20) == [7, 1]
    assert count(conn, "select attempt from absurd.tasks where task_name = 'unknown'") == 1


def test_what_a_claim_brings_after_the_worker_was_told_to_stop_is_handed_back_and_not_begun(
    play: Play, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes between the commit of the claim and its answer."""

    @play.task(max_attempts=1)
    async def task(params: Any, ctx: Any) -> str:
        play.seen.append("began")
        return "ran"

    def stop(point: str, where: Any) -> None:
        if point == "writer.committed" and count(conn, "select count(*) from absurd.runs where state = 'running'"):
            monkeypatch.setattr(failpoints, "hook", None)
            where._source.stop()

    handle = play.spawn()
    monkeypatch.setattr(failpoints, "hook", stop)
    with play.worker():
        wait_until(lambda: failpoints.hook is None, what="the claim")
    assert (handle.state(), play.seen) == ("pending", [])
    assert count(conn, "select count(*) from absurd.attempts") == 0
    assert conn.execute("select note from absurd.runs").fetchall() == [("handed back by a worker that stopped",)]
    with play.worker():
        assert handle.result(20) == "ran"


@pytest.mark.parametrize("name", NAMES)
def test_a_queue_of_any_name_works_from_spawn_to_result(database_url: str, name: str) -> None:
    with Absurd(database_url, name) as app:
        app.create_queue()
        app.create_queue("other " + name[:20])

        @app.register_task("child")
        def child(params: Any, ctx: Any) -> Any:
            return ctx.await_event("for child")

        @app.register_task("parent")
        async def parent(params: Any, ctx: Any) -> Any:
            spawned = await ctx.spawn("child")
            await ctx.emit_event("for child", params)
            await ctx.emit_event("elsewhere", ctx.queue_name, queue="other " + name[:20])
            await ctx.sleep_for(0.01)
            return [await ctx.await_task(spawned), await ctx.await_event("elsewhere", queue="other " + name[:20])]

        with app.worker(**QUICK):
            assert app.spawn("parent", 1, idempotency_key=name).result(20) == [1, name]
        assert set(app.list_queues()) == {name, "other " + name[:20], "default"}
        app.pause_queue()
        app.resume_queue()
        app.drop_queue(name)
        assert set(app.list_queues()) == {"other " + name[:20], "default"}


# -- the cost of a claim ----------------------------------------------------------------------------------------------------

FILL = """
insert into absurd.tasks
  (task_id, queue_name, task_name, params, spawned_at, outcome, finished_at, result, run_id, epoch, attempt)
select gen_random_uuid(), 'default', 'old', '1', now(), 'completed', now(), '1', gen_random_uuid(), 1, 1
from generate_series(1, %(n)s);
with made as (
  insert into absurd.tasks (task_id, queue_name, task_name, params, priority, spawned_at)
  select gen_random_uuid(), 'default', 'asleep', '1', 0, now() from generate_series(1, %(n)s) returning task_id)
insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at)
select gen_random_uuid(), task_id, 'default', 'sleeping', 1, 9, now() + interval '1 day' from made;
with made as (
  insert into absurd.tasks (task_id, queue_name, task_name, params, priority, spawned_at)
  select gen_random_uuid(), 'default', 'ready', '1', 0, now() from generate_series(1, %(n)s) returning task_id)
insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at)
select gen_random_uuid(), task_id, 'default', 'pending', 1, 0, now() from made;
"""
READ = """
select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)),
  (select sum(idx_tup_read) from pg_stat_xact_user_indexes_of_absurd())
from pg_stat_xact_user_tables where schemaname = 'absurd'"""
INDEX_READS = """
create function pg_stat_xact_user_indexes_of_absurd() returns table (idx_tup_read bigint) language sql as $$
  select pg_stat_get_xact_tuples_returned(i.indexrelid) from pg_stat_user_indexes i where i.schemaname = 'absurd' $$"""


def _rows_read(conn: psycopg.Connection[Any], query: Any) -> int:
    """Rows that the transaction of a query reads from tables and indexes of the schema, as PostgreSQL counts them."""
    with conn.transaction():
        before = sum(conn.execute(READ).fetchall()[0])
        run(conn, query)
        return int(sum(conn.execute(READ).fetchall()[0]) - before)


@pytest.mark.slow
def test_no_statement_of_the_claim_path_reads_more_rows_when_there_are_more(
    sync_play: Play, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(INDEX_READS)
    costs = []
    for added in (1_000, 99_000):
        for statement in FILL.split(";\n"):
            if statement.strip():
                conn.execute(statement.replace("%(n)s", str(added)))
        found = []
        for limit in (1, 50):
            # Without the dead entries of what was claimed before.
            conn.execute("vacuum (analyze, index_cleanup on) absurd.runs, absurd.tasks")
            found.append(_rows_read(conn, queries.claim_runs("default", "w", 600, limit)))
            found.append(_rows_read(conn, queries.promote_due("default")))
        costs.append(found)
    few, many = costs
    assert all(cost > 0 for cost in few)
    assert all(after <= before + 10 for before, after in zip(few, many, strict=True)), costs
