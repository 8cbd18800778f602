"""A queue is dropped in a time that goes with what is in it, whatever its tasks wait for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sql.calls import Connection, claim_all, rows, spawn, value

TASKS = 200
READ = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relid = 'absurd.runs'::regclass"


def chain(place: int) -> list[int]:
    """Each task waits for the one before it."""
    return [place - 1] if place else []


def circle(place: int) -> list[int]:
    """So does the first, for the last."""
    return [(place - 1) % TASKS]


def all_before(place: int) -> list[int]:
    """Each waits for the first of all and for the one before it."""
    return sorted({0, place - 1}) if place else []


@pytest.mark.parametrize("awaited", [chain, circle, all_before])
def test_tasks_that_wait_for_each_other_are_dropped_without_a_look_at_all_for_each(conn: Connection, awaited: Any) -> None:
    for _ in range(TASKS):
        spawn(conn)
    held = claim_all(conn, TASKS)
    waits = [
        json.dumps([{"step": f"$wait-{other}", "task": str(held[other]["task_id"])} for other in awaited(place)])
        for place in range(TASKS)
    ]
    with_waits = [(row, wait) for row, wait in zip(held, waits, strict=True) if wait != "[]"]
    n = len(with_waits)
    conn.execute(
        "select * from absurd.suspend_runs(%s, %s, %s, %s, %s, %s::json[], array_fill(null::timestamptz, array[%s]),"
        " array_fill(null::float8, array[%s]), array_fill(null::text, array[%s]), array_fill(null::text, array[%s]))",
        (
            *([row[name] for row, _ in with_waits] for name in ("task_id", "run_id")),
            [1] * n,
            [1] * n,
            [len(json.loads(wait)) for _, wait in with_waits],
            [wait for _, wait in with_waits],
            *[n] * 4,
        ),
    )
    assert value(conn, "select count(*) from absurd.runs where state = 'sleeping'") == n
    with conn.transaction():
        before = value(conn, READ)
        rows(conn, "select absurd.drop_queue('default')")
        read = value(conn, READ) - before
    for table in ("tasks", "runs", "waits", "queues"):
        assert value(conn, f"select count(*) from absurd.{table}") == 0
    assert read < 30 * TASKS
