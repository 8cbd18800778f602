"""``absurdctl dashboard`` and the dashboard of ``absurdctl serve``, as processes."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from absurd.cli.dashboard import dashboard
from tests.cli import PROGRAM, TIMEOUT, environment, refused
from tests.integration.test_cli_serve import served
from tests.support import wait_until

TOKEN = "a-token-for-the-tests"


@contextmanager
def running(
    directory: Path, database: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The dashboard on a free port, and a client of it."""
    path = directory / "dashboard.log"
    with path.open("w") as log:
        command = [*PROGRAM, "dashboard", "--port", "0", *arguments]
        process = subprocess.Popen(command, cwd=directory, env=environment(database, env), stdout=log, stderr=log, text=True)
        try:

            def address() -> str | None:
                assert process.poll() is None, path.read_text()
                found = re.search(r"serving on (http://\S+)", path.read_text())
                return found[1] if found else None

            url = wait_until(address, TIMEOUT, "the address")
            assert url is not None
            with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
                yield process, client
        finally:
            process.kill()
            process.wait(TIMEOUT)


def test_dashboard_serves_until_sigterm(database_url: str, tmp_path: Path) -> None:
    with running(tmp_path, database_url, "--redact", "user, card", "--read-only") as (process, web):
        assert "Overview" in web.get("/").text
        assert "read-only" in web.get("/queues").text
        assert web.get("/", headers={"Host": "evil.example"}).status_code == 403
        assert web.post("/queues/pause", data={"queue": "default"}).status_code == 403
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    log = (tmp_path / "dashboard.log").read_text()
    assert "Traceback" not in log
    assert "stopped" in log


def test_beyond_loopback_a_token_is_needed(database_url: str, tmp_path: Path) -> None:
    assert "needs a token" in refused("dashboard", "--host", "0.0.0.0", "--port", "0", database=database_url)
    assert "16 visible ASCII" in refused("dashboard", "--token", "short", "--port", "0", database=database_url)
    with running(tmp_path, database_url, "--host", "0.0.0.0", env={"ABSURD_DASHBOARD_TOKEN": TOKEN}) as (_, web):
        url = str(web.base_url).replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(url).headers["location"].startswith("./login")
        assert "Overview" in httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}).text


def test_a_list_of_hidden_keys_that_is_empty_is_refused(database_url: str) -> None:
    assert "names no key" in refused("dashboard", "--redact", " ,", "--port", "0", database=database_url, code=2)


def test_port_8080_on_loopback_is_the_default() -> None:
    from inspect import signature

    found = signature(dashboard).parameters
    assert (found["host"].default, found["port"].default) == ("127.0.0.1", 8080)


@pytest.mark.parametrize(
    ("env", "status"),
    [({}, 200), ({"ABSURD_API_KEY": "k3y"}, 404), ({"ABSURD_API_KEY": "k3y", "ABSURD_DASHBOARD_TOKEN": TOKEN}, 303)],
)
def test_serve_has_a_dashboard_unless_its_key_would_not_guard_it(
    database_url: str, tmp_path: Path, env: dict[str, str], status: int
) -> None:
    with served(tmp_path, database_url, env=env) as (_, web):
        assert web.get("/dashboard/").status_code == status
        if status == 303:
            answer = web.get("/dashboard/queues", headers={"Authorization": f"Bearer {TOKEN}"})
            assert 'href="./queues" aria-current="page"' in answer.text
