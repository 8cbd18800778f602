"""absurdctl listen and list-listeners."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli import absurdctl, invoke, refused, write_app
from tests.support import wait_until
from tests.support_listeners import listen_process, tasks, wait_for_row

Conn = psycopg.Connection[Any]

LISTENERS = """
    from __future__ import annotations

    import asyncio
    import sys
    import time

    from absurd import Absurd, AsyncEventListener, EventListener, Principal


    class Clock(EventListener):
        def __init__(self, workflow: str = "tick"):
            self.principal = Principal("clock")
            self.app = "a web application"
            self.workflow = workflow

        def start_listening(self):
            while not self.stopped.wait(0.05):
                assert super().run_workflow(self.workflow, idempotency_key="once")


    class Deaf(EventListener):
        def start_listening(self):
            try:
                while True:
                    time.sleep(0.05)
            except KeyboardInterrupt:
                print("interrupted")


    class Stubborn(EventListener):
        def start_listening(self):
            self.stopped.wait()
            while True:
                time.sleep(0.05)


    class AsyncClock(AsyncEventListener):
        async def start_listening(self):
            await self.run_workflow("tick", idempotency_key="once")
            await self.stopped.wait()
            print("stopped")


    class AsyncDeaf(AsyncEventListener):
        async def start_listening(self):
            try:
                await asyncio.Event().wait()
            finally:
                print("cancelled")


    PASSWORD = "hunter2"


    class Flaky(EventListener):
        starts = 0

        def start_listening(self):
            self.starts += 1
            if self.starts < 3:
                raise ValueError(f"start {self.starts} with password={PASSWORD} and a \\x00")
            self.stopped.wait()


    class AsyncFlaky(AsyncEventListener):
        starts = 0

        async def start_listening(self):
            self.starts += 1
            asyncio.get_running_loop().call_later(0.01, lambda: None)
            try:
                await asyncio.wait_for(self.stopped.wait(), 0.01 if self.starts < 3 else None)
            except TimeoutError:
                raise ValueError("again") from None


    class Done(EventListener):
        def start_listening(self):
            print("nothing more to do")


    class Empty(EventListener):
        pass


    class Unmakeable(EventListener):
        def __init__(self):
            raise ValueError("no such port")


    class Leaving(EventListener):
        def start_listening(self):
            sys.exit(7)


    def function():
        pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_app(tmp_path, LISTENERS, "sources")
    return tmp_path


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(30)


