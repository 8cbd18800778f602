"""Ids that callers choose themselves: one that was used before harms nobody but, at most, the task that it was given to."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.sql.calls import NOON, QUEUE, Connection, after, claim, claim_all, fail, row, rows, set_clock, spawn, sqlstate, value


def spawn_with(conn: Connection, name: str, run_id: UUID, max_attempts: int = 2) -> UUID:
    options = {"max_attempts": max_attempts, "retry_strategy": {"kind": "none"}}
    statement = "select * from absurd.spawn_one(%s, %s, %s, %s, '{}', null, %s, null)"
    answer = row(conn, statement, QUEUE, uuid4(), run_id, name, options)
    assert answer["status"] == "ok"
    return UUID(str(answer["task_id"]))


def attempts(conn: Connection, task_id: UUID) -> list[dict[str, Any]]:
    return rows(conn, "select attempt, cause, final from absurd.attempts where task_id = %s order by attempt", task_id)


@pytest.mark.parametrize("ending", ["failed", "lease ran out"])
def test_a_run_id_of_an_attempt_that_has_ended_stops_neither_sweep_nor_batch(conn: Connection, ending: str) -> None:
    set_clock(conn, NOON)
    taken = uuid4()
    spawn_with(conn, "first", taken, max_attempts=1)
    fail(conn, claim(conn))
    second = spawn_with(conn, "second", taken)
    innocent = spawn(conn, "innocent")["task_id"]
    runs = claim_all(conn, 5)
    assert {run["task_name"] for run in runs} == {"second", "innocent"}
    if ending == "failed":
        failures = ['{"message": "no"}'] * 2
        ids = [run["run_id"] for run in runs]
        epochs = [value(conn, "select epoch from absurd.runs where run_id = %s", one) for one in ids]
        statement = "select absurd.fail_runs(%s::uuid[], %s, %s::json[], array[true, true])"
        assert conn.execute(statement.encode(), (ids, epochs, failures)).fetchone() == (["ok", "ok"],)
    else:
        set_clock(conn, after(60))
        rows(conn, "select * from absurd.sweep()")
    cause = "error" if ending == "failed" else "lease"
    for task_id in (second, innocent):
        assert attempts(conn, task_id) == [{"attempt": 1, "cause": cause, "final": False}]
        assert rows(conn, "select attempt from absurd.runs where task_id = %s", task_id) == [{"attempt": 2}]


def test_a_task_without_run_and_outcome_is_refused_and_not_waited_for(conn: Connection) -> None:
    task_id = spawn(conn)["task_id"]
    conn.execute("delete from absurd.runs")
    for function in ("cancel_task", "run_task_now"):
        code, message = sqlstate(conn, f"select absurd.{function}(%s, %s)", QUEUE, task_id)
        assert (code, "neither a run nor an outcome" in message) == ("AB012", True)
