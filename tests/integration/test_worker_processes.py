"""Workers in processes of their own: asked to stop, and killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import wait_until
from tests.support_tasks import KINDS, Clock, Play, count
from tests.support_worker_app import make_play, start

Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def client(database_url: str, conn: psycopg.Connection[Any], kind: str) -> Iterator[Play]:
    conn.execute("create table effects (name text)")
    play = make_play(database_url, kind)
    yield play
    play.close()


@pytest.fixture
def start_process(database_url: str, kind: str) -> Iterator[Start]:
    """Starts worker processes, which are gone at the end of the test."""
    processes: list[subprocess.Popen[str]] = []

    def make(**settings: Any) -> subprocess.Popen[str]:
        processes.append(start(database_url, kind, **settings))
        return processes[-1]

    yield make
    for process in processes:
        process.kill()
        process.communicate(timeout=20)


def _effects(conn: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in conn.execute("select name from effects where name <> 'end'").fetchall()]


def test_sigterm_lets_running_tasks_end_and_takes_no_new_ones(
    client: Play, conn: psycopg.Connection[Any], start_process: Start
) -> None:
    process = start_process(grace_seconds=20)
    handle = client.spawn("until told")
    wait_until(lambda: "began" in _effects(conn))
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert any("SIGTERM" in line for line in process.stderr), "the worker ended without a word about the signal"
    later = client.spawn("quick", 1)
    conn.execute("insert into effects values ('end')")
    assert process.wait(20) == 0
    assert handle.state() == "completed"
    assert later.state() == "pending"
    assert _effects(conn) == ["first", "began", "last"]
    assert count(conn, "select count(*) from absurd.workers") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the switches of a process")
def test_a_worker_at_rest_wakes_up_a_few_times_a_second(client: Play, start_process: Start) -> None:
    process = start_process()
    assert client.spawn("quick", 1).result(20) == 1
    time.sleep(1.0)  # until it is at rest

    def switches() -> int:
        threads = Path(f"/proc/{process.pid}/task").glob("*/status")
        return sum(int(value) for thread in threads for value in re.findall(r"^voluntary.*?(\d+)", thread.read_text(), re.M))

    before, began = switches(), time.monotonic()
    time.sleep(4.0)
    assert (switches() - before) / (time.monotonic() - began) < 15


def test_sigterm_hands_back_what_does_not_end_in_time_without_charging_an_attempt(
    client: Play, conn: psycopg.Connection[Any], start_process: Start
) -> None:
    process = start_process(grace_seconds=0.2)
    handle = client.spawn("hangs once")
    wait_until(lambda: "hangs" in _effects(conn))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert handle.state() == "pending"
    assert count(conn, "select count(*) from absurd.attempts") == 0
    start_process()
    assert handle.result(20) == "attempt 1"
    assert _effects(conn) == ["first", "hangs", "last"]


def test_a_second_signal_ends_the_process_at_once(client: Play, conn: psycopg.Connection[Any], start_process: Start) -> None:
    process = start_process(grace_seconds=600)
    client.spawn("hangs once")
    wait_until(lambda: "hangs" in _effects(conn))
    process.send_signal(signal.SIGINT)
    wait_until(lambda: process.poll() is not None or process.send_signal(signal.SIGINT))
    assert process.wait(20) == 130


def test_the_task_of_a_killed_worker_runs_again_within_seconds(
    client: Play, conn: psycopg.Connection[Any], start_process: Start
) -> None:
    """Its lease would last for half a minute more: what tells is its session, which is gone."""
    process = start_process(lease_seconds=30)
    handle = client.spawn("hangs once")
    wait_until(lambda: "hangs" in _effects(conn))
    with client.worker(lease_seconds=30):
        process.kill()
        clock = Clock()
        assert handle.result(20) == "attempt 2"
        assert clock.seconds < 8
    assert _effects(conn) == ["first", "hangs", "last"]
    assert conn.execute("select cause, failure ->> 'name' from absurd.attempts").fetchall() == [("worker", "$WorkerLost")]


def test_a_stopped_process_that_wakes_up_again_changes_nothing(
    client: Play, conn: psycopg.Connection[Any], start_process: Start
) -> None:
    """SIGSTOP: the session stays, the lease runs out, another worker ends the task, and then the first one goes on."""
    process = start_process(lease_seconds=0.6)
    handle = client.spawn("until told")
    # What comes right after a step need not wait until the step is durable; this test does.
    wait_until(lambda: "began" in _effects(conn) and count(conn, "select count(*) from absurd.checkpoints"))
    process.send_signal(signal.SIGSTOP)
    with client.worker(lease_seconds=0.6):
        wait_until(lambda: _effects(conn).count("began") == 2)
        conn.execute("insert into effects values ('end')")
        assert handle.result(20) == "ended"
        ended = handle.snapshot()
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert handle.snapshot() == ended
    assert count(conn, "select count(*) from absurd.checkpoints where step_name = 'first'") == 1
    assert [cause for (cause,) in conn.execute("select cause from absurd.attempts").fetchall()] == ["lease"]
    assert _effects(conn).count("first") == 1
