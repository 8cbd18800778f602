"""absurdctl top: the queues, the workers and what runs; live on a terminal, once elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pexpect
import psycopg
import pytest
from rich.console import Console

from absurd import Absurd
from absurd.cli.output import Output
from absurd.cli.session import Session
from absurd.cli.top import rates, take_look, view
from tests.cli import environment, invoke
from tests.support import wait_until


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:

        @made.register_task("wait\x1b[2J")
        def wait(params: Any, ctx: Any) -> None:
            ctx.await_event("never")

        @made.register_task("work")
        def work(params: Any, ctx: Any) -> None: ...

        yield made


def test_elsewhere_it_is_shown_once(app: Absurd, database_url: str) -> None:
    app.spawn("wait\x1b[2J")
    app.run_worker_once()
    app.spawn_many("work", [1, 2])
    shown = invoke("top", database=database_url).out
    assert shown.splitlines()[1].split()[:4] == ["default", "2", "0", "1"]
    assert "no worker" in shown
    assert "No worker is alive." in shown
    assert "Nothing runs." in shown
    with app.worker():
        wait_until(lambda: "idle" in invoke("top", database=database_url).out, what="the worker")
    document = invoke("top", "--json", database=database_url).json()
    assert document["queues"][0]["sleeping"] == 1
    assert set(document["counters"]) == {"spawned", "ended", "steps", "events", "failed"}
    app.create_queue("mail")
    only = invoke("top", "--queue", "mail", "--json", database=database_url).json()
    assert [row["queue_name"] for row in only["queues"]] == ["mail"]


def test_rates_are_those_between_two_looks(app: Absurd, database_url: str, conn: psycopg.Connection[Any]) -> None:
    with Session(database_url, Output()) as session:
        before = take_look(session, None)
        assert rates(before, None) == ""
        app.spawn_many("work", [None] * 30)
        app.close()

        def counted() -> bool:
            conn.execute("select pg_stat_clear_snapshot()")
            return take_look(session, None).counters.spawned - before.counters.spawned >= 30

        wait_until(counted, what="PostgreSQL's statistics")
        assert "spawned 0.0/s" not in rates(take_look(session, None), before)


def test_names_are_safe_on_a_terminal(app: Absurd, database_url: str, conn: psycopg.Connection[Any]) -> None:
    app.spawn("wait\x1b[2J")
    conn.execute("update absurd.runs set state = 'running', worker_id = 'w', started_at = now()")
    with Session(database_url, Output()) as session:
        out = io.StringIO()
        Console(file=out, width=120, force_terminal=False).print(view(take_look(session, None), None))
    assert "\\x1b[2J" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_on_a_terminal_it_goes_on_until_it_is_interrupted(app: Absurd, database_url: str) -> None:
    environ = {**environment(database_url), "TERM": "xterm", "LINES": "40"}
    child = pexpect.spawn(
        sys.executable, ["-m", "absurd", "top", "--interval", "200ms"], env=environ, timeout=40, encoding="utf-8"
    )
    try:
        child.expect("Queues")
        child.expect("default")
        app.spawn_many("work", [1, 2, 3, 4])
        child.expect(r"default\D+4")
        child.sendintr()
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 130
