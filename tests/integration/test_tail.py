"""absurdctl tail: one line for each thing that happens, each once, in the order of time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd
from absurd.cli.follow import PAGE, Happening, Pages, QueueFollower, TaskFollower
from absurd.cli.tail import line
from absurd.db import run
from absurd.queries.query import Query
from tests.cli import PROGRAM, TIMEOUT, environment, invoke
from tests.support import wait_until

Conn = psycopg.Connection[Any]


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:

        @made.register_task("order", max_attempts=2, retry={"kind": "fixed", "base_seconds": 0})
        def order(params: Any, ctx: Any) -> str:
            ctx.step("charge", lambda: {"paid": 20})
            ctx.await_event("confirmed", timeout=3600)
            ctx.step("ship", lambda: None)
            if ctx.attempt == 1:
                raise ValueError("no stamps")
            return "done"

        @made.register_task("quick")
        def quick(params: Any, ctx: Any) -> Any:
            return ctx.step("only", lambda: 1)

        yield made


def brief(found: list[Happening]) -> list[tuple[str, str | None]]:
    return [(happening.kind, happening.name) for happening in found]


ORDER = [
    ("spawned", "order"),
    ("started", "order"),
    ("step", "charge"),
    ("waiting", "confirmed"),
]
REST = [("event", "$await:confirmed"), ("step", "ship"), ("failed", "order"), ("started", "order"), ("completed", "order")]


def test_a_task_is_followed_from_its_beginning_to_its_end(app: Absurd, conn: Conn) -> None:
    task = app.spawn("order", {"id": 1})
    follower = TaskFollower(lambda query: run(conn, query), task.task_id)
    app.run_worker_once()
    assert brief(follower.new()) == ORDER
    assert not follower.over
    assert follower.new() == []
    app.emit_event("confirmed", {"by": "phone"})
    app.run_worker_once()
    found = follower.new()
    assert sorted(brief(found)) == sorted(REST)
    assert [happening.at for happening in found] == sorted(happening.at for happening in found)
    assert follower.over
    (failed,) = [happening for happening in found if happening.kind == "failed"]
    assert failed.detail is not None
    assert failed.detail.startswith("ValueError: no stamps; again at ")
    assert [happening.attempt for happening in found if happening.kind in ("failed", "started", "completed")] == [1, 2, 2]


def test_a_queue_is_followed_from_now_on_tasks_that_end_at_once_included(app: Absurd, conn: Conn) -> None:
    app.spawn("quick")
    app.run_worker_once()
    app.emit_event("before")
    follower = QueueFollower(lambda query: run(conn, query), "default")
    assert follower.new() == []
    app.spawn("quick")
    app.run_worker_once()
    app.emit_event("after", {"k": 1})
    found = follower.new()
    assert brief(found) == [
        ("spawned", "quick"),
        ("started", "quick"),
        ("step", "only"),
        ("completed", "quick"),
        ("event", "after"),
    ]
    assert found[-1].detail == '{"k":1}'
    assert follower.new() == []


def test_a_task_that_slept_long_is_followed_when_it_goes_on(app: Absurd, conn: Conn) -> None:
    app.spawn("order", {"id": 1})
    app.run_worker_once()
    conn.execute("update absurd.tasks set spawned_at = spawned_at - interval '1 day'")
    follower = QueueFollower(lambda query: run(conn, query), None)
    assert follower.new() == []
    app.emit_event("confirmed")
    app.run_worker_once()
    assert sorted(brief(follower.new())) == sorted([("event", "confirmed"), *REST])


def test_what_is_committed_late_is_seen_all_the_same(app: Absurd, database_url: str, conn: Conn) -> None:
    follower = QueueFollower(lambda query: run(conn, query), "default")
    with psycopg.connect(database_url) as slow:
        app.spawn("quick", conn=slow)
        app.emit_event("early", conn=slow)
        app.emit_event("late")
        assert brief(follower.new()) == [("event", "late")]
        slow.commit()
    assert sorted(brief(follower.new())) == [("event", "early"), ("spawned", "quick")]


def test_what_begins_and_ends_between_two_looks_is_seen_however_far_apart_they_are(app: Absurd, conn: Conn) -> None:
    moved = timedelta(0)

    def later(query: Query[Any]) -> Any:
        found = run(conn, query)
        return found + moved if isinstance(found, datetime) else found

    follower = QueueFollower(later, "default")
    assert follower.new() == []
    app.spawn("quick")
    app.run_worker_once()
    moved = timedelta(minutes=1)
    assert ("completed", "quick") in brief(follower.new())


def test_another_queue_is_not_shown(app: Absurd, conn: Conn) -> None:
    app.create_queue("mail")
    follower = QueueFollower(lambda query: run(conn, query), "mail")
    app.spawn("quick")
    app.emit_event("here")
    assert follower.new() == []
    app.spawn("quick", queue="mail")
    app.emit_event("there", queue="mail")
    assert sorted(brief(follower.new())) == [("event", "there"), ("spawned", "quick")]


def test_pages_lose_nothing_however_much_has_the_same_moment(app: Absurd, conn: Conn) -> None:
    task = app.spawn("quick")
    app.run_worker_once()
    conn.execute(
        """insert into absurd.checkpoints (task_id, step_name, state, completed_at)
           select %s, 'step ' || n, '1', '2030-01-01' from generate_series(1, %s) n""",
        (task.task_id, 2 * PAGE + 5),
    )
    found = list(Pages(lambda query: run(conn, query), None).new([task.task_id]))
    assert len(found) == 2 * PAGE + 5 + 4
    assert len({happening.name for happening in found if happening.kind == "step"}) == 2 * PAGE + 6


def test_values_and_failures_are_shortened_and_unreadable_ones_shown(app: Absurd, conn: Conn) -> None:
    task = app.spawn("quick")
    app.run_worker_once()
    conn.execute("update absurd.checkpoints set state = %s::json", ('"' + "x" * 100_000 + '"',))
    conn.execute("update absurd.tasks set headers = %s::json", (r'{"absurd-source": {"kind": "a\u0000b"}}',))
    found = list(Pages(lambda query: run(conn, query), None).new([task.task_id]))
    assert max(len(happening.detail or "") for happening in found) <= 300
    assert brief(found)[0] == ("spawned", "quick")


def test_lines_are_safe_for_a_terminal() -> None:
    from datetime import UTC, datetime

    hostile = Happening(datetime.now(UTC), None, "q\x1b[2J", "t\nt", "event", "n\x1b]0;x\x07", "\x1b[31m")
    shown = line(hostile, with_task=True).plain
    assert "\x1b" not in shown
    assert "\n" not in shown


def test_the_command_ends_with_its_task(app: Absurd, database_url: str) -> None:
    task = app.spawn("quick")
    with app.worker():
        done = subprocess.run(
            [*PROGRAM, "tail", "--task", str(task.task_id), "--interval", "100ms"],
            env=environment(database_url),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert done.returncode == 0, done.stderr
    assert [part.split()[1] for part in done.stdout.splitlines()] == ["spawned", "started", "step", "completed"]


def test_the_command_follows_a_queue_until_it_is_interrupted(app: Absurd, database_url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as stream, app.worker():
        process = subprocess.Popen(
            [*PROGRAM, "tail", "--queue", "default", "--json", "--interval", "50ms"],
            env=environment(database_url),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:

            def heard() -> bool:
                app.emit_event("knock")
                return "knock" in out.read_text()

            wait_until(heard, timeout=TIMEOUT, what="a line")
            app.spawn("quick").result(timeout=30)
            wait_until(lambda: '"completed"' in out.read_text(), timeout=TIMEOUT, what="the end of the task")
        finally:
            process.send_signal(2)
            assert process.wait(TIMEOUT) == 130
    documents = [json.loads(part) for part in out.read_text().splitlines()]
    assert {document["kind"] for document in documents} == {"event", "spawned", "started", "step", "completed"}


def test_what_cannot_be_followed_is_refused(app: Absurd, database_url: str) -> None:
    nobody = "01890a5d-ac96-774b-bcce-b302099a8057"
    assert "not both" in invoke("tail", "--task", nobody, "--queue", "default", database=database_url, code=1).err
    assert "there is no task" in invoke("tail", "--task", nobody, database=database_url, code=1).err
    assert "does not exist" in invoke("tail", "--queue", "nowhere", database=database_url, code=1).err
    assert invoke("tail", "--no-follow", database=database_url).out == ""
