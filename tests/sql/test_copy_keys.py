"""Idempotency keys of copies: whoever asks for a copy again with its key is told of the first."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import errors

from tests.sql.calls import Connection, Row, row, spawn, value

Copying = tuple[str, dict[str, Any]]

FORK = ("select * from absurd.fork_task('default', %s, 'charge', %s)", {})
RETRY = ("select * from absurd.retry_task('default', %s, %s)", {"spawn_new": True})


@pytest.fixture
def task(conn: Connection) -> Row:
    spawned = spawn(conn)
    sql = "insert into absurd.checkpoints (task_id, step_name, state, completed_at) values (%s, 'charge', '1', now())"
    conn.execute(sql, (spawned["task_id"],))
    return spawned


@pytest.mark.parametrize("copying", [FORK, RETRY])
def test_a_key_makes_one_copy(conn: Connection, task: Row, copying: Copying) -> None:
    sql, options = copying
    first, again, other = (row(conn, sql, task["task_id"], {**options, "idempotency_key": key}) for key in ("k", "k", "l"))
    assert [copy["created"] for copy in (first, again, other)] == [True, False, True]
    assert {**first, "created": False} == again
    assert first["task_id"] != other["task_id"]
    assert row(conn, sql, task["task_id"], options)["created"]
    # The task has it too: its clean-up frees the key.
    assert value(conn, "select idempotency_key from absurd.tasks where task_id = %s", first["task_id"]) == "k"


@pytest.mark.parametrize("copying", [FORK, RETRY])
@pytest.mark.parametrize("key", [1, {}, "", "x" * 1001])
def test_what_is_no_key_is_refused(conn: Connection, task: Row, copying: Copying, key: Any) -> None:
    sql, options = copying
    with pytest.raises(errors.Error, match=r"idempotency[ _]key") as refused:
        row(conn, sql, task["task_id"], {**options, "idempotency_key": key})
    assert refused.value.sqlstate == "AB012"
    assert value(conn, "select count(*) from absurd.tasks") == 1


def test_an_attempt_of_the_task_itself_has_no_key(conn: Connection, task: Row) -> None:
    with pytest.raises(errors.Error, match="goes with spawn_new"):
        row(conn, RETRY[0], task["task_id"], {"idempotency_key": "k"})
