"""Many workers, a large queue and a steady load, for long: does anything grow, and does any wake-up get lost?

    python -m tests.faults.load --minutes 30 [--workers 20] [--connections 800] [--parked 100000] [--backlog 1000000]

A backlog that nobody serves lies in the same tables. Tasks that wait, each for an event of its own, are resumed evenly over the
whole time, while other tasks come at half of the rate that the same workers reached just before. Finished tasks are cleaned up
as they come. The connections beyond those of the workers listen like idle workers' do; two hundred workers have eight hundred.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from absurd import Absurd, schema
from absurd.db import run
from absurd.devdb import Server
from absurd.queries import workers as queries
from tests.faults.load_worker import PARKED, WORK, make_app

ROOT = Path(__file__).parents[2]
SETTINGS = {"max_connections": "1500", "shared_buffers": "512MB", "max_wal_size": "4GB"}
BACKLOG = "backlog"
WORKERS_PER_PROCESS = 10
BATCH = 1000  # tasks of one spawn_many
PEAK_SECONDS = 20.0
LEAD = 20_000  # tasks that may wait while the peak is measured: the workers always have some
EMITTERS = 8  # on a busy machine an emit that all those connections are told of takes some 50 ms: one alone would fall behind
SAMPLE_SECONDS = 10.0
CLEANUP_LIMIT = 5_000  # finished tasks deleted at once
TABLES = ("tasks", "runs", "checkpoints", "events", "waits", "attempts")
POLL_INTERVAL = 1.0  # the workers' own
GROWTH_SECONDS = 600.0  # a shorter load says nothing about growth: vacuum has hardly begun


@dataclass
class Sample:
    """What was seen at one moment."""

    seconds: float
    done: int
    ready: int
    worker_mb: float
    tables_mb: dict[str, float]


@dataclass
class Report:
    """What came of it."""

    workers: int
    connections: int
    peak: float = 0.0
    rate: float = 0.0
    spawned: int = 0
    samples: list[Sample] = field(default_factory=list)
    latencies_ms: dict[str, float] = field(default_factory=dict)
    resumed: int = 0
    problems: list[str] = field(default_factory=list)


class Load:
    """One such load on one server."""

    def __init__(self, url: str, workers: int, connections: int, parked: int, backlog: int) -> None:
        self.url, self.parked, self.backlog = url, parked, backlog
        self.app: Absurd = make_app(url)
        self.report = Report(workers, connections)
        self._conn = psycopg.connect(url, autocommit=True)
        self._stop = threading.Event()
        self._processes: list[subprocess.Popen[str]] = []
        self._done = 0

    def fill(self) -> None:
        """The backlog, and the tasks that will wait."""
        for queue in (WORK, PARKED, BACKLOG):
            self.app.create_queue(queue)
        self.app.spawn_many("nobody serves it", [{"n": n} for n in range(self.backlog)], queue=BACKLOG)
        self.app.spawn_many(PARKED, range(self.parked), queue=PARKED)

    @contextlib.contextmanager
    def workers(self) -> Iterator[None]:
        """The workers, in several processes."""
        left = self.report.workers
        while left > 0:
            count = min(left, WORKERS_PER_PROCESS)
            command = [sys.executable, "-m", "tests.faults.load_worker", self.url, str(count)]
            pipe = subprocess.PIPE
            self._processes.append(subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe))
            left -= count
        try:
            for process in self._processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n", "a process of workers did not start"
            with self._more_connections():
                yield
        finally:
            self._stop.set()
            for process in self._processes:
                process.communicate(timeout=120)

    @contextlib.contextmanager
    def _more_connections(self) -> Iterator[None]:
        """As many as are wanted in all, each of which is told of work."""
        channels = [run(self._conn, queries.queue_channel(name)) for name in (WORK, PARKED)]
        with contextlib.ExitStack() as opened:
            while (
                self._value("select count(*) from pg_stat_activity where datname = current_database()") < self.report.connections
            ):
                conn = opened.enter_context(psycopg.connect(self.url, autocommit=True))
                for channel in channels:
                    run(conn, queries.listen(channel))
            yield

    def park(self) -> None:
        """Waits until all that shall wait do so."""
        while self._value("select count(*) from absurd.waits where kind = 'event'") < self.parked:
            time.sleep(0.5)

    def measure_peak(self, seconds: float) -> None:
        """Tasks finished per second when there are always some."""
        cleaner = threading.Thread(target=self._clean)
        cleaner.start()
        began, before, spawned = time.monotonic(), self._done, 0
        while time.monotonic() - began < seconds:
            if self._ready() < LEAD:
                self.app.spawn_many(WORK, range(BATCH))
                spawned += BATCH
        # By what was spawned and is done: clean-up runs behind.
        done = spawned - self._ready()
        self.report.peak = done / (time.monotonic() - began)
        while self._ready():
            time.sleep(0.1)
        self._done = before + spawned

    def hold(self, minutes: float) -> None:
        """Half of the peak, with an emit at even distances, until the time is over."""
        self.report.rate = self.report.peak / 2
        threads = [threading.Thread(target=self._spawn_evenly, args=(minutes * 60,))]
        threads += [threading.Thread(target=self._emit_evenly, args=(minutes * 60, first)) for first in range(EMITTERS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._sample(time.monotonic() - began)
            time.sleep(min(SAMPLE_SECONDS, minutes * 6))
        for thread in threads:
            thread.join()

    def judge(self) -> Report:
        """Waits for the rest and says what was wrong."""
        deadline = time.monotonic() + 60
        while (left := self._ready() + self._value("select count(*) from absurd.waits where kind = 'event'")) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
        report = self.report
        if left:
            report.problems.append(f"{left} tasks were left")
        found = self._conn.execute(
            "select (result #>> '{}')::float8 * 1000 from absurd.tasks where queue_name = %s and outcome = 'completed' "
            "order by 1",
            [PARKED],
        ).fetchall()
        latencies = [row[0] for row in found]
        report.resumed = len(latencies)
        if report.resumed != self.parked:
            report.problems.append(f"{self.parked} tasks waited, {report.resumed} were resumed")
        for share in (0.5, 0.99, 0.999, 1.0):
            report.latencies_ms[f"p{share * 100:g}"] = latencies[min(int(len(latencies) * share), len(latencies) - 1)]
        if report.latencies_ms["p99.9"] >= POLL_INTERVAL * 1000:
            report.problems.append(f"p99.9 of emit → resume is {report.latencies_ms['p99.9']:.0f} ms, the poll interval 1000 ms")
        self._judge_growth()
        return report

    def _judge_growth(self) -> None:
        """From the end of the first third to the end: what was bounded by then may not have grown by more than a quarter."""
        samples = self.report.samples
        if samples[-1].seconds < GROWTH_SECONDS:
            return
        early, late = samples[len(samples) // 3], samples[-1]
        if late.worker_mb > early.worker_mb * 1.25:
            self.report.problems.append(f"the workers' memory grew from {early.worker_mb:.0f} to {late.worker_mb:.0f} MB")
        # Events are kept until they are cleaned up, by age; here they only grow, by the events of this load.
        for name in ("runs", "tasks", "checkpoints", "waits"):
            if late.tables_mb[name] > early.tables_mb[name] * 1.25 + 8:
                self.report.problems.append(f"{name} grew from {early.tables_mb[name]:.0f} to {late.tables_mb[name]:.0f} MB")

    # -- what goes on side by side ------------------------------------------------------------------------------------------

    def _spawn_evenly(self, seconds: float) -> None:
        app, began, spawned = Absurd(self.url, WORK), time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * self.report.rate) - spawned
            if due > 0:
                app.spawn_many(WORK, range(due))
                spawned += due
            self._stop.wait(0.02)
        self.report.spawned = spawned
        app.close()

    def _emit_evenly(self, seconds: float, first: int) -> None:
        app, began = Absurd(self.url, PARKED), time.monotonic()
        for number in range(first, self.parked, EMITTERS):
            self._stop.wait(max(began + seconds * number / self.parked - time.monotonic(), 0))
            app.emit_event(f"wake {number}", time.time())
        app.close()

    def _clean(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as conn:
            while not self._stop.wait(0.2):
                while True:
                    row = conn.execute("select absurd.cleanup_tasks(%s, 0, %s)", [WORK, CLEANUP_LIMIT]).fetchone()
                    assert row is not None
                    self._done += row[0]
                    if row[0] < CLEANUP_LIMIT:
                        break

    def _sample(self, seconds: float) -> None:
        sizes = {name: self._value(f"select pg_total_relation_size('absurd.{name}')") / 1e6 for name in TABLES}
        memory = sum(_resident_mb(process.pid) for process in self._processes)
        sample = Sample(seconds, self._done, self._ready(), memory, sizes)
        self.report.samples.append(sample)
        shown = ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
        print(
            f"{seconds:6.0f} s  done {sample.done:>9,}  ready {sample.ready:>6,}  workers {memory:.0f} MB  {shown} MB", flush=True
        )

    def _ready(self) -> int:
        return self._value("select count(*) from absurd.runs where queue_name = %s", WORK)

    def _value(self, statement: str, *arguments: Any) -> Any:
        row = self._conn.execute(statement.encode(), arguments or None).fetchone()
        assert row is not None
        return row[0]


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def hold_load(
    url: str, *, minutes: float, workers: int, connections: int, parked: int, backlog: int, peak_seconds: float = PEAK_SECONDS
) -> Report:
    """Goes through all of it on the server of ``url``."""
    with psycopg.connect(url, autocommit=True) as conn:
        schema.install(conn)
    load = Load(url, workers, connections, parked, backlog)
    load.fill()
    with load.workers():
        load.park()
        load.measure_peak(peak_seconds)
        print(f"{workers} workers, {load.report.connections} connections, peak {load.report.peak:,.0f} tasks/s", flush=True)
        load.hold(minutes)
        return load.judge()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--connections", type=int, default=800, help="in all; those beyond the workers' listen only")
    parser.add_argument("--parked", type=int, default=100_000, help="tasks that wait for an event")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="tasks of a queue that nobody serves")
    parser.add_argument("--report", type=Path, help="write everything to this file, as JSON")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="absurd-load-", dir="/tmp"))
    directory.chmod(0o755)
    server = Server(directory, settings=SETTINGS)
    server.start()
    try:
        report = hold_load(
            server.url(),
            minutes=options.minutes,
            workers=options.workers,
            connections=options.connections,
            parked=options.parked,
            backlog=options.backlog,
        )
    finally:
        server.stop("immediate")
        subprocess.run(["rm", "-rf", str(directory)], check=False)
    if options.report:
        options.report.write_text(json.dumps(asdict(report), indent=1))
    print(json.dumps({key: value for key, value in asdict(report).items() if key != "samples"}, indent=1))
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
