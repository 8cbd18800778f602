"""Who may read everything finds the secret of no token in it: to see is not to answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from absurd import Absurd, Context
from absurd.errors import ValidationError
from absurd.testing.history import export_task
from tests.cli import invoke
from tests.sql import calls
from tests.support_roles import Connection, logins

MADE_OF_HEX = "ab" * 32  # looks like a secret and is none

# What a reader may call gets the values of a living task, by the names of its arguments; all else is left out or null.
ARGUMENTS = {
    "p_queue_name": "default",
    "p_queue_names": "{default}",
    "p_after_position": "-1",
    "p_after_step": "",
    "p_after_seq": 0,
    "p_what": "params",
}
UNSEARCHED = {"read_result", "get_task_result"}
"""What gives a result to whom it was promised, exactly."""
CLOCK = "fake_time"  # has a say of its own


@pytest.fixture
def reader(conn: Connection) -> Iterator[Connection]:
    with logins(conn) as urls, psycopg.connect(urls["reader"], autocommit=True) as login:
        yield login


def run_approval(url: str, steps: int = 0) -> tuple[str, str]:
    """A task that has told everybody of its token and waits for the answer: its id, the secret."""
    secrets: list[str] = []
    with Absurd(url, public_url="https://example.com") as app:

        @app.register_task("ask", max_attempts=1)
        def ask(params: Any, ctx: Context) -> Any:
            token = ctx.create_token("approval")
            secrets.append(token.secret)
            ctx.step("link", lambda: {"url": token.url, "hash": MADE_OF_HEX})
            ctx.spawn("mail", {"link": token.url}, headers={"reply-to": token.url}, idempotency_key=f"mail {token.secret}")
            ctx.emit_event("asked", {"link": token.url})
            for number in range(steps):
                ctx.step(f"step {number:05}", lambda: "x")
            return ctx.await_token(token)

        @app.register_task("mail", max_attempts=2, retry={"kind": "fixed", "base_seconds": 3600})
        def mail(params: Any, ctx: Context) -> Any:
            raise ValueError(f"no mail server for {params['link']}")

        task = app.spawn(ask, {})
        app.run_worker_once()
        app.run_worker_once()
    assert secrets
    assert len(set(secrets)) == 1
    return str(task.task_id), secrets[0]


def test_no_function_of_a_reader_gives_a_secret(conn: Connection, reader: Connection, database_url: str) -> None:
    _, secret = run_approval(database_url)
    stored = "\n".join(
        calls.value(conn, f"select string_agg(x::text, '') from absurd.{t} x") for t in ("tasks", "events", "attempts")
    )
    assert stored.count(secret) >= 5  # params, headers and key of the mail, the event, the failure
    ids = [row["task_id"] for row in calls.rows(conn, "select task_id from absurd.tasks")]
    searched = set()
    for name, arguments in _functions_of_readers(conn):
        for task_id in ids if "p_task_id" in arguments else ids[:1]:
            given = {
                key: str(task_id) if key == "p_task_id" else ARGUMENTS[key]
                for key in arguments
                if key in {*ARGUMENTS, "p_task_id"}
            }
            if "p_task_ids" in arguments:
                given["p_task_ids"] = ids
            places = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(key), value) for key, value in given.items())
            query = sql.SQL("select x::text from absurd.{}({}) x").format(sql.Identifier(name), places)
            try:
                found = "\n".join(str(row[0]) for row in reader.execute(query))
            except (psycopg.errors.UndefinedFunction, psycopg.errors.RaiseException):
                continue  # it asks for more than that; below is what must not be missed
            searched.add(name)
            assert secret not in found or name in UNSEARCHED, name
    assert {
        *("show_task", "read_task", "list_tasks", "list_events", "list_checkpoints", "list_waits"),
        *("find_tasks", "task_details", "task_value", "page_of_events", "last_failures", "events_after", "task_activity"),
    } <= searched


@pytest.mark.parametrize(
    "beside", ["voil\\u00e0%s", "%s and more", "%sand", "id%s", "00%s00", "4a%s9" * 3, "%s" * 2, "f" * 5000 + "%s" + "0" * 5000]
)
def test_a_secret_is_hidden_also_with_other_digits_beside_it(conn: Connection, database_url: str, beside: str) -> None:
    _, secret = run_approval(database_url)
    text = beside.replace("%s", secret)
    hidden = calls.value(conn, "select absurd.hide_secrets(%s)", text)
    assert hidden == text.replace(secret, "***")


def test_a_search_does_not_find_what_its_results_hide(reader: Connection, database_url: str) -> None:
    """Or its answers, yes and no, would tell a secret digit by digit."""
    _, secret = run_approval(database_url)
    find = "select json_array_length(absurd.find_tasks(p_text => %s) -> 'tasks')"
    for text, found in (("example.com/tokens/", 1), (f"tokens/{secret[:1]}", 0), (secret[:20], 0), (secret, 0)):
        assert calls.value(reader, find, text) == found, text


def _functions_of_readers(conn: Connection) -> list[tuple[str, list[str]]]:
    return conn.execute(
        "select p.proname, coalesce(p.proargnames[:p.pronargs], '{}') from pg_proc p join absurd.function_roles() f"
        " on p.proname = any (f.function_names) where p.pronamespace = 'absurd'::regnamespace and 'reader' = any (f.role_names)"
        " and p.proname <> %s",
        (CLOCK,),
    ).fetchall()


def test_a_reader_cannot_answer_what_its_commands_show(conn: Connection, database_url: str) -> None:
    task_id, secret = run_approval(database_url, steps=1100)
    with logins(conn) as urls:
        for command in (f"show-task {task_id} --json", f"show-task {task_id}", f"export-task {task_id}", "list-events --json",
                        "list-tasks --json"):  # fmt: skip
            out = invoke(*command.split(), database=urls["reader"]).out
            assert secret not in out, command
        assert "https://example.com/tokens/***" in invoke("show-task", task_id, "--json", database=urls["reader"]).out
        with psycopg.connect(urls["reader"], autocommit=True) as login:
            history = export_task(login, task_id)
            assert len(history["checkpoints"]) > 1100
            assert secret not in json.dumps(history)
            for call in ("use_token", "read_token"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    login.execute(f"select * from absurd.{call}(%s)".encode(), (secret,))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                login.execute("select absurd.read_checkpoints(%s, -1, '')", (task_id,))
    shown = calls.value(conn, "select absurd.show_task(%s)", task_id)
    states = {point["step_name"]: point["state"] for point in shown["checkpoints"]}
    assert states["link"] == {"url": "https://example.com/tokens/***", "hash": MADE_OF_HEX}  # what is no secret stays


def test_the_task_and_its_worker_keep_the_secret(database_url: str, conn: Connection) -> None:
    _, secret = run_approval(database_url)
    assert calls.value(conn, "select absurd.use_token(%s, '\"yes\"')", secret) == "ok"
    seen: list[Any] = []
    with Absurd(database_url, public_url="https://example.com") as app:

        @app.register_task("ask", max_attempts=1)
        def ask(params: Any, ctx: Context) -> Any:
            token = ctx.create_token("approval")
            seen.append(token.secret)
            seen.append(ctx.step("link", lambda: None))
            ctx.spawn("mail", {})
            ctx.emit_event("asked", {})
            return ctx.await_token(token)

        app.run_worker_once()
    assert seen == [secret, {"url": f"https://example.com/tokens/{secret}", "hash": MADE_OF_HEX}]


def test_no_schema_of_a_token_makes_anybody_fetch_a_url(conn: Connection, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/schema.json"
        calls.rows(conn, "select absurd.create_queue('default')")
        run = calls.spawn_and_claim(conn)
        made = calls.value(
            conn,
            "select state from absurd.create_token(%s, %s, 1, 'token', 0, 'ask', null, null, null, %s::json)",
            run["task_id"], run["run_id"], json.dumps({"$ref": url}),
        )  # fmt: skip
        with Absurd(database_url) as app, pytest.raises(ValidationError, match="JSON Schema"):
            app.complete_token(made["secret"], {"approved": True})
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
