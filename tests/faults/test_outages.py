"""Workers after an outage: whoever is there first cannot know who is about to come back, and ends no lease before they can be."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import devdb, schema
from absurd.db import run
from absurd.queries import runs, workers
from absurd.worker import leases
from tests.faults.chaos_proxy import ChaosProxy
from tests.faults.report import record
from tests.faults.support_standby import Pair
from tests.support import wait_until
from tests.support_tasks import Play, count

LEASE = 0.5  # seconds: the shortest there is
FAULT = "PostgreSQL back, and some workers sooner than others"
EXPIRED = "select count(*) from absurd.runs where lease_expires_at < now()"
BEATEN = "select count(*) from absurd.workers where queue_names = '{other}' and heartbeat_at > %s + interval '0.5 s'"


def _install(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        schema.install(conn)


def _register(conn: psycopg.Connection[Any], name: str) -> None:
    run(conn, workers.register_worker(name, ["default"], "host", 1, "1", 1, LEASE, None))


@pytest.mark.parametrize(
    "starts", [pytest.param(True, id="starts"), pytest.param(False, id="is back first", marks=pytest.mark.full)]
)
def test_a_worker_that_is_there_after_an_outage_lets_the_others_renew_their_leases(
    crash_server: devdb.Server, crash_url: str, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT", 0.05)
    # However short the outage was: the leases have run out.
    monkeypatch.setattr(leases, "OUT_OF_TOUCH", 600)
    _install(crash_url)
    gate, begun = threading.Event(), []
    with ChaosProxy(crash_url) as proxy, ExitStack() as second:
        play, other = Play(proxy.url, "async"), Play(crash_url, queue="other")

        @other.task("of the other queue")
        async def of_the_other_queue(n: int, ctx: Any) -> None: ...

        @play.task("held", max_attempts=1)
        async def held(n: int, ctx: Any) -> int:
            begun.append(n)
            await play.hold(gate, 60)
            return await ctx.step("after", lambda: play.seen.append(n) or n)

        with play.worker(lease_seconds=LEASE):
            if not starts:
                second.enter_context(other.worker(queues=["other"], lease_seconds=LEASE))
            handles = [play.spawn("held", n) for n in range(3)]
            wait_until(lambda: len(begun) == 3)
            # The holder finds its way back later than the other one.
            proxy.freeze()
            crash_server.restart("immediate")
            with psycopg.connect(crash_url, autocommit=True) as conn:
                wait_until(lambda: count(conn, EXPIRED) == 3, what="leases that ran out")
                if starts:
                    second.enter_context(other.worker(queues=["other"], lease_seconds=LEASE))
                # It has swept when it came, and sweeps after each of its beats.
                (since,) = conn.execute("select clock_timestamp()").fetchall()[0]
                wait_until(lambda: count(conn, BEATEN, since) == 1, what="beats of the other worker")
                assert count(conn, "select count(*) from absurd.attempts") == 0
                proxy.thaw()
                gate.set()
                assert [handle.result(30) for handle in handles] == [0, 1, 2]
                assert count(conn, "select count(*) from absurd.attempts") == 0
        second.close()
        play.close()
        other.close()
    assert sorted(play.seen) == [0, 1, 2]
    record(FAULT, ["one end", "steps once", "fence", "recovery"], tasks=3)


def test_who_does_not_come_back_after_an_outage_loses_his_runs_a_little_later(
    crash_server: devdb.Server, crash_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLING", 2.0)
    _install(crash_url)
    play = Play(crash_url)

    @play.task("task", max_attempts=2)
    async def task(n: int, ctx: Any) -> int:
        return ctx.attempt

    with psycopg.connect(crash_url, autocommit=True) as conn:
        _register(conn, "gone")
        handle = play.spawn("task", 1)
        assert len(run(conn, runs.claim_runs("default", "gone", LEASE, 1))) == 1
        late = play.spawn("task", 2, cancellation={"max_delay": 0.01})
    crash_server.restart("immediate")
    with psycopg.connect(crash_url, autocommit=True) as conn:
        wait_until(lambda: count(conn, EXPIRED) == 1, what="a lease that ran out")
        with play.worker():
            # What nobody could renew has time; what had to begin by now has not.
            assert late.snapshot().state == "cancelled"
            assert count(conn, "select count(*) from absurd.attempts where cause = 'lease'") == 0
            assert handle.result(30) == 2
        assert conn.execute("select cause from absurd.attempts order by 1").fetchall() == [("delay",), ("lease",)]
    play.close()
    record(FAULT, ["one end", "recovery"], tasks=2)


# -- how it is known that the database was away ---------------------------------------------------------------------------------


def _kill_one_process(server: devdb.Server) -> None:
    """PostgreSQL ends all of its processes when one of them dies, and begins anew; its main process stays."""
    with psycopg.connect(server.url()) as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)


ONE_KILLED = "one process killed"
OUTAGES = {
    "restarted": lambda server: server.restart("fast"),
    "restarted in immediate mode": lambda server: server.restart("immediate"),
    ONE_KILLED: _kill_one_process,
}


@pytest.mark.parametrize(
    "outage", [ONE_KILLED, *(pytest.param(name, marks=pytest.mark.full) for name in OUTAGES if name != ONE_KILLED)]
)
def test_whoever_has_not_been_back_since_an_outage_is_known(crash_server: devdb.Server, crash_url: str, outage: str) -> None:
    _install(crash_url)
    with psycopg.connect(crash_url, autocommit=True) as conn:
        _register(conn, "other")
        _register(conn, "me")
        assert not run(conn, workers.workers_may_return("me"))
        OUTAGES[outage](crash_server)
        wait_until(lambda: _is_cut(conn), what="the outage")
    wait_until(lambda: _may_connect(crash_url), what="the server again")
    with psycopg.connect(crash_url, autocommit=True) as conn:
        _check_return(conn)
    record(FAULT, ["fence"], tasks=0)


@pytest.mark.full
def test_whoever_has_not_been_back_since_a_standby_was_promoted_is_known(short_directory: Path) -> None:
    pair = Pair(short_directory)
    with psycopg.connect(pair.url, autocommit=True) as conn:
        _register(conn, "other")
        _register(conn, "me")
        assert not run(conn, workers.workers_may_return("me"))
    pair.fail_over()
    with psycopg.connect(pair.url, autocommit=True) as conn:
        _check_return(conn)
    record(FAULT, ["fence"], tasks=0)


def _check_return(conn: psycopg.Connection[Any]) -> None:
    run(conn, workers.heartbeat_worker("me", 0))
    assert run(conn, workers.workers_may_return("me"))
    run(conn, workers.heartbeat_worker("other", 0))
    assert not run(conn, workers.workers_may_return("me"))


def _is_cut(conn: psycopg.Connection[Any]) -> bool:
    try:
        conn.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


def _may_connect(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_sleeper_whose_time_came_during_an_outage_does_not_wait_for_as_long_again(
    crash_server: devdb.Server, crash_url: str
) -> None:
    _install(crash_url)
    with ChaosProxy(crash_url) as proxy:
        play = Play(proxy.url, "async")

        @play.task("sleeper")
        async def sleeper(n: int, ctx: Any) -> int:
            await ctx.sleep_for(2)
            return n

        @play.task("quick")
        async def quick(n: int, ctx: Any) -> int:
            return n

        with play.worker(poll_interval=0.2):
            late = play.spawn("sleeper", 1)
            with psycopg.connect(crash_url, autocommit=True) as conn:
                wait_until(lambda: count(conn, "select count(*) from absurd.runs where state = 'sleeping'") == 1)
            # A claim, which is a look at the whole queue, waits for its answer all the time.
            proxy.freeze()
            crash_server.restart("immediate")
            time.sleep(5)
            with psycopg.connect(crash_url) as conn:
                # The sleeper becomes ready a little later than the claims have got past the time at which it was due.
                conn.execute("select from absurd.runs for update")
                proxy.thaw()
                assert play.spawn("quick", 2).result(30) == 2
            assert late.result(10) == 1
        play.close()
    record(FAULT, ["one end", "recovery"], tasks=2)
