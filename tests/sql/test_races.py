"""Two at the same moment, in both orders: the loser waits, sees what the winner did, and nothing is lost or done twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql.calls import (
    NOON,
    Connection,
    Row,
    after,
    await_event,
    claim,
    claim_all,
    complete,
    emit,
    fail,
    result,
    row,
    rows,
    set_clock,
    spawn,
    spawn_and_claim,
    state,
    value,
)
from tests.sql.concurrent import Background


@pytest.fixture
def first(database_url: str) -> Iterator[Connection]:
    """The session that comes first and holds its transaction open."""
    with psycopg.connect(database_url) as connection:
        yield connection


def end(first: Connection, commit: bool) -> None:
    first.commit() if commit else first.rollback()


@pytest.mark.parametrize("commit", [True, False])
def test_an_emit_in_progress_is_waited_for_by_a_wait(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    run = spawn_and_claim(conn)
    emit(first, "go", 1)
    second = Background(database_url, lambda c: await_event(c, run, "go")).wait_until_blocked()
    end(first, commit)
    assert second.result() == ((False, 1) if commit else (True, None))
    if not commit:
        emit(conn, "go", 2)
        assert claim(conn)["event_payload"] == 2
    assert value(conn, "select count(*) from absurd.waits") == 0


@pytest.mark.parametrize("commit", [True, False])
def test_a_wait_in_progress_is_waited_for_by_an_emit(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    run = spawn_and_claim(conn)
    assert await_event(first, run, "go") == (True, None)
    second = Background(database_url, lambda c: emit(c, "go", 1)).wait_until_blocked()
    end(first, commit)
    second.result()
    if commit:
        (woken,) = claim_all(conn, 10)
        assert (woken["run_id"], woken["event_payload"]) == (run["run_id"], 1)
    else:
        assert state(conn, run["task_id"]) == "running"
        assert await_event(conn, run, "go") == (False, 1)
    assert value(conn, "select count(*) from absurd.checkpoints") == 1


@pytest.mark.parametrize("commit", [True, False])
def test_of_two_emits_of_a_name_the_first_to_begin_is_the_first(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "go") == (True, None)
    emit(first, "go", "first")
    second = Background(database_url, lambda c: emit(c, "go", "second")).wait_until_blocked()
    other = Background(database_url, lambda c: emit(c, "other name", 1))
    other.result()
    end(first, commit)
    second.result()
    (woken,) = claim_all(conn, 10)
    assert woken["event_payload"] == ("first" if commit else "second")
    assert await_event(conn, spawn_and_claim(conn), "go") == (False, "first" if commit else "second")


@pytest.mark.parametrize("commit", [True, False])
def test_a_completion_in_progress_wins_over_a_cancellation(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    run = spawn_and_claim(conn)
    complete(first, run, "done")
    second = Background(database_url, lambda c: rows(c, "select absurd.cancel_task('default', %s)", run["task_id"]))
    second.wait_until_blocked()
    end(first, commit)
    second.result()
    assert state(conn, run["task_id"]) == ("completed" if commit else "cancelled")


@pytest.mark.parametrize("commit", [True, False])
def test_a_cancellation_in_progress_wins_over_a_completion(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    run = spawn_and_claim(conn)
    rows(first, "select absurd.cancel_task('default', %s)", run["task_id"])
    second = Background(database_url, lambda c: complete(c, run, "done")).wait_until_blocked()
    end(first, commit)
    assert second.code() == ("AB001" if commit else None)
    assert state(conn, run["task_id"]) == ("cancelled" if commit else "completed")


def test_a_cancellation_follows_the_task_to_its_next_attempt(conn: Connection, first: Connection, database_url: str) -> None:
    run = spawn_and_claim(conn)
    fail(first, run)
    second = Background(database_url, lambda c: rows(c, "select absurd.cancel_task('default', %s)", run["task_id"]))
    second.wait_until_blocked()
    first.commit()
    second.result()
    assert state(conn, run["task_id"]) == "cancelled"
    assert value(conn, "select count(*) from absurd.runs") == 0


@pytest.mark.parametrize("commit", [True, False])
def test_a_lease_that_is_being_extended_does_not_expire(conn: Connection, first: Connection, commit: bool) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=30)
    set_clock(first, after(29))
    rows(first, "select absurd.extend_claim('default', %s, 60)", run["run_id"])
    set_clock(conn, after(31))
    assert claim_all(conn) == []  # and it did not wait either
    end(first, commit)
    assert [r["attempt"] for r in claim_all(conn)] == ([] if commit else [2])


@pytest.mark.parametrize("commit", [True, False])
def test_a_lease_that_is_expiring_is_not_extended(conn: Connection, first: Connection, database_url: str, commit: bool) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=30)
    set_clock(first, after(31))
    assert value(first, "select absurd.expire_leases()") == 1
    second = Background(database_url, lambda c: rows(c, "select absurd.extend_claim('default', %s, 60)", run["run_id"]))
    second.wait_until_blocked()
    end(first, commit)
    assert second.code() == ("AB002" if commit else None)


@pytest.mark.parametrize("commit", [True, False])
def test_a_timeout_in_progress_wins_over_an_emit_and_leaves_the_event_unclaimed(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    run = spawn_and_claim(conn, timeout=0)
    assert await_event(conn, run, "go", timeout=0) == (True, None)
    assert value(first, "select promoted from absurd.promote_due('default')") == 1
    second = Background(database_url, lambda c: emit(c, "go", 1)).wait_until_blocked()
    end(first, commit)
    second.result()
    woken = claim(conn)
    assert (woken["wake_event"], woken["event_payload"]) == ("go", None if commit else 1)
    assert await_event(conn, woken, "go") == (False, None if commit else 1)
    assert value(conn, "select claimed_at is null from absurd.events") is commit


@pytest.mark.parametrize("commit", [True, False])
def test_an_emit_in_progress_wins_over_the_timeout(conn: Connection, first: Connection, commit: bool) -> None:
    run = spawn_and_claim(conn, timeout=0)
    assert await_event(conn, run, "go", timeout=0) == (True, None)
    emit(first, "go", 1)
    assert claim_all(conn) == []  # and it did not wait either
    end(first, commit)
    assert claim(conn)["event_payload"] == (1 if commit else None)


CHECK = (
    "select * from absurd.check_waits(array[%(parent_task)s]::uuid[], array[%(parent)s]::uuid[], array[1], array[1], array[1],"
    " array[json_build_array(json_build_object('step', 'child', 'task', %(child_task)s::text))])"
)
SUSPEND = (
    "select (absurd.suspend_runs(array[%(parent_task)s]::uuid[], array[%(parent)s]::uuid[], array[1], array[1], array[1],"
    " array[json_build_array(json_build_object('step', 'child', 'task', %(child_task)s::text))],"
    " array[null]::timestamptz[], array[null]::float8[], array[null]::text[], array[null]::text[]))[1] as status"
)


def ask(conn: Connection, statement: str, parent: Row, child: Row) -> Row:
    """One of the two calls with which a parent waits for a child."""
    names = {"parent_task": parent["task_id"], "parent": parent["run_id"], "child_task": child["task_id"]}
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute(statement.encode(), names).fetchone()
    assert found is not None
    return found


def end_child(conn: Connection, child: Row, how: str) -> None:
    if how == "completed":
        complete(conn, child, "done")
    elif how == "failed":
        fail(conn, child)
    else:
        rows(conn, "select absurd.cancel_task('default', %s)", child["task_id"])


ENDS = ["completed", "failed", "cancelled"]


@pytest.mark.parametrize("how", ENDS)
def test_a_child_that_is_ending_makes_its_parent_ask_again(conn: Connection, first: Connection, how: str) -> None:
    parent, child = spawn_and_claim(conn), spawn_and_claim(conn, {"max_attempts": 1})
    end_child(first, child, how)
    assert ask(conn, CHECK, parent, child)["status"] == "busy"
    assert ask(conn, SUSPEND, parent, child)["status"] == "busy"
    first.commit()
    decided = ask(conn, CHECK, parent, child)
    assert decided["status"] == "ok"
    assert f'"{how}"' in decided["arrivals"]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("commit", [True, False])
def test_a_parent_that_is_going_to_sleep_is_woken_by_the_end_of_its_child(
    conn: Connection, first: Connection, database_url: str, how: str, commit: bool
) -> None:
    parent, child = spawn_and_claim(conn), spawn_and_claim(conn, {"max_attempts": 1})
    assert ask(first, SUSPEND, parent, child)["status"] == "ok"
    second = Background(database_url, lambda c: end_child(c, child, how)).wait_until_blocked()
    end(first, commit)
    second.result()
    if not commit:
        assert ask(conn, SUSPEND, parent, child)["status"] == "ok"
    assert claim(conn)["run_id"] == parent["run_id"]
    arrived = value(conn, "select state from absurd.checkpoints where step_name = 'child'")
    assert arrived["state"] == how
    assert value(conn, "select count(*) from absurd.waits") == 0


@pytest.mark.parametrize("commit", [True, False])
def test_of_two_spawns_with_one_key_one_spawns(conn: Connection, first: Connection, database_url: str, commit: bool) -> None:
    winner = spawn(first, options={"idempotency_key": "k"})
    second = Background(database_url, lambda c: spawn(c, options={"idempotency_key": "k"})).wait_until_blocked()
    end(first, commit)
    answer = second.result()
    assert answer["created"] is not commit
    assert (answer["task_id"] == winner["task_id"]) is commit
    assert value(conn, "select count(*) from absurd.tasks") == 1


def test_a_spawn_with_a_key_that_is_being_cleaned_up_names_a_task_or_makes_one(
    conn: Connection, first: Connection, database_url: str
) -> None:
    old = spawn(conn, options={"idempotency_key": "k"})
    complete(conn, claim(conn))
    assert value(first, "select absurd.cleanup_tasks('default', 0)") == 1
    second = Background(database_url, lambda c: spawn(c, options={"idempotency_key": "k"}))
    first.commit()
    answer = second.result()
    if answer["created"]:
        assert value(conn, "select task_id from absurd.idempotency_keys") == answer["task_id"]
    else:
        assert answer["task_id"] == old["task_id"]
    assert spawn(conn, options={"idempotency_key": "k"})["task_id"] == answer["task_id"] or not answer["created"]


SPAWN_ONE = "select * from absurd.spawn_one('default', %s, %s, 'work', '1', null, null, 'k')"
SPAWN_TASKS = (
    "select * from absurd.spawn_tasks('{default}', array[%s], array[%s], '{work}', array['1'::json], '{null}', '{null}', '{k}')"
)


@pytest.mark.parametrize("statement", [SPAWN_ONE, SPAWN_TASKS])
def test_a_spawn_whose_key_loses_its_task_between_two_looks_makes_one(
    conn: Connection, first: Connection, database_url: str, statement: str
) -> None:
    spawn(conn, options={"idempotency_key": "k"})
    complete(conn, claim(conn))
    task_id, run_id = uuid4(), uuid4()
    # Whoever reads tasks waits; the key can still be read.
    rows(first, "lock table absurd.tasks")
    second = Background(database_url, lambda c: row(c, statement, task_id, run_id)).wait_until_blocked()
    assert value(first, "select absurd.cleanup_tasks('default', 0)") == 1
    first.commit()
    answer = second.result()
    assert (answer["task_id"], answer["run_id"], answer["created"]) == (task_id, run_id, True)
    assert value(conn, "select task_id from absurd.idempotency_keys") == task_id
    assert claim(conn)["run_id"] == run_id


@pytest.mark.parametrize("statement", [SPAWN_ONE, SPAWN_TASKS])
def test_a_key_without_its_task_is_taken_over(conn: Connection, statement: str) -> None:
    rows(conn, "insert into absurd.idempotency_keys values ('default', 'k', gen_random_uuid())")
    task_id = uuid4()
    assert row(conn, statement, task_id, uuid4())["created"]
    assert value(conn, "select task_id from absurd.idempotency_keys") == task_id


def test_two_claims_at_once_share_and_do_not_wait(conn: Connection, first: Connection) -> None:
    for _ in range(6):
        spawn(conn)
    mine, theirs = claim_all(first, 3), claim_all(conn, 10)
    assert (len(mine), len(theirs)) == (3, 3)
    assert not {r["run_id"] for r in mine} & {r["run_id"] for r in theirs}


@pytest.mark.parametrize("commit", [True, False])
def test_a_queue_that_is_being_dropped_takes_no_task_and_no_event(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    rows(first, "select absurd.drop_queue('default')")
    spawning = Background(database_url, spawn).wait_until_blocked()
    emitting = Background(database_url, lambda c: emit(c, "go", 1)).wait_until_blocked()
    end(first, commit)
    assert {spawning.code(), emitting.code()} == ({"AB010"} if commit else {None})
    assert value(conn, "select count(*) from absurd.tasks") == (0 if commit else 1)


def test_a_queue_is_dropped_with_what_was_spawned_meanwhile(conn: Connection, first: Connection, database_url: str) -> None:
    spawn(first, options={"idempotency_key": "k"})
    emit(first, "go", 1)
    second = Background(database_url, lambda c: rows(c, "select absurd.drop_queue('default')")).wait_until_blocked()
    first.commit()
    second.result()
    for table in ("tasks", "runs", "events", "idempotency_keys", "queues"):
        assert value(conn, f"select count(*) from absurd.{table}") == 0


QUIETLY = """select absurd.spawn_quietly('default', gen_random_uuid(), gen_random_uuid(), 'work', '1', null, '{"max_attempts": 5,
    "retry_strategy": {"kind": "exponential", "base_seconds": 1, "factor": 2, "max_seconds": 300, "jitter": 0.2}}', null)"""


