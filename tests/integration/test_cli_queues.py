"""create-queue, drop-queue, list-queues, pause-queue, resume-queue, cleanup; queue names of every kind."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.cli import absurdctl, invoke, refused

ODD_NAMES = [
    "a.b-c d",
    'it\'s "quoted"',
    "größe/注文 👩‍👩‍👧",
    "x" * 57,
    "-q",
    "%s %% {}",
    "a;drop table x;--",
    "[red]b[/]",
    "\x1b[31mred\u202e",
]


def test_a_queue_is_created_listed_paused_resumed_and_dropped(database_url: str) -> None:
    assert 'Created queue "orders"' in absurdctl("create-queue", "orders", database=database_url).out
    again = absurdctl("create-queue", "orders", "--json", database=database_url)
    assert again.json() == {"queue_name": "orders", "created": False}
    table = absurdctl("list-queues", database=database_url).out.splitlines()
    assert table[0].split()[:2] == ["QUEUE", "STATE"]
    assert [line.split()[:2] for line in table[1:]] == [["default", "active"], ["orders", "active"]]
    absurdctl("pause-queue", "orders", database=database_url)
    [_, orders] = absurdctl("list-queues", "--json", database=database_url).json()
    assert orders["paused_at"].endswith("Z")
    absurdctl("resume-queue", "orders", database=database_url)
    dropped = absurdctl("drop-queue", "orders", "--yes", "--json", database=database_url)
    assert dropped.json() == {"queue_name": "orders", "dropped": True}
    assert len(absurdctl("list-queues", "--json", database=database_url).json()) == 1


def test_drop_queue_without_a_terminal_wants_yes(database_url: str) -> None:
    assert "--yes" in refused("drop-queue", "default", database=database_url)
    assert len(invoke("list-queues", "--json", database=database_url).json()) == 1


@pytest.mark.parametrize(
    "command", ["drop-queue", "pause-queue", "resume-queue", "list-tasks -q", "list-events -q", "list-waits -q", "cleanup -q"]
)
def test_an_unknown_queue_names_create_queue_and_a_like_one(database_url: str, command: str) -> None:
    error = invoke(*command.split(), "defualt", database=database_url, code=1).err
    assert "absurdctl create-queue defualt" in error
    assert 'Did you mean "default"?' in error


@pytest.mark.parametrize("name", ["", "x" * 58, "é" * 29])
def test_a_bad_queue_name_is_refused(database_url: str, name: str) -> None:
    assert "queue name" in invoke("create-queue", name, database=database_url, code=1).err


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_command_takes_every_queue_name(database_url: str, name: str) -> None:
    def run(*arguments: str) -> Any:
        plain = invoke(*arguments, database=database_url)
        assert "\x1b" not in plain.out
        assert "\u202e" not in plain.out
        return invoke(*arguments, "--json", database=database_url).json()

    created = invoke("create-queue", "--json", "--", name, database=database_url).json()
    assert created == {"queue_name": name, "created": True}
    assert name in [row["queue_name"] for row in run("list-queues")]
    spawned = run("spawn-task", "add", f"--queue={name}", "-P", "a:=1")
    assert spawned["queue_name"] == name
    assert [row["queue_name"] for row in run("list-tasks", f"--queue={name}")] == [name, name]
    assert run("show-task", spawned["task_id"])["queue_name"] == name
    assert run("cancel-task", spawned["task_id"])["state"] == "cancelled"
    invoke("retry-task", spawned["task_id"], database=database_url)
    assert run("emit-event", "ready", f"--queue={name}")["queue_name"] == name
    assert {row["queue_name"] for row in run("list-events", f"--queue={name}")} == {name}
    assert run("list-waits", f"--queue={name}") == []
    assert run("list-workers") == []
    assert [row["queue_name"] for row in run("cleanup", f"--queue={name}")] == [name]
    for command in ("pause-queue", "resume-queue"):
        invoke(command, "--", name, database=database_url)
    invoke("drop-queue", "--yes", "--", name, database=database_url)
    assert name not in [row["queue_name"] for row in run("list-queues")]


def test_cleanup_deletes_in_batches_until_nothing_is_left(database_url: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("update absurd.queues set cleanup_limit = 3")
    for number in range(8):
        spawned = conn.execute("select task_id from absurd.spawn_task('default', 't', %s::jsonb)", (str(number),)).fetchone()
        assert spawned is not None
        if number:
            conn.execute("select absurd.cancel_task('default', %s)", (spawned[0],))
    kept = absurdctl("cleanup", "--json", database=database_url).json()
    assert kept == [{"queue_name": "default", "older_than_seconds": 2_592_000, "tasks_deleted": 0, "events_deleted": 0}]
    assert invoke("cleanup", "--older-than", "0s", "--json", database=database_url).json()[0]["tasks_deleted"] == 7
    assert len(invoke("list-tasks", "--json", database=database_url).json()) == 1


def test_cleanup_spares_events_that_nobody_claimed(database_url: str) -> None:
    invoke("emit-event", "unclaimed", database=database_url)
    table = invoke("cleanup", "--older-than", "0s", database=database_url).out.splitlines()
    assert table[1].split() == ["default", "0ms", "0", "0"]
    assert len(invoke("list-events", "--json", database=database_url).json()) == 1


def test_a_queue_that_keeps_all_says_what_a_clean_up_by_hand_deletes(database_url: str) -> None:
    by_hand = "`absurdctl cleanup`, run by hand, deletes here what ended more than 30d ago."
    assert by_hand in invoke("set-queue", "default", database=database_url).out.splitlines()
    assert by_hand not in invoke("set-queue", "default", "--keep-failed", "90d", database=database_url).out
