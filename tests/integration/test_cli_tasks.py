"""spawn-task, list-tasks, show-task, cancel-task, retry-task."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli import absurdctl, invoke


def spawn(database: str, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = invoke("spawn-task", *arguments, "--json", database=database).json()
    return found


def shown(database: str, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = invoke("show-task", task_id, "--json", database=database).json()
    return found


def fail(conn: psycopg.Connection[Any], reason: str, retry: bool = True) -> None:
    """Claims the next run as another client would, and fails it."""
    row = conn.execute("select run_id from absurd.claim_task('default', 'tester')").fetchone()
    assert row is not None
    conn.execute("select absurd.fail_run('default', %s, %s::jsonb)", (row[0], reason))


def test_a_task_is_spawned_with_params_and_ids_are_shown(database_url: str) -> None:
    done = absurdctl("spawn-task", "mail", "-P", "to=ann@example.com", "-P", "n:=2", database=database_url)
    assert '✓ Spawned "mail" in queue "default"' in done.out
    [task] = absurdctl("list-tasks", "--json", database=database_url).json()
    assert task["task_id"] in done.out
    assert task["run_id"] in done.out
    assert shown(database_url, task["task_id"])["params"] == {"to": "ann@example.com", "n": 2}


def test_params_come_from_a_file_or_standard_input_with_their_order(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text('{"z": 1, "a": {"y": 2, "b": 3}}')
    one = spawn(database_url, "mail", "--params", f"@{path}", "-P", "extra=x")
    params = shown(database_url, one["task_id"])["params"]
    assert params == {"z": 1, "a": {"y": 2, "b": 3}, "extra": "x"}
    assert [list(params), list(params["a"])] == [["z", "a", "extra"], ["y", "b"]]
    two = absurdctl(
        "spawn-task", "mail", "--params", "-", "--json", database=database_url, stdin="[1.50, 12345678901234567890]"
    ).json()
    exact = invoke("show-task", two["task_id"], "--json", database=database_url).out
    assert "12345678901234567890" in exact


def test_every_option_of_a_spawn_is_stored(database_url: str) -> None:
    task = spawn(
        database_url, "mail", "--delay", "2h", "--priority", "-7", "--max-attempts", "3", "--retry", "exponential",
        "--retry-base", "2s", "--retry-factor", "3", "--retry-max", "1h", "--retry-jitter", "0.5", "--max-delay", "1d",
        "--max-duration", "90s", "-H", "trace=abc", "-H", "n:=1", "--idempotency-key", "key 1",
    )  # fmt: skip
    found = shown(database_url, task["task_id"])
    assert (found["state"], found["priority"], found["max_attempts"]) == ("sleeping", -7, 3)
    assert found["retry_strategy"] == {"kind": "exponential", "base_seconds": 2, "factor": 3, "max_seconds": 3600, "jitter": 0.5}
    assert (found["max_delay"], found["max_duration"]) == (86_400, 90)
    assert found["headers"] == {"trace": "abc", "n": 1}
    assert found["idempotency_key"] == "key 1"
    again = spawn(database_url, "mail", "--idempotency-key", "key 1")
    assert (again["task_id"], again["created"]) == (task["task_id"], False)
    human = invoke("show-task", task["task_id"], database=database_url).out
    for text in ("-7", "1 of 3", "key 1", "Max duration:   1m 30s", '"trace": "abc"'):
        assert text in human
    assert "(in 2h)" in human or "(in 1h 59m)" in human


def test_a_task_may_start_at_a_moment(database_url: str) -> None:
    task = spawn(database_url, "mail", "--at", "2027-06-01T08:00:00+02:00")
    assert shown(database_url, task["task_id"])["available_at"].startswith("2027-06-01T06:00:00")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-attempts", "0"], "max_attempts"),
        (["--priority", "99999"], "priority"),
        (["--retry-jitter", "2", "--retry", "fixed"], "jitter"),
        (["--delay", "1h", "--at", "2027-01-01"], "available_at"),
        (["--queue", "nosuch"], "nosuch"),
        (["--idempotency-key", ""], "idempotency"),
        (["--retry", "none", "--max-attempts", "2"], "single attempt"),
        (["--delay", "99w99w99w99w99w99w"], "delay"),
    ],
)
def test_a_bad_option_is_refused_with_its_name(database_url: str, arguments: list[str], says: str) -> None:
    done = invoke("spawn-task", "mail", *arguments, database=database_url, code=1)
    assert done.err.startswith("Error: ")
    assert says in done.err
    assert invoke("list-tasks", "--json", database=database_url).json() == []


def test_list_tasks_filters_by_queue_name_state_and_age(database_url: str, conn: psycopg.Connection[Any]) -> None:
    invoke("create-queue", "other", database=database_url)
    mail, late = spawn(database_url, "mail"), spawn(database_url, "late", "--delay", "1h")
    gone = spawn(database_url, "gone", "-q", "other")
    invoke("cancel-task", gone["task_id"], database=database_url)

    def listed(*arguments: str) -> list[str]:
        return [row["task_id"] for row in invoke("list-tasks", *arguments, "--json", database=database_url).json()]

    assert listed() == [gone["task_id"], late["task_id"], mail["task_id"]]
    assert listed("-q", "other") == listed("--state", "cancelled") == listed("-n", "gone") == [gone["task_id"]]
    assert listed("-s", "sleeping") == [late["task_id"]]
    assert listed("-s", "pending") == [mail["task_id"]]
    assert listed("-s", "failed") == listed("--older-than", "1h") == []
    assert len(listed("--newer-than", "1h")) == 3
    assert listed("--limit", "1") == [gone["task_id"]]
    human = invoke("list-tasks", database=database_url)
    assert human.out.splitlines()[0].split() == ["TASK", "ID", "QUEUE", "NAME", "STATE", "ATTEMPT", "SPAWNED"]
    assert "cancelled" in human.out
    assert all(line == line.rstrip() for line in human.out.splitlines())
    assert "No tasks." in invoke("list-tasks", "-n", "nosuch", database=database_url).out


def test_a_limit_beyond_one_page_is_honoured(database_url: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select count(s.task_id) from generate_series(1, 2100) n, absurd.spawn_task('default', 'many', to_jsonb(n)) s")
    rows = invoke("list-tasks", "--limit", "2050", "--json", database=database_url).json()
    assert len({row["task_id"] for row in rows}) == 2050
    assert len(invoke("list-tasks", "--limit", "5000", "--json", database=database_url).json()) == 2100


def test_show_task_shows_failures_with_their_traceback(database_url: str, conn: psycopg.Connection[Any]) -> None:
    task = spawn(database_url, "boom", "--max-attempts", "2", "--retry", "fixed", "--retry-base", "0s")
    fail(conn, '{"name": "ValueError", "message": "first \\u001b[31m", "traceback": "Traceback:\\n  line 1\\n"}')
    fail(conn, '["any", "json"]')
    human = invoke("show-task", task["task_id"], database=database_url).out
    assert "failed" in human.splitlines()[0]
    assert "  ValueError: first \\x1b[31m\n  Traceback:\n    line 1\n" in human
    assert '"any"' in human
    found = shown(database_url, task["task_id"])
    assert [attempt["state"] for attempt in found["attempts"]] == ["failed", "failed"]
    assert found["failure"] == ["any", "json"]


def test_show_task_says_where_to_look_at_what_is_nested_too_deep(database_url: str, conn: psycopg.Connection[Any]) -> None:
    deep = "[" * 3000 + "]" * 3000
    row = conn.execute("select task_id from absurd.spawn_task('default', 'deep', %s::text::jsonb)", (deep,)).fetchone()
    assert row is not None
    told = invoke("show-task", str(row[0]), database=database_url, code=1).err
    assert "nested too deep to be shown" in told
    assert f"absurdctl show-task {row[0]} --json" in told
    assert deep in invoke("show-task", str(row[0]), "--json", database=database_url).out


def test_a_cancelled_task_stays_cancelled_and_can_be_retried(database_url: str) -> None:
    task = spawn(database_url, "mail")["task_id"]
    assert "Cancelled task" in invoke("cancel-task", task, database=database_url).out
    again = invoke("cancel-task", task, "--json", database=database_url).json()
    assert again == {"task_id": task, "state": "cancelled", "cancelled": False}
    retried = invoke("retry-task", task, "--json", database=database_url).json()
    assert (retried["task_id"], retried["created"]) == (task, False)
    assert shown(database_url, task)["state"] == "pending"
    assert "still live" in invoke("retry-task", task, database=database_url, code=1).err
    copy = invoke("retry-task", task, "--spawn-new", "--json", database=database_url).json()
    assert copy["created"] is True
    assert copy["task_id"] != task


def test_a_task_is_retried_from_a_step(database_url: str, conn: psycopg.Connection[Any]) -> None:
    task = spawn(database_url, "mail")["task_id"]
    run = conn.execute("select run_id from absurd.claim_task('default', 'tester')").fetchone()
    assert run is not None
    for step in ("write", "send"):
        conn.execute("select absurd.set_task_checkpoint_state('default', %s, %s, '1', %s)", (task, step, run[0]))
    copy = invoke("retry-task", task, "--from-step", "send", "--json", database=database_url).json()
    assert (copy["created"], copy["attempt"], copy["task_id"] != task) == (True, 1, True)
    assert [point["step_name"] for point in shown(database_url, copy["task_id"])["checkpoints"]] == ["write"]
    assert shown(database_url, task)["state"] == "running"
    human = invoke("retry-task", task, "--from-step", "write", database=database_url).out
    assert "Spawned a copy that goes on from step write: task " in human
    assert 'no step "read"' in invoke("retry-task", task, "--from-step", "read", database=database_url, code=1).err
    assert "--spawn-new" in invoke("retry-task", task, "--from-step", "send", "--spawn-new", database=database_url, code=2).err


def test_a_delayed_task_is_run_now(database_url: str) -> None:
    task = spawn(database_url, "mail", "--delay", "1h")["task_id"]
    assert "is ready" in invoke("run-task-now", task, database=database_url).out
    assert shown(database_url, task)["state"] == "pending"
    assert "ready already" in invoke("run-task-now", task, database=database_url, code=1).err


@pytest.mark.parametrize("command", ["show-task", "cancel-task", "retry-task", "run-task-now"])
def test_an_unknown_task_is_an_error(database_url: str, command: str) -> None:
    task = str(uuid.uuid4())
    assert task in invoke(command, task, database=database_url, code=1).err
