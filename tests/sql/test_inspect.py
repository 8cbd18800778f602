"""What people are shown: right, and cheap on a large database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.sql.calls import (
    NOON,
    QUEUE,
    Connection,
    after,
    await_event,
    claim,
    claim_all,
    complete,
    emit,
    fail,
    row,
    rows,
    set_checkpoint,
    set_clock,
    spawn,
    spawn_and_claim,
    sqlstate,
    value,
)

STATES = ("pending", "running", "sleeping", "completed", "failed", "cancelled")


def list_tasks(conn: Connection, **filters: Any) -> list[dict[str, Any]]:
    arguments = ", ".join(f"p_{name} => %s" for name in filters)
    return rows(conn, f"select * from absurd.list_tasks({arguments})", *filters.values())


def one_of_each(conn: Connection, queue: str = QUEUE) -> dict[str, UUID]:
    """A task in every state, spawned in the order of STATES."""
    ids = {}
    for name in STATES:
        options = {"priority": 0 if name == "pending" else 9, "max_attempts": 1}
        ids[name] = spawn(conn, f"{name} task", queue=queue, options=options)["task_id"]
    runs = {r["task_id"]: r for r in claim_all(conn, len(STATES) - 1, timeout=0, queue=queue)}
    rows(conn, "select absurd.fail_run(%s, %s, '1', now() + interval '1 day')", queue, runs[ids["failed"]]["run_id"])
    complete(conn, runs[ids["completed"]], queue=queue)
    rows(conn, "select absurd.cancel_task(%s, %s)", queue, ids["cancelled"])
    rows(conn, "select absurd.schedule_run(%s, %s, now() + interval '1 day')", queue, runs[ids["sleeping"]]["run_id"])
    return ids


def test_tasks_are_found_by_every_filter(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('other')")
    mine, theirs = one_of_each(conn), one_of_each(conn, "other")
    everything = sorted([*mine.values(), *theirs.values()], reverse=True)
    assert [t["task_id"] for t in list_tasks(conn)] == everything
    assert [t["task_id"] for t in list_tasks(conn, queue_name=QUEUE)] == sorted(mine.values(), reverse=True)
    assert list_tasks(conn, queue_name="nowhere") == []
    for name in STATES:
        assert {t["task_id"] for t in list_tasks(conn, state=name)} == {mine[name], theirs[name]}
        (found,) = list_tasks(conn, queue_name="other", state=name)
        assert (found["task_id"], found["state"], found["queue_name"]) == (theirs[name], name, "other")
        assert [t["task_id"] for t in list_tasks(conn, task_name=f"{name} task", queue_name=QUEUE)] == [mine[name]]
        assert len(list_tasks(conn, task_name=f"{name} task", state=name)) == 2
        assert list_tasks(conn, task_name="no task", state=name) == []
    assert list_tasks(conn, newer_than=timedelta(minutes=1), limit=1000)
    assert list_tasks(conn, older_than=timedelta(minutes=1)) == []
    for name in STATES:
        assert list_tasks(conn, older_than=timedelta(minutes=1), state=name) == []
        assert list_tasks(conn, newer_than=timedelta(minutes=1), state=name)


@pytest.mark.parametrize("state", [None, *STATES])
@pytest.mark.parametrize("queue", [None, QUEUE])
def test_pages_follow_each_other_without_gap_or_repetition(conn: Connection, state: str | None, queue: str | None) -> None:
    for _ in range(4):
        one_of_each(conn)
    whole = [t["task_id"] for t in list_tasks(conn, state=state, queue_name=queue)]
    assert len(whole) == (4 if state else 24)
    paged: list[UUID] = []
    while page := list_tasks(conn, state=state, queue_name=queue, before_task_id=paged[-1] if paged else None, limit=3):
        paged += [t["task_id"] for t in page]
    assert paged == whole


def test_ages_are_counted_by_the_clock_of_the_database(conn: Connection) -> None:
    set_clock(conn, NOON)
    old = spawn(conn, "old")["task_id"]
    set_clock(conn, after(3600))
    new = spawn(conn, "new")["task_id"]
    set_clock(conn, after(3700))
    for filters in ({}, {"queue_name": QUEUE}, {"state": "pending"}):
        assert [t["task_id"] for t in list_tasks(conn, older_than=timedelta(minutes=30), **filters)] == [old]
        assert [t["task_id"] for t in list_tasks(conn, newer_than=timedelta(minutes=30), **filters)] == [new]


def test_an_age_may_be_longer_than_history(conn: Connection) -> None:
    spawn(conn)
    counts = {}
    for name in ("older", "newer"):
        for age in ("100000 years", "-100000 years"):
            counts[name, age] = len(rows(conn, f"select * from absurd.list_tasks(p_{name}_than => '{age}')"))
    assert list(counts.values()) == [0, 1, 1, 0]
    assert rows(conn, "select * from absurd.list_events(p_newer_than => '100000 years')") == []


def test_an_unknown_state_is_refused_by_name(conn: Connection) -> None:
    code, message = sqlstate(conn, "select * from absurd.list_tasks(p_state => 'done')")
    assert code == "AB012"
    assert '"done"' in message


def test_a_task_is_shown_with_all_that_is_known_of_it(conn: Connection) -> None:
    run = spawn_and_claim(conn, {"headers": {"trace": 1}, "max_attempts": 3})
    set_checkpoint(conn, run, "reserve", {"b": 1, "a": 2})
    fail(conn, run, {"name": "ValueError", "traceback": "…"})
    run = claim(conn)
    child = spawn(conn, "child", options={"parent_task_id": str(run["task_id"]), "delay": 60})["task_id"]
    await_event(conn, run, "paid", timeout=60)
    shown = value(conn, "select absurd.show_task(%s)", run["task_id"])
    assert (shown["state"], shown["attempt"], shown["headers"], shown["failure"]) == ("sleeping", 2, {"trace": 1}, None)
    assert [(a["attempt"], a["state"], a["cause"]) for a in shown["attempts"]] == [(1, "failed", "error"), (2, "sleeping", None)]
    assert shown["attempts"][0]["failure"]["name"] == "ValueError"
    assert [(c["step_name"], c["state"]) for c in shown["checkpoints"]] == [("reserve", {"a": 2, "b": 1})]
    assert [(w["kind"], w["event_name"]) for w in shown["waits"]] == [("event", "paid"), ("timeout", None)]
    assert [(c["task_id"], c["task_name"], c["state"]) for c in shown["children"]] == [(str(child), "child", "sleeping")]
    assert (shown["checkpoint_count"], shown["child_count"]) == (1, 1)
    emit(conn, "paid", 1)
    complete(conn, claim(conn), [1])
    ended = value(conn, "select absurd.show_task(%s)", run["task_id"])
    assert (ended["state"], ended["result"], ended["waits"]) == ("completed", [1], [])
    assert [a["state"] for a in ended["attempts"]] == ["failed", "completed"]
    assert value(conn, "select absurd.show_task(%s)", uuid4()) is None


def test_events_are_listed_newest_first_and_by_name_or_its_beginning(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('other')")
    for name in ("order.paid:1", "order.paid:2", "order.shipped:1", "order%paid"):
        emit(conn, name, {"n": name})
    emit(conn, "order.paid:1", queue="other")
    names = "select string_agg(e.event_name, ' ' order by e.seq desc) from absurd.list_events({}) e"
    assert value(conn, names.format("'default'")) == "order%paid order.shipped:1 order.paid:2 order.paid:1"
    assert value(conn, names.format("'default', 'order.paid', true")) == "order.paid:2 order.paid:1"
    assert value(conn, names.format("'default', 'order%', true")) == "order%paid"
    assert value(conn, names.format("'default', 'order.paid:1'")) == "order.paid:1"
    assert value(conn, names.format("null, 'order.paid:1'")) == "order.paid:1 order.paid:1"
    assert value(conn, names.format("'default', p_limit => 2")) == "order%paid order.shipped:1"
    last = value(conn, "select min(seq) from absurd.list_events('default', p_limit => 2)")
    assert value(conn, names.format(f"'default', p_before_seq => {last}")) == "order.paid:2 order.paid:1"
    set_clock(conn, NOON + timedelta(days=36500))
    assert value(conn, names.format("'default', p_newer_than => '1 day'")) is None


def test_waits_workers_counts_and_stuck_runs_are_shown(conn: Connection) -> None:
    waiting = spawn_and_claim(conn)
    await_event(conn, waiting, "paid", timeout=60)
    sleeping = spawn_and_claim(conn)
    rows(conn, "select absurd.schedule_run('default', %s, now() + interval '1 hour')", sleeping["run_id"])
    running = spawn_and_claim(conn)
    noted = spawn_and_claim(conn)
    rows(
        conn,
        "select absurd.release_runs(array[%s], array[1], array[5.0], array['no worker knows it'])",
        noted["run_id"],
    )
    spawn(conn, "ready")
    (wait,) = rows(conn, "select * from absurd.list_waits('default')")
    assert (wait["kind"], wait["event_name"], wait["task_id"]) == ("event", "paid", waiting["task_id"])
    assert wait["until"] - wait["waiting_since"] > timedelta(seconds=59)
    assert rows(conn, "select * from absurd.list_waits('nowhere')") == []
    rows(conn, "select absurd.register_worker('worker-1', array['default'], 'host', 1, '0.1', 10, 30)")
    (worker,) = rows(conn, "select * from absurd.list_workers()")
    assert (worker["worker_id"], worker["running"], worker["stale"]) == ("worker-1", 1, False)
    counts = row(conn, "select * from absurd.queue_stats()")
    assert {n: counts[n] for n in ("queue_name", "pending", "running", "sleeping", "workers")} == {
        "queue_name": "default", "pending": 1, "running": 1, "sleeping": 3, "workers": 1,
    }  # fmt: skip
    assert counts["oldest_ready_at"] is not None
    (stuck,) = rows(conn, "select * from absurd.find_unclaimable()")
    assert (stuck["task_id"], stuck["note"]) == (noted["task_id"], "no worker knows it")
    complete(conn, running)


@pytest.fixture
def crowd(conn: Connection) -> Connection:
    """100,000 tasks: most completed, 2,000 alive, 500 failed, in 20 names; 30,000 events."""
    rows(
        conn,
        """
        insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, finished_at)
        select (lpad(to_hex(1700000000000 + n * 1000), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || '8000'
            || lpad(to_hex(n), 12, '0'))::uuid,
          'default', 'name ' || n % 20, 'null', to_timestamp(1700000000 + n),
          case when n % 50 = 0 then null when n % 200 = 1 then 'failed' else 'completed' end, to_timestamp(1700000000 + n + 5)
        from generate_series(1, 100000) n
        """,
    )
    rows(
        conn,
        """
        insert into absurd.runs (run_id, task_id, queue_name, state, attempt, available_at)
        select absurd.make_id(), t.task_id, t.queue_name, (array['pending', 'running', 'sleeping'])[1 + n % 3], 1, t.spawned_at
        from (select t.*, row_number() over (order by t.task_id) as n from absurd.tasks t where t.outcome is null) t
        """,
    )
    rows(
        conn,
        """
        insert into absurd.attempts (run_id, task_id, queue_name, attempt, epoch, ended_at, cause, failure, final)
        select absurd.make_id(), t.task_id, t.queue_name, 1, 1, t.finished_at, 'error', 'null', true
        from absurd.tasks t where t.outcome = 'failed'
        """,
    )
    rows(
        conn,
        "insert into absurd.events (queue_name, event_name, emitted_at)"
        " select 'default', 'event ' || n, to_timestamp(1700000000 + n) from generate_series(1, 30000) n",
    )
    rows(conn, "analyze absurd.tasks, absurd.runs, absurd.attempts, absurd.events")
    return conn


READS = (
    "select coalesce(sum(seq_scan), 0) as scans, coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) as read"
    " from pg_stat_xact_all_tables"
    " where relid in ('absurd.tasks'::regclass, 'absurd.attempts'::regclass, 'absurd.events'::regclass)"
)


def cost(conn: Connection, statement: str) -> tuple[int, int, int]:
    """Rows answered, full scans and rows read of the large tables, by one statement."""
    with conn.transaction():
        before = row(conn, READS)
        answered = len(rows(conn, statement))
        spent = row(conn, READS)
    return answered, int(spent["scans"] - before["scans"]), int(spent["read"] - before["read"])


def test_lists_of_a_large_database_read_pages_and_not_tables(crowd: Connection) -> None:
    calls = {
        "select * from absurd.list_tasks()": 50,
        "select * from absurd.list_tasks('default')": 50,
        "select * from absurd.list_tasks('default', 'name 7')": 50,
        "select * from absurd.list_tasks(p_task_name => 'name 7')": 50,
        "select * from absurd.list_tasks('default', p_state => 'failed')": 50,
        "select * from absurd.list_tasks(p_state => 'failed')": 50,
        "select * from absurd.list_tasks(p_state => 'cancelled')": 0,
        "select * from absurd.list_tasks('default', p_state => 'completed')": 50,
        "select * from absurd.list_tasks('default', p_state => 'running')": 50,
        "select * from absurd.list_tasks(p_older_than => absurd.current_time() - to_timestamp(1700050000))": 50,
        "select * from absurd.list_tasks('default', p_older_than => absurd.current_time() - to_timestamp(1700050000))": 50,
        "select * from absurd.list_tasks(p_newer_than => '1 minute')": 0,
        "select * from absurd.list_events('default')": 50,
        "select * from absurd.list_events('default', 'event 5')": 1,
        "select * from absurd.task_names('default')": 20,
    }
    for statement, answers in calls.items():
        answered, scans, read = cost(crowd, statement)
        assert (answered, scans) == (answers, 0), statement
        assert read < 8000, f"{read} rows read by {statement}"
    (middle,) = rows(crowd, "select task_id from absurd.tasks order by task_id offset 50000 limit 1")
    answered, scans, read = cost(crowd, f"select * from absurd.list_tasks('default', p_before_task_id => '{middle['task_id']}')")
    assert (answered, scans) == (50, 0)
    assert read < 8000


def test_counts_of_a_large_database_read_no_history(crowd: Connection) -> None:
    assert cost(crowd, "select * from absurd.queue_stats()") == (1, 0, 0)
    counts = row(crowd, "select pending + running + sleeping as living from absurd.queue_stats()")
    assert counts["living"] == 2000


def test_failures_are_looked_for_among_the_newest_that_have_ended(conn: Connection) -> None:
    fail(conn, spawn_and_claim(conn, {"max_attempts": 1}))
    cancelled = (
        "insert into absurd.attempts (run_id, task_id, queue_name, attempt, epoch, ended_at, cause, failure, final)"
        " select absurd.make_id(), absurd.make_id(), 'default', 1, 1, now() + %s * interval '1 second', 'cancel', 'null', true"
        " from generate_series(1, 30000)"
    )
    failures, queues = "select * from absurd.last_failures()", "select * from absurd.page_of_queues() where failed = 1"
    rows(conn, cancelled, -60)
    rows(conn, "analyze absurd.attempts")
    for statement in (failures, queues):
        answered, scans, read = cost(conn, statement)
        assert (answered, scans, read < 11_000) == (1, 0, True), f"{read} rows read by {statement}"
    # Before so many newer ones nobody looks for it.
    rows(conn, cancelled, 60)
    for statement in (failures, queues):
        answered, scans, read = cost(conn, statement)
        assert (answered, scans, read < 11_000) == (0, 0, True), f"{read} rows read by {statement}"
