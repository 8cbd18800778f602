"""Claim, complete, fail, schedule, extend, cancel, retry: one run at a time, from SQL."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.sql.calls import (
    NOON,
    QUEUE,
    Connection,
    Row,
    after,
    claim,
    claim_all,
    complete,
    fail,
    result,
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

WRITES = [
    "select absurd.complete_run('default', %(run)s, '1')",
    "select absurd.fail_run('default', %(run)s, '1')",
    "select absurd.schedule_run('default', %(run)s, now())",
    "select absurd.extend_claim('default', %(run)s, 60)",
    "select absurd.set_task_checkpoint_state('default', %(task)s, 'step', '1', %(run)s)",
    "select absurd.await_event('default', %(task)s, %(run)s, 'step', 'event')",
]


def write(conn: Connection, statement: str, run: Row) -> str | None:
    """The code with which a write fails; None if it does not."""
    text = statement.replace("%(run)s", f"'{run['run_id']}'").replace("%(task)s", f"'{run['task_id']}'")
    try:
        conn.execute(text.encode())
    except Exception as error:
        return str(getattr(error, "sqlstate", error))
    return None


def snapshot(conn: Connection) -> list[Row]:
    tables = ("runs", "tasks", "attempts", "checkpoints", "waits")
    return [row(conn, f"select '{t}' as name, json_agg(x order by x::text)::text as all from absurd.{t} x") for t in tables]


def test_claims_follow_priority_then_time(conn: Connection) -> None:
    set_clock(conn, NOON)
    late = spawn(conn, "late", options={"delay": 2})
    first = spawn(conn, "first")
    second = spawn(conn, "second")
    urgent = spawn(conn, "urgent", options={"priority": 5})
    set_clock(conn, after(3))
    claimed = claim_all(conn, 10)
    assert [r["task_id"] for r in claimed[:1]] == [urgent["task_id"]]
    assert {r["task_id"] for r in claimed[1:3]} == {first["task_id"], second["task_id"]}
    assert claimed[3]["task_id"] == late["task_id"]


def test_a_claim_takes_no_more_than_asked_and_nothing_twice(conn: Connection) -> None:
    for _ in range(5):
        spawn(conn)
    taken = claim_all(conn, 3) + claim_all(conn, 3)
    assert len(taken) == 5
    assert len({r["run_id"] for r in taken}) == 5
    assert claim_all(conn, 3) == []


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("nowhere", "w", 30, 1), "AB010", "nowhere"),
        ((QUEUE, "w", -1, 1), "AB012", "claim_timeout"),
        ((QUEUE, "w", 30, 0), "AB012", "qty"),
        ((QUEUE, "w", 30, -5), "AB012", "qty"),
    ],
)
def test_a_claim_refuses_what_it_cannot_use(conn: Connection, arguments: tuple[Any, ...], code: str, named: str) -> None:
    got, message = sqlstate(conn, "select * from absurd.claim_task(%s, %s, %s, %s)", *arguments)
    assert got == code
    assert named in message


def test_a_paused_queue_gives_nothing_until_it_is_resumed(conn: Connection) -> None:
    spawn(conn)
    rows(conn, "select absurd.pause_queue('default')")
    assert claim_all(conn) == []
    rows(conn, "select absurd.resume_queue('default')")
    assert claim(conn)


def test_an_expired_lease_fails_the_attempt_by_name_and_the_next_claim_gets_the_next_attempt(conn: Connection) -> None:
    set_clock(conn, NOON)
    old = spawn_and_claim(conn, {"max_attempts": 2}, timeout=30)
    set_clock(conn, after(29.9))
    assert claim_all(conn) == []
    set_clock(conn, after(30))
    new = claim(conn, timeout=30, worker="worker-2")
    assert (new["task_id"], new["attempt"]) == (old["task_id"], 2)
    assert new["run_id"] != old["run_id"]
    set_clock(conn, after(60))
    assert claim_all(conn) == []
    ended = result(conn, old["task_id"])
    assert ended["state"] == "failed"
    assert ended["failure_reason"]["name"] == "$ClaimTimeout"
    assert "worker-2" in ended["failure_reason"]["message"]


def test_a_claim_timeout_of_zero_never_expires(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=0)
    set_clock(conn, after(86400 * 365 * 5))
    assert claim_all(conn) == []
    rows(conn, "select absurd.extend_claim('default', %s, 5)", run["run_id"])
    set_clock(conn, after(86400 * 365 * 9))
    assert claim_all(conn) == []
    complete(conn, run)


def test_an_extended_lease_lasts_longer_and_is_never_made_shorter(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=30)
    rows(conn, "select absurd.extend_claim('default', %s, 10)", run["run_id"])
    set_clock(conn, after(29))
    assert claim_all(conn) == []
    rows(conn, "select absurd.extend_claim('default', %s, 60)", run["run_id"])
    set_clock(conn, after(88))
    assert claim_all(conn) == []
    set_clock(conn, after(89))
    assert claim(conn)["attempt"] == 2


@pytest.mark.parametrize("seconds", [0, -1, None])
def test_a_lease_is_extended_by_seconds(conn: Connection, seconds: int | None) -> None:
    run = spawn_and_claim(conn)
    code, message = sqlstate(conn, "select absurd.extend_claim('default', %s, %s)", run["run_id"], seconds)
    assert code == "AB012"
    assert "extend_by must be 1 or more" in message


@pytest.mark.parametrize("statement", WRITES)
@pytest.mark.parametrize("end", ["completed", "failed", "expired", "retried", "suspended", "cancelled", "unknown", "too late"])
def test_a_write_for_a_run_that_is_no_longer_held_changes_nothing(conn: Connection, statement: str, end: str) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, {"max_attempts": 1 if end in ("failed", "expired") else 2, "cancellation": {"max_duration": 60}})
    if end == "completed":
        complete(conn, run)
    elif end == "failed":
        fail(conn, run)
    elif end == "expired":
        set_clock(conn, after(31))
        claim_all(conn)
    elif end == "retried":
        fail(conn, run)
        claim(conn)
    elif end == "suspended":
        rows(conn, "select absurd.schedule_run('default', %s, %s)", run["run_id"], after(50))
    elif end == "cancelled":
        rows(conn, "select absurd.cancel_task('default', %s)", run["task_id"])
    elif end == "too late":
        rows(conn, "select absurd.extend_claim('default', %s, 600)", run["run_id"])
        set_clock(conn, after(61))
        claim_all(conn)
    else:
        run = {"run_id": uuid4(), "task_id": uuid4()}
    before = snapshot(conn)
    assert write(conn, statement, run) == ("AB001" if end in ("cancelled", "too late") else "AB002")
    assert snapshot(conn) == before


@pytest.mark.parametrize("statement", WRITES)
def test_a_write_for_the_wrong_queue_or_task_changes_nothing(conn: Connection, statement: str) -> None:
    run = spawn_and_claim(conn)
    value(conn, "select absurd.create_queue('other')")
    before = snapshot(conn)
    assert write(conn, statement.replace("'default'", "'other'"), run) == "AB011"
    if "%(task)s" in statement:
        assert write(conn, statement, {**run, "task_id": uuid4()}) == "AB011"
    assert snapshot(conn) == before


def test_a_failure_takes_the_time_that_its_caller_names(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, {"retry_strategy": {"kind": "fixed", "base_seconds": 5}})
    fail(conn, run, {"name": "Busy"}, retry_at=after(100))
    set_clock(conn, after(99))
    assert claim_all(conn) == []
    set_clock(conn, after(100))
    assert claim(conn)["attempt"] == 2


def test_a_task_without_attempts_left_has_failed_for_its_last_reason(conn: Connection) -> None:
    task_id = spawn(conn, options={"max_attempts": 2})["task_id"]
    fail(conn, claim(conn), {"n": 1})
    fail(conn, claim(conn), {"n": 2})
    assert result(conn, task_id) == {"task_id": task_id, "state": "failed", "result": None, "failure_reason": {"n": 2}}
    assert claim_all(conn) == []


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
def test_no_run_sleeps_for_ever_by_a_date(conn: Connection, moment: str) -> None:
    run = spawn_and_claim(conn)
    assert sqlstate(conn, "select absurd.schedule_run('default', %s, %s)", run["run_id"], moment)[0] == "AB012"
    assert sqlstate(conn, "select absurd.schedule_run('default', %s, null)", run["run_id"])[0] == "AB012"
    assert sqlstate(conn, "select absurd.fail_run('default', %s, '1', %s)", run["run_id"], moment)[0] == "AB012"
    complete(conn, run)


def test_a_scheduled_run_sleeps_and_wakes_as_the_same_attempt(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn)
    rows(conn, "select absurd.schedule_run('default', %s, %s)", run["run_id"], after(3600))
    assert state(conn, run["task_id"]) == "sleeping"
    set_clock(conn, after(3599))
    assert claim_all(conn) == []
    set_clock(conn, after(3600))
    again = claim(conn)
    assert (again["run_id"], again["attempt"], again["wake_event"]) == (run["run_id"], 1, None)
    rows(conn, "select absurd.schedule_run('default', %s, %s)", run["run_id"], after(-5))
    assert claim(conn)["run_id"] == run["run_id"]


def test_max_delay_cancels_what_was_not_started_in_time(conn: Connection) -> None:
    set_clock(conn, NOON)
    task_id = spawn(conn, options={"cancellation": {"max_delay": 0.5}})["task_id"]
    delayed = spawn(conn, options={"cancellation": {"max_delay": 0.5}, "delay": 10})["task_id"]
    set_clock(conn, after(0.5))
    assert claim_all(conn, 10) == []
    assert state(conn, task_id) == "cancelled"
    assert result(conn, task_id)["failure_reason"]["name"] == "$Cancelled"
    set_clock(conn, after(10.4))
    started = claim(conn)
    assert started["task_id"] == delayed
    set_clock(conn, after(20))
    complete(conn, started)


def test_max_duration_counts_running_over_all_attempts_and_neither_sleep_nor_back_off(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(
        conn, {"cancellation": {"max_duration": 10}, "retry_strategy": {"kind": "fixed", "base_seconds": 1000}}, 0
    )
    set_clock(conn, after(4))
    rows(conn, "select absurd.schedule_run('default', %s, %s)", run["run_id"], after(5000))
    set_clock(conn, after(5000))
    run = claim(conn, 0)
    set_clock(conn, after(5004))
    fail(conn, run)
    set_clock(conn, after(7000))
    run = claim(conn, 0)
    set_clock(conn, after(7001.9))
    assert claim_all(conn) == []
    assert state(conn, run["task_id"]) == "running"
    set_clock(conn, after(7002))
    assert claim_all(conn) == []
    assert state(conn, run["task_id"]) == "cancelled"


def test_a_retry_by_hand_gives_a_new_allowance_and_keeps_the_steps(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, {"cancellation": {"max_duration": 10}, "max_attempts": 1}, 0)
    set_checkpoint(conn, run, "reserve", {"n": 1})
    set_clock(conn, after(10))
    claim_all(conn)
    assert state(conn, run["task_id"]) == "cancelled"
    retried = row(conn, "select * from absurd.retry_task('default', %s)", run["task_id"])
    assert (retried["task_id"], retried["attempt"], retried["created"]) == (run["task_id"], 2, False)
    again = claim(conn, 0)
    assert again["run_id"] == retried["run_id"]
    states = rows(conn, "select * from absurd.get_task_checkpoint_states('default', %s, %s)", run["task_id"], again["run_id"])
    assert [s["checkpoint_name"] for s in states] == ["reserve"]
    set_clock(conn, after(19.9))
    claim_all(conn)
    assert state(conn, run["task_id"]) == "running"
    set_clock(conn, after(20))
    claim_all(conn)
    assert state(conn, run["task_id"]) == "cancelled"


def test_a_failed_task_is_retried_in_place_or_as_a_copy(conn: Connection) -> None:
    run = spawn_and_claim(conn, {"max_attempts": 1})
    for options in ({}, {"spawn_new": False}):
        assert sqlstate(conn, "select * from absurd.retry_task('default', %s, %s)", run["task_id"], options)[0] == "AB012"
    fail(conn, run)
    assert sqlstate(conn, "select * from absurd.retry_task('default', %s, %s)", run["task_id"], {"max_attempts": 1})[0] == "AB012"
    assert sqlstate(conn, "select * from absurd.retry_task('default', %s, %s)", run["task_id"], {"spawn": True})[0] == "AB012"
    assert sqlstate(conn, "select * from absurd.retry_task('default', %s)", uuid4())[0] == "AB011"
    copy = row(conn, "select * from absurd.retry_task('default', %s, %s)", run["task_id"], {"spawn_new": True})
    assert (copy["created"], copy["attempt"]) == (True, 1)
    assert copy["task_id"] != run["task_id"]
    complete(conn, claim(conn))
    row(conn, "select * from absurd.retry_task('default', %s)", run["task_id"])
    complete(conn, claim(conn), "at last")
    assert result(conn, run["task_id"]) == {
        "task_id": run["task_id"], "state": "completed", "result": "at last", "failure_reason": None,
    }  # fmt: skip


@pytest.mark.parametrize("moment", ["pending", "sleeping", "running", "completed", "failed", "cancelled"])
def test_a_cancelled_task_stays_cancelled_and_an_ended_one_stays_as_it_was(conn: Connection, moment: str) -> None:
    task_id = spawn(conn, options={"max_attempts": 1, "delay": 3600 if moment == "sleeping" else 0})["task_id"]
    if moment in ("running", "completed", "failed"):
        run = claim(conn)
        if moment == "completed":
            complete(conn, run)
        elif moment == "failed":
            fail(conn, run)
    for _ in range(2):
        rows(conn, "select absurd.cancel_task('default', %s)", task_id)
    assert state(conn, task_id) == (moment if moment in ("completed", "failed") else "cancelled")
    assert claim_all(conn) == []
    assert value(conn, "select count(*) from absurd.runs") == 0


def test_cancelling_what_is_not_there_says_so(conn: Connection) -> None:
    assert sqlstate(conn, "select absurd.cancel_task('default', %s)", uuid4())[0] == "AB011"


def test_a_result_beyond_the_limit_is_refused_and_the_run_can_still_fail(conn: Connection) -> None:
    rows(conn, "select absurd.set_queue_policy('default', %s)", {"max_payload_bytes": 1024})
    run = spawn_and_claim(conn, {"max_attempts": 1})
    assert sqlstate(conn, "select absurd.complete_run('default', %s, %s)", run["run_id"], ["x" * 1024])[0] == "AB013"
    fail(conn, run, "x" * 5000)
    assert state(conn, run["task_id"]) == "failed"
