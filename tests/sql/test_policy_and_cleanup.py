"""Policies, and what clean-up deletes and spares."""

from __future__ import annotations

from datetime import timedelta
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
    state,
    value,
)

DAY = 86400
CLEAN_TASKS = "select absurd.cleanup_tasks('default', %s, %s)"
CLEAN_EVENTS = "select absurd.cleanup_events('default', %s, %s)"


def policy(conn: Connection, queue: str = QUEUE) -> dict[str, Any]:
    return row(conn, "select * from absurd.get_queue_policy(%s)", queue)


def test_a_new_queue_has_the_usual_policy(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('parts', 'partitioned')")
    assert policy(conn, "parts") == {
        "queue_name": "parts",
        "storage_mode": "partitioned",
        "default_partition": "enabled",
        "partition_lookahead": timedelta(days=28),
        "partition_lookback": timedelta(days=1),
        "cleanup_ttl": timedelta(days=30),
        "cleanup_limit": 1000,
        "detach_mode": "none",
        "detach_min_age": timedelta(days=30),
    }
    value(conn, "select absurd.create_queue('parts', 'unpartitioned')")
    assert policy(conn, "parts")["storage_mode"] == "partitioned"
    assert rows(conn, "select * from absurd.get_queue_policy('nowhere')") == []


def test_a_policy_changes_what_it_names_and_nothing_else(conn: Connection) -> None:
    before = policy(conn)
    rows(
        conn,
        "select absurd.set_queue_policy('default', %s)",
        {"cleanup_ttl": "7 days", "cleanup_limit": 5, "detach_mode": "empty"},
    )
    assert policy(conn) == {**before, "cleanup_ttl": timedelta(days=7), "cleanup_limit": 5, "detach_mode": "empty"}
    rows(conn, "select absurd.set_queue_policy('default', %s)", {"cleanup_ttl": 90.5, "cleanup_limit": None})
    assert policy(conn) == {**before, "cleanup_ttl": timedelta(seconds=90.5), "cleanup_limit": 5, "detach_mode": "empty"}
    rows(conn, "select absurd.set_queue_policy('default', '{}')")
    assert policy(conn)["cleanup_limit"] == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ttl": "1 day"}, 'no option "ttl"'),
        ({"cleanup_ttl": "a while"}, "cleanup_ttl"),
        ({"cleanup_ttl": "-1 day"}, "cleanup_ttl"),
        ({"cleanup_ttl": -1}, "cleanup_ttl"),
        ({"cleanup_ttl": 1e300}, "cleanup_ttl"),
        ({"cleanup_ttl": "1000 years"}, "cleanup_ttl"),
        ({"cleanup_ttl": "infinity"}, "cleanup_ttl"),
        ({"cleanup_ttl": ["1 day"]}, "cleanup_ttl"),
        ({"partition_lookahead": True}, "partition_lookahead"),
        ({"cleanup_limit": 0}, "cleanup_limit"),
        ({"cleanup_limit": 2.5}, "cleanup_limit"),
        ({"cleanup_limit": 3000000000}, "cleanup_limit"),
        ({"detach_mode": "full"}, "detach_mode must be none or empty"),
        ({"detach_mode": 3}, "detach_mode"),
        ({"default_partition": "on"}, "default_partition"),
        ({"max_payload_bytes": 1}, "max_payload_bytes"),
        ({"max_payload_bytes": "1 MB"}, "max_payload_bytes"),
        ([], "policy must be an object"),
        (None, "policy must be an object"),
    ],
)
def test_a_bad_policy_is_refused_by_name(conn: Connection, change: Any, named: str) -> None:
    before = policy(conn)
    code, message = sqlstate(conn, "select absurd.set_queue_policy('default', %s)", change)
    assert code == "AB012"
    assert named in message
    assert policy(conn) == before


def test_a_policy_of_no_queue_is_refused(conn: Connection) -> None:
    assert sqlstate(conn, "select absurd.set_queue_policy('nowhere', '{}')")[0] == "AB010"


def test_cleanup_deletes_ended_tasks_with_all_that_is_theirs_and_no_living_one(conn: Connection) -> None:
    set_clock(conn, NOON)
    done = spawn_and_claim(conn, {"idempotency_key": "k", "max_attempts": 2})
    set_checkpoint(conn, done, "step", 1)
    fail(conn, done)
    complete(conn, claim(conn))
    failed = spawn_and_claim(conn, {"max_attempts": 1})
    fail(conn, failed)
    cancelled = spawn(conn, "other work")["task_id"]
    rows(conn, "select absurd.cancel_task('default', %s)", cancelled)
    sleeping = spawn_and_claim(conn)
    await_event(conn, sleeping, "never")
    running = spawn_and_claim(conn, timeout=0)
    spawn(conn, "pending")
    set_clock(conn, after(DAY - 1))
    assert value(conn, CLEAN_TASKS, DAY, 100) == 0
    set_clock(conn, after(DAY + 1))
    assert value(conn, CLEAN_TASKS, DAY, 100) == 3
    assert value(conn, "select count(*) from absurd.tasks") == 3
    for table in ("attempts", "checkpoints", "idempotency_keys"):
        assert value(conn, f"select count(*) from absurd.{table}") == 0
    assert (state(conn, sleeping["task_id"]), state(conn, running["task_id"])) == ("sleeping", "running")
    assert spawn(conn, options={"idempotency_key": "k"})["created"]


