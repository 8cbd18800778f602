"""A primary and its standby as Patroni looks after them: failover, switchover, and the cases in which that goes less well.

What a run with the real Patroni looks like is in docs/failover.md.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import TaskHandle
from absurd.errors import DatabaseUnavailableError, TaskNotFoundError
from absurd.worker import leases
from tests.conftest import fast_directory
from tests.faults.programs.field import SERVER
from tests.faults.programs.generator import make_programs
from tests.faults.report import record
from tests.faults.support_failover import Cluster, ClusterField
from tests.support import wait_until
from tests.support_tasks import Play, count

SEED = os.environ.get("ABSURD_FAULTS_SEED") or "1"
LEASE = 1.0  # seconds
CHECKSUMS = 180000
ATTEMPTS = "select cause from absurd.attempts"
TABLE = "create table effects (who text)"
# Of commits that wait for the standby: not the emission, which nobody may repeat.
WAITING = "select pid from pg_stat_activity where wait_event = 'SyncRep' and datname = %s and query !~ 'event'"
BREAK_WAITING = f"select pid, pg_terminate_backend(pid) from ({WAITING}) w"
STILL_THERE = "select pid from pg_stat_activity where pid = any (%s)"
WRITERS_THAT_WAIT = f"select count(*) from ({WAITING} and application_name = 'absurd worker: writer') w"


@pytest.fixture(scope="module")
def servers() -> Iterator[Cluster]:
    """A primary with its synchronous standby, in this state again after each test."""
    directory = Path(tempfile.mkdtemp(prefix="absurd-", dir=fast_directory()))
    directory.chmod(0o755)
    found = Cluster(directory, SERVER)
    with psycopg.connect(found.primary.url(), autocommit=True) as conn:
        if conn.info.server_version < CHECKSUMS:
            found.stop()
            shutil.rmtree(directory, ignore_errors=True)
            pytest.skip("pg_rewind needs checksums, which initdb makes since PostgreSQL 18")
    yield found
    found.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def pair(servers: Cluster) -> Cluster:
    """The same, with a database for this test alone."""
    if servers.held_up(servers.primary) or not servers.standby.running:
        pytest.skip("an earlier test has failed, and left no pair of servers")
    servers.use(f"failover_{uuid.uuid4().hex[:12]}")
    return servers


def _at_once(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Something that may take long, on a thread; its answer or its error comes into the list."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


async def act(conn: Any, who: object) -> None:
    """A transaction of a task."""
    await conn.execute("insert into effects values (%s)", (str(who),))


# -- the good cases, under load -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "programs", "ttl"), [(1, 8, 1.0), pytest.param(3, 60, 5.0, marks=pytest.mark.full)], ids=["one", "three"]
)
def test_the_standby_takes_over_the_old_primary_comes_back_and_leads_again(
    pair: Cluster, tmp_path: Path, rounds: int, programs: int, ttl: float
) -> None:
    with ClusterField(tmp_path, pair) as field:

        def attack() -> None:
            for _ in range(rounds):
                _wait_for_more(field, 2)
                pair.primary.kill()
                field.slots[1].kill()  # a machine that dies may have had a worker too
                time.sleep(ttl)  # the fault itself: for so long the leader's key is still valid, and there is no primary
                pair.promote()
                field.slots[1].start()
                _wait_for_more(field, 2)
                pair.rejoin()
                _wait_for_more(field, 2)
                pair.switch_over()

        spread = rounds * (ttl + 2.0)
        one = field.play(make_programs(f"{SEED}/failover", programs), attack, spread=spread, timeout=120)
        assert one.violations == [], f"seed {SEED}"
    promises = ["one end", "steps once", "transactions once", "events once", "fence", "recovery", "open queue"]
    for fault in ("PostgreSQL killed, its synchronous standby promoted", "PostgreSQL switched over to its standby, as planned"):
        record(fault, promises, injected=rounds, tasks=one.counts["tasks"])  # type: ignore[arg-type]


def _wait_for_more(field: ClusterField, number: int) -> None:
    """Until so many more tasks have ended, or all have: the fault shall meet them at work."""
    wanted = field.ended + number
    wait_until(lambda: field.ended >= wanted or field.quiet, 120, "ended tasks")


# -- a primary that is cut off -------------------------------------------------------------------------------------------------


def _break_waiting(pair: Cluster) -> None:
    """Ends connections whose commits wait: everybody sees now that they took place. Who asks again has to wait all the same."""
    with psycopg.connect(pair.primary.url(), autocommit=True) as conn:
        broken = [pid for pid, _ in conn.execute(BREAK_WAITING, (pair.database,)).fetchall()]
        assert len(broken) == 2, "the writer's, and that of the spawn"
        wait_until(lambda: not conn.execute(STILL_THERE, (broken,)).fetchall())
        wait_until(lambda: count(conn, WRITERS_THAT_WAIT, pair.database) == 1, what="the writer's new connection")
        wait_until(lambda: pair.held_up(pair.primary, "absurd client%") == 2, what="the spawn again, and the emission")


def test_a_primary_without_its_standby_acknowledges_nothing_and_what_waited_goes_on_at_the_next_one(pair: Cluster) -> None:
    """It takes writes still, but no commit ends; another one leads by then. When it is demoted at last, everybody follows."""
    play, told = Play(pair.url, "async"), Play(pair.url)
    gate, begun = threading.Event(), []

    @play.task("held", max_attempts=1)
    async def held(n: int, ctx: Any) -> int:
        await ctx.step("before", lambda: play.seen.append("before"))
        begun.append(n)
        await play.hold(gate, 60)
        await ctx.step("acts", lambda: play.seen.append("acts"))
        await ctx.transaction("act", act, n)
        await ctx.step("after", lambda: play.seen.append("after"))
        return n

    with psycopg.connect(pair.url, autocommit=True) as conn:
        conn.execute(TABLE)
    with play.worker():
        handle = play.spawn("held", 1)
        wait_until(lambda: begun)
        pair.stop_replication()
        gate.set()
        spawning, spawned = _at_once(lambda: told.app.spawn("later", 2, idempotency_key="later"))
        emitting, emitted = _at_once(lambda: told.app.emit_event("event"))
        wait_until(lambda: pair.held_up(pair.primary, "absurd client%") == 2, what="two calls that wait")
        wait_until(lambda: "acts" in play.seen, what="a step that waits to be recorded")
        _break_waiting(pair)
        pair.promote()
        # The one of before is not told: it has no answer for anybody, and no next effect has begun.
        assert pair.held_up(pair.standby, "absurd client%") == 2
        assert (spawned, emitted, play.seen) == ([], [], ["before", "acts"])
        pair.standby.stop("immediate")
        assert handle.result(60) == 1
        spawning.join(60)
        emitting.join(60)
        pair.rejoin()
    assert play.seen == ["before", "acts", "after"]
    with psycopg.connect(pair.url, autocommit=True) as conn:
        assert conn.execute("select who from effects").fetchall() == [("1",)]
        assert conn.execute("select task_id from absurd.tasks where task_name = 'later'").fetchall() == [(spawned[0].task_id,)]
        assert conn.execute(ATTEMPTS).fetchall() == []
        # Of an emission without a key nobody can say whether it took effect. It did not: only the old primary had it.
        assert isinstance(emitted[0], DatabaseUnavailableError)
        assert count(conn, "select count(*) from absurd.events") == 0
    play.close()
    told.close()
    record(
        "PostgreSQL cut off from its synchronous standby, which is promoted",
        ["one end", "steps once", "transactions once", "fence", "recovery"],
        tasks=2,
    )


@pytest.mark.full
def test_a_worker_that_reaches_only_the_primary_of_before_changes_nothing(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It and its primary are one side of the network; the other side has a new primary, and another worker takes its task."""
    monkeypatch.setattr(leases, "SETTLING", 2.0)
    gate, begun = threading.Event(), []
    cut_off = Play(pair.url_of(pair.primary, pair.standby), "async")
    with psycopg.connect(pair.url, autocommit=True) as conn:
        conn.execute(TABLE)
    _register(cut_off, "cut off", begun, gate)
    with cut_off.worker(lease_seconds=LEASE):
        task_id = cut_off.spawn("task", 1).task_id
        wait_until(lambda: begun == ["cut off"])
        pair.stop_replication()
        pair.promote()
        wait_until(lambda: pair.held_up(pair.standby, "absurd worker: leases"), what="leases that cannot be renewed")
        other = Play(pair.url_of(pair.primary, pair.standby), "async")
        _register(other, "other", begun)
        with other.worker(lease_seconds=LEASE):
            wait_until(lambda: other.app.get_result(task_id).state == "completed", 90, "the end of the task, elsewhere")
            gate.set()
            wait_until(lambda: "acts cut off" in cut_off.seen, what="a step that waits to be recorded")
            pair.standby.stop("immediate")
            pair.rejoin()
            with psycopg.connect(other.url, autocommit=True) as conn:
                alive = "select count(*) from absurd.workers where heartbeat_at > now() - interval '5 s'"
                wait_until(lambda: count(conn, alive) == 2, 60, "both workers at the new primary")
    # The recorded step did not run again; the one in the middle did, as it may.
    assert (cut_off.seen, other.seen) == (["before cut off", "acts cut off"], ["acts other"])
    with psycopg.connect(other.url, autocommit=True) as conn:
        assert conn.execute("select who from effects").fetchall() == [("other",)]
        assert conn.execute("select payload from absurd.events").fetchall() == [("other",)]
        assert [cause for (cause,) in conn.execute(ATTEMPTS).fetchall()] in (["lease"], ["worker"])
        assert count(conn, "select count(*) from absurd.runs") == 0
    cut_off.close()
    other.close()
    record("worker left with the primary of before", ["one end", "transactions once", "events once", "fence"])


