"""Await and emit from SQL: arrivals, timeouts, replays, null payloads, first emissions."""

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
    checkpoint,
    claim,
    claim_all,
    complete,
    emit,
    fail,
    row,
    rows,
    set_clock,
    spawn,
    spawn_and_claim,
    sqlstate,
    state,
    value,
)

SUSPEND = (True, None)
TIMED_OUT = (False, None)


def test_an_event_emitted_before_the_wait_is_there_at_once(conn: Connection) -> None:
    emit(conn, "paid", {"amount": 5})
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "paid") == (False, {"amount": 5})
    assert checkpoint(conn, run["task_id"], "paid") is not None
    assert state(conn, run["task_id"]) == "running"


def test_an_event_emitted_after_the_wait_wakes_the_run(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "paid") == SUSPEND
    assert state(conn, run["task_id"]) == "sleeping"
    assert claim_all(conn) == []
    emit(conn, "paid", {"amount": 5})
    again = claim(conn)
    assert (again["run_id"], again["attempt"]) == (run["run_id"], 1)
    assert (again["wake_event"], again["event_payload"]) == ("paid", {"amount": 5})
    assert await_event(conn, again, "paid") == (False, {"amount": 5})


@pytest.mark.parametrize("other", ["Paid", "paid ", "paid:1", "pai", "PAID"])
def test_names_match_exactly(conn: Connection, other: str) -> None:
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "paid") == SUSPEND
    emit(conn, other, 1)
    assert claim_all(conn) == []


def test_events_of_another_queue_are_other_events(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('other')")
    emit(conn, "paid", 1, queue="other")
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "paid") == SUSPEND
    emit(conn, "paid", 2, queue="other")
    assert claim_all(conn) == []


def test_every_waiter_gets_the_first_emission_for_ever(conn: Connection) -> None:
    early = spawn_and_claim(conn)
    assert await_event(conn, early, "go") == SUSPEND
    for payload in ("first", "second", "third"):
        emit(conn, "go", payload)
    assert claim(conn)["event_payload"] == "first"
    late = spawn_and_claim(conn)
    assert await_event(conn, late, "go") == (False, "first")
    assert await_event(conn, early, "go") == (False, "first")
    assert await_event(conn, late, "go", step="go again") == (False, "first")


def test_one_event_wakes_all_who_wait_for_it(conn: Connection) -> None:
    runs = [spawn_and_claim(conn) for _ in range(20)]
    assert {await_event(conn, run, "go") for run in runs} == {SUSPEND}
    emit(conn, "go", [1])
    claimed = claim_all(conn, 100)
    assert {r["run_id"] for r in claimed} == {r["run_id"] for r in runs}
    assert all(r["event_payload"] == [1] for r in claimed)


def test_a_timeout_answers_null_now_and_on_every_replay_also_after_the_event(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, {"max_attempts": 5}, timeout=0)
    assert await_event(conn, run, "paid", timeout=60) == SUSPEND
    set_clock(conn, after(59))
    assert claim_all(conn) == []
    set_clock(conn, after(60))
    run = claim(conn, 0)
    assert (run["wake_event"], run["event_payload"]) == ("paid", None)
    assert await_event(conn, run, "paid", timeout=60) == TIMED_OUT
    emit(conn, "paid", {"late": True})
    assert await_event(conn, run, "paid", timeout=60) == TIMED_OUT
    fail(conn, run)
    run = claim(conn, 0)
    assert run["wake_event"] is None
    assert await_event(conn, run, "paid", timeout=60) == TIMED_OUT
    assert await_event(conn, run, "paid", step="again") == (False, {"late": True})


def test_waiting_again_after_a_timeout_waits_and_takes_its_own_time(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=0)
    assert await_event(conn, run, "paid", "one", 10) == SUSPEND
    set_clock(conn, after(10))
    run = claim(conn, 0)
    assert await_event(conn, run, "paid", "one", 10) == TIMED_OUT
    assert await_event(conn, run, "paid", "two", 10) == SUSPEND
    assert claim_all(conn) == []
    set_clock(conn, after(20))
    run = claim(conn, 0)
    assert await_event(conn, run, "paid", "one", 10) == TIMED_OUT
    assert await_event(conn, run, "paid", "two", 10) == TIMED_OUT
    complete(conn, run)
    assert value(conn, "select count(*) from absurd.waits") == 0


def test_a_timeout_of_nothing_is_over_at_the_next_claim(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "paid", timeout=0) == SUSPEND
    run = claim(conn)
    assert await_event(conn, run, "paid", timeout=0) == TIMED_OUT


