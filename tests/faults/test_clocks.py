"""A worker whose wall clock is hours off: sleeps, time-outs, leases, back-off and schedules keep the database's time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd
from tests.faults.report import record
from tests.support import wait_until
from tests.support_schedules import DatabaseClock
from tests.support_tasks import Play, count

ROOT = Path(__file__).parents[2]
HOUR = 3600
LATE = timedelta(seconds=60)  # for a loaded machine; the clock is off by hours
OFFSETS = {"ahead": 5 * HOUR, "behind": -5 * HOUR}
"""By queue: seconds by which the clock of its worker is off."""
RESULTS: dict[str, Any] = {"naps": "timed out", "until": "slept", "again": 2}
SHORTEST = {"naps": 3.0, "until": 1.0, "again": 1.0}
"""Seconds."""


def test_workers_whose_clocks_are_hours_off_keep_the_time_of_the_database(
    database_url: str, conn: psycopg.Connection[Any]
) -> None:
    with Absurd(database_url) as app, contextlib.ExitStack() as stack:
        app.create_queue("other")
        app.register_task("of the other queue")(lambda params, ctx: None)
        for queue, offset in OFFSETS.items():
            app.create_queue(queue)
            command = [sys.executable, "-m", "tests.faults.support_shifted_clock", database_url, str(offset), queue]
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT))
            stack.callback(process.terminate)
        # Another worker, which would end what is not renewed, and takes nothing itself.
        stack.enter_context(app.worker(lease_seconds=1, queues=["other"], scheduler=False))
        app.create_schedule("every second", task="time", queue="ahead", every=1)
        now = _ask(conn, "select absurd.current_time()")
        tasks = {
            (queue, name): app.spawn(name, (now + timedelta(seconds=2)).isoformat(), queue=queue)
            for queue in OFFSETS
            for name in RESULTS
        }
        told = {queue: app.spawn("time", queue=queue) for queue in OFFSETS}
        for (queue, name), handle in tasks.items():
            assert handle.result(90) == RESULTS[name], (queue, name)
            # By the clock of the worker it would be hours, or nothing.
            spent = _ask(conn, "select finished_at - spawned_at from absurd.tasks where task_id = %s", handle.task_id)
            assert timedelta(seconds=SHORTEST[name]) <= spent < LATE, (queue, name)
        for queue, offset in OFFSETS.items():
            shown = datetime.fromisoformat(told[queue].result(60)) - now
            assert abs(shown - timedelta(seconds=offset)) < LATE
        fired = "select count(*) from absurd.tasks where headers #>> '{absurd-source,name}' = 'every second'"
        wait_until(lambda: count(conn, fired) >= 2, what="two slots of a schedule")
        # One slot a second of the database's time, and not the thousands of five hours.
        assert count(conn, fired) <= _ask(conn, "select extract(epoch from absurd.current_time() - %s)::int", now) + 2
    # The lease of a second was renewed, by the database's time, while a step took two.
    assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
    record("clock of a worker off by hours", ["one end", "steps once", "fence"], injected=2, tasks=8)


def _ask(conn: psycopg.Connection[Any], sql: str, *args: Any) -> Any:
    return conn.execute(sql.encode(), args).fetchall()[0][0]


@pytest.mark.parametrize("step", [timedelta(hours=5), timedelta(hours=-5)])
def test_the_clock_of_the_database_steps_and_nothing_is_lost_or_done_twice(
    database_url: str, conn: psycopg.Connection[Any], step: timedelta
) -> None:
    """Back: sleepers sleep longer. Forth: they wake at once. A run whose lease the step takes is run again, and fenced off."""
    began = datetime.now(UTC)
    clock = DatabaseClock(conn, began)
    play = Play(database_url, "sync")

    @play.task("sleeps", max_attempts=3)
    async def sleeps(n: int, ctx: Any) -> int:
        await ctx.step("before", lambda: play.seen.append(("before", n)))
        await ctx.sleep_for(60)
        await ctx.step("after", lambda: play.seen.append(("after", n)))
        return n

    with play.worker(poll_interval=0.1):
        handles = [play.spawn("sleeps", n) for n in range(5)]
        wait_until(lambda: count(conn, "select count(*) from absurd.runs where state = 'sleeping'") == 5)
        clock.move(began + step)
        if step < timedelta():
            handles.append(play.spawn("sleeps", 5))
            wait_until(lambda: count(conn, "select count(*) from absurd.runs where state = 'sleeping'") == 6)
            clock.move(began + timedelta(minutes=2))
        assert [handle.result(30) for handle in handles] == list(range(len(handles)))
    play.close()
    assert sorted(play.seen) == [(name, n) for name in ("after", "before") for n in range(len(handles))]
    record("clock of the database steps by hours", ["one end", "steps once"], tasks=len(handles))