@pytest.mark.parametrize("commit", [True, False])
def test_a_queue_that_is_being_dropped_takes_no_quiet_task(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    rows(first, "select absurd.drop_queue('default')")
    spawning = Background(database_url, lambda c: value(c, QUIETLY)).wait_until_blocked()
    end(first, commit)
    answer = spawning.result()
    assert (answer and answer[4]) == ("no_queue" if commit else None)
    assert value(conn, "select count(*) from absurd.tasks") == (0 if commit else 1)
    assert value(conn, "select count(*) from absurd.runs") == (0 if commit else 1)


def test_a_queue_is_dropped_with_a_quiet_task_that_was_spawned_meanwhile(
    conn: Connection, first: Connection, database_url: str
) -> None:
    assert value(first, QUIETLY) is None
    second = Background(database_url, lambda c: rows(c, "select absurd.drop_queue('default')")).wait_until_blocked()
    first.commit()
    second.result()
    for table in ("tasks", "runs", "queues"):
        assert value(conn, f"select count(*) from absurd.{table}") == 0


def many(conn: Connection, statement: str, rounds: int) -> list[Any]:
    """The same call again and again, each in its own transaction."""
    return [value(conn, statement) for _ in range(rounds)]


def test_batches_in_opposite_order_never_deadlock(conn: Connection, database_url: str) -> None:
    for _ in range(40):
        spawn(conn)
    claimed = claim_all(conn, 40)
    batch = (
        "select absurd.record_checkpoints(array[{tasks}]::uuid[], array[{runs}]::uuid[], array[{epochs}], array[{steps}],"
        " array[{n}], array[{states}]::json[])"
    )
    calls = []
    for name, items in (("a", claimed), ("b", claimed[::-1]), ("c", sorted(claimed, key=lambda r: r["run_id"].int % 997))):
        statement = batch.format(
            tasks=", ".join(f"'{r['task_id']}'" for r in items),
            runs=", ".join(f"'{r['run_id']}'" for r in items),
            epochs=", ".join("1" for _ in items),
            steps=", ".join(f"'{name}'" for _ in items),
            n=", ".join("1" for _ in items),
            states=", ".join("'1'" for _ in items),
        )
        calls.append(Background(database_url, partial(many, statement=statement, rounds=60)))
    for call in calls:
        assert all(status == "ok" for answer in call.result() for status in answer)


def test_events_that_wake_the_same_runs_never_deadlock(conn: Connection, database_url: str) -> None:
    """Every task waits for all of three events; each event locks all of them."""
    for _ in range(30):
        spawn(conn)
    for run in claim_all(conn, 30):
        waits = [{"step": name, "queue": "default", "event": name} for name in "abc"]
        status = value(
            conn,
            "select (absurd.suspend_runs(array[%s], array[%s], array[1], array[1], array[3], array[%s::json],"
            " array[null]::timestamptz[], array[null]::float8[], array[null]::text[], array[null]::text[]))[1]",
            run["task_id"],
            run["run_id"],
            waits,
        )
        assert status == "ok"
    for call in [Background(database_url, partial(emit, name=name, payload=name)) for name in "abc"]:
        call.result()
    assert len(claim_all(conn, 100)) == 30
    assert row(conn, "select count(*) as n from absurd.checkpoints where kind = 'event'") == {"n": 90}
    assert value(conn, "select count(*) from absurd.waits") == 0


def test_many_workers_finish_every_task_once(conn: Connection, database_url: str) -> None:
    ids = [spawn(conn, options={"max_attempts": 2})["task_id"] for _ in range(200)]

    def work(c: Connection) -> int:
        done = 0
        while claimed := claim_all(c, 7):
            for run in claimed:
                if run["attempt"] == 1 and run["task_id"].int % 3 == 0:
                    fail(c, run)
                else:
                    complete(c, run, str(run["task_id"]))
                    done += 1
        return done

    workers = [Background(database_url, work) for _ in range(4)]
    done = sum(w.result() for w in workers)
    while claimed := claim_all(conn, 100):
        for run in claimed:
            complete(conn, run, str(run["task_id"]))
            done += 1
    assert done == 200
    assert all(result(conn, task_id)["result"] == str(task_id) for task_id in ids)
    assert value(conn, "select count(*) from absurd.runs") == 0
