"""Ends tasks by SQL, as a worker would, for tests of what others see of it."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg

Conn = psycopg.Connection[Any]


def claim(conn: Conn, queue_name: str = "default") -> dict[UUID, tuple[UUID, int]]:
    """Claims everything that is ready; run id and epoch by task id."""
    rows = conn.execute("select task_id, run_id, epoch from absurd.claim_runs(%s, 'test', 60, 1000)", (queue_name,)).fetchall()
    return {task_id: (run_id, epoch) for task_id, run_id, epoch in rows}


def complete(conn: Conn, task_id: UUID, result: Any = None, queue_name: str = "default") -> None:
    """Claims and completes a task that is ready."""
    run_id, epoch = claim(conn, queue_name)[task_id]
    statement = "select absurd.complete_runs(%s::uuid[], %s::uuid[], %s::int[], %s::json[])"
    row = conn.execute(statement, ([task_id], [run_id], [epoch], [json.dumps(result)])).fetchone()
    assert row == (["ok"],)


def fail(conn: Conn, task_id: UUID, name: str, message: str) -> None:
    """Claims a task that is ready and fails it for good."""
    run_id, epoch = claim(conn)[task_id]
    failure = json.dumps({"name": name, "message": message})
    statement = "select absurd.fail_runs(%s::uuid[], %s::uuid[], %s::int[], %s::json[], %s::bool[])"
    row = conn.execute(statement, ([task_id], [run_id], [epoch], [failure], [False])).fetchone()
    assert row == (["ok"],)


def cut_others(conn: Conn, application_name: str = "absurd client%") -> int:
    """Cuts the connections of that name to this database, and waits until the server has forgotten them; how many there were."""
    row = conn.execute(
        "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and application_name like %s",
        (application_name,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def count(conn: Conn, table: str) -> int:
    """How many rows a table of the schema has."""
    row = conn.execute(f"select count(*) from absurd.{table}".encode()).fetchone()
    assert row is not None
    return int(row[0])
