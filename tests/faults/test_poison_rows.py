"""A row that was written by hand, with JSON that nobody can read, stops neither the workers of its queue nor those who list."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from absurd import Absurd
from absurd.cli import app as command_line
from tests.faults.report import record

COLUMNS = [
    ("tasks", "params"),
    ("schedules", "params"),
    ("attempts", "failure"),
    ("triggers", "state"),
    ("tokens", "payload"),
]
UNREADABLE = (
    '"\\u0000\\ud800"',
    "[" * 600 + "]" * 600,
    "1e400000",
    "9" * 5000,
    '{"kind": [], "max_attempts": "no", "step": 7}',
    "[1]",
)
LISTS = (
    *("list-queues", "list-tasks", "list-events", "list-waits", "list-workers", "list-subscriptions", "list-schedules"),
    *("list-triggers", "list-listeners"),
)


@pytest.mark.full
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_poisoned_row_stops_nobody(conn: psycopg.Connection[Any], database_url: str, table: str, column: str) -> None:
    poisoned = 0
    with Absurd(database_url) as app:

        @app.register_task("healthy")
        def healthy(params: Any, ctx: Any) -> Any:
            return ctx.step("once", lambda: params)

        @app.register_task("ill", max_attempts=1)
        def ill(params: Any, ctx: Any) -> Any:
            return [ctx.headers, ctx.step("known", lambda: 1), ctx.await_event("never", timeout=0)]

        ids: list[str] = []
        for number, value in enumerate(UNREADABLE):
            before = set(_places(conn, table))
            ids += _fill(conn, app, number)
            for place in set(_places(conn, table)) - before:
                try:
                    conn.execute(f"update absurd.{table} set {column} = %s where ctid = %s".encode(), (value, place))
                except psycopg.errors.DataError:
                    continue  # a jsonb column takes not all of them
                poisoned += 1
        with app.worker():
            assert app.spawn(healthy, {"a": 1}).result(timeout=60) == {"a": 1}
            app.emit_event("evt:healthy", {})
        for command in (*((name,) for name in LISTS), *(("show-task", task) for task in ids)):
            for form in ((), ("--json",)):
                done = CliRunner().invoke(command_line, ["-d", database_url, *command, *form])
                assert done.exit_code == 0, (command, done.output, done.exception)
    assert poisoned > 2
    record("rows with JSON that nobody can read", ["recovery", "open queue"], injected=poisoned, tasks=1 + len(ids))


def _places(conn: psycopg.Connection[Any], table: str) -> list[str]:
    return [place for (place,) in conn.execute(f"select ctid::text from absurd.{table}".encode())]


def _fill(conn: psycopg.Connection[Any], app: Absurd, number: int) -> list[str]:
    """One of everything, some of it in the middle of its life."""
    app.create_queue("default")
    waiting = app.spawn("ill", {}, headers={"a": 1}).task_id
    conn.execute("select absurd.subscribe('default', 'evt*', 'ill', '{\"config\": 1}')")
    conn.execute("select absurd.append_event('default', 'evt', '{}', null, '{\"kind\": \"test\"}')")
    conn.execute('select absurd.create_schedule(%s, \'default\', \'{"task": "ill", "every": 3600}\')', (f"sched {number}",))
    conn.execute("select absurd.register_trigger(%s, 'default', 'ill', 60, 60, true, '{}')", (f"trig {number}",))
    ended = app.spawn("ill", {}).task_id
    for task in (waiting, ended):
        conn.execute("insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)"
            " select task_id, 'known', 1, '1', run_id, now() from absurd.runs where task_id = %s", (task,))  # fmt: skip
    claimed = conn.execute("select run_id, task_id, epoch from absurd.claim_runs('default', 'hand', 60, 1)").fetchone()
    assert claimed is not None
    conn.execute(
        "select * from absurd.create_token(%s, %s, %s, 'token', 2, 'ask', 60, null, null, '{}')",
        (claimed[1], claimed[0], claimed[2]),
    )
    conn.execute("select absurd.fail_run('default', %s, '{\"name\": \"x\"}', now())", (claimed[0],))
    return [str(waiting), str(ended)]
