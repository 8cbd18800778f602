"""Listeners for tests: on a thread of the test, or as a process of ``absurdctl listen``."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from absurd import EventListener
from tests.cli import PROGRAM, environment
from tests.support import wait_until

TIMEOUT = 30.0  # seconds


@contextmanager
def listening(listener: EventListener) -> Iterator[EventListener]:
    """A listener on a thread for the length of the block; an error of its own fails the test."""
    problems: list[BaseException] = []

    def work() -> None:
        try:
            listener.start_listening()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.stop()
        thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert not problems


@contextmanager
def listen_process(
    directory: Path, database: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process of ``absurdctl listen``, registered; its log goes to ``listener.log``."""
    with (directory / "listener.log").open("a") as log:
        command = [*PROGRAM, "listen", *arguments]
        process = subprocess.Popen(command, cwd=directory, env=environment(database, env), stderr=log, stdout=log, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(TIMEOUT)


def wait_for_row(conn: psycopg.Connection[Any], directory: Path, process: subprocess.Popen[str], condition: str = "true") -> Any:
    """Waits for the row of a listener process."""

    def there() -> Any:
        assert process.poll() is None, (directory / "listener.log").read_text()
        query = f"select * from absurd.list_listeners() where pid = %s and {condition}"
        return conn.execute(query.encode(), [process.pid]).fetchone()

    return wait_until(there, TIMEOUT, f"the row of the listener, where {condition}")


def tasks(conn: psycopg.Connection[Any], name: str | None = None) -> list[tuple[Any, Any]]:
    """Params and the source's header of the tasks there are, in the order of their spawn."""
    rows = conn.execute("select task_name, params, headers -> 'absurd-source' from absurd.tasks order by task_id").fetchall()
    return [(params, source) for task_name, params, source in rows if name in (None, task_name)]
