"""Workers whose looks at everything have become rare, because somebody holds an old snapshot: what they do in between."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from absurd.db import run
from absurd.queries import runs, workers
from absurd.worker import leases, promoter
from absurd.worker.pace import Pace
from tests.support import wait_until
from tests.support_tasks import Play, count

# Of the share that something may take of a worker's time: it is done once, and not again in this test.
NEVER = 1e-9


def test_what_is_cheap_may_be_done_all_the_time_and_nothing_is_put_off_for_ever() -> None:
    pace = Pace(share=0.1, longest_pause=30.0)
    assert pace.due()
    assert pace.took(2.0) == pytest.approx(20.0)
    assert not pace.due()
    assert pace.took(60.0) == 30.0
    assert pace.took(0.0) == 0.0
    assert pace.due()


def test_leases_end_in_time_between_the_sweeps_from_the_beginning(
    play: Play, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "FULL_SWEEP_SHARE", NEVER)

    @play.task(max_attempts=2)
    async def task(params: Any, ctx: Any) -> int:
        return int(ctx.attempt)

    play.app.create_queue("other")
    with play.worker(queues=["other"]):
        run(conn, workers.register_worker("gone", ["default"], "host", 1, "1", 1, 2.0, None))
        handles = [play.spawn() for _ in range(3)]
        for lease in (2.0, 2.5, 4.0):
            assert len(run(conn, runs.claim_runs("default", "gone", lease, 1))) == 1
        wait_until(lambda: count(conn, "select count(*) from absurd.attempts where cause = 'lease'") == 3, timeout=15)
    with play.worker():
        assert [handle.result(20) for handle in handles] == [2, 2, 2]


def test_sleepers_wake_in_time_between_the_looks_from_the_beginning(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promoter, "FULL_LOOK_SHARE", NEVER)
    monkeypatch.setattr(promoter, "LONGEST_PAUSE", 3600.0)

    @play.task()
    async def task(n: int, ctx: Any) -> int:
        for _ in range(3):
            await ctx.sleep_for(0.1 * n)
        await ctx.sleep_until(datetime(2020, 1, 1, tzinfo=UTC))
        return n

    with play.worker():
        began = time.monotonic()
        assert [handle.result(20) for handle in [play.spawn("task", n) for n in range(10)]] == list(range(10))
        assert time.monotonic() - began < 10


def test_a_sleeper_that_is_committed_long_after_its_time_is_found(play: Play, conn: psycopg.Connection[Any]) -> None:
    """The looks have got past its place by then: it takes one from the beginning."""

    @play.task()
    async def task(n: int, ctx: Any) -> int:
        await ctx.sleep_for(0.01)
        return n

    with play.worker():
        with psycopg.connect(play.url) as slow:
            due = '{"available_at": "%s"}'
            (soon,) = slow.execute("select to_json(clock_timestamp() + interval '0.2 s') #>> '{}'").fetchone() or ("",)
            late = slow.execute("select task_id from absurd.spawn_task('default', 'task', '7', %s)", (due % soon,)).fetchone()
            deadline = time.monotonic() + 2.5
            while time.monotonic() < deadline:
                assert play.spawn("task", 1).result(20) == 1
        assert late is not None
        done = "select count(*) from absurd.tasks where outcome = 'completed' and params::text = '7'"
        wait_until(lambda: count(conn, done) == 1, timeout=10)