@pytest.mark.parametrize(
    "call", ["select absurd.emit_event('default', 'go')", "select absurd.emit_event('default', 'go', 'null')"]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_null_payload_is_no_timeout(conn: Connection, call: str, before: bool) -> None:
    run = spawn_and_claim(conn)
    if before:
        rows(conn, call)
        assert await_event(conn, run, "go", timeout=60) == (False, "json null")
    else:
        assert await_event(conn, run, "go", timeout=60) == SUSPEND
        rows(conn, call)
        run = claim(conn)
        assert run["wake_event"] == "go"
        assert value(conn, "select 1 from absurd.checkpoints where kind = 'event' and state::text = 'null'") == 1
    assert await_event(conn, run, "go", timeout=60) == (False, "json null")


def test_a_timeout_of_a_second_wait_is_not_taken_for_the_arrival_of_the_first(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=0)
    assert await_event(conn, run, "one") == SUSPEND
    emit(conn, "one", "payload of one")
    run = claim(conn, 0)
    assert await_event(conn, run, "two", timeout=0) == SUSPEND
    run = claim(conn, 0)
    assert (run["wake_event"], run["event_payload"]) == ("two", None)


def test_an_arrival_does_not_count_as_a_timeout_later(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=0)
    assert await_event(conn, run, "paid", timeout=60) == SUSPEND
    emit(conn, "paid", 1)
    run = claim(conn, 0)
    rows(conn, "select absurd.schedule_run('default', %s, %s)", run["run_id"], after(600))
    set_clock(conn, after(600))
    run = claim(conn, 0)
    assert (run["wake_event"], run["event_payload"]) == (None, None)
    assert await_event(conn, run, "paid", timeout=60) == (False, 1)


def test_time_asleep_in_a_wait_is_no_duration(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, {"cancellation": {"max_duration": 5}}, timeout=0)
    assert await_event(conn, run, "paid") == SUSPEND
    set_clock(conn, after(86400))
    emit(conn, "paid", 1)
    claim(conn, 0)
    set_clock(conn, after(86404))
    claim_all(conn)
    assert state(conn, run["task_id"]) == "running"


@pytest.mark.parametrize(
    ("step", "event", "timeout", "named"),
    [
        ("", "e", None, "step name must not be empty"),
        (None, "e", None, "step name must not be empty"),
        ("s" * 1001, "e", None, "step name"),
        ("s", "", None, "event name must not be empty"),
        ("s", "e" * 1001, None, "event name"),
        ("s", "e", -1, "timeout must be 0 or more"),
    ],
)
def test_a_wait_refuses_what_it_cannot_use(
    conn: Connection, step: str | None, event: str, timeout: int | None, named: str
) -> None:
    run = spawn_and_claim(conn)
    statement = "select * from absurd.await_event('default', %s, %s, %s, %s, %s)"
    code, message = sqlstate(conn, statement, run["task_id"], run["run_id"], step, event, timeout)
    assert code == "AB012"
    assert named in message
    assert state(conn, run["task_id"]) == "running"


@pytest.mark.parametrize(
    ("queue", "event", "payload", "code", "named"),
    [
        ("nowhere", "e", 1, "AB010", "nowhere"),
        (None, "e", 1, "AB010", ""),
        (QUEUE, "", 1, "AB012", "event name must not be empty"),
        (QUEUE, None, 1, "AB012", "event name must not be empty"),
        (QUEUE, "é" * 501, 1, "AB012", "1002 bytes"),
        (QUEUE, "e", ["x" * 11_000_000], "AB013", "10485760"),
    ],
)
def test_an_emit_refuses_what_it_cannot_use(
    conn: Connection, queue: str | None, event: str | None, payload: Any, code: str, named: str
) -> None:
    got, message = sqlstate(conn, "select absurd.emit_event(%s, %s, to_jsonb(%s))", queue, event, payload)
    assert got == code
    assert named in message
    assert value(conn, "select count(*) from absurd.events") == 0


def test_an_emission_that_could_not_see_a_wait_comes_before_later_ones(conn: Connection, database_url: str) -> None:
    """A REPEATABLE READ emit cannot see a wait committed after its snapshot; the next emit of the name delivers it first."""
    run = spawn_and_claim(conn)
    with psycopg.connect(database_url) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("select 1")
        assert await_event(conn, run, "go") == SUSPEND
        emit(other, "go", "first")
        other.commit()
    emit(conn, "go", "second")
    assert claim(conn)["event_payload"] == "first"
    assert row(conn, "select count(*) filter (where not delivered) as late, count(claimed_at) as claimed from absurd.events") == {
        "late": 0,
        "claimed": 1,
    }


def test_a_claim_delivers_what_an_emit_in_repeatable_read_could_not(conn: Connection, database_url: str) -> None:
    run = spawn_and_claim(conn)
    with psycopg.connect(database_url) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("select 1")
        assert await_event(conn, run, "go") == SUSPEND
        emit(other, "go", "payload")
        other.commit()
    assert claim(conn)["event_payload"] == "payload"


def test_an_emit_within_a_transaction_wakes_only_at_its_commit(conn: Connection, database_url: str) -> None:
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "go") == SUSPEND
    with psycopg.connect(database_url) as other:
        emit(other, "go", 1)
        assert claim_all(conn) == []
        other.rollback()
        assert claim_all(conn) == []
        emit(other, "go", 2)
        other.commit()
    assert claim(conn)["event_payload"] == 2


