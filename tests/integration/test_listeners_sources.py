"""Listeners that come ready-made: notifications of PostgreSQL, files, HTTP requests."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, ConfigurationError
from absurd.listeners import FileListener, NotifyListener, WebhookListener, webhook
from tests.support import wait_until
from tests.support_listeners import listening, tasks

Conn = psycopg.Connection[Any]
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:
        yield made


# NOTIFY


def test_c32_notification_starts_the_task_that_it_names(app: Absurd, conn: Conn) -> None:
    listener = NotifyListener(app=app)
    with listening(listener):
        wait_until(listener.listening.is_set)
        conn.execute("notify workflow_triggers, 'nightly-report'")
        conn.execute(
            "select pg_notify('workflow_triggers', %s)",
            [json.dumps({"workflow_id": "mail", "params": [1], "idempotency_key": "k"})],
        )
        wait_until(lambda: len(tasks(conn)) == 2)
    source = {"kind": "listener", "name": "NotifyListener", "channel": "workflow_triggers"}
    assert tasks(conn) == [(None, source), ([1], source)]


@pytest.mark.parametrize("channel", ["Orders", 'with "quotes"; drop table x', "späte"])
def test_c32_name_of_the_channel_is_an_identifier(app: Absurd, conn: Conn, channel: str) -> None:
    listener = NotifyListener(channel, app=app)
    with listening(listener):
        wait_until(listener.listening.is_set)
        conn.execute("select pg_notify(%s, 'report')", [channel])
        wait_until(lambda: tasks(conn, "report"))


def test_c32_k19_payloads_that_name_nothing_stop_nothing(app: Absurd, conn: Conn) -> None:
    listener = NotifyListener(app=app)
    with listening(listener):
        wait_until(listener.listening.is_set)
        for payload in ("", "  ", "{", '{"params": 1}', '{"workflow_id": 1}', "x" * 1001):
            conn.execute("select pg_notify('workflow_triggers', %s)", [payload])
        conn.execute("notify workflow_triggers, 'report'")
        wait_until(lambda: tasks(conn, "report"))
    assert len(tasks(conn)) == 1
    assert listener._health.failures == 6


def test_c32_cut_connection_is_made_again(app: Absurd, conn: Conn) -> None:
    listener = NotifyListener(app=app)
    with listening(listener):
        wait_until(listener.listening.is_set)
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'absurd listener: notifications'"
        )
        wait_until(lambda: listener._health.failures > 0)
        wait_until(listener.listening.is_set)
        conn.execute("notify workflow_triggers, 'report'")
        wait_until(lambda: tasks(conn, "report"))


def test_c32_one_of_several_processes_listens_and_another_takes_over(app: Absurd, conn: Conn) -> None:
    first, second = NotifyListener(app=app), NotifyListener(app=app)
    with listening(second):
        wait_until(second.listening.is_set)
        with listening(first):
            conn.execute("notify workflow_triggers, 'report'")
            wait_until(lambda: tasks(conn, "report"))
            assert not first.listening.is_set()
            second.stop()
            wait_until(first.listening.is_set)
            conn.execute("notify workflow_triggers, 'again'")
            wait_until(lambda: tasks(conn, "again"))
    assert len(tasks(conn)) == 2


# Files


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    directory = tmp_path / "drop"
    directory.mkdir()
    return directory


def watching(directory: Path, app: Absurd, **options: Any) -> FileListener:
    return FileListener(directory, "import", quiet_seconds=0.2, app=app, **options)


def begin(listener: FileListener, drop: Path, conn: Conn) -> None:
    """Waits until the directory is watched: a file that is written again and again is noticed at last."""
    marker = drop / "begin"

    def noticed() -> bool:
        if not listener._restless and not tasks(conn):
            marker.write_text(str(os.times()))
        return any(params["path"] == str(marker) for params, _ in tasks(conn))

    wait_until(noticed)


def paths(conn: Conn) -> list[tuple[str, str]]:
    found = [(Path(params["path"]).name, params["change"]) for params, _ in tasks(conn)]
    return [each for each in found if each[0] != "begin"]


def test_c25_new_and_changed_files_in_all_directories_start_tasks(app: Absurd, conn: Conn, drop: Path) -> None:
    (drop / "old.csv").write_text("there before")
    listener = watching(drop, app)
    with listening(listener):
        begin(listener, drop, conn)
        (drop / "deep" / "er").mkdir(parents=True)
        (drop / "deep" / "er" / "new.csv").write_text("1")
        wait_until(lambda: ("new.csv", "added") in paths(conn))
        (drop / "old.csv").write_text("changed")
        wait_until(lambda: ("old.csv", "modified") in paths(conn))
        (drop / "old.csv").unlink()
        (drop / "deep" / "er" / "new.csv").rename(drop / "renamed.csv")
        wait_until(lambda: ("renamed.csv", "added") in paths(conn))
    assert len(paths(conn)) == 3
    assert tasks(conn)[0][1] == {"kind": "listener", "name": "FileListener"}


def test_c25_new_file_is_new_also_when_a_write_to_it_is_told_of_before_its_directory(
    app: Absurd, conn: Conn, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (drop / "deep").mkdir()
    (drop / "deep" / "new.csv").write_text("1")
    told = [set[tuple[str, str]](), {("modified", str(drop / "deep" / "new.csv"))}, {("added", str(drop / "deep"))}]
    listener = watching(drop, app)

    def batches() -> Iterator[set[tuple[str, str]]]:
        yield from told
        while not listener.stopped.wait(0.05):
            yield set()

    monkeypatch.setattr(listener, "_batches", batches)
    with listening(listener):
        wait_until(lambda: paths(conn) == [("new.csv", "added")])


def test_c25_burst_of_writes_starts_one_task_once_it_is_quiet(app: Absurd, conn: Conn, drop: Path) -> None:
    listener = watching(drop, app)
    with listening(listener):
        begin(listener, drop, conn)
        with (drop / "big.csv").open("w") as file:
            for number in range(2000):
                file.write(f"{number}\n")
                file.flush()
            assert paths(conn) == []
        wait_until(lambda: paths(conn) == [("big.csv", "added")])


def test_c25_two_watchers_start_one_task_for_a_file(app: Absurd, conn: Conn, drop: Path) -> None:
    first, second = watching(drop, app), watching(drop, app, name="other")
    with listening(first), listening(second):
        begin(first, drop, conn)
        (drop / "again").write_text("")
        begin(second, drop, conn)
        for number in range(10):
            (drop / f"{number}.csv").write_text("1")
        wait_until(lambda: len([p for p in paths(conn) if p[0].endswith(".csv")]) == 10)
        wait_until(lambda: not first._restless and not second._restless)
    assert len([p for p in paths(conn) if p[0].endswith(".csv")]) == 10


def test_c25_missing_and_vanishing_directory_is_reported_and_waited_for(app: Absurd, conn: Conn, drop: Path) -> None:
    drop.rmdir()
    listener = watching(drop, app)
    with listening(listener):
        wait_until(lambda: listener._health.failures > 0)
        assert "cannot be watched" in str(listener._health.last_error)
        drop.mkdir()
        (drop / "first.csv").write_text("1")
        wait_until(lambda: ("first.csv", "added") in paths(conn))
        shutil.rmtree(drop)
        failures = listener._health.failures
        wait_until(lambda: listener._health.failures > failures)
        drop.write_text("a file now")
        wait_until(lambda: "no directory" in str(listener._health.last_error))
        drop.unlink()
        drop.mkdir()
        (drop / "second.csv").write_text("1")
        wait_until(lambda: ("second.csv", "added") in paths(conn))


def test_c25_pattern_and_existing_files(app: Absurd, conn: Conn, drop: Path) -> None:
    (drop / "old.csv").write_text("1")
    (drop / "old.txt").write_text("1")
    for _ in range(2):
        listener = watching(drop, app, pattern="*.csv", existing=True)
        with listening(listener):
            wait_until(lambda: ("old.csv", "added") in paths(conn))
    assert paths(conn) == [("old.csv", "added")]


def test_c25_change_that_was_seen_is_not_lost_when_the_listener_ends(app: Absurd, conn: Conn, drop: Path) -> None:
    listener = FileListener(drop, "import", quiet_seconds=3600, app=app)
    with listening(listener):
        wait_until(lambda: (drop / "a.csv").write_text("1") and listener._restless)
    assert paths(conn) == [("a.csv", "added")]


def test_c25_file_names_that_are_no_unicode_stop_nothing(app: Absurd, conn: Conn, drop: Path) -> None:
    listener = watching(drop, app)
    with listening(listener):
        begin(listener, drop, conn)
        (drop / os.fsdecode(b"bad\xff.csv")).write_text("1")
        (drop / "good.csv").write_text("1")
        wait_until(lambda: ("good.csv", "added") in paths(conn))


@pytest.mark.parametrize(
    "options", [{"path": ""}, {"path": 3}, {"workflow_id": ""}, {"quiet_seconds": -1}, {"quiet_seconds": "1"}]
)
def test_file_listener_refuses_unusable_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FileListener(**{"path": "/tmp", "workflow_id": "import", **options})


# HTTP


def call(listener: WebhookListener, body: bytes | None = b"{}", path: str = "/trigger/report", **headers: str) -> tuple[int, Any]:
    host, port = wait_until(lambda: listener.address)
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_c28_post_starts_the_task(app: Absurd, conn: Conn) -> None:
    with listening(listener := WebhookListener(port=0, app=app)):
        assert call(listener, b'{"b": 1, "a": 2}') == (200, {"status": "triggered", "workflow": "report"})
        assert call(listener, None, "/trigger/with%2Fslash%20%C3%A4?x=1") == (
            200,
            {"status": "triggered", "workflow": "with/slash ä"},
        )
    assert [params for params, _ in tasks(conn)] == [{"b": 1, "a": 2}, None]
    assert tasks(conn)[0][1] == {"kind": "listener", "name": "WebhookListener", "caller": "127.0.0.1"}


def test_c28_failed_start_is_answered_with_500_and_the_error() -> None:
    with Absurd(NOWHERE) as app, listening(listener := WebhookListener(port=0, app=app)):
        status, body = call(listener)
    assert status == 500
    assert body["status"] == "failed"
    assert "cannot be reached" in body["error"]


def test_c28_idempotency_key_makes_a_repeated_call_harmless(app: Absurd, conn: Conn) -> None:
    with listening(listener := WebhookListener(port=0, app=app)):
        for _ in range(2):
            assert call(listener, Idempotency_Key="delivery-1")[0] == 200
    assert len(tasks(conn)) == 1


def test_c28_bad_requests_are_refused_with_a_reason(app: Absurd, conn: Conn) -> None:
    with listening(listener := WebhookListener(port=0, app=app)):
        assert call(listener, b"{")[0] == 400
        assert call(listener, b"\xff")[0] == 400
        assert call(listener, b"NaN")[0] == 400
        assert call(listener, b"[" * 100_000)[0] == 400
        assert call(listener, b"x" * 1_000_001)[0] == 413
        assert call(listener, b"x" * 20_000_000)[0] == 413
        assert call(listener, b"{}", "/other")[0] == 404
        assert call(listener, b"{}", "/trigger/")[0] == 404
        assert call(listener, b"{}", Origin="https://evil.example")[0] == 403
        assert call(listener, b"{}", Host="evil.example")[0] == 403
        assert call(listener, None, Transfer_Encoding="chunked")[0] == 411
        assert call(listener, b"{}", "/trigger/" + "x" * 1001)[0] == 500
        assert call(listener)[0] == 200
    assert len(tasks(conn)) == 1


def test_c28_caller_that_goes_away_or_says_nothing_stops_nothing(app: Absurd) -> None:
    with listening(listener := WebhookListener(port=0, app=app)):
        host, port = wait_until(lambda: listener.address)
        with socket.create_connection((host, port)) as lost, socket.create_connection((host, port)) as silent:
            lost.sendall(b"POST /trigger/report HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
            silent.sendall(b"POST")
            lost.shutdown(socket.SHUT_RDWR)
            assert call(listener)[0] == 200
            silent.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("beginning", ["", "POST /trigger/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"])
def test_c28_caller_that_sends_byte_after_byte_keeps_neither_a_thread_nor_the_listener_from_its_end(
    app: Absurd, monkeypatch: pytest.MonkeyPatch, beginning: str
) -> None:
    monkeypatch.setattr(webhook, "REQUEST_SECONDS", 0.5)
    with listening(listener := WebhookListener(port=0, app=app)):
        with socket.create_connection(wait_until(lambda: listener.address)) as slow:
            slow.sendall(beginning.encode())
            slow.settimeout(0.05)

            def closed() -> bool:
                try:
                    slow.sendall(b"x")
                    return slow.recv(1) == b""
                except TimeoutError:
                    return False
                except OSError:
                    return True

            wait_until(closed, what="the end of the connection")
        assert call(listener)[0] == 200


def test_c28_api_key_is_demanded_beyond_loopback_and_checked(app: Absurd, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "example.org", "::"):
        with pytest.raises(ConfigurationError, match="ABSURD_API_KEY"):
            WebhookListener(host)
    monkeypatch.setenv("ABSURD_API_KEY", "s3cret")
    WebhookListener("0.0.0.0")
    with listening(listener := WebhookListener(port=0, app=app)):
        assert call(listener)[0] == 401
        assert call(listener, X_API_Key="wrong")[0] == 401
        assert call(listener, Authorization="Bearer s3cretx")[0] == 401
        assert call(listener, X_API_Key="s3cret", Origin="https://ours.example")[0] == 200
        assert call(listener, Authorization="Bearer s3cret")[0] == 200
