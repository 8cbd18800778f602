"""Triggers on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from absurd.triggers import Fire
from absurd.triggers.fires import prepare
from tests.cli import absurdctl, invoke, refused, working, write_app
from tests.sql.trigger_calls import register, settle, taken
from tests.support import wait_until

APP = """
    from absurd import Absurd

    app = Absurd()


    @app.register_task("work")
    def work(params, ctx):
        return params


    @app.trigger(task=work, poll_interval="100ms")
    def always():
        return True
"""


def test_l28_list_triggers_shows_who_polls_and_what_went_wrong(database_url: str, conn: psycopg.Connection[Any]) -> None:
    assert "No triggers" in invoke("list-triggers", database=database_url).out
    register(conn, "red \x1b[31m")
    settle(conn, taken(conn, "host:1", "red \x1b[31m"), error="ValueError: \x1b[31m")
    plain = invoke("list-triggers", database=database_url).out
    assert "\x1b" not in plain
    assert [word in plain for word in ("red \\x1b[31m", "failing", "host:1", "(1 in a row)", "2.0s")] == [True] * 5
    [found] = invoke("list-triggers", "--json", database=database_url).json()
    assert (found["name"], found["owner"], found["failures"], found["enabled"]) == ("red \x1b[31m", "host:1", 1, True)


def test_l29_enable_and_disable_trigger(database_url: str, conn: psycopg.Connection[Any]) -> None:
    register(conn)
    assert invoke("disable-trigger", "t", "--json", database=database_url).json() == {"name": "t", "enabled": False}
    assert "disabled" in invoke("list-triggers", database=database_url).out
    assert 'Enabled trigger "t"' in invoke("enable-trigger", "t", database=database_url).out
    for command in ("enable-trigger", "disable-trigger", "list-trigger-executions"):
        error = invoke(command, "nobody", database=database_url, code=1).err
        assert 'there is no trigger "nobody"' in error
        assert "list-triggers" in error


def test_l30_l31_executions_are_listed_newest_first_beyond_a_page(database_url: str, conn: psycopg.Connection[Any]) -> None:
    register(conn, allow_concurrent=True)
    assert "nothing yet" in invoke("list-trigger-executions", "t", database=database_url).out
    fires = [prepare("t", Fire({"n": number})) for number in range(1003)]
    settle(conn, taken(conn), *fires)
    found = invoke("list-trigger-executions", "t", "--limit", "1002", "--json", database=database_url).json()
    assert [one["task_id"] for one in found] == [str(fire.task_id) for fire in reversed(fires[1:])]
    assert {*found[0]} >= {"started_at", "completed_at", "context_hash", "task_id"}
    lines = invoke("list-trigger-executions", "t", database=database_url).out.splitlines()
    assert len(lines) == 51
    assert str(fires[-1].task_id) in lines[1]


def test_delete_trigger_asks_for_yes(database_url: str, conn: psycopg.Connection[Any]) -> None:
    register(conn)
    assert "repeat the command with --yes" in invoke("delete-trigger", "t", database=database_url, code=1).err
    assert invoke("delete-trigger", "t", "--yes", "--json", database=database_url).json() == {"name": "t", "deleted": True}
    missing = invoke("delete-trigger", "t", "--yes", "--json", database=database_url, code=1)
    assert missing.json() == {"name": "t", "deleted": False}
    assert "There is no trigger" in missing.err


def test_l20_worker_polls_unless_it_is_told_not_to(database_url: str, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    write_app(tmp_path, APP)

    def polled() -> int:
        return len(invoke("list-triggers", "--json", database=database_url).json())

    with working(tmp_path, database_url, "--app", "shop:app", "--no-triggers"):
        absurdctl("spawn-task", "work", "--wait", database=database_url)
    assert polled() == 0
    with working(tmp_path, database_url, "--app", "shop:app"):
        wait_until(
            lambda: invoke("list-tasks", "--json", "--name", "work", "--state", "completed", database=database_url).json()[1:]
        )
    [found] = invoke("list-triggers", "--json", database=database_url).json()
    assert (found["name"], found["owner"]) == ("always", None)


def test_unknown_trigger_fails_without_a_traceback(database_url: str) -> None:
    assert "nobody" in refused("disable-trigger", "nobody", database=database_url)
