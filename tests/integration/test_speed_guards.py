"""Counts that hold still on noisy machines, so that speed cannot rot unseen: statements, commits, WAL, pages, imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, devdb, schema
from absurd.devdb.account import choose_account
from absurd.devdb.paths import socket_directory
from tests.conftest import FAST_AND_UNSAFE
from tests.support import wait_until

Conn = psycopg.Connection[Any]
QUEUE = "speed"
TASKS = 3000
# Rows of each kind in a large queue. Whatever reads them all reads more pages than is allowed below.
ROWS = 20_000
CLAIM = "select * from absurd.claim_runs('speed', 'w', 30, 10)"


@pytest.fixture(scope="module")
def counted_server() -> Iterator[devdb.Server]:
    """A server of its own that counts statements: nobody else's work is in its counters."""
    directory = Path(tempfile.mkdtemp(prefix="absurd-speed-", dir="/tmp"))
    directory.chmod(0o755)
    settings = {**FAST_AND_UNSAFE, "shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "top"}
    server = devdb.Server(directory / "server", settings=settings)
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(socket_directory(server.directory, choose_account(server.data)), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def counted(counted_server: devdb.Server) -> Iterator[Conn]:
    """A connection to an empty schema on that server."""
    with psycopg.connect(counted_server.url(), autocommit=True) as conn:
        conn.execute("create extension if not exists pg_stat_statements")
        conn.execute("drop schema if exists absurd cascade")
        schema.install(conn)
        conn.execute("select pg_stat_statements_reset()")
        yield conn


@pytest.fixture
def app(counted: Conn, counted_server: devdb.Server) -> Iterator[Absurd]:
    """An application with small tasks, in a queue that is there."""
    with Absurd(counted_server.url(), queue_name=QUEUE) as made:
        made.create_queue()

        @made.register_task
        async def one_step(params: Any, ctx: Any) -> int:
            await ctx.step("only", lambda: {"k": params["i"]})
            return 1

        @made.register_task
        async def noop(params: Any, ctx: Any) -> int:
            return 1

        yield made


def number(conn: Conn, statement: str, *args: Any) -> int:
    row = conn.execute(statement.encode(), args).fetchone()
    assert row is not None
    return int(row[0])


def statements(conn: Conn, like: str = "%") -> int:
    """Statements of all sessions but those that count."""
    return number(
        conn,
        "select coalesce(sum(calls), 0) from pg_stat_statements where query ilike %s and query not ilike '%%pg_stat_%%'",
        like,
    )


def commits(conn: Conn) -> int:
    """Transactions of the whole database, when nobody but the test is connected: sessions report when they end."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend'"
    wait_until(lambda: number(conn, others) == 1, what="only the test is connected")
    conn.execute("select pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    return number(conn, "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()")


def wal_bytes(conn: Conn) -> int:
    return number(conn, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


def test_one_step_tasks_under_load_share_commits_statements_and_wal(counted: Conn, app: Absurd) -> None:
    app.spawn_many("one_step", [{"i": i, "pad": "x" * 100} for i in range(TASKS)])
    app.close()  # its sessions end, and report
    before = commits(counted), statements(counted), wal_bytes(counted)
    assert app.run_worker_once(concurrency=256) == TASKS
    after_wal = wal_bytes(counted)
    after = commits(counted), statements(counted)
    assert number(counted, "select count(*) from absurd.tasks where outcome = 'completed'") == TASKS
    assert (after[0] - before[0]) / TASKS <= 0.05
    assert (after[1] - before[1]) / TASKS <= 0.05
    assert (after_wal - before[2]) / TASKS <= 2000


def test_bulk_spawns_are_few_statements_and_little_wal(counted: Conn, app: Absurd) -> None:
    before = statements(counted), wal_bytes(counted)
    app.spawn_many("noop", [{"i": i, "pad": "x" * 100} for i in range(TASKS)])
    assert wal_bytes(counted) - before[1] <= 1200 * TASKS
    app.close()  # its sessions end, and report
    assert statements(counted) - before[0] <= 20


def test_a_single_spawn_is_a_single_statement(counted: Conn, app: Absurd) -> None:
    app.spawn("noop", {"i": 0})
    before = statements(counted)
    for i in range(50):
        app.spawn("noop", {"i": i})
    assert statements(counted) - before == 50


def fill(conn: Conn) -> None:
    """A queue with many pending, sleeping and finished tasks."""
    # The sleepers have the higher priority: an index in claim order over both would walk past them.
    # The runs' ids are in no order, as those of many clients.
    for state, due, priority in (("pending", "now()", 0), ("sleeping", "now() + interval '1 day'", 1)):
        conn.execute(
            f"""with made as (
                  insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at)
                  select absurd.make_id(), 'speed', 'noop', '{{}}', now() from generate_series(1, {ROWS}) returning task_id)
                insert into absurd.runs (run_id, task_id, queue_name, state, attempt, available_at, priority)
                select gen_random_uuid(), task_id, 'speed', '{state}', 1, {due}, {priority} from made""".encode()
        )
    conn.execute(
        f"""insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, result, finished_at)
            select absurd.make_id(), 'speed', 'noop', '{{}}', now(), 'completed', 'null', now()
              from generate_series(1, {ROWS})""".encode()
    )
    conn.execute("vacuum analyze")


def pages(conn: Conn, statement: str) -> int:
    """How many pages a statement touches, with all that its functions do, when the session knows the plans."""
    for _ in range(3):
        conn.execute(statement.encode())
    row = conn.execute(f"explain (analyze, buffers, format json) {statement}".encode()).fetchone()
    assert row is not None
    plan = (row[0] if isinstance(row[0], list) else json.loads(row[0]))[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    ("statement", "limit"),
    [
        (CLAIM, 300),
        ("select absurd.promote_due('speed', 100)", 30),
        ("select * from absurd.sweep()", 60),
        ("select absurd.spawn_task('speed', 'noop', '{}')", 60),
    ],
    ids=["claim of ten", "promotion", "sweep", "spawn"],
)
def test_what_is_called_often_reads_few_pages_of_a_large_queue(counted: Conn, app: Absurd, statement: str, limit: int) -> None:
    empty = pages(counted, statement)
    fill(counted)
    large = pages(counted, statement)
    assert large <= limit
    assert statement == CLAIM or large <= empty + 30


def test_a_claim_fetches_no_more_rows_than_it_returns(counted: Conn, app: Absurd) -> None:
    fill(counted)
    counters = """select sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) from pg_stat_xact_user_tables
                  where schemaname = 'absurd' and relname in ('runs', 'tasks', 'checkpoints', 'attempts')"""
    with counted.transaction():
        before = number(counted, counters)
        assert len(counted.execute(CLAIM).fetchall()) == 10
        # The ready row, the same row for its update, its task: three for each, and nothing for the others.
        assert number(counted, counters) - before <= 40


def test_a_claim_from_its_place_on_does_not_walk_what_a_held_snapshot_keeps(
    counted: Conn, counted_server: devdb.Server, app: Absurd
) -> None:
    fill(counted)
    claim = "select * from absurd.claim_runs('speed', 'w', 30, %s, %s::text::absurd.claim_place[])"
    with psycopg.connect(counted_server.url()) as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from pg_class")
        place = None
        for _ in range(10):
            claimed = counted.execute(claim.encode(), (500, place)).fetchall()
            place = next(row[-1] for row in claimed if row[-1] is not None)
            counted.execute("delete from absurd.runs where state = 'running'")
        from_place = pages(counted, f"select * from absurd.claim_runs('speed', 'w', 30, 10, '{place}')")
        assert from_place <= 400
        assert pages(counted, CLAIM) >= 5 * from_place  # what it is spared: the test can fail


SWEEP = "select * from absurd.sweep(p_after => {})"
PROMOTE = "select * from absurd.promote_due('speed', 100, {})"


@pytest.mark.parametrize(
    ("statement", "dead"),
    [
        (
            SWEEP,
            "update absurd.runs set state = 'running', lease_expires_at = now() - n * interval '1 s' / 10000 - interval '10 s'",
        ),
        (SWEEP, "update absurd.runs set deadline_at = now() - n * interval '1 s' / 10000 - interval '10 s'"),
        (
            PROMOTE,
            "update absurd.runs set state = 'sleeping', available_at = now() - n * interval '1 s' / 10000 - interval '10 s'",
        ),
    ],
    ids=["leases", "deadlines", "sleepers"],
)
def test_a_look_from_its_place_on_does_not_walk_what_a_held_snapshot_keeps(
    counted: Conn, counted_server: devdb.Server, app: Absurd, statement: str, dead: str
) -> None:
    app.spawn_many("noop", [{"i": i} for i in range(5000)])
    with psycopg.connect(counted_server.url()) as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from pg_class")
        numbered = (
            " from (select run_id, row_number() over (order by run_id) as n from absurd.runs) k where runs.run_id = k.run_id"
        )
        counted.execute((dead + numbered).encode())
        counted.execute("delete from absurd.runs")
        from_place = pages(counted, statement.format("clock_timestamp() - interval '2 s'"))
        assert from_place <= 60
        assert pages(counted, statement.format("null")) >= 5 * from_place  # what it is spared: the test can fail


def test_an_idle_worker_asks_seldom(counted: Conn, app: Absurd) -> None:
    with app.worker():
        wait_until(lambda: number(counted, "select count(*) from absurd.workers where idle") == 1, what="an idle worker")
        start = statements(counted)
        wait_until(lambda: statements(counted) - start >= 15, timeout=60, what="the end of what it asks at its start")
        began, first = time.monotonic(), statements(counted)
        wait_until(lambda: statements(counted) - first >= 25, timeout=60, what="25 statements")
        assert time.monotonic() - began >= 5.0


def test_nobody_is_notified_while_the_workers_are_busy(counted: Conn, counted_server: devdb.Server, app: Absurd) -> None:
    heard: list[str] = []
    with psycopg.connect(counted_server.url(), autocommit=True) as listening:
        row = listening.execute("select absurd.queue_channel(%s)", (QUEUE,)).fetchone()
        assert row is not None
        listening.add_notify_handler(lambda note: heard.append(note.channel))
        listening.execute(f'listen "{row[0]}"'.encode())
        app.spawn_many("noop", [{"i": i} for i in range(TASKS)])
        with app.worker(concurrency=1):
            done = "select count(*) from absurd.tasks where outcome = 'completed'"
            wait_until(lambda: number(counted, done) > 50, what="a busy worker")
            listening.execute("select 1")
            heard.clear()
            for i in range(200):
                app.spawn("noop", {"i": i})
            listening.execute("select 1")
            assert number(counted, "select count(*) from absurd.runs where state = 'pending'") > 0
            assert heard == []


def test_an_idle_worker_is_notified(counted: Conn, counted_server: devdb.Server, app: Absurd) -> None:
    """What the test above relies on: the same listener does hear of a spawn when somebody waits for it."""
    heard: list[str] = []
    with psycopg.connect(counted_server.url(), autocommit=True) as listening, app.worker():
        listening.add_notify_handler(lambda note: heard.append(note.channel))
        row = listening.execute("select absurd.queue_channel(%s)", (QUEUE,)).fetchone()
        assert row is not None
        listening.execute(f'listen "{row[0]}"'.encode())
        wait_until(lambda: number(counted, "select count(*) from absurd.workers where idle") == 1, what="an idle worker")
        app.spawn("noop", {"i": 1})

        def told() -> bool:
            listening.execute("select 1")
            return bool(heard)

        wait_until(told, what="a notification")


def loaded_by(code: str) -> set[str]:
    """The modules that some code has loaded, in a process of its own."""
    command = [sys.executable, "-c", f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


@pytest.mark.parametrize(
    ("code", "limit", "unwanted"),
    [
        ("import absurd", 40, ("psycopg", "asyncio", "pydantic", "typer", "sqlite3", "http.client")),
        ("from absurd import Absurd", 430, ("pydantic", "typer", "rich", "absurd.cli")),
        ("import absurd.worker", 410, ("pydantic", "typer", "rich", "absurd.cli")),
    ],
)
def test_an_import_loads_little(code: str, limit: int, unwanted: tuple[str, ...]) -> None:
    loaded = loaded_by(code)
    assert sorted(loaded.intersection(unwanted)) == []
    assert len(loaded) <= limit
