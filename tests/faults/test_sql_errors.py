"""Errors that say nothing against the task: deadlocks, time-outs, a full disk, a server that only reads. Nobody pays for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd import DatabaseError, devdb, schema
from absurd.worker import engine, leases, writer
from tests.conftest import MakeServer
from tests.ending import cut_others
from tests.faults.report import record
from tests.faults.support_refusals import TERMINATED, refuse, refused
from tests.faults.support_scenario import TABLE, add_everything, check_everything
from tests.support import wait_until
from tests.support_tasks import Play, count

# What the writer writes to. Each of them is refused in turn.
TABLES = ("checkpoints", "runs", "tasks", "events", "waits", "attempts", "tokens")
STATES = {
    "40001": "writes refused: serialization failure (40001)",
    "40P01": "writes refused: deadlock (40P01)",
    "57014": "writes refused: statement time-out (57014)",
    "55P03": "writes refused: lock time-out (55P03)",
    "53100": "writes refused: disk full (53100)",
    "53200": "writes refused: out of memory (53200)",
    "58030": "writes refused: input or output (58030)",
    TERMINATED: "writes refused: session terminated meanwhile",
}


@pytest.fixture
def play(database_url: str, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    monkeypatch.setattr(writer, "PUT_OFF_SECONDS", 0.1)
    conn.execute(TABLE)
    made = Play(database_url, "async")
    add_everything(made)
    yield made
    made.close()


def _attack(play: Play, conn: psycopg.Connection[Any], tables: tuple[str, ...], state: str, times: int, tasks: int) -> None:
    for table in tables:
        refuse(conn, table, state, times)
    with play.worker(concurrency=tasks):
        handles = [play.spawn("everything", n) for n in range(tasks)]
        assert [handle.result(60) for handle in handles] == list(range(tasks))
    check_everything(play, conn, list(range(tasks)))
    # No attempt was charged for what the server could not do; the one that is there is the task's own.
    found = conn.execute("select cause, attempt, count(*) from absurd.attempts group by 1, 2").fetchall()
    assert found == [("error", 1, tasks)]
    struck = sum(refused(conn, table, times) for table in tables)
    assert struck == times * len(tables)
    record(
        STATES[state],
        ["one end", "steps once", "transactions once", "events once", "recovery"],
        injected=struck,
        tasks=2 * tasks,
    )


@pytest.mark.parametrize("state", STATES)
def test_writes_that_the_server_could_not_do_are_repeated(play: Play, conn: psycopg.Connection[Any], state: str) -> None:
    _attack(play, conn, TABLES, state, times=1, tasks=2)


@pytest.mark.full
@pytest.mark.parametrize(
    ("state", "table"),  # each state with two tables, each table with two states or three
    [(state, TABLES[(2 * place + other) % len(TABLES)]) for place, state in enumerate(STATES) for other in (0, 1)],
)
def test_writes_to_one_table_that_the_server_could_not_do_are_repeated(
    play: Play, conn: psycopg.Connection[Any], state: str, table: str
) -> None:
    _attack(play, conn, (table,), state, times=5, tasks=4)


@pytest.mark.parametrize("state", ["40001", "40P01", TERMINATED])
def test_a_transaction_step_that_the_server_undid_costs_no_attempt(play: Play, conn: psycopg.Connection[Any], state: str) -> None:
    refuse(conn, "checkpoints", state, 3, "absurd worker: transactions")
    with play.worker():
        assert play.spawn("everything", 7).result(30) == 7
    check_everything(play, conn, [7])
    assert conn.execute("select cause, attempt from absurd.attempts").fetchall() == [("error", 1)]
    assert refused(conn, "checkpoints", 3) == 3
    record(STATES[state], ["one end", "steps once", "transactions once"], injected=3, tasks=2)


def test_a_write_that_is_cancelled_again_and_again_fails_its_task_and_no_other(
    play: Play, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PUT_OFF_SECONDS", 0.01)
    conn.execute("""
        create function public.too_slow() returns trigger language plpgsql as $$
        begin
          raise exception 'canceling statement due to statement timeout' using errcode = '57014';
        end $$;
        create trigger too_slow before insert on absurd.checkpoints
          for each row when (new.step_name = 'slow') execute function public.too_slow()""")

    @play.task("slow")
    async def slow(params: Any, ctx: Any) -> None:
        await ctx.step("slow", lambda: 1)
        await ctx.sleep_for(0.01)

    with play.worker():
        handles = [play.spawn("slow"), play.spawn("everything", 1)]
        assert handles[1].result(30) == 1
        wait_until(lambda: play.app.get_result(handles[0].task_id).state == "failed", 30)
    failure = play.app.get_result(handles[0].task_id).failure
    assert "statement timeout" in failure["message"]
    record(STATES["57014"], ["open queue", "one end"], injected=30, tasks=2)


def test_errands_and_leases_that_the_server_refuses_end_no_worker(
    play: Play, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the worker cannot be written: it says neither that it lives nor that it is idle, and works all the same."""
    monkeypatch.setattr(leases, "HEARTBEAT", 0.05)
    monkeypatch.setattr(leases, "TICK", 0.1)
    with play.worker():
        assert play.spawn("everything", 1).result(30) == 1
        refuse(conn, "workers", "53100", 6, "absurd worker")
        wait_until(lambda: refused(conn, "workers", 6) == 6, 40, "refused writes to the worker's row")
        assert play.spawn("everything", 2).result(30) == 2
    check_everything(play, conn, [1, 2])
    record(STATES["53100"], ["one end", "recovery"], injected=6, tasks=4)


