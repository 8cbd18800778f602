"""emit-event, list-events, list-waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

from tests.cli import absurdctl, invoke


def test_an_event_is_emitted_and_listed_with_its_payload(database_url: str, tmp_path: Path) -> None:
    done = absurdctl("emit-event", "payment.confirmed:42", "-p", '{"z": 1, "a": 99.5}', "-q", "default", database=database_url)
    assert '✓ Emitted event "payment.confirmed:42" in queue "default"' in done.out
    invoke("emit-event", "bare", database=database_url)
    invoke("emit-event", "null", "-p", "null", database=database_url)
    path = tmp_path / "payload.json"
    path.write_text("[1]")
    invoke("emit-event", "filed", "--payload", f"@{path}", database=database_url)
    rows = absurdctl("list-events", "--json", database=database_url).json()
    assert [row["event_name"] for row in rows] == ["filed", "null", "bare", "payment.confirmed:42"]
    assert [row["payload"] for row in rows] == [[1], None, None, {"z": 1, "a": 99.5}]
    assert list(rows[3]["payload"]) == ["z", "a"]
    human = invoke("list-events", database=database_url).out
    assert '{"z":1,"a":99.5}' in human
    assert human.splitlines()[0].split() == ["SEQ", "QUEUE", "NAME", "EMITTED", "CLAIMED", "PAYLOAD"]


def test_list_events_filters_by_queue_name_prefix_and_age(database_url: str) -> None:
    invoke("create-queue", "other", database=database_url)
    for name, queue in (("a.1", "default"), ("a.2", "default"), ("b", "other")):
        invoke("emit-event", name, "-q", queue, database=database_url)

    def listed(*arguments: str) -> list[str]:
        return [row["event_name"] for row in invoke("list-events", *arguments, "--json", database=database_url).json()]

    assert listed("--queue", "other") == ["b"]
    assert listed("--name", "a.1") == ["a.1"]
    assert listed("--name", "a.") == []
    assert listed("--name", "a.", "--prefix") == ["a.2", "a.1"]
    assert listed("--newer-than", "1h", "--limit", "2") == ["b", "a.2"]


def test_a_name_is_shown_and_never_obeyed(database_url: str) -> None:
    name = "\x1b]0;owned\x07\u202e[red]x[/]"
    invoke("emit-event", name, "-p", json.dumps({"k": "\x9b31m"}), database=database_url)
    for arguments in (["list-events"], ["list-events", "--json"]):
        out = invoke(*arguments, database=database_url).out
        assert not set("\x1b\x07\x9b\u202e") & set(out)
    assert "[red]x[/]" in invoke("list-events", database=database_url).out
    [row] = invoke("list-events", "--json", database=database_url).json()
    assert (row["event_name"], row["payload"]) == (name, {"k": "\x9b31m"})


def test_an_event_for_an_unknown_queue_or_of_no_name_is_refused(database_url: str) -> None:
    assert "nosuch" in invoke("emit-event", "x", "-q", "nosuch", database=database_url, code=1).err
    assert "event name" in invoke("emit-event", "", database=database_url, code=1).err


def test_list_waits_shows_who_waits_for_what(database_url: str, conn: psycopg.Connection[Any]) -> None:
    task = invoke("spawn-task", "order", "--json", database=database_url).json()["task_id"]
    run = conn.execute("select run_id from absurd.claim_task('default', 'tester')").fetchone()
    assert run is not None
    conn.execute("select * from absurd.await_event('default', %s, %s, 'step', 'paid:1', 3600)", (task, run[0]))
    [wait] = invoke("list-waits", "--json", database=database_url).json()
    assert (wait["task_id"], wait["kind"], wait["event_name"]) == (task, "event", "paid:1")
    human = invoke("list-waits", "-q", "default", database=database_url).out
    assert "event paid:1" in human
    assert "(in 59m" in human or "(in 1h" in human
    assert "event paid:1" in invoke("show-task", task, database=database_url).out
    assert "event paid:1" not in invoke("emit-event", "paid:1", database=database_url).out
    assert "Nothing waits." in invoke("list-waits", database=database_url).out
