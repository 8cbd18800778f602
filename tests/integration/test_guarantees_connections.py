"""Cut connections and restarts of PostgreSQL: worker and client go on by themselves, and each effect happens once."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import psycopg
import pytest

from absurd import devdb, schema
from tests.conftest import MakeServer
from tests.support import wait_until
from tests.support_tasks import KINDS, Play, count

TASKS = 30
CONNECTIONS = (
    "absurd worker: writer",
    "absurd worker: leases",
    "absurd worker: notifications",
    "absurd worker: transactions",
    "absurd client",
    "absurd",  # all of them at once
)
CUT = """
  select count(pg_terminate_backend(pid)) from pg_stat_activity
  where application_name like %s and datname = current_database()"""


def _make_task(play: Play) -> None:
    def work(conn: Any, n: int) -> int:
        conn.execute("insert into effects values (%s)", (n,))
        return n

    async def work_async(conn: Any, n: int) -> int:
        await conn.execute("insert into effects values (%s)", (n,))
        return n

    @play.task(max_attempts=100)
    async def task(n: Any, ctx: Any) -> Any:
        await ctx.step("one", lambda: play.seen.append(n))
        await ctx.transaction("two", work if play.kind == "sync" else work_async, n)
        await ctx.sleep_for(0.01)
        await ctx.emit_event(f"event {n}", n)
        return await ctx.await_event(f"event {n}")


def _check(play: Play, conn: psycopg.Connection[Any], handles: list[Any]) -> None:
    assert [handle.result(40) for handle in handles] == list(range(TASKS))
    assert Counter(play.seen) == dict.fromkeys(range(TASKS), 1)
    assert sorted(conn.execute("select n from effects").fetchall()) == [(n,) for n in range(TASKS)]
    assert count(conn, "select count(*) from absurd.events") == TASKS
    assert count(conn, "select count(*) from absurd.attempts where cause <> 'error'") == 0


@pytest.mark.parametrize("name", CONNECTIONS)
def test_tasks_go_on_while_connections_are_cut(play: Play, conn: psycopg.Connection[Any], name: str) -> None:
    conn.execute("create table effects (n integer)")
    _make_task(play)
    stop, cuts = threading.Event(), []

    def cut_again_and_again() -> None:
        while not stop.wait(0.02):
            cuts.append(count(conn, CUT, f"{name}%" if name == "absurd" else name))

    with play.worker(concurrency=4):
        handles = [play.spawn("task", n) for n in range(TASKS)]
        cutter = threading.Thread(target=cut_again_and_again)
        cutter.start()
        try:
            wait_until(lambda: len(cuts) > 10 and sum(cuts), what=f"cuts of {name}")
        finally:
            stop.set()
            cutter.join()
        _check(play, conn, handles)
    assert sum(cuts) > 0


def test_a_client_waits_for_a_result_across_cut_connections(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    release = threading.Event()

    @sync_play.task()
    async def task(params: Any, ctx: Any) -> str:
        await sync_play.hold(release)
        return "done"

    with sync_play.worker():
        handle = sync_play.spawn()
        found: list[str] = []
        waiting = threading.Thread(target=lambda: found.append(handle.result(30)))
        waiting.start()
        wait_until(lambda: count(conn, "select count(*) from absurd.waits where kind = 'client'"))
        assert count(conn, CUT, "absurd client%") >= 1
        release.set()
        waiting.join(30)
    assert found == ["done"]


def test_an_idle_client_whose_connection_was_cut_spawns_and_emits(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    for call in (lambda: sync_play.spawn("t"), lambda: sync_play.app.emit_event("e"), sync_play.app.list_queues):
        call()
        assert count(conn, CUT, "absurd client") == 1
        call()
    assert count(conn, "select count(*) from absurd.tasks") == 2
    assert count(conn, "select count(*) from absurd.events") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_survive_an_immediate_restart_of_postgresql(make_server: MakeServer, kind: str) -> None:
    server: devdb.Server = make_server()
    with psycopg.connect(server.url(), autocommit=True) as conn:
        schema.install(conn)
        conn.execute("create table effects (n integer)")
    play = Play(server.url(), kind)
    _make_task(play)
    with play.worker(concurrency=4):
        handles = [play.spawn("task", n) for n in range(TASKS)]
        for wanted in (3, 15):
            wait_until(lambda wanted=wanted: len(play.seen) >= wanted)
            server.restart("immediate")
        with psycopg.connect(server.url(), autocommit=True) as conn:
            _check(play, conn, handles)
    play.close()
