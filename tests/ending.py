"""Ends tasks by SQL, as a worker would, for tests of what others see of it."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg

from absurd.db import run
from absurd.queries import runs
from absurd.writes import Complete, Fail, Holder

Conn = psycopg.Connection[Any]


def claim(conn: Conn, queue_name: str = "default") -> dict[UUID, Holder]:
    """Claims everything that is ready; who holds it, by task id."""
    claimed = run(conn, runs.claim_runs(queue_name, "test", 60, 1000))
    return {one.task_id: Holder(queue_name, one.task_id, one.run_id, one.epoch) for one in claimed}


def complete(conn: Conn, task_id: UUID, result: Any = None, queue_name: str = "default") -> None:
    """Claims and completes a task that is ready."""
    holder = claim(conn, queue_name)[task_id]
    (answer,) = run(conn, runs.complete_runs([Complete(holder, json.dumps(result))]))
    assert answer.status == "ok"


def fail(conn: Conn, task_id: UUID, name: str, message: str) -> None:
    """Claims a task that is ready and fails it for good."""
    holder = claim(conn)[task_id]
    failure = json.dumps({"name": name, "message": message})
    (answer,) = run(conn, runs.fail_runs([Fail(holder, failure, retryable=False)]))
    assert answer.status == "ok"


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
