"""``absurdctl serve`` as a process: keys, limits on the wire, signals, several servers at once."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from absurd import Absurd
from absurd.web.signatures import sign
from tests.cli import PROGRAM, TIMEOUT, environment, refused, write_app
from tests.support import wait_until


@contextmanager
def served(
    directory: Path, database: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server process on a free port, and a client of it."""
    path = directory / f"serve-{len(list(directory.glob('serve-*')))}.log"
    with path.open("w") as log:
        command = [*PROGRAM, "serve", "--port", "0", *arguments]
        process = subprocess.Popen(command, cwd=directory, env=environment(database, env), stdout=log, stderr=log, text=True)
        try:

            def address() -> str | None:
                assert process.poll() is None, path.read_text()
                found = re.search(r"serving on (http://\S+)", path.read_text())
                return found[1] if found else None

            url = wait_until(address, TIMEOUT, "the server's address")
            assert url is not None
            with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
                yield process, client
        finally:
            process.kill()
            process.wait(TIMEOUT)


def test_g34_api_is_under_api_and_webhooks_at_the_root_of_a_server_of_its_own(
    database_url: str, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    write_app(tmp_path)
    with served(tmp_path, database_url, "--app", "shop:app", env={"WEBHOOK_SECRET": "s"}) as (process, web):
        assert web.get("/healthz").json() == {"status": "ok"}
        assert web.get("/readyz").json() == {"status": "ready"}
        assert web.post("/api/tasks/add", json={"params": {"a": 1, "b": 2}}).status_code == 201
        assert web.post("/webhooks/e", content=b"{}", headers={"X-Webhook-Signature": sign("s", b"{}")}).status_code == 200
        assert web.get("/openapi.json").status_code == 200
        assert conn.execute("select task_name from absurd.tasks").fetchall() == [("add",)]
        # DNS rebinding, and a page of another origin.
        assert web.get("/api/events", headers={"Host": "evil.example"}).status_code == 403
        assert web.post("/api/tasks/add", headers={"Origin": "http://evil.example"}).status_code == 403
        # Without an API key nothing of a body that is much too large stays, and the answer arrives: announced or in chunks.
        kind = {"Content-Type": "application/json"}
        assert web.post("/api/tasks/add", content=b" " * 10_000_000, headers=kind).status_code == 413
        chunks = (b" " * 100_000 for _ in range(100))
        assert web.post("/api/tasks/add", content=chunks, headers=kind).status_code == 413
        assert web.post("/webhooks/e", content=b" " * 10_000_000).status_code == 413
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    log = (tmp_path / "serve-0.log").read_text()
    assert "Traceback" not in log
    assert "stopped" in log


def test_port_8000_is_the_default() -> None:
    from inspect import signature

    from absurd.cli.serve import serve

    assert signature(serve).parameters["port"].default == 8000
    assert signature(serve).parameters["host"].default == "127.0.0.1"


def test_other_addresses_than_loopback_need_a_key(database_url: str, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        assert "set ABSURD_API_KEY" in refused("serve", "--host", host, database=database_url, cwd=tmp_path)
    with served(tmp_path, database_url, "--host", "0.0.0.0", env={"ABSURD_API_KEY": "k3y"}) as (_, web):
        assert web.get("/api/events").status_code == 401
        assert web.get("/api/events", headers={"X-API-Key": "k3y", "Host": "any.example"}).status_code == 200


def test_wrong_settings_are_said_before_anything_is_served(database_url: str, empty_database_url: str, tmp_path: Path) -> None:
    assert "does not exist" in refused("serve", "-q", "nowhere", database=database_url, cwd=tmp_path)
    assert "absurdctl init" in refused("serve", database=empty_database_url, cwd=tmp_path)
    assert "no module" in refused("serve", "--app", "nothing:app", database=database_url, cwd=tmp_path)
    given = {"WEBHOOK_SECRET": "s"}
    assert "would undo it" in refused("serve", "--allow-unsigned", database=database_url, cwd=tmp_path, env=given)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1, port {port}: " in refused(
            "serve", "--port", port, database=database_url, cwd=tmp_path
        )


def test_both_families_are_served_on_the_address_of_all(database_url: str, tmp_path: Path) -> None:
    with served(tmp_path, database_url, "--host", "::", env={"ABSURD_API_KEY": "k3y"}) as (_, web):
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{web.base_url.port}/healthz").status_code == 200


def test_queue_of_the_option_is_that_of_events_and_webhooks(
    database_url: str, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    Absurd(database_url).create_queue("orders")
    with served(tmp_path, database_url, "--queue", "orders", "--allow-unsigned") as (_, web):
        assert web.post("/webhooks/paid").status_code == 200
        web.post("/api/tasks/any")
    assert conn.execute("select queue_name from absurd.events").fetchall() == [("orders",)]
    assert conn.execute("select queue_name from absurd.tasks").fetchall() == [("orders",)]


def test_request_that_has_begun_is_finished_after_sigterm(
    database_url: str, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    with served(tmp_path, database_url) as (process, web):
        address = (web.base_url.host, web.base_url.port)
        with socket.create_connection(address, timeout=TIMEOUT) as half:
            head = (
                "POST /api/tasks/late HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
            )
            half.sendall(head.encode() + b'{"params"')
            # The server has begun with the first request when it answers a second one that came later.
            assert web.get("/healthz").status_code == 200
            process.send_signal(signal.SIGTERM)

            def refuses() -> bool:
                try:
                    socket.create_connection(address, timeout=1).close()
                except OSError:
                    return True
                return False

            wait_until(refuses, TIMEOUT, "the end of listening")
            half.sendall(b": 1}")
            assert half.recv(100).startswith(b"HTTP/1.1 201")
        assert process.wait(TIMEOUT) == 0
    assert conn.execute("select task_name from absurd.tasks").fetchall() == [("late",)]
