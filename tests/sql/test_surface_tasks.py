"""Spawning from SQL, options at their limits, results."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import RFC_4122, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sql.calls import (
    NOON,
    QUEUE,
    Connection,
    after,
    claim,
    claim_all,
    complete,
    fail,
    result,
    row,
    rows,
    set_clock,
    spawn,
    spawn_and_claim,
    sqlstate,
    state,
    value,
)

SPAWN = "select * from absurd.spawn_task(%s, %s, %s, %s)"


def test_ids_made_one_after_another_are_in_that_order_and_as_their_standard_says(conn: Connection) -> None:
    made = [value(conn, "select absurd.make_id()") for _ in range(300)]
    assert made == sorted(made)
    assert len({made_id.int >> 80 for made_id in made}) < len(made), "some share a millisecond"
    for made_id in made:
        assert (made_id.version, made_id.variant) == (7, RFC_4122)
        assert abs((made_id.int >> 80) / 1000 - time.time()) < 60


def test_a_task_goes_from_spawn_to_result(conn: Connection) -> None:
    spawned = spawn(
        conn, "greet", {"name": "Ada"}, {"headers": {"trace": "t1"}, "max_attempts": 3, "retry_strategy": {"kind": "none"}}
    )
    assert (spawned["created"], spawned["attempt"]) == (True, 1)
    assert spawned["task_id"] != spawned["run_id"]
    assert state(conn, spawned["task_id"]) == "pending"
    run = claim(conn)
    assert run == {
        "run_id": spawned["run_id"],
        "task_id": spawned["task_id"],
        "attempt": 1,
        "task_name": "greet",
        "params": {"name": "Ada"},
        "retry_strategy": {"kind": "none"},
        "max_attempts": 3,
        "headers": {"trace": "t1"},
        "wake_event": None,
        "event_payload": None,
    }
    assert state(conn, spawned["task_id"]) == "running"
    complete(conn, run, {"greeting": "Hello Ada"})
    assert result(conn, spawned["task_id"]) == {
        "task_id": spawned["task_id"],
        "state": "completed",
        "result": {"greeting": "Hello Ada"},
        "failure_reason": None,
    }


def test_ids_made_in_sql_are_uuid_version_7(conn: Connection) -> None:
    spawned = spawn(conn)
    assert {spawned["task_id"].version, spawned["run_id"].version} == {7}


def test_a_known_key_returns_the_first_task(conn: Connection) -> None:
    first = spawn(conn, options={"idempotency_key": "order-1"})
    assert spawn(conn, options={"idempotency_key": "order-1"}) == {**first, "created": False}
    complete(conn, claim(conn))
    assert spawn(conn, options={"idempotency_key": "order-1"}) == {**first, "created": False}
    assert spawn(conn, options={"idempotency_key": "order-2"})["created"]
    value(conn, "select absurd.create_queue('other')")
    assert spawn(conn, options={"idempotency_key": "order-1"}, queue="other")["created"]


def test_a_refused_spawn_leaves_its_key_to_the_next(conn: Connection) -> None:
    spawn_many = (
        "select * from absurd.spawn_tasks(array['default', 'default'], array[absurd.make_id(), absurd.make_id()],"
        " array[absurd.make_id(), absurd.make_id()], array['work', 'work'], array['1', '2']::json[], array[null, null]::json[],"
        """ array['{"priority": 1e9}', '{"priority": 1}']::jsonb[], array['key', 'key'])"""
    )
    refused, accepted = rows(conn, spawn_many)
    assert (refused["status"], accepted["status"], accepted["created"]) == ("invalid", "ok", True)
    assert claim(conn)["task_id"] == accepted["task_id"]


BAD_OPTIONS: list[tuple[Any, str]] = [
    ({"max_attempts": 0}, "max_attempts must be between 1"),
    ({"max_attempts": -1}, "max_attempts"),
    ({"max_attempts": 1.5}, "max_attempts must be a whole number"),
    ({"max_attempts": "3"}, "max_attempts must be a number"),
    ({"max_attempts": True}, "max_attempts must be a number"),
    ({"max_attempts": 10**30}, "max_attempts"),
    ({"retry_strategy": "fixed"}, "retry_strategy must be an object"),
    ({"retry_strategy": {}}, "retry_strategy.kind"),
    ({"retry_strategy": {"kind": "linear"}}, "retry_strategy.kind"),
    ({"retry_strategy": {"kind": "fixed", "base_seconds": -1}}, "retry_strategy.base_seconds"),
    ({"retry_strategy": {"kind": "fixed", "base_seconds": 1e15}}, "retry_strategy.base_seconds"),
    ({"retry_strategy": {"kind": "fixed", "base_seconds": "1"}}, "retry_strategy.base_seconds"),
    ({"retry_strategy": {"kind": "exponential", "factor": 0}}, "retry_strategy.factor"),
    ({"retry_strategy": {"kind": "exponential", "factor": 10**400}}, "retry_strategy.factor"),
    ({"retry_strategy": {"kind": "exponential", "max_seconds": []}}, "retry_strategy.max_seconds"),
    ({"retry_strategy": {"kind": "exponential", "jitter": 2}}, "retry_strategy.jitter"),
    ({"retry_strategy": {"kind": "fixed", "seconds": 2}}, 'no option "seconds"'),
    ({"cancellation": 5}, "cancellation must be an object"),
    ({"cancellation": {"max_delay": -0.1}}, "cancellation.max_delay"),
    ({"cancellation": {"max_duration": "1h"}}, "cancellation.max_duration"),
    ({"cancellation": {"max_age": 1}}, 'no option "max_age"'),
    ({"headers": [1]}, "headers must be an object"),
    ({"idempotency_key": 7}, "idempotency_key must be a string"),
    ({"idempotency_key": ""}, "idempotency key must not be empty"),
    ({"idempotency_key": "k" * 1001}, "idempotency key"),
    ({"priority": 40000}, "priority"),
    ({"delay": -1}, "delay"),
    ({"available_at": "soon"}, "available_at"),
    ({"available_at": "infinity"}, "available_at"),
    ({"parent_task_id": "x"}, "parent_task_id"),
    ({"retries": 3}, 'no option "retries"'),
    ([], "options must be an object"),
]


@pytest.mark.parametrize(("options", "named"), BAD_OPTIONS)
def test_a_bad_option_is_refused_by_name_and_nothing_is_stored(conn: Connection, options: Any, named: str) -> None:
    code, message = sqlstate(conn, SPAWN, QUEUE, "work", {}, options)
    assert code == "AB012"
    assert named in message
    assert value(conn, "select count(*) from absurd.tasks") == 0
    assert value(conn, "select count(*) from absurd.idempotency_keys") == 0


@pytest.mark.parametrize(
    ("queue", "name", "code", "named"),
    [
        ("nowhere", "work", "AB010", 'queue "nowhere" does not exist'),
        (None, "work", "AB010", "does not exist"),
        (QUEUE, "", "AB012", "task name must not be empty"),
        (QUEUE, None, "AB012", "task name must not be empty"),
        (QUEUE, "é" * 501, "AB012", "1002 bytes"),
    ],
)
def test_a_bad_name_is_refused(conn: Connection, queue: str | None, name: str | None, code: str, named: str) -> None:
    got, message = sqlstate(conn, SPAWN, queue, name, {}, {})
    assert got == code
    assert named in message


def test_params_beyond_the_limit_of_the_queue_are_refused(conn: Connection) -> None:
    rows(conn, "select absurd.set_queue_policy('default', %s)", {"max_payload_bytes": 1024})
    code, message = sqlstate(conn, SPAWN, QUEUE, "work", {"x": "y" * 1024}, {})
    assert code == "AB013"
    assert "1024" in message


NASTY_OPTIONS: list[dict[str, Any]] = [
    {"cancellation": {"max_delay": 0.5}},
    {"cancellation": {"max_delay": 1e-300, "max_duration": 1e-300}},
    {"cancellation": {"max_delay": 315360000, "max_duration": 315360000}},
    {"retry_strategy": {"kind": "fixed", "base_seconds": 315360000}},
    {"retry_strategy": {"kind": "fixed", "base_seconds": 0}},
    {"retry_strategy": {"kind": "exponential", "base_seconds": 1e-300, "factor": 1000, "max_seconds": 0}},
    {"retry_strategy": {"kind": "exponential", "base_seconds": 315360000, "factor": 1000}},
    {"retry_strategy": {"kind": "exponential", "jitter": 1}},
    {"retry_strategy": None, "max_attempts": None, "cancellation": None, "headers": None, "idempotency_key": None},
    {"max_attempts": 1000000},
    {"priority": 32767, "delay": 1e-9},
    {"idempotency_key": "🔑'\"\\;--%s$1" * 20},
    {"headers": {"": {"deep": [[[[[]]]]]}, "\ud7ff🎉": "x" * 10000}},
]


@pytest.mark.parametrize("options", NASTY_OPTIONS)
def test_no_accepted_option_stops_a_claim_or_a_failure(conn: Connection, options: dict[str, Any]) -> None:
    set_clock(conn, NOON)
    task_id = spawn(conn, "名前 '%s' \"$$\" \\", {"🎉": "\u2028"}, options)["task_id"]
    neighbour = spawn(conn, "neighbour", options={"max_attempts": 1, "priority": -32768})["task_id"]
    seconds = 1e-3
    for attempt in range(1, 13):
        set_clock(conn, after(seconds))
        for run in claim_all(conn, 10):
            fail(conn, run)
        seconds = min(seconds * 20, 3e8)
        assert state(conn, task_id) in ("pending", "sleeping", "failed", "cancelled"), attempt
    assert state(conn, neighbour) == "failed"


SMALL_AND_LARGE = st.one_of(st.floats(0, 315360000), st.sampled_from([0, 5e-324, 1e-200, 1e-9, 315360000]))
STRATEGIES = st.fixed_dictionaries(
    {"kind": st.sampled_from(["fixed", "exponential", "none"])},
    optional={
        "base_seconds": SMALL_AND_LARGE,
        "factor": st.floats(1, 1000),
        "max_seconds": SMALL_AND_LARGE,
        "jitter": st.floats(0, 1),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategy=STRATEGIES, attempt=st.one_of(st.integers(1, 50), st.sampled_from([1000000, 2147483647])))
def test_every_accepted_strategy_gives_a_delay_between_nothing_and_ten_years(
    conn: Connection, strategy: dict[str, Any], attempt: int
) -> None:
    assert value(conn, "select absurd.retry_strategy_error(%s)", strategy) is None
    delay = value(conn, "select absurd.retry_delay(%s, %s)", strategy, attempt)
    assert 0 <= delay <= 315360000.001


@pytest.mark.parametrize(
    "stored",
    ["null", "[]", '"x"', "7", "{}", '{"kind": "exponential", "base_seconds": "x"}', '{"kind": "fixed", "base_seconds": -5}',
     '{"kind": "exponential", "base_seconds": 1e1000, "factor": 1e-1000, "max_seconds": -1, "jitter": 1e300}'],
)  # fmt: skip
@pytest.mark.parametrize("attempt", [-2147483648, 0, 1, 2147483647, None])
def test_a_delay_never_raises_whatever_is_stored(conn: Connection, stored: str, attempt: int | None) -> None:
    assert value(conn, "select absurd.retry_delay(%s::jsonb, %s)", stored, attempt) >= 0


@pytest.mark.parametrize(
    ("strategy", "delays"),
    [
        (None, [0, 0, 0]),
        ({"kind": "none"}, [0, 0, 0]),
        ({"kind": "fixed"}, [60, 60, 60]),
        ({"kind": "fixed", "base_seconds": 2.5}, [2.5, 2.5, 2.5]),
        ({"kind": "exponential"}, [30, 60, 120]),
        ({"kind": "exponential", "base_seconds": 1, "factor": 3, "max_seconds": 5}, [1, 3, 5]),
    ],
)
def test_the_next_attempt_follows_the_strategy(conn: Connection, strategy: Any, delays: list[float]) -> None:
    now = NOON
    set_clock(conn, now)
    task_id = spawn(conn, options={"retry_strategy": strategy})["task_id"]
    for attempt, delay in enumerate(delays, start=1):
        run = claim(conn)
        assert run["attempt"] == attempt
        fail(conn, run, {"n": attempt})
        assert state(conn, task_id) == ("sleeping" if delay else "pending")
        if delay:
            set_clock(conn, now + timedelta(seconds=delay - 0.001))
            assert claim_all(conn) == []
        now += timedelta(seconds=delay)
        set_clock(conn, now)


def test_values_that_jsonb_cannot_hold_reach_the_client_as_text(conn: Connection) -> None:
    for params in (r'{"a": "\u0000"}', r'{"a": "\ud800"}', '{"a": 1e200000}', '{"a": 1}'):
        rows(
            conn,
            "select * from absurd.spawn_tasks(array['default'], array[absurd.make_id()], array[absurd.make_id()], array['work'],"
            " array[%s]::json[], array[null]::json[], array['{}']::jsonb[], array[null]::text[])",
            params,
        )
    claimed = claim_all(conn, 10)
    assert [r["params"] for r in claimed[:3]] == [
        {"$unreadable": r'{"a": "\u0000"}'},
        {"$unreadable": r'{"a": "\ud800"}'},
        {"$unreadable": '{"a": 1e200000}'},
    ]
    assert claimed[3]["params"] == {"a": 1}


def test_a_result_of_an_unknown_task_or_of_another_queue_is_no_row(conn: Connection) -> None:
    task_id = spawn(conn)["task_id"]
    value(conn, "select absurd.create_queue('other')")
    for queue, asked in (("other", task_id), (QUEUE, uuid4()), ("nowhere", task_id)):
        assert rows(conn, "select * from absurd.get_task_result(%s, %s)", queue, asked) == []


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_spawn_and_emit_work_in_every_isolation_level_and_roll_back(conn: Connection, level: str) -> None:
    rows(conn, f"begin isolation level {level}")
    spawn(conn, "lost", options={"idempotency_key": "k"})
    value(conn, "select absurd.emit_event('default', 'lost')")
    rows(conn, "rollback")
    assert (value(conn, "select count(*) from absurd.tasks"), value(conn, "select count(*) from absurd.events")) == (0, 0)
    rows(conn, f"begin isolation level {level}")
    kept = spawn(conn, "kept", options={"idempotency_key": "k"})
    value(conn, "select absurd.emit_event('default', 'kept')")
    rows(conn, "commit")
    assert kept["created"]
    assert claim(conn)["task_id"] == kept["task_id"]
    assert row(conn, "select event_name from absurd.events") == {"event_name": "kept"}


@pytest.mark.parametrize(
    "call",
    [
        "select absurd.claim_task('default', 'w')",
        "select absurd.complete_run('default', %(run)s)",
        "select absurd.fail_run('default', %(run)s, '1')",
        "select absurd.schedule_run('default', %(run)s, now())",
        "select absurd.extend_claim('default', %(run)s, 5)",
        "select absurd.set_task_checkpoint_state('default', %(task)s, 's', '1', %(run)s)",
        "select absurd.await_event('default', %(task)s, %(run)s, 's', 'e')",
        "select absurd.cancel_task('default', %(task)s)",
    ],
)
def test_what_must_see_others_refuses_repeatable_read(conn: Connection, call: str) -> None:
    run = spawn_and_claim(conn)
    rows(conn, "set default_transaction_isolation to 'repeatable read'")
    text = call.replace("%(run)s", f"'{run['run_id']}'").replace("%(task)s", f"'{run['task_id']}'")
    code, message = sqlstate(conn, text)
    assert code == "0A000"
    assert "needs READ COMMITTED, not REPEATABLE READ" in message


@pytest.mark.parametrize("queue", ["a'b\"c.d e", "очередь", "q" * 57, "é" * 28, "$$%s\\;--"])
def test_any_queue_name_works_everywhere(conn: Connection, queue: str) -> None:
    for _ in range(2):
        rows(conn, "select absurd.create_queue(%s)", queue)
    task_id = spawn(conn, queue=queue)["task_id"]
    run = claim(conn, queue=queue)
    answer = row(conn, "select * from absurd.await_event(%s, %s, %s, 's', 'e', 5)", queue, run["task_id"], run["run_id"])
    assert answer["should_suspend"]
    rows(conn, "select absurd.emit_event(%s, 'e', '{}')", queue)
    complete(conn, claim(conn, queue=queue), queue=queue)
    assert result(conn, task_id, queue)["state"] == "completed"
    rows(conn, "select * from absurd.cleanup_all_queues(%s)", queue)
    assert queue in [q["queue_name"] for q in rows(conn, "select * from absurd.list_queues()")]
    for _ in range(2):
        rows(conn, "select absurd.drop_queue(%s)", queue)
    assert queue not in [q["queue_name"] for q in rows(conn, "select * from absurd.list_queues()")]


@pytest.mark.parametrize("queue", ["", "q" * 58, "é" * 29, None])
def test_a_queue_name_of_no_or_of_too_many_bytes_is_refused(conn: Connection, queue: str | None) -> None:
    assert sqlstate(conn, "select absurd.create_queue(%s)", queue)[0] == "AB012"
    assert sqlstate(conn, "select absurd.create_queue('q', 'sharded')")[0] == "AB012"
