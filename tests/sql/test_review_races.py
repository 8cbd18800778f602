"""Sweeps beside rows that stay locked, and a queue that is dropped while others use it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.types.json import Jsonb

from absurd.db import run
from absurd.queries import runs as queries
from absurd.writes import Holder, Release, Suspend, Wait
from tests.sql.calls import NOON, Connection, after, claim, fail, row, rows, set_checkpoint, set_clock, spawn, state, value
from tests.sql.concurrent import Background


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """A connection whose transactions the test ends."""
    with psycopg.connect(database_url) as made:
        yield made


def _wait_for_task(conn: Connection, parent: dict[str, object], child_id: object, queue: str = "default") -> str:
    held = row(conn, "select * from absurd.runs where run_id = %s", parent["run_id"])
    holder = Holder(queue, held["task_id"], held["run_id"], held["epoch"])
    return run(conn, queries.suspend_runs([Suspend(holder, 0, 1, [Wait("w", task_id=child_id)])]))[0].status  # type: ignore[arg-type]


def _parent_and_child(conn: Connection) -> tuple[object, object]:
    """A sleeping parent and a running child that it waits for, whose lease has run out and which has no attempt left."""
    spawn(conn, "parent")
    parent = claim(conn)
    child = spawn(conn, "child", options={"max_attempts": 1})
    assert claim(conn)["task_id"] == child["task_id"]
    assert _wait_for_task(conn, parent, child["task_id"]) == "ok"
    return parent["task_id"], child["task_id"]


@pytest.mark.parametrize("cause", ["lease", "deadline", "worker"])
def test_a_sweep_passes_by_a_task_whose_parent_is_locked(conn: Connection, other: Connection, cause: str) -> None:
    parent_id, child_id = _parent_and_child(conn)
    neighbour = spawn(conn, "neighbour", options={"max_attempts": 1})
    claim(conn)
    change = {
        "lease": "lease_expires_at = now() - interval '1 minute'",
        "deadline": "deadline_at = now() - interval '1 minute'",
        "worker": "worker_id = 'dead'",
    }[cause]
    rows(conn, f"update absurd.runs set {change} where state = 'running'")
    rows(conn, "select absurd.register_worker('dead', '{default}', 'h', 1, '1', 1, 30, 1)")
    rows(conn, "update absurd.workers set missing_since = now() - interval '1 minute'")
    rows(other, "select from absurd.runs where task_id = %s for update", parent_id)
    rows(conn, "set lock_timeout = '2s'")
    row(conn, "select * from absurd.sweep()")
    assert state(conn, neighbour["task_id"]) in ("failed", "cancelled")
    assert state(conn, child_id) == "running"  # type: ignore[arg-type]
    other.rollback()
    row(conn, "select * from absurd.sweep()")
    assert state(conn, child_id) in ("failed", "cancelled")  # type: ignore[arg-type]
    assert state(conn, parent_id) == "pending"  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["fail", "retry", "retry as new"])
def test_a_queue_is_dropped_with_the_attempt_that_is_begun_meanwhile(
    conn: Connection, other: Connection, database_url: str, what: str
) -> None:
    rows(conn, "select absurd.create_queue('q')")
    spawned = spawn(conn, options={"max_attempts": 1 if what != "fail" else 2}, queue="q")
    claimed = claim(conn, queue="q")
    if what == "fail":
        fail(other, claimed, queue="q")
    else:
        fail(conn, claimed, queue="q")
        rows(other, "select absurd.retry_task('q', %s, %s)", spawned["task_id"], Jsonb({"spawn_new": what != "retry"}))
    dropping = Background(database_url, lambda c: rows(c, "select absurd.drop_queue('q')")).wait_until_blocked()
    other.commit()
    dropping.result()
    assert value(conn, "select count(*) from absurd.runs") == 0
    assert value(conn, "select count(*) from absurd.tasks") == 0


@pytest.mark.parametrize("kind", ["event", "task"])
def test_a_task_that_waits_for_a_queue_which_is_being_dropped_asks_again_and_learns_of_it(
    conn: Connection, other: Connection, database_url: str, kind: str
) -> None:
    rows(conn, "select absurd.create_queue('q')")
    awaited = spawn(conn, queue="q")
    spawn(conn)
    waiting = claim(conn)
    wait = Wait("w", task_id=awaited["task_id"]) if kind == "task" else Wait("w", "q", "e")
    held = row(conn, "select * from absurd.runs where run_id = %s", waiting["run_id"])
    suspend = Suspend(Holder("default", held["task_id"], held["run_id"], held["epoch"]), 0, 1, [wait])
    run_in_queue = spawn(conn, queue="q")
    rows(other, "select from absurd.runs where task_id = %s for update", run_in_queue["task_id"])
    dropping = Background(database_url, lambda c: rows(c, "select absurd.drop_queue('q')")).wait_until_blocked()
    assert run(conn, queries.suspend_runs([suspend]))[0].status == "busy"
    other.commit()
    dropping.result()
    assert run(conn, queries.suspend_runs([suspend]))[0].status == ("no_task" if kind == "task" else "no_queue")


def test_a_piece_of_a_history_is_of_bounded_size(conn: Connection) -> None:
    spawn(conn)
    held = claim(conn)
    size = 3_000_000
    for name in "abcdef":
        set_checkpoint(conn, held, name, "x" * size)
    rows(conn, "alter table absurd.checkpoints alter state set storage external")
    rows(conn, "update absurd.checkpoints set state = to_json(md5(step_name) || repeat(step_name, %s))", size)
    piece = value(conn, "select absurd.read_checkpoints(%s, -1, '')", held["task_id"])
    assert size < len(piece) < 4 * size


def test_a_task_that_nobody_knows_is_still_not_started_and_cancelled_after_max_delay(conn: Connection) -> None:
    set_clock(conn, NOON)
    task_id = spawn(conn, options={"cancellation": {"max_delay": 60, "max_duration": 5}})["task_id"]
    for seconds in (10, 30, 50):
        set_clock(conn, after(seconds))
        row(conn, "select * from absurd.promote_due('default')")
        (claimed,) = run(conn, queries.claim_runs("default", "w", 30, 1))
        holder = Holder("default", claimed.task_id, claimed.run_id, claimed.epoch)
        assert [answer.status for answer in run(conn, queries.release_runs([Release(holder, 5.0, "unknown")]))] == ["ok"]
        row(conn, "select * from absurd.sweep()")
        assert state(conn, task_id) == "sleeping"
    set_clock(conn, after(71))
    row(conn, "select * from absurd.sweep()")
    assert state(conn, task_id) == "cancelled"