def test_cleanup_is_bounded_and_goes_on_where_it_stopped(conn: Connection) -> None:
    set_clock(conn, NOON)
    for number in range(10):
        spawn(conn, f"name {number % 3}")
        complete(conn, claim(conn))
    set_clock(conn, after(10))
    assert [value(conn, CLEAN_TASKS, 5, 4) for _ in range(4)] == [4, 4, 2, 0]


def test_cleanup_reads_what_is_old_and_not_what_is_there(conn: Connection) -> None:
    set_clock(conn, NOON)
    for _ in range(10):
        spawn(conn, "old")
        complete(conn, claim(conn))
    set_clock(conn, after(DAY))
    rows(
        conn,
        "insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, finished_at)"
        " select absurd.make_id(), 'default', 'old', 'null', absurd.current_time(), 'completed', absurd.current_time()"
        " from generate_series(1, 20000)",
    )
    rows(conn, "analyze absurd.tasks")
    reads = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_all_tables where relid = 'absurd.tasks'::regclass"
    with conn.transaction():
        before = value(conn, reads)
        assert value(conn, CLEAN_TASKS, DAY - 60, 1000) == 10
        read = value(conn, reads) - before
    assert read < 1000


def test_a_task_that_is_being_retried_is_left_alone(conn: Connection, database_url: str) -> None:
    run = spawn_and_claim(conn, {"max_attempts": 1})
    fail(conn, run)
    with psycopg.connect(database_url) as other:
        rows(other, "select absurd.retry_task('default', %s)", run["task_id"])
        assert value(conn, CLEAN_TASKS, 0, 100) == 0
        other.commit()
    assert value(conn, CLEAN_TASKS, 0, 100) == 0
    assert claim(conn)["attempt"] == 2


def test_cleanup_spares_events_that_nobody_claimed_or_somebody_waits_for(conn: Connection) -> None:
    set_clock(conn, NOON)
    emit(conn, "unclaimed", 1)
    emit(conn, "claimed", 1)
    run = spawn_and_claim(conn, timeout=0)
    assert await_event(conn, run, "claimed") == (False, 1)
    set_clock(conn, after(DAY - 1))
    assert value(conn, CLEAN_EVENTS, DAY, 100) == 0
    set_clock(conn, after(DAY))
    assert value(conn, CLEAN_EVENTS, DAY, 100) == 1
    assert rows(conn, "select event_name from absurd.events") == [{"event_name": "unclaimed"}]
    assert await_event(conn, run, "claimed") == (False, 1)
    assert value(conn, "select absurd.purge_events('default', %s)", DAY) == 1
    assert value(conn, "select count(*) from absurd.events") == 0


def test_cleanup_of_events_is_bounded(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    for number in range(10):
        emit(conn, f"event {number}")
        await_event(conn, run, f"event {number}")
    assert [value(conn, CLEAN_EVENTS, 0, 4) for _ in range(4)] == [4, 4, 2, 0]


@pytest.mark.parametrize("function", ["cleanup_tasks", "cleanup_events", "purge_events"])
@pytest.mark.parametrize(
    ("queue", "ttl", "limit", "code"),
    [
        ("nowhere", 0, 1, "AB010"),
        (QUEUE, -1, 1, "AB012"),
        (QUEUE, None, 1, "AB012"),
        (QUEUE, 0, 0, "AB012"),
        (QUEUE, 0, None, "AB012"),
    ],
)
def test_cleanup_refuses_what_it_cannot_use(
    conn: Connection, function: str, queue: str, ttl: int | None, limit: int | None, code: str
) -> None:
    assert sqlstate(conn, f"select absurd.{function}(%s, %s, %s)", queue, ttl, limit)[0] == code


def test_all_queues_are_cleaned_as_the_policy_of_each_says(conn: Connection) -> None:
    set_clock(conn, NOON)
    value(conn, "select absurd.create_queue('brief')")
    rows(conn, "select absurd.set_queue_policy('brief', %s)", {"cleanup_ttl": 60, "cleanup_limit": 2})
    for queue in (QUEUE, "brief"):
        for _ in range(3):
            spawn(conn, queue=queue)
            complete(conn, claim(conn, queue=queue), queue=queue)
    set_clock(conn, after(DAY))
    everything = "select * from absurd.cleanup_all_queues()"
    assert rows(conn, everything) == [
        {"queue_name": "brief", "tasks_deleted": 2, "events_deleted": 0},
        {"queue_name": "default", "tasks_deleted": 0, "events_deleted": 0},
    ]
    set_clock(conn, after(31 * DAY))
    assert rows(conn, "select * from absurd.cleanup_all_queues('brief')") == [
        {"queue_name": "brief", "tasks_deleted": 1, "events_deleted": 0}
    ]
    assert [r["tasks_deleted"] for r in rows(conn, everything)] == [0, 3]
    assert sqlstate(conn, "select * from absurd.cleanup_all_queues('nowhere')")[0] == "AB010"
