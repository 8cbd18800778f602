"""The SQL surface as the tests call it: plain statements on a psycopg connection, rows as dicts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[Any]
Row = dict[str, Any]

QUEUE = "default"
NOON = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)


def rows(conn: Connection, statement: str, *args: Any) -> list[Row]:
    """Run a statement; dicts and lists go as jsonb."""
    values = [Jsonb(arg) if isinstance(arg, (dict, list)) else arg for arg in args]
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def row(conn: Connection, statement: str, *args: Any) -> Row:
    """The only row of a statement."""
    found = rows(conn, statement, *args)
    assert len(found) == 1, f"{len(found)} rows instead of one: {statement}"
    return found[0]


def value(conn: Connection, statement: str, *args: Any) -> Any:
    """The only column of the only row."""
    (answer,) = row(conn, statement, *args).values()
    return answer


def set_clock(conn: Connection, at: datetime | None) -> datetime | None:
    """Move the clock of this session; None takes the real one again."""
    value(conn, "select set_config('absurd.fake_now', %s, false)", "" if at is None else at.isoformat())
    return at


def after(seconds: float) -> datetime:
    """So many seconds after noon, where the tests' clocks start."""
    return NOON + timedelta(seconds=seconds)


def spawn(conn: Connection, name: str = "work", params: Any = None, options: Row | None = None, queue: str = QUEUE) -> Row:
    return row(conn, "select * from absurd.spawn_task(%s, %s, %s, %s)", queue, name, Jsonb(params), options or {})


def claim_all(conn: Connection, qty: int = 1, timeout: int = 30, worker: str = "worker-1", queue: str = QUEUE) -> list[Row]:
    return rows(conn, "select * from absurd.claim_task(%s, %s, %s, %s)", queue, worker, timeout, qty)


def claim(conn: Connection, timeout: int = 30, worker: str = "worker-1", queue: str = QUEUE) -> Row:
    """Claim one run, which must be there."""
    claimed = claim_all(conn, 1, timeout, worker, queue)
    assert claimed, f"nothing to claim in queue {queue!r}"
    return claimed[0]


def spawn_and_claim(conn: Connection, options: Row | None = None, timeout: int = 30) -> Row:
    """A running task of its own name."""
    spawned = spawn(conn, options=options)
    claimed = claim(conn, timeout)
    assert claimed["task_id"] == spawned["task_id"]
    return claimed


def complete(conn: Connection, run: Row, state: Any = None, queue: str = QUEUE) -> None:
    rows(conn, "select absurd.complete_run(%s, %s, %s)", queue, run["run_id"], Jsonb(state))


def fail(conn: Connection, run: Row, reason: Any = "broken", retry_at: datetime | None = None, queue: str = QUEUE) -> None:
    rows(conn, "select absurd.fail_run(%s, %s, %s, %s)", queue, run["run_id"], Jsonb(reason), retry_at)


def result(conn: Connection, task_id: UUID, queue: str = QUEUE) -> Row:
    return row(conn, "select * from absurd.get_task_result(%s, %s)", queue, task_id)


def state(conn: Connection, task_id: UUID) -> str:
    return str(result(conn, task_id)["state"])


def emit(conn: Connection, name: str, payload: Any = None, queue: str = QUEUE) -> None:
    rows(conn, "select absurd.emit_event(%s, %s, %s)", queue, name, Jsonb(payload))


def await_event(conn: Connection, run: Row, event: str, step: str | None = None, timeout: int | None = None) -> tuple[bool, Any]:
    """Await; a JSON null comes as the text 'json null', to tell it from SQL null."""
    answer = row(
        conn,
        "select should_suspend, case when payload = 'null' then to_jsonb('json null'::text) else payload end as payload"
        " from absurd.await_event(%s, %s, %s, %s, %s, %s)",
        QUEUE, run["task_id"], run["run_id"], step or event, event, timeout,
    )  # fmt: skip
    return answer["should_suspend"], answer["payload"]


def set_checkpoint(conn: Connection, run: Row, step: str, state: Any, extend: int | None = None) -> None:
    rows(
        conn,
        "select absurd.set_task_checkpoint_state(%s, %s, %s, %s, %s, %s)",
        QUEUE, run["task_id"], step, Jsonb(state), run["run_id"], extend,
    )  # fmt: skip


def checkpoint(conn: Connection, task_id: UUID, step: str) -> Row | None:
    found = rows(conn, "select * from absurd.get_task_checkpoint_state(%s, %s, %s)", QUEUE, task_id, step)
    return found[0] if found else None


def sqlstate(conn: Connection, statement: str, *args: Any) -> tuple[str, str]:
    """The code and the message with which a statement fails, which it must."""
    try:
        rows(conn, statement, *args)
    except psycopg.Error as error:
        return error.sqlstate or "", error.diag.message_primary or ""
    raise AssertionError(f"did not fail: {statement} {args}")
