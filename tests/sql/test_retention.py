"""What a queue keeps: options, what retention deletes and spares, and how much one batch reads."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.calls import (
    NOON,
    QUEUE,
    Connection,
    after,
    await_event,
    claim,
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

DAY = 86400
SET = "select absurd.set_queue_options('default', %s)"
APPLY = "select tasks_deleted, events_deleted, next_in, busy from absurd.apply_retention()"
READS = """select sum(seq_tup_read + idx_tup_fetch) from pg_stat_xact_all_tables
           where relid in ('absurd.tasks'::regclass, 'absurd.events'::regclass)"""


@pytest.fixture(autouse=True)
def noon(conn: Connection) -> None:
    set_clock(conn, NOON)


def options(conn: Connection, queue: str = QUEUE) -> dict[str, Any]:
    return row(conn, "select * from absurd.queue_options(%s)", queue)


def end(conn: Connection, how: str, name: str = "work", options: dict[str, Any] | None = None, queue: str = QUEUE) -> Any:
    """A task that has ended so; its id."""
    spawned = spawn(conn, name, options={"max_attempts": 1, **(options or {})}, queue=queue)
    if how == "cancelled":
        rows(conn, "select absurd.cancel_task(%s, %s)", queue, spawned["task_id"])
        return spawned["task_id"]
    run = claim(conn, queue=queue)
    assert run["task_id"] == spawned["task_id"]
    if how == "failed":
        fail(conn, run, queue=queue)
    else:
        complete(conn, run, queue=queue)
    return run["task_id"]


def apply(conn: Connection, limit: int = 500) -> tuple[int, int]:
    """Batches of all walks that are due, until they rest."""
    tasks = events = 0
    for _ in range(1000):
        done = row(conn, "select * from absurd.apply_retention(%s)", limit)
        tasks, events = tasks + done["tasks_deleted"], events + done["events_deleted"]
        if done["next_in"] != 0:
            return tasks, events
    raise AssertionError("the walks do not end")


def remaining(conn: Connection) -> set[Any]:
    return {found["task_id"] for found in rows(conn, "select task_id from absurd.tasks")}


def test_a_queue_keeps_everything_until_it_is_told_otherwise(conn: Connection) -> None:
    assert {**options(conn), "max_payload_bytes": 0} == {
        "queue_name": "default", "keep_completed": None, "keep_failed": None, "keep_cancelled": None, "keep_count": None,
        "keep_events": None, "max_payload_bytes": 0, "visited_at": None, "cleaned_at": None, "tasks_deleted": 0,
        "events_deleted": 0,
    }  # fmt: skip
    kept = {end(conn, "completed"), end(conn, "failed")}
    set_clock(conn, after(3650 * DAY))
    assert row(conn, APPLY) == {"tasks_deleted": 0, "events_deleted": 0, "next_in": None, "busy": False}
    assert remaining(conn) == kept


def test_options_change_what_they_name_and_null_is_for_ever(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": "7 days", "keep_failed": 3600.5, "keep_count": 10, "max_payload_bytes": 2048})
    rows(conn, SET, {"keep_failed": None, "keep_events": "1 hour"})
    found = options(conn)
    assert (found["keep_completed"], found["keep_failed"], found["keep_cancelled"]) == (7 * DAY, None, None)
    assert (found["keep_count"], found["keep_events"], found["max_payload_bytes"]) == (10, 3600, 2048)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"keep": 1}, 'no option "keep"'),
        ({"keep_completed": 59}, "keep_completed must be 60 seconds or more"),
        ({"keep_failed": "soon"}, "keep_failed"),
        ({"keep_cancelled": "-1 day"}, "keep_cancelled"),
        ({"keep_events": True}, "keep_events"),
        ({"keep_events": "infinity"}, "keep_events"),
        ({"keep_count": 0}, "keep_count"),
        ({"keep_count": 1.5}, "keep_count"),
        ({"keep_count": "7 days"}, "keep_count"),
        ({"max_payload_bytes": 1}, "max_payload_bytes"),
        ([], "options must be an object"),
        (None, "options must be an object"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name_and_change_nothing(conn: Connection, change: Any, named: str) -> None:
    before = options(conn)
    code, message = sqlstate(conn, SET, change)
    assert code == "AB012"
    assert named in message
    assert options(conn) == before


def test_options_of_no_queue_are_refused(conn: Connection) -> None:
    assert sqlstate(conn, "select absurd.set_queue_options('nowhere', '{}')")[0] == "AB010"
    assert sqlstate(conn, "select * from absurd.apply_retention(1, 'nowhere')")[0] == "AB010"


def test_a_queue_is_made_with_options_and_one_that_exists_stays_as_it_is(conn: Connection) -> None:
    make = "select absurd.make_queue('mail', %s)"
    assert value(conn, make, {"keep_completed": 60})
    assert not value(conn, make, {"keep_completed": 90})
    assert options(conn, "mail")["keep_completed"] == 60
    assert sqlstate(conn, "select absurd.make_queue('post', %s)", {"keep": 1})[0] == "AB012"
    assert value(conn, "select count(*) from absurd.queues where queue_name = 'post'") == 0


def test_each_outcome_is_kept_for_its_own_time(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60, "keep_failed": 3600})
    completed, failed, cancelled = (end(conn, how) for how in ("completed", "failed", "cancelled"))
    set_clock(conn, after(59))
    assert apply(conn) == (0, 0)
    set_clock(conn, after(75))
    assert apply(conn) == (1, 0)
    assert remaining(conn) == {failed, cancelled}
    set_clock(conn, after(3700))
    assert apply(conn) == (1, 0)
    assert remaining(conn) == {cancelled}
    assert completed not in remaining(conn)
    assert options(conn)["tasks_deleted"] == 2


def test_keep_count_spares_the_newest_that_ended_and_the_last_minute(conn: Connection) -> None:
    rows(conn, SET, {"keep_count": 3})
    ended = [end(conn, how, name) for how in ("completed", "failed") for name in ("a", "b", "c")]
    living = spawn(conn, "a")["task_id"]
    assert apply(conn) == (0, 0)
    set_clock(conn, after(61))
    assert apply(conn) == (3, 0)
    assert remaining(conn) == {*ended[3:], living}
    newest = end(conn, "completed", "z", {"priority": 9})
    set_clock(conn, after(200))
    assert apply(conn) == (1, 0)
    assert remaining(conn) == {*ended[4:], living, newest}


def test_count_and_age_hold_together(conn: Connection) -> None:
    rows(conn, SET, {"keep_count": 2, "keep_completed": 3600})
    first = [end(conn, "completed") for _ in range(3)]
    set_clock(conn, after(120))
    assert apply(conn) == (1, 0)
    assert remaining(conn) == set(first[1:])
    set_clock(conn, after(3601))
    assert apply(conn) == (2, 0)


def test_all_that_belongs_to_a_task_goes_with_it(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60})
    rows(conn, "select absurd.subscribe('default', 'placed', 'invoice')")
    [started] = rows(conn, "select * from absurd.dispatch_event('default', 'placed', '{}', 'event key')")
    run = claim(conn)
    assert run["task_id"] == started["task_id"]
    fail(conn, run, retry_at=NOON)
    run = claim(conn)
    set_checkpoint(conn, run, "step", 1)
    rows(
        conn,
        "insert into absurd.tokens (token_id, secret_hash, task_id, token_name, created_at)"
        " values (absurd.make_id(), '', %s, 't', now())",
        run["task_id"],
    )
    complete(conn, run)
    set_clock(conn, after(90))
    assert apply(conn) == (1, 0)
    for table in ("tasks", "runs", "checkpoints", "attempts", "tokens", "idempotency_keys", "waits", "event_tasks"):
        assert value(conn, f"select count(*) from absurd.{table}") == 0, table
    assert value(conn, "select count(*) from absurd.events") == 1


def test_of_a_broadcast_the_log_forgets_those_alone_whose_tasks_went(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60})
    for name in ("a", "b"):
        rows(conn, "select absurd.subscribe('default', 'placed', %s)", name)
    emit(conn, "placed")
    run = claim(conn)
    complete(conn, run)
    set_clock(conn, after(90))
    assert apply(conn) == (1, 0)
    assert [r["task_id"] for r in rows(conn, "select task_id from absurd.event_tasks")] != [run["task_id"]]
    assert value(conn, "select count(*) from absurd.event_tasks") == 1


def test_living_tasks_and_their_finished_children_stay(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60, "keep_count": 1})
    parent = spawn_and_claim(conn)
    child = end(conn, "completed", "child")
    rows(conn, "update absurd.tasks set parent_task_id = %s where task_id = %s", parent["task_id"], child)
    sleeping = spawn(conn, "later", options={"available_at": "2030-01-01T00:00:00Z"})["task_id"]
    stranger = [end(conn, "completed", "child") for _ in range(2)]
    set_clock(conn, after(DAY))
    assert apply(conn) == (2, 0)
    assert remaining(conn) == {parent["task_id"], child, sleeping}
    assert not set(stranger) & remaining(conn)
    complete(conn, parent)
    set_clock(conn, after(2 * DAY))
    assert apply(conn) == (2, 0)
    assert remaining(conn) == {sleeping}


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_finished_children_stay_while_their_parent_can_be_retried(conn: Connection, outcome: str) -> None:
    rows(conn, SET, {"keep_completed": 60})
    parent, child = end(conn, outcome, "parent"), end(conn, "completed", "child")
    rows(conn, "update absurd.tasks set parent_task_id = %s where task_id = %s", parent, child)
    set_clock(conn, after(DAY))
    assert apply(conn) == (0, 0)
    rows(conn, "select absurd.retry_task('default', %s, '{\"max_attempts\": 3}')", parent)
    set_clock(conn, after(2 * DAY))
    assert apply(conn) == (0, 0)
    complete(conn, claim(conn))
    set_clock(conn, after(3 * DAY))
    assert apply(conn) == (2, 0)


def test_children_go_after_the_parent_that_nobody_retried(conn: Connection) -> None:
    child, parent = end(conn, "completed", "a child"), end(conn, "failed", "the parent")
    rows(conn, "update absurd.tasks set parent_task_id = %s where task_id = %s", parent, child)
    set_clock(conn, after(DAY))
    assert [value(conn, "select absurd.cleanup_tasks('default', 60)") for _ in range(3)] == [1, 1, 0]


def test_a_task_that_somebody_waits_for_stays(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60})
    done = end(conn, "completed")
    rows(
        conn,
        "insert into absurd.waits (kind, queue_name, awaited_task_id, detail, created_at)"
        " values ('client', 'default', %s, 'channel', now())",
        done,
    )
    set_clock(conn, after(DAY))
    assert apply(conn) == (0, 0)
    assert value(conn, "select absurd.cleanup_tasks('default', 0)") == 0
    rows(conn, "delete from absurd.waits")
    set_clock(conn, after(2 * DAY))
    assert apply(conn) == (1, 0)


def test_taken_events_go_and_the_others_stay(conn: Connection) -> None:
    rows(conn, SET, {"keep_events": 3600})
    for name in ("untaken", "taken", "awaited"):
        emit(conn, name)
    for name in ("taken", "awaited"):
        run = spawn_and_claim(conn)
        assert not await_event(conn, run, name)[0]
    value(conn, "select absurd.create_queue('other')")
    emit(conn, "taken", queue="other")
    rows(conn, "update absurd.events set claimed_at = %s where queue_name = 'other'", NOON)
    waiting = spawn_and_claim(conn)
    rows(
        conn,
        "insert into absurd.waits (kind, run_id, task_id, step_name, queue_name, event_name, since_seq, created_at)"
        " values ('event', %s, %s, 's', 'default', 'awaited', 99, now())",
        waiting["run_id"],
        waiting["task_id"],
    )
    set_clock(conn, after(3599))
    assert apply(conn) == (0, 0)
    set_clock(conn, after(3700))
    assert apply(conn) == (0, 1)
    left = rows(conn, "select queue_name, event_name from absurd.events order by seq")
    assert [(r["queue_name"], r["event_name"]) for r in left] == [
        ("default", "untaken"), ("default", "awaited"), ("other", "taken"),
    ]  # fmt: skip


def test_a_task_with_a_long_history_fills_a_batch_alone(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60})
    ended = [end(conn, "completed") for _ in range(3)]
    rows(
        conn,
        "insert into absurd.checkpoints (task_id, step_name, state, completed_at)"
        " select %s, 'step ' || n, '1', now() from generate_series(1, 1000) n",
        ended[0],
    )
    set_clock(conn, after(90))
    assert row(conn, APPLY.replace("()", "(100)")) == {
        "tasks_deleted": 1,
        "events_deleted": 0,
        "next_in": 0,
        "busy": False,
    }
    assert apply(conn, 100) == (2, 0)
    assert value(conn, "select count(*) from absurd.checkpoints") == 0


def many(conn: Connection, count: int, name: str, outcome: str | None, age: int, queue: str = QUEUE) -> None:
    """Tasks of one name, spawned and ended so long ago."""
    at = after(-age)
    rows(
        conn,
        "insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, finished_at)"
        " select absurd.make_id(), %s, %s, 'null', %s, %s, case when %s::text is not null then %s::timestamptz end"
        " from generate_series(1, %s)",
        queue, name, at, outcome, outcome, at, count,
    )  # fmt: skip


def rows_read(conn: Connection, statement: str) -> tuple[int, dict[str, Any]]:
    """How many rows of tasks and events a batch reads, and what it answers."""
    with conn.transaction():
        before = value(conn, READS)
        answer = row(conn, statement)
        return int(value(conn, READS) - before), answer


def test_a_batch_reads_no_more_however_much_is_kept_before_it(conn: Connection) -> None:
    many(conn, 5000, "a", None, 10 * DAY)
    many(conn, 5000, "b", "failed", 10 * DAY)
    many(conn, 300, "c", "completed", 10 * DAY)
    many(conn, 5000, "c", "completed", 0)
    rows(conn, "analyze absurd.tasks")
    rows(conn, SET, {"keep_completed": DAY})
    # What the walk passes over, at most 400, and what it deletes, several times each.
    for _ in range(60):
        read, done = rows_read(conn, "select * from absurd.apply_retention(100)")
        assert read <= 1500
        if done["next_in"] > 0:
            break
    assert value(conn, "select tasks_deleted from absurd.retention") == 300


def test_a_batch_reads_no_more_however_many_keep_count_keeps(conn: Connection) -> None:
    for _ in range(4):
        many(conn, 100, "a", "completed", DAY)
        many(conn, 900, "b", "failed", DAY)
        many(conn, 500, "b", None, DAY)
    [kept] = rows(conn, "select array_agg(task_id) as ids from (select task_id from absurd.tasks where outcome is not null"
                    " order by task_id desc limit 2950) t")  # fmt: skip
    rows(conn, "analyze absurd.tasks")
    rows(conn, SET, {"keep_count": 2950})
    for _ in range(100):
        read, done = rows_read(conn, "select * from absurd.apply_retention(100)")
        assert read <= 1500
        if done["next_in"] > 0:
            break
    left = value(conn, "select array_agg(task_id) from absurd.tasks where outcome is not null")
    assert set(left) == set(kept["ids"])
    # And when it has all been counted, what has ended since.
    many(conn, 7, "c", "completed", DAY)
    set_clock(conn, after(100))
    assert apply(conn) == (7, 0)


def test_ids_of_clocks_that_are_wrong_hide_nothing_that_may_go(conn: Connection) -> None:
    rows(conn, "select set_config('absurd.fake_now', '', false)")
    add = """insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, finished_at)
             select overlay(absurd.make_id()::text placing left(absurd.id_floor(now() + %s::interval)::text, 13) from 1)::uuid,
               'default', 'work', 'null', now() + %s::interval, case when n.old then 'completed' end, now() + %s::interval
             from (select %s::bool as old from generate_series(1, %s)) n"""
    rows(conn, add, "-1 hour", "0", "0", False, 150)  # a client an hour behind
    rows(conn, add, "-30 minutes", "-30 minutes", "-20 minutes", True, 200)
    rows(conn, add, "0", "0", "0", False, 150)
    rows(conn, add, "3 minutes", "-2 minutes", "-2 minutes", True, 50)  # and one that is five minutes fast
    rows(conn, add, "10 minutes", "0", "0", False, 5000)
    rows(conn, "analyze absurd.tasks")
    read, done = rows_read(conn, "select absurd.cleanup_tasks('default', 60, 1000) as deleted")
    assert done == {"deleted": 250}
    assert read <= 4000
    assert value(conn, "select count(*) from absurd.tasks") == 5300


def test_clean_up_of_events_does_not_walk_over_the_untaken_ones_again_and_again(conn: Connection) -> None:
    rows(
        conn,
        "insert into absurd.events (queue_name, event_name, emitted_at, claimed_at)"
        " select 'default', 'e' || n, %s, case when n > 20000 then %s::timestamptz end from generate_series(1, 21000) n",
        after(-DAY), after(-DAY),
    )  # fmt: skip
    rows(conn, "analyze absurd.events")
    clean = "select absurd.cleanup_events('default', 60, 100) as deleted"
    assert value(conn, clean) == 100
    read, done = rows_read(conn, clean)
    assert done == {"deleted": 100}
    assert read <= 1000
    while value(conn, clean):
        pass
    assert value(conn, "select count(*) from absurd.events") == 20000


def test_a_clean_up_by_hand_goes_round_so_that_nothing_is_missed_behind_its_place(conn: Connection) -> None:
    names = [f"e{n}" for n in range(6)]
    for name in names:
        emit(conn, name)
    rows(conn, "update absurd.events set claimed_at = %s where event_name in ('e2', 'e3', 'e4')", NOON)
    set_clock(conn, after(60))
    clean = "select absurd.cleanup_events('default', 0, 2)"
    assert value(conn, clean) == 2
    rows(conn, "update absurd.events set claimed_at = %s where event_name in ('e0', 'e1')", NOON)
    assert [value(conn, clean) for _ in range(3)] == [2, 1, 0]
    assert [r["event_name"] for r in rows(conn, "select event_name from absurd.events")] == ["e5"]


def test_walks_rest_and_new_options_wake_them(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": DAY})
    end(conn, "completed")
    done = row(conn, APPLY)
    assert done["tasks_deleted"] == 0
    assert 10 <= done["next_in"] <= 60
    set_clock(conn, after(100))
    rows(conn, SET, {"keep_completed": 60})
    assert row(conn, APPLY)["tasks_deleted"] == 1
    end(conn, "completed")
    set_clock(conn, after(105))
    assert row(conn, APPLY)["next_in"] > 0
    assert row(conn, "select * from absurd.apply_retention(500, 'default', true)")["tasks_deleted"] == 0
    set_clock(conn, after(170))
    assert row(conn, "select * from absurd.apply_retention(500, 'default', true)")["tasks_deleted"] == 1


def test_one_session_at_a_time_cleans_up(conn: Connection, database_url: str) -> None:
    rows(conn, SET, {"keep_completed": 60})
    end(conn, "completed")
    set_clock(conn, after(90))
    with psycopg.connect(database_url) as other:
        set_clock(other, after(90))
        assert row(other, APPLY)["tasks_deleted"] == 1
        assert row(conn, APPLY) == {"tasks_deleted": 0, "events_deleted": 0, "next_in": 1, "busy": True}
        other.rollback()
    assert apply(conn) == (1, 0)


def test_neither_a_retry_nor_a_drop_of_the_queue_meets_a_clean_up_that_waits_for_it(conn: Connection, database_url: str) -> None:
    rows(conn, SET, {"keep_failed": 60})
    failed = end(conn, "failed")
    set_clock(conn, after(90))
    rows(conn, "set lock_timeout = '1s'")
    with psycopg.connect(database_url) as other:
        rows(other, "select * from absurd.retry_task('default', %s)", failed)
        assert apply(conn) == (0, 0)
        other.rollback()
        rows(other, "select absurd.drop_queue('default')")
        assert row(conn, "select * from absurd.apply_retention(500, 'default', true)")["tasks_deleted"] == 0
        other.commit()
    assert rows(conn, "select * from absurd.retention") == []


def test_a_queue_that_somebody_holds_is_looked_at_again_in_a_second(conn: Connection, database_url: str) -> None:
    for queue in ("free", "held"):
        value(conn, "select absurd.make_queue(%s, '{\"keep_completed\": 60}')", queue)
        many(conn, 5, "work", "completed", DAY, queue)
    with psycopg.connect(database_url) as other:
        rows(other, "select from absurd.retention where queue_name = 'held' for update")
        assert row(conn, APPLY) == {"tasks_deleted": 5, "events_deleted": 0, "next_in": 1, "busy": True}
        assert row(conn, APPLY)["next_in"] == 1
        assert row(conn, APPLY.replace("()", "(5, 'held', true)"))["busy"]
        other.rollback()
        rows(other, "select pg_advisory_xact_lock(absurd.queue_lock_key('held'))")  # as drop_queue() does it
        assert row(conn, APPLY) == {"tasks_deleted": 0, "events_deleted": 0, "next_in": 1, "busy": True}
        other.rollback()
    assert row(conn, APPLY.replace("()", "(4)")) == {"tasks_deleted": 4, "events_deleted": 0, "next_in": 0, "busy": False}
    assert apply(conn) == (1, 0)


def test_every_queue_has_its_turn(conn: Connection) -> None:
    for queue in ("a", "b", "c"):
        value(conn, "select absurd.make_queue(%s, '{\"keep_completed\": 60}')", queue)
        many(conn, 50, "work", "completed", DAY, queue)
    for _ in range(3):
        assert row(conn, "select * from absurd.apply_retention(10)")["tasks_deleted"] == 10
    assert [r["n"] for r in rows(conn, "select count(*) as n from absurd.tasks group by queue_name")] == [40, 40, 40]


def test_a_row_changed_by_hand_stops_nothing(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60})
    for headers in ('{"absurd-source": {"event_seq": "x"}}', '{"absurd-source": {"event_seq": 1e300}, "a": "\\u0000"}',
                    '{"event_seq": 1}', '["event_seq"]', '{"absurd-source": {"event_seq": 1e18}}'):  # fmt: skip
        done = end(conn, "completed")
        rows(conn, "update absurd.tasks set headers = %s::json where task_id = %s", headers, done)
    broken = end(conn, "completed")
    rows(conn, "update absurd.tasks set finished_at = null where task_id = %s", broken)
    set_clock(conn, after(90))
    assert apply(conn) == (5, 0)
    assert remaining(conn) == {broken}


def test_cleanup_of_all_queues_goes_by_the_options_where_there_are_some(conn: Connection) -> None:
    rows(conn, SET, {"keep_completed": 60})
    end(conn, "completed")
    failed = end(conn, "failed")
    value(conn, "select absurd.create_queue('other')")
    end(conn, "completed", queue="other")
    everything = "select * from absurd.cleanup_all_queues()"
    set_clock(conn, after(DAY))
    assert [r["tasks_deleted"] for r in rows(conn, everything)] == [1, 0]
    set_clock(conn, after(31 * DAY))
    assert [r["tasks_deleted"] for r in rows(conn, everything)] == [0, 1]
    assert remaining(conn) == {failed}
