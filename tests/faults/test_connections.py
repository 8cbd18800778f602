"""Slow and half-closed networks, sessions ended by an administrator, no free slot on the server, locks held for long."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, DatabaseUnavailableError, Fire, schema
from tests.conftest import MakeServer
from tests.faults.report import record
from tests.faults.support_scenario import TABLE, Load, add_everything, check_everything
from tests.support import wait_until
from tests.support_proxy import LossyProxy
from tests.support_tasks import Play, count

ROOT = Path(__file__).parents[2]
# Every kind of connection that a worker or a client opens.
ENDED_HERE = (
    "absurd worker: writer",
    "absurd worker: leases",
    "absurd worker: notifications",
    "absurd worker: transactions",
    "absurd worker: schedules",
    "absurd worker: triggers",
    "absurd client",
    "absurd client: results",
)
ENDED_ELSEWHERE = {
    "absurd scheduler": "the same loop as in a worker; tests/integration/test_schedules.py",
    "absurd listener: notifications": "tests/integration/test_listeners_sources.py",
    "absurd listener: heartbeat": "tests/integration/test_listeners.py",
    "absurdctl completion": "lives for one look",
    "absurdctl doctor": "lives for one look",
    "absurd: look for a pooler": "lives for one look",
    "absurd dashboard": "the pool of a client; tests/integration/test_dashboard_pages.py",
    "absurd metrics": "looks again at the next request; tests/integration/test_metrics.py",
    "absurd worker: retention": "is there while there is something to delete; tests/integration/test_retention.py",
    "absurd testing": "databases of tests",
    "absurd": "the default of connect(); whoever calls it holds the connection",
}
END = """
  select count(pg_terminate_backend(pid)) from pg_stat_activity
  where application_name = %s and datname = current_database()"""

LAST_TOOK = """
  select extract(epoch from max(t.finished_at - t.spawned_at))
  from (select * from absurd.tasks where task_name = 'everything' order by task_id desc limit 10) t"""


@pytest.fixture
def prepared(database_url: str, conn: psycopg.Connection[Any]) -> Iterator[Play]:
    conn.execute(TABLE)
    play = Play(database_url, "async")
    add_everything(play)
    yield play
    play.close()


def test_every_kind_of_connection_is_known_here() -> None:
    found: set[str] = set()
    for path in (ROOT / "absurd").rglob("*.py"):
        found |= set(re.findall(r'application_name(?:: str)? ?= ?"([^"]+)"', path.read_text()))
    assert found == set(ENDED_HERE) | set(ENDED_ELSEWHERE)


@pytest.mark.parametrize("name", ENDED_HERE)
def test_sessions_are_ended_again_and_again(prepared: Play, conn: psycopg.Connection[Any], name: str) -> None:
    play, ended, fires = prepared, 0, []

    @play.app.trigger("often", task="child", poll_interval=0.1, allow_concurrent=True)
    def often(state: dict[str, Any]) -> Fire | None:
        fires.append(1)
        return None

    with play.worker(concurrency=4):
        play.app.create_schedule("every second", task="child", every=1)
        handles = [play.spawn("everything", n) for n in range(3)]
        waiting = threading.Thread(target=lambda: handles[0].result(60))
        waiting.start()
        deadline = time.monotonic() + 60
        while ended < 3:
            assert time.monotonic() < deadline, f"no session {name} to be ended"
            ended += count(conn, END, name)
            if len(handles) < 30 and all(play.app.get_result(handle.task_id).state == "completed" for handle in handles):
                handles.append(play.spawn("everything", len(handles)))
        assert [handle.result(60) for handle in handles] == list(range(len(handles)))
        waiting.join(60)
        # The loops beside the tasks live too.
        polls = len(fires)
        wait_until(lambda: len(fires) > polls, what="another poll")
        play.app.delete_schedule("every second")
    wanted = list(range(len(handles)))
    assert sorted(n for step, n in play.seen if step == "last") == wanted
    assert [n for (n,) in conn.execute("select n from effects order by n").fetchall()] == wanted
    assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
    record(
        "connections ended (pg_terminate_backend)",
        ["one end", "steps once", "transactions once", "events once", "recovery"],
        injected=ended,
        tasks=2 * len(handles),
    )


def test_a_slow_network_and_connections_that_are_closed_on_one_side(database_url: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute(TABLE)
    with LossyProxy(database_url) as proxy:
        play = Play(proxy.url, "async")
        add_everything(play)
        proxy.delay = 0.02
        with play.worker(concurrency=4):
            handles = [play.spawn("everything", n) for n in range(4)]
            closed = 0
            for _ in range(3):
                seen = len(play.seen)
                wait_until(lambda seen=seen: len(play.seen) > seen or len(play.seen) == 12, what="progress")
                closed += proxy.half_close()
            assert [handle.result(60) for handle in handles] == list(range(4))
        play.close()
    assert closed > 0
    check_everything(play, conn, list(range(4)))
    assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
    record(
        "connections half-closed",
        ["one end", "steps once", "transactions once", "recovery"],
        injected=closed,
        tasks=8,
    )


def test_the_server_has_no_free_slot_for_a_while(make_server: MakeServer) -> None:
    server = make_server({"max_connections": "24", "superuser_reserved_connections": "0", "fsync": "off"})
    with psycopg.connect(server.url(), autocommit=True) as conn, contextlib.ExitStack() as taken:
        schema.install(conn)
        conn.execute(TABLE)
        play = Play(server.url(), "sync")
        add_everything(play)
        with play.worker(concurrency=4):
            assert play.spawn("everything", 0).result(30) == 0
            handles = [play.spawn("everything", n) for n in range(1, 5)]
            _take_all(server.url(), taken)
            for name in ENDED_HERE[:4]:
                count(conn, END, name)
                _take_all(server.url(), taken)
            with Absurd(server.url()) as fresh, pytest.raises(DatabaseUnavailableError, match="too many clients"):
                fresh.list_queues()
            taken.close()
            assert [handle.result(60) for handle in handles] == [1, 2, 3, 4]
        play.close()
        check_everything(play, conn, [0, 1, 2, 3, 4])
        assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
    record("connections refused: no free slot", ["one end", "steps once", "transactions once", "recovery"], tasks=10)


def _take_all(url: str, taken: contextlib.ExitStack) -> None:
    """Opens connections until the server refuses one for want of a slot."""
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            taken.enter_context(psycopg.connect(url))


@pytest.mark.parametrize(
    "seconds", [pytest.param(0, marks=pytest.mark.short), pytest.param(125, marks=[pytest.mark.full, pytest.mark.first])]
)
def test_an_idle_transaction_holds_locks_and_only_what_it_holds_waits(
    prepared: Play, conn: psycopg.Connection[Any], seconds: float
) -> None:
    play = prepared

    @play.task("waits")
    async def waits(n: int, ctx: Any) -> Any:
        return await ctx.await_event(f"held {n}")

    with play.worker(concurrency=4), play.worker(concurrency=4):
        held = [play.spawn("waits", n) for n in range(2)]
        wait_until(lambda: count(conn, "select count(*) from absurd.runs where state = 'sleeping'") == 2)
        with psycopg.connect(play.url) as idle:
            # The name of an event, the rows of runs and tasks; and then nothing more for long, so that no dead row can go.
            play.app.emit_event("held 0", "from the idle one", conn=idle)
            idle.execute("select from absurd.runs where task_id = %s for update", (held[1].task_id,))
            idle.execute("select from absurd.tasks where task_id = %s for update", (held[1].task_id,))
            until = time.monotonic() + seconds
            load = Load(play, pause=0.1 + seconds / 300)
            load.wait_for_more(8)
            while time.monotonic() < until:
                load.wait_for_more(1)
            others = load.results()
            assert others == list(range(len(others)))
            assert [play.app.get_result(handle.task_id).state for handle in held] == ["sleeping", "sleeping"]
            idle.commit()
        play.app.emit_event("held 1", "afterwards")
        assert [handle.result(30) for handle in held] == ["from the idle one", "afterwards"]
    assert count(conn, LAST_TOOK) < 10, "the last tasks were slow"
    assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
    record("locks held by an idle transaction", ["one end", "events once", "open queue"], tasks=2 + 2 * len(others))


def test_an_event_loop_that_user_code_blocks_for_longer_than_a_lease(prepared: Play, conn: psycopg.Connection[Any]) -> None:
    play = prepared

    @play.task("blocks", max_attempts=1)
    async def blocks(n: int, ctx: Any) -> int:
        await ctx.step("block", lambda: play.seen.append(("block", n)) or time.sleep(1.5))
        return n

    with play.worker(concurrency=1, lease_seconds=1), play.worker(concurrency=1, lease_seconds=1):
        handles = [play.spawn("blocks", n) for n in range(4)]
        assert [handle.result(60) for handle in handles] == list(range(4))
    assert sorted(play.seen) == [("block", n) for n in range(4)]
    assert count(conn, "select count(*) from absurd.attempts") == 0
    record("event loop blocked for longer than a lease", ["one end", "steps once", "fence"], injected=4, tasks=4)


def test_an_event_loop_that_is_blocked_while_a_claim_waits_for_its_answer(
    database_url: str, conn: psycopg.Connection[Any]
) -> None:
    """The run is claimed, but its worker does not know of it yet: it keeps it all the same."""
    lease = 1.5
    with LossyProxy(database_url) as proxy, Absurd(database_url) as direct:
        play = Play(proxy.url, "async")

        @play.task("blocks", max_attempts=1)
        async def blocks(n: int, ctx: Any) -> int:
            proxy.delay = 0.5
            claimed = direct.spawn("is claimed", n)
            while direct.get_result(claimed.task_id).state != "running":  # noqa: ASYNC110 -- another process decides
                await asyncio.sleep(0.01)
            proxy.delay = 0.0
            # The answer of the claim arrives at the beginning of this, and nobody looks.
            time.sleep(2 * lease)  # noqa: ASYNC251 -- the fault
            return n

        @play.task("is claimed", max_attempts=1)
        async def is_claimed(n: int, ctx: Any) -> int:
            return await ctx.step("step", lambda: play.seen.append(n) or n)

        # A second worker, which ends what is not renewed, and takes nothing itself.
        direct.create_queue("other")
        direct.register_task("of the other queue", queue="other")(lambda params, ctx: None)
        with direct.worker(queues=["other"]), play.worker(concurrency=2, lease_seconds=lease):
            assert play.spawn("blocks", 1).result(30) == 1
            wait_until(lambda: count(conn, "select count(*) from absurd.runs") == 0, what="the end of both tasks")
        play.close()
    assert play.seen == [1]
    assert conn.execute("select cause, failure from absurd.attempts").fetchall() == []
    record("event loop blocked for longer than a lease", ["one end", "steps once", "fence"], tasks=2)