def test_a_refused_look_at_the_limits_of_its_queues_ends_no_worker(
    play: Play, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LIMITS_INTERVAL", 0.05)
    looks = "select case when is_called then last_value else 0 end from public.looks"
    with play.worker(poll_interval=0.05):
        conn.execute("""
            create sequence public.looks;
            alter function absurd.queue_limits(text[]) rename to queue_limits_at_last;
            create function absurd.queue_limits(text[]) returns table (queue_name text, max_payload_bytes integer)
            language plpgsql as $$
            begin
              if nextval('public.looks') <= 3 then
                raise exception 'refused on purpose' using errcode = '53200';
              end if;
              return query select l.queue_name, l.max_payload_bytes from absurd.queue_limits_at_last($1) l;
            end $$""")
        wait_until(lambda: count(conn, looks) >= 5, what="looks at the limits after three that were refused")
        assert play.spawn("everything", 1).result(30) == 1
    check_everything(play, conn, [1])
    record(STATES["53200"], ["one end", "recovery"], injected=3, tasks=2)


def test_a_session_that_only_reads_is_left_for_another(play: Play, database_url: str, conn: psycopg.Connection[Any]) -> None:
    """A primary that is demoted keeps its sessions but refuses to write; whoever connects anew finds the next primary."""
    name = conn.execute("select current_database()").fetchall()[0][0]
    with play.worker():
        assert play.spawn("everything", 1).result(30) == 1
        conn.execute(f'alter database "{name}" set default_transaction_read_only = on'.encode())
        # New sessions only read; those of before are ended, so that all are new.
        cut_others(conn, "absurd%")
        with pytest.raises(DatabaseError, match="read-only"):
            play.app.spawn("everything", 2)
        conn.execute(f'alter database "{name}" reset default_transaction_read_only'.encode())
        assert play.spawn("everything", 3).result(30) == 3
    check_everything(play, conn, [1, 3])
    record(
        "writes refused: server only reads (25006)",
        ["one end", "steps once", "transactions once", "recovery"],
        injected=2,
        tasks=4,
    )


SETTINGS = {
    "statement_timeout": "2s",
    "lock_timeout": "200ms",
    "default_transaction_isolation": "serializable",
    "idle_in_transaction_session_timeout": "300ms",
    "idle_session_timeout": "300ms",
    "transaction_timeout": "2s",
}


def test_settings_of_a_role_that_other_applications_want_harm_nobody(database_url: str, conn: psycopg.Connection[Any]) -> None:
    name = conn.execute("select current_database()").fetchall()[0][0]
    known = {row[0] for row in conn.execute("select name from pg_settings").fetchall()}
    for setting, value in SETTINGS.items():
        if setting in known:
            conn.execute(f"alter database {name} set {setting} = '{value}'".encode())
    conn.execute(TABLE)
    play = Play(database_url, "sync")
    add_everything(play)
    with play.worker(concurrency=4):
        handles = [play.spawn("everything", n) for n in range(4)]
        assert [handle.result(30) for handle in handles] == [0, 1, 2, 3]
        # Longer than idle sessions are allowed to be.
        gone = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'absurd client'"
        wait_until(lambda: count(conn, gone) == 0, what="sessions of the client that idled too long")
        assert play.spawn("everything", 4).result(30) == 4
    play.close()
    check_everything(play, conn, [0, 1, 2, 3, 4])
    record(
        "settings of a role: short time-outs, serializable isolation",
        ["one end", "steps once", "transactions once", "recovery"],
        tasks=10,
    )


def test_opposing_transactions_of_an_application_deadlock_with_a_worker_and_nobody_loses(
    make_server: MakeServer,
) -> None:
    """Real deadlocks: an application locks rows of runs in the wrong order, again and again, while tasks run."""
    server: devdb.Server = make_server({"deadlock_timeout": "20ms", "fsync": "off"})
    with psycopg.connect(server.url(), autocommit=True) as conn:
        schema.install(conn)
        conn.execute(TABLE)
        play = Play(server.url(), "async")
        add_everything(play)
        stop, deadlocks = threading.Event(), []

        def oppose() -> None:
            with psycopg.connect(server.url()) as other:
                while not stop.is_set():
                    try:
                        for order in ("desc", "asc"):
                            other.execute(f"select from absurd.runs order by run_id {order} limit 20 for update".encode())
                            other.execute("select from absurd.tasks order by task_id desc limit 20 for update")
                        other.execute("select from absurd.runs order by run_id for update")
                    except psycopg.errors.DeadlockDetected:
                        deadlocks.append(1)
                    other.rollback()

        threads = [threading.Thread(target=oppose) for _ in range(2)]
        with play.worker(concurrency=8):
            handles = [play.spawn("everything", n) for n in range(8)]
            for thread in threads:
                thread.start()
            try:
                found = "select deadlocks from pg_stat_database where datname = current_database()"
                wait_until(lambda: count(conn, found) >= 3, what="deadlocks")
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            assert [handle.result(60) for handle in handles] == list(range(8))
        play.close()
        check_everything(play, conn, list(range(8)))
        assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
        record(
            "writes refused: deadlocks with an application's transactions",
            ["one end", "steps once", "transactions once"],
            injected=count(conn, found),
            tasks=16,
        )