def _register(play: Play, who: str, begun: list[str], gate: threading.Event | None = None) -> None:
    @play.task("task", max_attempts=3)
    async def task(n: int, ctx: Any) -> str:
        await ctx.step("before", lambda: play.seen.append(f"before {who}"))
        begun.append(who)
        if gate is not None:
            await play.hold(gate, 120)
        await ctx.step("acts", lambda: play.seen.append(f"acts {who}"))
        await ctx.transaction("act", act, who)
        await ctx.emit_event("done", who)
        return who


# -- what is not promised ------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_an_asynchronous_standby_knows_nothing_of_what_was_acknowledged_last_and_steps_run_again(pair: Cluster) -> None:
    play = Play(pair.url)

    @play.task("task", max_attempts=1)
    async def task(n: int, ctx: Any) -> int:
        await ctx.step("first", lambda: play.seen.append("first"))
        await ctx.await_event("go on")
        await ctx.step("second", lambda: play.seen.append("second"))
        await ctx.await_event("end")
        return n

    def steps(handle: TaskHandle[Any], number: int) -> bool:
        with psycopg.connect(pair.url, autocommit=True) as conn:
            done = "select count(*) from absurd.checkpoints where task_id = %s and kind = 'step'"
            return count(conn, done, handle.task_id) == number and handle.snapshot().state == "sleeping"

    handle = play.spawn("task", 1)
    with play.worker():
        wait_until(lambda: steps(handle, 1))
        pair.forget_standby()
        pair.stop_replication()
        play.app.emit_event("go on")
        lost = play.spawn("nobody's", 2)
        wait_until(lambda: steps(handle, 2))
        pair.primary.kill()
        pair.promote()
        assert steps(handle, 1)
        with pytest.raises(TaskNotFoundError):
            lost.snapshot()
        play.app.emit_event("go on")
        play.app.emit_event("end")
        assert handle.result(60) == 1
    assert play.seen == ["first", "second", "second"]
    play.close()
    pair.rejoin()


@pytest.mark.full
def test_a_wait_for_the_standby_that_somebody_cancels_counts_as_success(pair: Cluster) -> None:
    """PostgreSQL answers so, with a warning: the commit is there, on this server alone. Nobody should cancel it."""
    play = Play(pair.url)
    pair.stop_replication()
    spawning, spawned = _at_once(lambda: play.app.spawn("task", 1))
    wait_until(lambda: pair.held_up(pair.primary, "absurd client%") == 1, what="a call that waits")
    with psycopg.connect(pair.primary.url(), autocommit=True) as conn:
        conn.execute("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
    spawning.join(30)
    assert play.app.get_result(spawned[0].task_id).state == "pending"
    pair.primary.kill()
    pair.promote()
    with pytest.raises(TaskNotFoundError):
        spawned[0].snapshot()
    play.close()
    pair.rejoin()
