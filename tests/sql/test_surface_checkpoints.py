"""Steps written and read from SQL."""

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
    await_event,
    checkpoint,
    claim,
    claim_all,
    complete,
    emit,
    fail,
    rows,
    set_checkpoint,
    set_clock,
    spawn_and_claim,
    sqlstate,
    value,
)

SET = "select absurd.set_task_checkpoint_state('default', %s, %s, %s::jsonb, %s)"


def states(conn: Connection, run: Row, run_id: Any = None) -> dict[str, Any]:
    """All checkpoints that a run sees, by name."""
    found = rows(
        conn, "select * from absurd.get_task_checkpoint_states('default', %s, %s)", run["task_id"], run_id or run["run_id"]
    )
    assert {f["status"] for f in found} <= {"committed"}
    return {f["checkpoint_name"]: f["state"] for f in found}


def test_a_step_is_read_back_as_it_was_written(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn)
    assert checkpoint(conn, run["task_id"], "reserve") is None
    set_checkpoint(conn, run, "reserve", {"items": ["a", None, 1.5]})
    assert checkpoint(conn, run["task_id"], "reserve") == {
        "checkpoint_name": "reserve",
        "state": {"items": ["a", None, 1.5]},
        "status": "committed",
        "owner_run_id": run["run_id"],
        "updated_at": NOON,
    }
    value(conn, "select absurd.create_queue('other')")
    assert rows(conn, "select * from absurd.get_task_checkpoint_state('other', %s, 'reserve')", run["task_id"]) == []


def test_null_is_a_state(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    rows(conn, SET, run["task_id"], "sql null", None, run["run_id"])
    rows(conn, SET, run["task_id"], "json null", "null", run["run_id"])
    assert states(conn, run) == {"sql null": None, "json null": None}


def test_the_holder_has_the_last_word_and_an_earlier_attempt_has_none(conn: Connection) -> None:
    old = spawn_and_claim(conn)
    set_checkpoint(conn, old, "step", "first")
    set_checkpoint(conn, old, "step", "second")
    fail(conn, old)
    new = claim(conn)
    assert states(conn, new) == {"step": "second"}
    set_checkpoint(conn, new, "step", "third")
    assert sqlstate(conn, SET, old["task_id"], "step", '"late"', old["run_id"])[0] == "AB002"
    assert states(conn, new) == {"step": "third"}
    complete(conn, new)
    assert sqlstate(conn, SET, new["task_id"], "step", '"late"', new["run_id"])[0] == "AB002"
    assert states(conn, new) == {"step": "third"}


def test_an_arrival_and_a_timeout_are_not_rewritten(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    emit(conn, "paid", 1)
    assert await_event(conn, run, "paid") == (False, 1)
    assert await_event(conn, run, "never", timeout=0) == (True, None)
    run = claim(conn)
    set_checkpoint(conn, run, "paid", "forged")
    set_checkpoint(conn, run, "never", "forged")
    assert await_event(conn, run, "paid") == (False, 1)
    assert await_event(conn, run, "never") == (False, None)
    assert states(conn, run) == {"paid": 1}
    assert checkpoint(conn, run["task_id"], "never") is None


def test_an_attempt_sees_its_own_steps_and_those_before_it(conn: Connection) -> None:
    first = spawn_and_claim(conn)
    set_checkpoint(conn, first, "one", 1)
    fail(conn, first)
    second = claim(conn)
    set_checkpoint(conn, second, "two", 2)
    fail(conn, second)
    third = claim(conn)
    set_checkpoint(conn, third, "three", 3)
    assert list(states(conn, first)) == ["one"]
    assert list(states(conn, second)) == ["one", "two"]
    assert list(states(conn, third)) == ["one", "two", "three"]
    complete(conn, third)
    assert list(states(conn, third)) == ["one", "two", "three"]
    ask = "select * from absurd.get_task_checkpoint_states('default', %s, %s)"
    assert sqlstate(conn, ask, third["task_id"], uuid4())[0] == "AB011"
    assert sqlstate(conn, ask, uuid4(), third["run_id"])[0] == "AB011"


def test_a_step_can_renew_the_lease(conn: Connection) -> None:
    set_clock(conn, NOON)
    run = spawn_and_claim(conn, timeout=30)
    set_clock(conn, after(20))
    set_checkpoint(conn, run, "one", 1)
    set_checkpoint(conn, run, "two", 2, extend=60)
    set_clock(conn, after(79))
    assert claim_all(conn) == []
    set_clock(conn, after(80))
    assert claim(conn)["attempt"] == 2


@pytest.mark.parametrize(("step", "named"), [("", "must not be empty"), (None, "must not be empty"), ("s" * 1001, "1001 bytes")])
def test_a_bad_step_name_is_refused(conn: Connection, step: str | None, named: str) -> None:
    run = spawn_and_claim(conn)
    code, message = sqlstate(conn, SET, run["task_id"], step, "1", run["run_id"])
    assert code == "AB012"
    assert named in message


def test_a_state_beyond_the_limit_is_refused(conn: Connection) -> None:
    rows(conn, "select absurd.set_queue_policy(%s, %s)", QUEUE, {"max_payload_bytes": 1024})
    run = spawn_and_claim(conn)
    code, message = sqlstate(conn, SET, run["task_id"], "big", '"' + "x" * 1024 + '"', run["run_id"])
    assert code == "AB013"
    assert 'state of step "big"' in message
    assert states(conn, run) == {}
