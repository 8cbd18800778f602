"""A copy of a task from one of its steps, and the time of a sleeping task made now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from absurd.db import run
from absurd.queries import runs as queries
from absurd.writes import CheckWaits, Holder, RecordCheckpoint, Suspend, Wait
from tests.sql.calls import (
    NOON,
    QUEUE,
    Connection,
    Row,
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
    state,
    value,
)
from tests.sql.concurrent import Background

STEPS = ("reserve", "charge", "ship")


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """A connection whose transactions the test ends."""
    with psycopg.connect(database_url) as made:
        yield made


def holder(task: Row) -> Holder:
    return Holder(QUEUE, task["task_id"], task["run_id"], None)  # type: ignore[arg-type]  # as clients that know none


def record(conn: Connection, task: Row, *steps: str, first: int = 0) -> None:
    """Steps as the library records them: each has a place of its own."""
    for place, step in enumerate(steps, first):
        written = RecordCheckpoint(holder(task), step, place, json.dumps({"of": step}))
        assert [answer.status for answer in run(conn, queries.record_checkpoints([written]))] == ["ok"]


def sleep(conn: Connection, task: Row, *waits: Wait, seconds: float | None = None, kind: str = "sleep", place: int = 9) -> None:
    step = waits[0].step_name if waits else "nap"
    suspension = Suspend(holder(task), place, len(waits), list(waits), None, seconds, timer_step=step, timer_kind=kind)
    assert run(conn, queries.suspend_runs([suspension]))[0].status == "ok"


def ordered(conn: Connection, options: Row | None = None) -> Row:
    """A running task that has taken three steps."""
    task = spawn_and_claim(conn, options)
    record(conn, task, *STEPS)
    return task


def fork(conn: Connection, task_id: UUID, step: str | None, options: Row | None = None) -> Row:
    return row(conn, "select * from absurd.fork_task(%s, %s, %s, %s)", QUEUE, task_id, step, options or {})


def steps_of(conn: Connection, task_id: UUID) -> list[str]:
    sql = "select step_name from absurd.checkpoints where task_id = %s order by position, completed_at"
    return [found["step_name"] for found in rows(conn, sql, task_id)]


def task_row(conn: Connection, task_id: UUID) -> Row:
    return row(conn, "select * from absurd.tasks where task_id = %s", task_id)


def run_now(conn: Connection, task_id: UUID) -> None:
    rows(conn, "select absurd.run_task_now(%s, %s)", QUEUE, task_id)


# -- fork ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "kept"), [("reserve", []), ("charge", ["reserve"]), ("ship", ["reserve", "charge"])])
def test_a_fork_has_the_checkpoints_before_its_step(conn: Connection, step: str, kept: list[str]) -> None:
    task = ordered(conn, {"headers": {"tenant": 7}, "max_attempts": 3, "priority": 4})
    complete(conn, task, {"done": True})
    made = fork(conn, task["task_id"], step)
    assert (made["attempt"], made["created"]) == (1, True)
    assert steps_of(conn, made["task_id"]) == kept
    old, new = task_row(conn, task["task_id"]), task_row(conn, made["task_id"])
    for column in ("queue_name", "task_name", "params", "max_attempts", "retry_strategy", "priority"):
        assert new[column] == old[column]
    assert new["idempotency_key"] is None
    assert new["headers"] == {
        "tenant": 7,
        "absurd-source": {
            "kind": "fork",
            "name": "work",
            "forked_from": {"task_id": str(task["task_id"]), "step": step},
        },
    }
    assert (old["outcome"], steps_of(conn, task["task_id"])) == ("completed", list(STEPS))


def test_a_fork_is_claimed_with_its_checkpoints(conn: Connection) -> None:
    task = ordered(conn)
    complete(conn, task)
    made = fork(conn, task["task_id"], "ship")
    (claimed,) = rows(conn, "select * from absurd.claim_runs(%s, 'w', 30, 1)", QUEUE)
    assert (claimed["task_id"], claimed["run_id"], claimed["attempt"]) == (made["task_id"], made["run_id"], 1)
    assert claimed["checkpoint_count"] == 2
    assert [point[:4] for point in json.loads(claimed["checkpoints"])] == [
        ["reserve", 0, "step", {"of": "reserve"}],
        ["charge", 1, "step", {"of": "charge"}],
    ]


def test_what_started_the_task_stays_in_the_source_of_a_fork(conn: Connection) -> None:
    """A handler reads its headers again, and must find in them what it found before."""
    source = {"kind": "schedule", "name": "nightly", "slot": "2025-06-01T12:00:00Z"}
    task = ordered(conn, {"headers": {"absurd-source": source}})
    made = fork(conn, task["task_id"], "charge")
    forked_from = {"task_id": str(task["task_id"]), "step": "charge"}
    assert task_row(conn, made["task_id"])["headers"] == {"absurd-source": {**source, "forked_from": forked_from}}
    complete(conn, task)
    again = spawn_and_claim_task(conn, made["task_id"])
    record(conn, again, "charge", first=1)
    second = fork(conn, made["task_id"], "charge")
    assert task_row(conn, second["task_id"])["headers"]["absurd-source"]["forked_from"]["task_id"] == str(made["task_id"])


def spawn_and_claim_task(conn: Connection, task_id: UUID) -> Row:
    (claimed,) = [found for found in claim_all(conn, 10) if found["task_id"] == task_id]
    return claimed


def test_a_fork_leaves_a_living_task_alone(conn: Connection) -> None:
    task = ordered(conn)
    fork(conn, task["task_id"], "charge")
    record(conn, task, "bill", first=3)
    complete(conn, task)
    assert state(conn, task["task_id"]) == "completed"


def test_steps_of_other_clients_are_told_apart_by_their_time(conn: Connection) -> None:
    """The published function knows no places: all its steps stand at 0."""
    task = spawn_and_claim(conn)
    for step in STEPS:
        set_checkpoint(conn, task, step, {})
    assert steps_of(conn, fork(conn, task["task_id"], "ship")["task_id"]) == ["reserve", "charge"]
    assert steps_of(conn, fork(conn, task["task_id"], "reserve")["task_id"]) == []


def test_a_wait_in_which_the_task_sleeps_is_a_step_too(conn: Connection) -> None:
    task = ordered(conn)
    sleep(conn, task, Wait("$await:paid", QUEUE, "paid"))
    made = fork(conn, task["task_id"], "$await:paid")
    assert steps_of(conn, made["task_id"]) == list(STEPS)


def test_a_fork_gets_a_limit_of_its_own(conn: Connection) -> None:
    task = ordered(conn, {"max_attempts": 1})
    assert task_row(conn, fork(conn, task["task_id"], "ship", {"max_attempts": 9})["task_id"])["max_attempts"] == 9


def test_a_fork_that_is_asked_for_twice_is_made_once(conn: Connection) -> None:
    task = ordered(conn)
    ids = {"task_id": str(uuid4()), "run_id": str(uuid4())}
    first, second = (fork(conn, task["task_id"], "ship", ids) for _ in range(2))
    assert (str(first["task_id"]), str(first["run_id"])) == (ids["task_id"], ids["run_id"])
    assert second == {**first, "created": False}
    assert value(conn, "select count(*) from absurd.runs where task_id = %s", first["task_id"]) == 1
    code, message = sqlstate(
        conn, "select absurd.fork_task(%s, %s, 'charge', %s)", QUEUE, task["task_id"], {"task_id": ids["task_id"]}
    )
    assert (code, ids["task_id"] in message) == ("AB012", True)


def test_two_who_repeat_a_fork_at_once_make_one(conn: Connection, other: Connection, database_url: str) -> None:
    task = ordered(conn)
    ids = {"task_id": str(uuid4())}
    first = fork(other, task["task_id"], "ship", ids)
    waiting = Background(database_url, lambda third: fork(third, task["task_id"], "ship", ids)).wait_until_blocked()
    other.commit()
    second = waiting.result()
    assert (first["created"], second["created"], second["run_id"]) == (True, False, first["run_id"])


def test_a_task_that_is_being_forked_is_not_cleaned_up(conn: Connection, other: Connection) -> None:
    task = ordered(conn)
    complete(conn, task)
    made = fork(other, task["task_id"], "ship")
    assert value(conn, "select absurd.cleanup_tasks(%s, 0)", QUEUE) == 0
    other.commit()
    assert value(conn, "select absurd.cleanup_tasks(%s, 0)", QUEUE) == 1
    assert steps_of(conn, made["task_id"]) == ["reserve", "charge"]


def test_a_queue_that_is_dropped_takes_a_fork_with_it(conn: Connection, other: Connection, database_url: str) -> None:
    task = ordered(conn)
    fork(other, task["task_id"], "ship")
    dropping = Background(database_url, lambda third: rows(third, "select absurd.drop_queue(%s)", QUEUE)).wait_until_blocked()
    other.commit()
    dropping.result()
    for table in ("tasks", "runs", "checkpoints"):
        assert value(conn, f"select count(*) from absurd.{table}") == 0, table


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"task_id": "x"}, "task_id"),
        ({"run_id": 7}, "run_id"),
        ({"from_step": "x"}, "from_step"),
        ([], "options"),
    ],
)
def test_options_that_cannot_be_used_are_named(conn: Connection, options: Any, word: str) -> None:
    task = ordered(conn)
    code, message = sqlstate(conn, "select absurd.fork_task(%s, %s, 'ship', %s)", QUEUE, task["task_id"], options)
    assert (code, word in message) == ("AB012", True), message


def test_a_fork_of_nothing_is_refused(conn: Connection) -> None:
    task = ordered(conn)
    code, message = sqlstate(conn, "select absurd.fork_task(%s, %s, 'refund')", QUEUE, task["task_id"])
    assert (code, '"refund"' in message, str(task["task_id"]) in message) == ("AB012", True, True)
    assert sqlstate(conn, "select absurd.fork_task(%s, %s, 'ship')", QUEUE, uuid4())[0] == "AB011"
    assert sqlstate(conn, "select absurd.fork_task('nowhere', %s, 'ship')", task["task_id"])[0] == "AB011"
    assert sqlstate(conn, "select absurd.fork_task(%s, %s, null)", QUEUE, task["task_id"])[0] == "AB012"
    assert value(conn, "select count(*) from absurd.tasks") == 1


def test_headers_that_jsonb_cannot_hold_do_not_stop_a_fork(conn: Connection) -> None:
    task = ordered(conn)
    rows(conn, """update absurd.tasks set headers = '{"a": "\\u0000"}' where task_id = %s""", task["task_id"])
    made = fork(conn, task["task_id"], "ship")
    text = value(conn, "select headers::text from absurd.tasks where task_id = %s", made["task_id"])
    assert text == '{"a": "\\u0000"}'


# -- tokens: only the task that made one is told of its answer -------------------------------------------------------------------


def token_wait(token: Row) -> Wait:
    return Wait(f"$await_token:{token['id']}:ok", token_id=UUID(token["id"]))


def asked(conn: Connection, timeout: float | None = None) -> tuple[Row, Row]:
    """A task that has made a token at place 3 and sleeps until it is answered; and the token."""
    task = ordered(conn)
    sql = "select state from absurd.create_token(%s, %s, null, '$token:ok', 3, 'ok', %s)"
    token = value(conn, sql, task["task_id"], task["run_id"], timeout)
    sleep(conn, task, token_wait(token), seconds=timeout, kind="timeout", place=4)
    return task, token


def test_a_fork_that_would_wait_for_anothers_token_is_refused(conn: Connection) -> None:
    task, token = asked(conn)
    step = f"$await_token:{token['id']}:ok"
    code, message = sqlstate(conn, "select absurd.fork_task(%s, %s, %s)", QUEUE, task["task_id"], step)
    assert (code, '"$token:ok"' in message) == ("AB012", True), message
    assert steps_of(conn, fork(conn, task["task_id"], "$token:ok")["task_id"]) == list(STEPS)


def test_a_token_that_was_answered_is_answered_for_a_fork(conn: Connection) -> None:
    task, token = asked(conn)
    assert value(conn, "select absurd.use_token(%s, '\"yes\"')", token["secret"]) == "ok"
    made = fork(conn, task["task_id"], f"$await_token:{token['id']}:ok")
    copy = spawn_and_claim_task(conn, made["task_id"])
    (answer,) = run(conn, queries.check_waits([CheckWaits(holder(copy), 4, 1, [token_wait(token)])]))
    assert (answer.status, "yes" in str(answer.detail)) == ("ok", True)


def test_a_token_whose_wait_timed_out_does_not_stop_a_fork_behind_it(conn: Connection) -> None:
    set_clock(conn, NOON)
    task, _ = asked(conn, 60)
    set_clock(conn, after(61))
    again = claim(conn)
    assert again["task_id"] == task["task_id"]
    record(conn, again, "reject", first=5)
    assert len(steps_of(conn, fork(conn, task["task_id"], "reject")["task_id"])) == 5


# -- run now ---------------------------------------------------------------------------------------------------------------------


def test_a_delayed_task_is_run_now(conn: Connection) -> None:
    task = spawn(conn, options={"delay": 3600})
    assert claim_all(conn) == []
    run_now(conn, task["task_id"])
    assert claim(conn)["task_id"] == task["task_id"]


def test_the_pause_before_another_attempt_is_over(conn: Connection) -> None:
    task = spawn_and_claim(conn, {"max_attempts": 2, "retry_strategy": {"kind": "fixed", "base_seconds": 3600}})
    fail(conn, task)
    run_now(conn, task["task_id"])
    assert claim(conn)["attempt"] == 2


def test_a_sleep_is_over_for_good(conn: Connection) -> None:
    task = ordered(conn)
    sleep(conn, task, seconds=3600)
    run_now(conn, task["task_id"])
    assert row(conn, "select kind, state from absurd.checkpoints where step_name = 'nap'") == {"kind": "sleep", "state": None}
    assert value(conn, "select count(*) from absurd.waits") == 0
    assert claim(conn)["task_id"] == task["task_id"]


def test_a_wait_with_a_timeout_has_timed_out_for_good(conn: Connection) -> None:
    task = ordered(conn)
    sleep(conn, task, Wait("$await:paid", QUEUE, "paid"), seconds=3600, kind="timeout")
    run_now(conn, task["task_id"])
    emit(conn, "paid", {"too": "late"})
    assert value(conn, "select kind from absurd.checkpoints where step_name = '$await:paid'") == "timeout"
    assert claim(conn)["task_id"] == task["task_id"]


def test_a_wait_without_a_time_is_refused_and_says_for_what(conn: Connection) -> None:
    task = ordered(conn)
    sleep(conn, task, Wait("$await_all:a|b/0", QUEUE, "a"), Wait("$await_all:a|b/1", QUEUE, "b"))
    code, message = sqlstate(conn, "select absurd.run_task_now(%s, %s)", QUEUE, task["task_id"])
    assert (code, 'event "a", event "b"' in message) == ("AB012", True), message
    assert value(conn, "select state from absurd.runs") == "sleeping"


def test_only_a_sleeping_task_is_run_now(conn: Connection) -> None:
    task = spawn(conn)["task_id"]
    statement = "select absurd.run_task_now(%s, %s)"
    assert "ready already" in sqlstate(conn, statement, QUEUE, task)[1]
    running = claim(conn)
    assert "running already" in sqlstate(conn, statement, QUEUE, task)[1]
    complete(conn, running)
    assert "is completed" in sqlstate(conn, statement, QUEUE, task)[1]
    assert sqlstate(conn, statement, QUEUE, uuid4())[0] == "AB011"
    assert sqlstate(conn, statement, "nowhere", task)[0] == "AB011"


def test_an_event_that_comes_first_wins_over_the_timeout_made_now(conn: Connection, other: Connection, database_url: str) -> None:
    task = ordered(conn)
    assert await_event(conn, task, "paid", timeout=3600)[0]
    emit(other, "paid", {"sum": 1})
    statement = "select absurd.run_task_now(%s, %s)"
    waiting = Background(database_url, lambda third: sqlstate(third, statement, QUEUE, task["task_id"])).wait_until_blocked()
    other.commit()
    assert "ready already" in waiting.result()[1]
    assert value(conn, "select kind from absurd.checkpoints where step_name = 'paid'") == "event"