def test_a_cancelled_waiter_gets_nothing_and_the_event_stays_unclaimed(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    assert await_event(conn, run, "go") == SUSPEND
    rows(conn, "select absurd.cancel_task('default', %s)", run["task_id"])
    emit(conn, "go", 1)
    assert value(conn, "select claimed_at from absurd.events") is None
    assert value(conn, "select count(*) from absurd.waits") == 0


def test_a_task_of_many_waits_and_names_comes_to_its_end(conn: Connection) -> None:
    names = ["payment.confirmed:12345", "名前 '%s'", "$$;--", "x" * 1000, "a\\b"]
    task_id = spawn(conn)["task_id"]
    for position, name in enumerate(names):
        run = claim(conn)
        for done, earlier in enumerate(names[:position]):
            assert await_event(conn, run, earlier) == (False, done)
        assert await_event(conn, run, name) == SUSPEND
        emit(conn, name, position)
    complete(conn, claim(conn))
    assert state(conn, task_id) == "completed"


NOT_FOR_JSONB = [r'{"a": "\u0000"}', r'"\ud800"', "1e200000"]


@pytest.mark.parametrize("payload", NOT_FOR_JSONB)
@pytest.mark.parametrize("before", [True, False])
def test_a_payload_that_only_json_can_hold_stops_no_wait(conn: Connection, payload: str, before: bool) -> None:
    run = spawn_and_claim(conn)
    if before:
        value(conn, "select absurd.append_event('default', 'go', %s::json)", payload)
    else:
        assert await_event(conn, run, "go") == SUSPEND
        value(conn, "select absurd.append_event('default', 'go', %s::json)", payload)
        run = claim(conn)
        assert run["event_payload"] == {"$unreadable": payload}
    assert await_event(conn, run, "go") == (False, {"$unreadable": payload})


@pytest.mark.parametrize("payload", NOT_FOR_JSONB)
def test_a_payload_that_only_json_can_hold_stops_no_batch(conn: Connection, payload: str) -> None:
    value(conn, "select absurd.append_event('default', 'go', %s::json)", payload)
    first, second = spawn_and_claim(conn), spawn_and_claim(conn)
    wait = [{"step": "go", "queue": "default", "event": "go"}]
    arguments = (first["task_id"], second["task_id"], first["run_id"], second["run_id"])
    checked = rows(
        conn,
        "select * from absurd.check_waits(array[%s, %s], array[%s, %s], array[1, 1], array[3, 3], array[1, 1],"
        " array[%s::json, %s::json])",
        *arguments,
        wait,
        wait,
    )
    assert [c["status"] for c in checked] == ["ok", "ok"]
    assert payload in checked[0]["arrivals"]
    recorded = rows(conn, "select position, state::text as state from absurd.checkpoints")
    assert recorded == [{"position": 3, "state": payload}] * 2


def test_a_run_that_waits_in_a_dropped_queue_wakes(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('other')")
    elsewhere = spawn(conn, queue="other")["task_id"]
    for wait in ({"step": "s", "queue": "other", "event": "go"}, {"step": "s", "task": str(elsewhere)}):
        run = spawn_and_claim(conn, {"cancellation": {"max_duration": 60}}, timeout=0)
        suspended = value(
            conn,
            "select (absurd.suspend_runs(array[%s], array[%s], array[1], array[1], array[1], array[%s::json],"
            " array[null]::timestamptz[], array[null]::float8[], array[null]::text[], array[null]::text[]))[1]",
            run["task_id"],
            run["run_id"],
            [wait],
        )
        assert suspended == "ok"
    assert claim_all(conn, 10) == []
    rows(conn, "select absurd.drop_queue('other')")
    assert len(claim_all(conn, 10)) == 2
    assert value(conn, "select count(*) from absurd.waits") == 0
    assert value(conn, "select count(deadline_at) from absurd.runs") == 2


def test_a_source_is_limited_so_that_it_fits_into_the_headers_of_whom_the_event_starts(conn: Connection) -> None:
    options = "jsonb_build_object('headers', jsonb_build_object('h', repeat('x', %s)))"
    subscribe = f"select absurd.subscribe(%s, 'paid', 'ship', {options})"
    with pytest.raises(psycopg.errors.DatabaseError, match="headers have 16393 bytes; 16384 are allowed"):
        conn.execute(subscribe.encode(), (QUEUE, 16_384))
    conn.execute(subscribe.encode(), (QUEUE, 16_384 - 9))
    append = "select absurd.append_event(%s, 'paid', 'null', null, jsonb_build_object('kind', repeat('x', %s)))"
    with pytest.raises(psycopg.errors.DatabaseError, match="source has 16396 bytes; 16384 are allowed"):
        conn.execute(append, (QUEUE, 16_384))
    assert value(conn, "select count(*) from absurd.events") == 0
    conn.execute(append, (QUEUE, 16_384 - 12))
    assert claim(conn)["task_name"] == "ship"
