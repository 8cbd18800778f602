"""Triggers in several real processes, which are stopped and killed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import wait_until
from tests.support_tasks import count
from tests.support_trigger_app import NAMES, start

Conn = psycopg.Connection[Any]
Process = subprocess.Popen[str]


@pytest.fixture
def processes(database_url: str, tmp_path: Path, conn: Conn) -> Iterator[list[Process]]:
    """Three of them, all at work."""
    (tmp_path / "wanted").write_text("0")
    (tmp_path / "polls").touch()
    started = [start(database_url, tmp_path) for _ in range(3)]
    wait_until(lambda: count(conn, "select count(*) from absurd.workers") == 3, what="three workers")
    wait_until(lambda: len(set(polls(tmp_path))) >= len(NAMES) + 1, what="polls of all triggers")
    yield started
    for process in started:
        process.kill()
        process.wait()


def polls(directory: Path) -> list[tuple[int, str]]:
    found = [line.split() for line in (directory / "polls").read_text().splitlines()]
    return [(int(pid), name) for pid, name in found]


def pollers(directory: Path, since: int = 0) -> dict[str, set[int]]:
    """Which processes have polled each trigger."""
    found: dict[str, set[int]] = {}
    for pid, name in polls(directory)[since:]:
        found.setdefault(name, set()).add(pid)
    return found


def fired(conn: Conn) -> dict[str, list[int]]:
    rows = conn.execute("select params->>'trigger_name', (params->>'n')::int from absurd.tasks order by task_id").fetchall()
    return {name: [number for other, number in rows if other == name] for name in NAMES}


def test_l32_n_processes_poll_each_trigger_once_and_fire_once(conn: Conn, processes: list[Process], tmp_path: Path) -> None:
    (tmp_path / "wanted").write_text("5")
    wait_until(lambda: count(conn, "select count(*) from absurd.tasks") >= 15, what="15 fires")
    seen = len(polls(tmp_path))
    wait_until(lambda: len(polls(tmp_path)) > seen + 20, what="more polls")
    assert fired(conn) == {name: [1, 2, 3, 4, 5] for name in NAMES}
    assert {name: len(pids) for name, pids in pollers(tmp_path).items()} == dict.fromkeys([*NAMES, "hangs"], 1)


def test_l32_killed_process_is_replaced_within_seconds_and_nothing_fires_twice(
    conn: Conn, processes: list[Process], tmp_path: Path
) -> None:
    (tmp_path / "wanted").write_text("50")
    wait_until(lambda: count(conn, "select count(*) from absurd.tasks") > 6, what="some fires")
    holders = {pid for pids in pollers(tmp_path, -8).values() for pid in pids}
    for process in processes[:2] if len(holders) == 3 else [p for p in processes if p.pid in holders]:
        process.kill()
        process.wait()
    seen = len(polls(tmp_path))
    wait_until(lambda: set(pollers(tmp_path, seen)) >= set(NAMES), what="polls by another process")
    (tmp_path / "wanted").write_text("0")
    for numbers in fired(conn).values():
        assert numbers == list(range(1, len(numbers) + 1))


def test_l32_process_that_dies_in_a_poll_is_replaced_before_the_poll_s_time_is_over(
    conn: Conn, processes: list[Process], tmp_path: Path
) -> None:
    (tmp_path / "hang").touch()
    wait_until((tmp_path / "hanging").exists, what="a poll that hangs")
    wait_until((tmp_path / "hanging").read_text, what="its process")
    seen, (victim,) = len(polls(tmp_path)), [p for p in processes if p.pid == int((tmp_path / "hanging").read_text())]
    wait_until(lambda: set(pollers(tmp_path, seen)) >= set(NAMES), what="polls beside the one that hangs")
    victim.kill()
    wait_until(lambda: pollers(tmp_path, seen).get("hangs"), what="a poll by another process")
    assert victim.pid not in pollers(tmp_path, seen)["hangs"]


def test_l21_stopped_process_releases_its_triggers_at_once(conn: Conn, processes: list[Process], tmp_path: Path) -> None:
    def holders() -> dict[str, str]:
        return dict(conn.execute("select trigger_name, owner from absurd.triggers where owner is not null").fetchall())

    before = holders()
    (stopped,) = [p for p in processes if f":{p.pid}:" in before["one"]]
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(20) == 0
    wait_until(lambda: holders().get("one") not in (None, before["one"]), what="a new holder")