def log(project: Path) -> str:
    return (project / "listener.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_c37_listener_runs_until_a_signal(project: Path, database_url: str, conn: Conn, number: int) -> None:
    with listen_process(project, database_url, "sources:Clock", "--option", "workflow=tock", "--name", "wall clock") as process:
        wait_until(lambda: tasks(conn))
        wait_for_row(conn, project, process, "status = 'listening' and name = 'wall clock'")
        assert end(process, number) == 0
    assert tasks(conn) == [(None, {"kind": "listener", "name": "wall clock"})]
    assert conn.execute("select from absurd.list_listeners()").fetchall() == []


@pytest.mark.parametrize(("name", "said"), [("Deaf", "interrupted"), ("AsyncDeaf", "cancelled"), ("AsyncClock", "stopped")])
def test_c37_listener_that_does_not_look_is_interrupted(
    project: Path, database_url: str, conn: Conn, name: str, said: str
) -> None:
    with listen_process(project, database_url, f"sources:{name}") as process:
        wait_for_row(conn, project, process)
        wait_until(lambda: "is listening" in log(project))
        if name == "AsyncClock":
            wait_until(lambda: tasks(conn))
        assert end(process) == 0
    assert said in log(project)


def test_c37_listener_that_does_not_end_is_ended_after_the_grace_period(project: Path, database_url: str, conn: Conn) -> None:
    with listen_process(project, database_url, "sources:Stubborn", "--grace", "0.2s") as process:
        wait_for_row(conn, project, process)
        wait_until(lambda: "is listening" in log(project))
        assert end(process) == 1
    assert "has not ended within 0.2 s" in log(project)


def test_c37_second_signal_ends_at_once(project: Path, database_url: str, conn: Conn) -> None:
    with listen_process(project, database_url, "sources:Stubborn") as process:
        wait_for_row(conn, project, process)
        wait_until(lambda: "is listening" in log(project))
        process.send_signal(signal.SIGTERM)
        wait_for_row(conn, project, process, "status = 'stopping'")
        assert end(process) == 130


@pytest.mark.parametrize("name", ["Flaky", "AsyncFlaky"])
def test_c38_listener_that_raises_is_started_again_and_shows_its_error(
    project: Path, database_url: str, conn: Conn, name: str
) -> None:
    with listen_process(project, database_url, f"sources:{name}") as process:
        wait_for_row(conn, project, process, "status = 'listening' and started_count = 3 and failures = 2")
        shown = invoke("list-listeners", database=database_url)
        (row,) = invoke("list-listeners", "--json", database=database_url).json()
        assert end(process) == 0
    assert name in shown.out
    assert "ValueError" in shown.out
    assert "hunter2" not in shown.out + log(project)
    assert "it is started again in 0.5 s" in log(project)
    assert "in start_listening\n    raise ValueError(" in log(project)
    assert (row["status"], row["started_count"], row["pid"]) == ("listening", 3, process.pid)


def test_listener_that_returns_ends_the_command(project: Path, database_url: str) -> None:
    assert "nothing more to do" in absurdctl("listen", "sources:Done", database=database_url, cwd=project).out
    absurdctl("listen", "sources:Leaving", database=database_url, cwd=project, code=7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:Clock"], 'there is no module "nowhere"'),
        (["sources:Missing"], "It has sources:Clock, sources:Deaf"),
        (["sources:function"], "no EventListener or AsyncEventListener but a function"),
        (["sources:Absurd"], "no EventListener or AsyncEventListener but the class Absurd"),
        (["sources"], "not of the form module:attribute"),
        (["sources.py:Clock"], 'Did you mean "sources:Clock"?'),
        (["sources:Empty"], "Subclasses must implement start_listening()"),
        (["sources:Unmakeable"], "could not be made: ValueError: no such port"),
        (["sources:Clock", "--option", "nonsense=1"], "Clock has no option nonsense; its options are: workflow"),
        (["absurd.listeners:FileListener", "--option", "path=/tmp"], "FileListener needs the option workflow_id"),
        (["absurd.listeners:NotifyListener", "--option", "nonsense=1"], "NotifyListener has no option nonsense"),
        (["sources:Clock", "--queue", "nowhere"], 'queue "nowhere" does not exist'),
        (["sources:Clock", "--app", "nowhere:app"], 'there is no module "nowhere"'),
    ],
)
def test_what_cannot_listen_is_explained(project: Path, database_url: str, arguments: list[str], message: str) -> None:
    assert message in refused("listen", *arguments, database=database_url, cwd=project)


def test_listen_needs_a_database(project: Path) -> None:
    away = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"
    assert "cannot be reached" in refused("listen", "sources:Clock", database=away, cwd=project)


def test_c38_silent_listener_is_dead_after_a_minute_and_forgotten_after_a_day(database_url: str, conn: Conn) -> None:
    conn.execute("select absurd.heartbeat_listener('l', 'mail', 'default', 'host', 1, 'listening', 1, 0, null)")

    def status_after(interval: str) -> list[Any]:
        conn.execute("select set_config('absurd.fake_now', (now() + %s::interval)::text, false)", [interval])
        conn.execute("select absurd.sweep()")
        return [row[0] for row in conn.execute("select status from absurd.list_listeners('mail')")]

    assert status_after("50 seconds") == ["listening"]
    assert status_after("70 seconds") == ["dead"]
    assert status_after("23 hours") == ["dead"]
    assert status_after("25 hours") == []


def test_last_error_is_dated_when_it_happens_and_cut_to_a_length(conn: Conn) -> None:
    def beat(failures: int, error: str | None) -> Any:
        conn.execute("select absurd.heartbeat_listener('l', 'mail', null, 'host', 1, 'listening', 1, %s, %s)", [failures, error])
        return conn.execute("select last_error_at, length(last_error) from absurd.list_listeners()").fetchone()

    assert beat(0, None) == (None, None)
    first = beat(1, "x" * 5000)
    assert first[1] == 2000
    assert beat(1, "x" * 5000) == first
    assert beat(2, "y")[0] > first[0]
