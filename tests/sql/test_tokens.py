"""Resume tokens in SQL: made once, used once; who answered was told what the task sees, whatever happens at the same time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd.db import run
from absurd.queries import runs as queries
from absurd.writes import CheckWaits, Holder, Suspend, Wait
from tests.sql.calls import (
    NOON,
    QUEUE,
    Connection,
    Row,
    after,
    claim,
    complete,
    fail,
    row,
    rows,
    set_clock,
    spawn_and_claim,
    sqlstate,
    value,
)
from tests.sql.concurrent import Background
from tests.support import wait_until


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """A connection whose transactions the test ends."""
    with psycopg.connect(database_url) as made:
        yield made


class Token:
    """A token of a running task, and what its worker does with it."""

    def __init__(self, conn: Connection, task: Row, timeout: float | None = None, name: str = "approval") -> None:
        self.task, self.name = task, name
        self.answer = self.create(conn, timeout)
        state = self.answer["state"]
        self.id, self.secret, self.expires_at = state["id"], state["secret"], state["expires_at"]
        self.wait = Wait(f"$await_token:{self.id}:{name}", token_id=self.id)

    def create(self, conn: Connection, timeout: float | None = None) -> Row:
        sql = "select * from absurd.create_token(%s, %s, null, %s, 0, %s, %s)"
        return row(conn, sql, self.task["task_id"], self.task["run_id"], f"$token:{self.name}", self.name, timeout)

    @property
    def holder(self) -> Holder:
        return Holder(QUEUE, self.task["task_id"], self.task["run_id"], None)  # type: ignore[arg-type]  # as clients that know none

    def check(self, conn: Connection) -> str:
        return run(conn, queries.check_waits([CheckWaits(self.holder, 1, 1, [self.wait])]))[0].status

    def suspend(self, conn: Connection) -> str:
        expiry = value(conn, "select expires_at from absurd.tokens where token_id = %s", self.id)
        suspension = Suspend(self.holder, 1, 1, [self.wait], expiry, timer_step=self.wait.step_name, timer_kind="timeout")
        return run(conn, queries.suspend_runs([suspension]))[0].status

    def seen(self, conn: Connection) -> list[tuple[str, Any]]:
        """What the task sees of its wait."""
        sql = "select kind, state from absurd.checkpoints where task_id = %s and kind <> 'step'"
        return [(found["kind"], found["state"]) for found in rows(conn, sql, self.task["task_id"])]

    def run_state(self, conn: Connection) -> str:
        return str(value(conn, "select state from absurd.runs where task_id = %s", self.task["task_id"]))


def use(conn: Connection, token: Token, payload: Any = "yes") -> str:
    return str(value(conn, "select absurd.use_token(%s, %s::json)", token.secret, json.dumps(payload)))


def promote(conn: Connection) -> int:
    return int(value(conn, "select promoted from absurd.promote_due(%s)", QUEUE))


@pytest.fixture
def token(conn: Connection) -> Token:
    """Of a running task, without expiry."""
    return Token(conn, spawn_and_claim(conn))


# -- made ------------------------------------------------------------------------------------------------------------------------


def test_a_repeated_creation_returns_the_same_token(conn: Connection, token: Token) -> None:
    assert token.create(conn) == token.answer
    assert value(conn, "select count(*) from absurd.tokens") == 1


def test_a_run_that_was_lost_makes_no_token(conn: Connection) -> None:
    task = spawn_and_claim(conn)
    sql = "select * from absurd.create_token(%s, %s, %s, '$token:a', 0, 'a')"
    answer = row(conn, sql, task["task_id"], task["run_id"], 7)
    assert (answer["status"], answer["state"]) == ("lost", None)
    assert value(conn, "select count(*) from absurd.tokens") == 0


def test_secret_has_more_than_192_random_bits_and_is_not_in_the_table(conn: Connection) -> None:
    secrets = set()
    for _ in range(20):
        made = Token(conn, spawn_and_claim(conn))
        assert len(bytes.fromhex(made.secret)) == 32  # of which twelve bits are the marks of two random UUIDs
        secrets.add(made.secret)
        assert made.secret not in str(rows(conn, "select t::text from absurd.tokens t"))
    assert len({part for secret in secrets for part in (secret[:32], secret[32:])}) == 40


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("'', null, null, null", "invalid", "token name must not be empty"),
        ("'a', -1, null, null", "invalid", "timeout must be between 0 and 315360000"),
        ("'a', 'NaN', null, null", "invalid", "timeout must be between"),
        ("'a', null, repeat('x', 2000), null", "too_large", 'have 2000 bytes; queue "default" allows 1024'),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(conn: Connection, arguments: str, status: str, message: str) -> None:
    conn.execute("update absurd.queues set max_payload_bytes = 1024")
    task = spawn_and_claim(conn)
    sql = f"select * from absurd.create_token(%s, %s, null, '$token', 0, {arguments})"
    answer = row(conn, sql, task["task_id"], task["run_id"])
    assert answer["status"] == status
    assert message in answer["message"]


# -- used ------------------------------------------------------------------------------------------------------------------------


def test_an_answer_wakes_the_task_that_waits_for_it(conn: Connection, token: Token) -> None:
    assert token.check(conn) == "waiting"
    assert token.suspend(conn) == "ok"
    assert use(conn, token, {"approved": True}) == "ok"
    assert token.seen(conn) == [("token", {"approved": True})]
    assert token.run_state(conn) == "pending"
    assert value(conn, "select count(*) from absurd.waits") == 0


def test_an_answer_before_the_wait_is_found_by_it(conn: Connection, token: Token) -> None:
    assert use(conn, token, None) == "ok"
    assert token.check(conn) == "ok"
    assert token.seen(conn) == [("token", None)]


def test_an_answer_between_the_question_and_the_suspension_is_found_by_the_latter(conn: Connection, token: Token) -> None:
    assert token.check(conn) == "waiting"
    assert use(conn, token) == "ok"
    assert token.suspend(conn) == "ok"
    assert token.seen(conn) == [("token", "yes")]
    assert token.run_state(conn) == "pending"


def test_an_answer_in_an_open_transaction_is_waited_for_by_the_suspension(
    conn: Connection, other: Connection, token: Token, database_url: str
) -> None:
    assert token.check(conn) == "waiting"
    assert use(other, token) == "ok"
    suspension = Background(database_url, token.suspend).wait_until_blocked()
    other.commit()
    assert suspension.result() == "ok"
    assert token.seen(conn) == [("token", "yes")]
    assert token.run_state(conn) == "pending"


def test_a_second_answer_is_told_so_and_changes_nothing(conn: Connection, token: Token) -> None:
    assert use(conn, token, "first") == "ok"
    assert use(conn, token, "second") == "used"
    token.check(conn)
    assert token.seen(conn) == [("token", "first")]


@pytest.mark.parametrize(("end", "second", "seen"), [("commit", "used", "first"), ("rollback", "ok", "second")])
def test_of_two_answers_at_once_exactly_one_is_told_ok(
    conn: Connection, other: Connection, token: Token, database_url: str, end: str, second: str, seen: str
) -> None:
    assert token.suspend(conn) == "ok"
    assert use(other, token, "first") == "ok"
    late = Background(database_url, lambda c: use(c, token, "second")).wait_until_blocked()
    getattr(other, end)()
    assert late.result() == second
    assert token.seen(conn) == [("token", seen)]


def test_an_unknown_secret_is_told_so(conn: Connection, token: Token) -> None:
    assert value(conn, "select absurd.use_token('guess')") == "unknown"
    assert value(conn, "select absurd.use_token(null)") == "unknown"
    assert rows(conn, "select * from absurd.read_token('guess')") == []
    assert use(conn, token) == "ok"


def test_reading_a_token_says_what_it_asks_and_uses_nothing(conn: Connection, token: Token) -> None:
    for _ in range(2):
        found = row(conn, "select * from absurd.read_token(%s)", token.secret)
        assert (found["token_name"], found["task_name"], found["status"]) == ("approval", "work", "open")
    assert use(conn, token) == "ok"
    assert row(conn, "select * from absurd.read_token(%s)", token.secret)["status"] == "used"


def test_an_answer_that_is_too_large_is_refused_and_the_token_stays_open(conn: Connection, token: Token) -> None:
    conn.execute("update absurd.queues set max_payload_bytes = 1024")
    code, message = sqlstate(conn, "select absurd.use_token(%s, to_json(repeat('x', 2000)))", token.secret)
    assert code == "AB013"
    assert 'the answer to token "approval" has 2002 bytes' in message
    assert use(conn, token) == "ok"


def test_an_isolation_level_that_hides_what_others_do_is_refused(other: Connection, token: Token) -> None:
    other.execute("set transaction isolation level repeatable read")
    code, message = sqlstate(other, "select absurd.use_token(%s)", token.secret)
    assert code == "0A000"
    assert "use_token needs READ COMMITTED" in message


# -- expiry ----------------------------------------------------------------------------------------------------------------------


def test_an_answer_at_the_moment_of_expiry_is_too_late(conn: Connection) -> None:
    set_clock(conn, NOON)
    token = Token(conn, spawn_and_claim(conn), timeout=10)
    token.suspend(conn)
    set_clock(conn, after(10))
    assert use(conn, token) == "expired"
    assert promote(conn) == 1
    assert token.seen(conn) == [("timeout", None)]
    assert use(conn, token) == "expired"


def test_an_answer_just_before_expiry_holds_for_ever(conn: Connection) -> None:
    set_clock(conn, NOON)
    token = Token(conn, spawn_and_claim(conn), timeout=10)
    token.suspend(conn)
    set_clock(conn, after(9.999))
    assert use(conn, token) == "ok"
    set_clock(conn, after(11))
    assert promote(conn) == 0
    assert token.seen(conn) == [("token", "yes")]


def test_an_answer_before_expiry_is_found_by_a_wait_after_it(conn: Connection) -> None:
    set_clock(conn, NOON)
    token = Token(conn, spawn_and_claim(conn), timeout=10)
    assert use(conn, token) == "ok"
    set_clock(conn, after(3600))
    assert token.check(conn) == "ok"
    assert token.seen(conn) == [("token", "yes")]


def test_an_expiry_that_is_being_recorded_is_what_the_answer_is_told_also_when_its_clock_says_otherwise(
    conn: Connection, other: Connection, database_url: str
) -> None:
    set_clock(conn, NOON)
    token = Token(conn, spawn_and_claim(conn), timeout=10)
    token.suspend(conn)
    set_clock(other, after(10))
    assert promote(other) == 1

    def answer(late: Connection) -> str:
        set_clock(late, after(5))  # a server that took over, and whose clock is behind
        return use(late, token)

    background = Background(database_url, answer).wait_until_blocked()
    other.commit()
    assert background.result() == "expired"
    assert token.seen(conn) == [("timeout", None)]


def test_an_answer_that_is_being_given_is_what_the_wait_gets_also_past_the_expiry(conn: Connection, other: Connection) -> None:
    set_clock(conn, NOON)
    token = Token(conn, spawn_and_claim(conn), timeout=10)
    token.suspend(conn)
    set_clock(other, after(9))
    assert use(other, token) == "ok"
    set_clock(conn, after(11))
    assert promote(conn) == 0  # the row is in other hands
    other.commit()
    assert promote(conn) == 0
    assert token.seen(conn) == [("token", "yes")]


def test_an_answer_that_waited_until_the_expiry_had_passed_is_too_late(
    conn: Connection, other: Connection, database_url: str
) -> None:
    token = Token(conn, spawn_and_claim(conn), timeout=1)
    token.suspend(conn)
    rows(other, "select from absurd.runs for update")
    background = Background(database_url, lambda c: use(c, token)).wait_until_blocked()
    wait_until(lambda: value(conn, "select clock_timestamp() > %s::timestamptz", token.expires_at))
    other.commit()
    assert background.result() == "expired"
    assert promote(conn) == 1
    assert token.seen(conn) == [("timeout", None)]


def test_a_wait_that_ended_before_the_expiry_leaves_the_token_open(conn: Connection) -> None:
    set_clock(conn, NOON)
    token = Token(conn, spawn_and_claim(conn), timeout=100)
    suspension = Suspend(token.holder, 1, 1, [token.wait], NOON, 10, timer_step=token.wait.step_name, timer_kind="timeout")
    set_clock(conn, after(-5))
    assert run(conn, queries.suspend_runs([suspension]))[0].status == "ok"  # the earlier of noon and five seconds past it
    set_clock(conn, NOON)
    assert promote(conn) == 1
    assert token.seen(conn) == [("timeout", None)]
    assert use(conn, token) == "ok"


# -- the end of the task ---------------------------------------------------------------------------------------------------------


def test_the_token_of_a_task_that_has_ended_takes_no_answer(conn: Connection, token: Token) -> None:
    complete(conn, token.task)
    assert use(conn, token) == "ended"
    assert row(conn, "select used_at from absurd.tokens")["used_at"] is None


def test_an_answer_during_a_cancellation_learns_of_it(
    conn: Connection, other: Connection, token: Token, database_url: str
) -> None:
    token.suspend(conn)
    value(other, "select absurd.cancel_task(%s, %s)", QUEUE, token.task["task_id"])
    answer = Background(database_url, lambda c: use(c, token)).wait_until_blocked()
    other.commit()
    assert answer.result() == "ended"
    assert token.seen(conn) == []


def test_a_cancellation_during_an_answer_comes_after_it(
    conn: Connection, other: Connection, token: Token, database_url: str
) -> None:
    token.suspend(conn)
    assert use(other, token) == "ok"
    sql = "select absurd.cancel_task(%s, %s)"
    cancellation = Background(database_url, lambda c: value(c, sql, QUEUE, token.task["task_id"])).wait_until_blocked()
    other.commit()
    cancellation.result()
    assert value(conn, "select outcome from absurd.tasks") == "cancelled"


def test_an_answer_while_one_attempt_follows_another_reaches_the_next(
    conn: Connection, other: Connection, database_url: str
) -> None:
    token = Token(conn, spawn_and_claim(conn, {"retry_strategy": {"kind": "none"}, "max_attempts": 2}))
    fail(other, token.task)
    answer = Background(database_url, lambda c: use(c, token)).wait_until_blocked()
    other.commit()
    assert answer.result() == "ok"
    token.task = claim(conn)
    assert token.check(conn) == "ok"
    assert token.seen(conn) == [("token", "yes")]


def test_a_task_that_is_retried_takes_the_answer_again(conn: Connection, token: Token) -> None:
    value(conn, "select absurd.cancel_task(%s, %s)", QUEUE, token.task["task_id"])
    assert use(conn, token) == "ended"
    rows(conn, "select absurd.retry_task(%s, %s)", QUEUE, token.task["task_id"])
    assert use(conn, token) == "ok"


def test_tokens_go_with_their_task(conn: Connection, token: Token) -> None:
    complete(conn, token.task)
    assert value(conn, "select absurd.cleanup_tasks(%s, 0)", QUEUE) == 1
    assert value(conn, "select count(*) from absurd.tokens") == 0
    assert use(conn, token) == "unknown"


def test_tokens_go_with_their_queue_also_when_an_answer_is_on_its_way(
    conn: Connection, other: Connection, token: Token, database_url: str
) -> None:
    token.suspend(conn)
    value(other, "select absurd.drop_queue(%s)", QUEUE)
    answer = Background(database_url, lambda c: use(c, token)).wait_until_blocked()
    other.commit()
    assert answer.result() == "unknown"
    assert value(conn, "select count(*) from absurd.tokens") == 0


def test_a_wait_for_a_token_is_listed_as_one(conn: Connection, token: Token) -> None:
    token.suspend(conn)
    assert [found["kind"] for found in rows(conn, "select * from absurd.list_waits()")] == ["token"]
