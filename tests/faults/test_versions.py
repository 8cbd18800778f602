"""Two releases and one database: workers and clients of the former release beside those of this one, also during an upgrade."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import schema
from tests.faults.report import record
from tests.faults.support_version_app import STEPS
from tests.support import wait_until
from tests.support_tasks import count

ROOT = Path(__file__).parents[2]
BASELINES = ROOT / "tests" / "baselines"
PROGRAM = Path(__file__).with_name("support_version_app.py")
TABLE = "create table effects (name text, n integer, worker text)"
TIMEOUT = 120.0  # seconds; only reached by a test that fails


@pytest.fixture(scope="session")
def former_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the library as it was released last, unpacked as pip does."""
    (wheel,) = BASELINES.glob("absurd-*.whl")
    directory = tmp_path_factory.mktemp("former")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def _start(release: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(release)}
    # Neither the working directory nor that of the program holds a package called absurd.
    return subprocess.Popen([sys.executable, str(PROGRAM), *arguments], env=environment, cwd=release, text=True, **options)


@contextmanager
def _workers(url: str, log: Path, releases: dict[str, Path]) -> Iterator[None]:
    """Workers of these releases, by name, that are there before and after the block."""
    with log.open("a") as file, ExitStack() as stack:
        processes = []
        for name, release in releases.items():
            processes.append(_start(release, "worker", url, name, stderr=file, stdout=file))
            stack.callback(processes[-1].wait, TIMEOUT)
            stack.callback(processes[-1].terminate)
        with psycopg.connect(url, autocommit=True) as conn:
            registered = "select count(*) from absurd.workers where pid = any (%s)"
            pids = [process.pid for process in processes]
            wait_until(lambda: _ended(processes) or count(conn, registered, pids) == len(pids), TIMEOUT, "workers")
        assert not _ended(processes), log.read_text()
        yield
        assert not _ended(processes), log.read_text()


def _ended(processes: list[subprocess.Popen[str]]) -> bool:
    return any(process.poll() is not None for process in processes)


def _client(release: Path, url: str, name: str, numbers: range) -> subprocess.Popen[str]:
    return _start(release, "client", url, name, str(numbers.start), str(numbers.stop), stdout=subprocess.PIPE)


def _results(client: subprocess.Popen[str], release: Path) -> list[int]:
    out, _ = client.communicate(timeout=TIMEOUT)
    assert client.returncode == 0
    said = json.loads(out)
    assert said["version"].startswith(str(release)), "the program ran with another release than meant"
    return list(said["results"])


def _check(conn: psycopg.Connection[Any], tasks: int) -> int:
    """Everything was done once; how many tasks were carried on by another release than the one that began them."""
    found = conn.execute("select name, n, count(*) from effects group by 1, 2 order by 1, 2").fetchall()
    names = ["child", *(f"step {number}" for number in range(STEPS)), "transaction"]
    assert found == [(name, n, 1) for name in names for n in range(tasks)]
    assert count(conn, "select count(*) from absurd.tasks where outcome = 'completed'") == 2 * tasks
    assert count(conn, "select count(*) from absurd.events") == 2 * tasks
    assert count(conn, "select count(*) from absurd.runs") == 0
    assert count(conn, "select count(*) from absurd.attempts") == 0
    mixed = "select count(*) from (select n from effects group by n having count(distinct left(worker, 3)) > 1) m"
    return count(conn, mixed)


@pytest.mark.full
def test_workers_of_two_releases_share_a_queue_and_carry_on_each_others_tasks(
    database_url: str, conn: psycopg.Connection[Any], former_release: Path, tmp_path: Path
) -> None:
    tasks = 60
    conn.execute(TABLE)
    log = tmp_path / "worker.log"
    with _workers(database_url, log, {"old": former_release, "new": ROOT}):
        half = tasks // 2
        clients = [
            (_client(former_release, database_url, "old", range(half)), former_release),
            (_client(ROOT, database_url, "new", range(half, tasks)), ROOT),
        ]
        found = [_results(client, release) for client, release in clients]
    assert found == [list(range(half)), list(range(half, tasks))]
    mixed = _check(conn, tasks)
    assert mixed > 0, "no task was carried on by the other release"
    record(
        "releases mixed: workers and clients of two",
        ["one end", "steps once", "transactions once", "events once", "fence"],
        injected=mixed,
        tasks=2 * tasks,
    )


@pytest.mark.parametrize(
    ("tasks", "upgrades"), [pytest.param(12, 1, marks=pytest.mark.short), pytest.param(60, 3, marks=pytest.mark.full)]
)
def test_the_schema_is_upgraded_while_workers_of_the_former_release_run(
    empty_database_url: str,
    empty_conn: psycopg.Connection[Any],
    former_release: Path,
    tmp_path: Path,
    tasks: int,
    upgrades: int,
) -> None:
    conn, url, log = empty_conn, empty_database_url, tmp_path / "worker.log"
    conn.execute((BASELINES / "1.sql").read_bytes())
    conn.execute(TABLE)
    with ExitStack() as stack:
        stack.enter_context(_workers(url, log, {"old 0": former_release, "old 1": former_release}))
        client = _client(former_release, url, "old", range(tasks))
        done = "select count(*) from effects where name = 'step 1'"
        wait_until(lambda: count(conn, done) >= 3, TIMEOUT, "tasks under way")
        # The schema may be upgraded any number of times; each re-applies all functions, beside running calls.
        for _ in range(upgrades):
            schema.migrate(conn)
        stack.enter_context(_workers(url, log, {"new": ROOT}))
        assert _results(client, former_release) == list(range(tasks))
    _check(conn, tasks)
    assert "Traceback" not in log.read_text(), log.read_text()
    record(
        "releases mixed: schema upgraded under load",
        ["one end", "steps once", "transactions once", "events once"],
        injected=upgrades,
        tasks=2 * tasks,
    )
