"""One measurement of one configuration: a fresh database, its processes, its counters."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.adapter import Adapter
from bench.counters import Processors, Work, read_processors, read_work
from bench.processes import Child, Mark
from bench.server import Databases
from bench.systems import load

WORKERS = 2
LOOK_SECONDS = 0.01  # between counts of finished tasks, at least; a count may not take more than a tenth of the time


@dataclass(frozen=True)
class Variant:
    """A system in one of its configurations."""

    system: str
    configuration: str

    @property
    def adapter(self) -> type[Adapter]:
        """Its adapter."""
        return load(self.system)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings."""
        return self.adapter.configurations[self.configuration][0]

    @property
    def name(self) -> str:
        """How it is called in results."""
        return f"{self.system}/{self.configuration}"


class Cell:
    """Everything that a workload uses to measure."""

    def __init__(self, variant: Variant, databases: Databases, url: str, log: Path, limit: float) -> None:
        self.variant = variant
        self.adapter = variant.adapter
        self.databases = databases
        self.url = url
        self.limit = limit
        self.conn = psycopg.connect(url, autocommit=True)
        self.conn.execute("select set_config('application_name', 'bench', false)")
        # A count must not take both cores.
        self.conn.execute("set max_parallel_workers_per_gather = 0")
        self.workers: list[Child] = []
        # Counts of finished tasks: statements of the benchmark itself, which are taken off again.
        self.looks = 0
        self._children: list[Child] = []
        self._log = log

    # -- processes ----------------------------------------------------------------------------------------------------------

    def producer(self, **settings: Any) -> Child:
        """Starts a process that spawns and emits."""
        child = Child(self.variant.system, "producer", {**self.variant.settings, **settings}, self.url, self._log)
        self._children.append(child)
        child.ask("open")
        return child

    def load_workers(self, **settings: Any) -> None:
        """Starts the worker processes up to the point where they would connect."""
        self.workers = [
            Child(self.variant.system, "worker", {**self.variant.settings, **settings}, self.url, self._log)
            for _ in range(WORKERS)
        ]
        self._children += self.workers

    def go(self) -> None:
        """Lets the workers work."""
        for worker in self.workers:
            worker.go()

    def end(self, child: Child) -> None:
        """Ends a process before the others."""
        child.kill()
        self._children.remove(child)

    def close(self) -> None:
        """Ends all processes."""
        for child in self._children:
            child.kill()
        self.conn.close()

    # -- waiting ------------------------------------------------------------------------------------------------------------

    def finished(self) -> int:
        """The number of finished tasks, counted in SQL."""
        self.looks += 1
        row = self.conn.execute(self.adapter.finished.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def wait_both(self, already: int, count: int) -> tuple[int, float, Processors]:
        """Waits until all workers are at work; how many tasks are finished then, that moment, and the processor time until then.

        When one takes most of the tasks before the other begins, all three are those of the first handler.
        """
        deadline = time.monotonic() + self.limit
        processors = self.processors()
        while time.monotonic() < deadline:
            for worker in self.workers:
                worker.look()
            firsts = [worker.first for worker in self.workers if worker.first is not None]
            now = time.monotonic()
            if firsts and (finished := self.finished()) * 4 > already * 4 + count:
                return already, min(firsts), processors
            if len(firsts) == len(self.workers):
                return finished, now, self.processors()
            if not firsts:
                # What the start of a process takes is no task's.
                processors = self.processors()
            time.sleep(0.003)
        raise TimeoutError(f"no handler began within {self.limit:.0f} s")

    def wait_begun(self, count: int) -> None:
        """Waits until so many handlers have begun, or none has for a second: before that, counting what is finished only costs.

        Beside a million rows a count takes a fifth of a second of one core.
        """
        deadline, begun = time.monotonic() + self.limit, -1
        changed = time.monotonic()
        while begun < count and time.monotonic() < min(deadline, changed + 1.0):
            time.sleep(LOOK_SECONDS)
            now = sum(int(worker.ask("count_marks", what="start")) for worker in self.workers)
            if now > begun:
                begun, changed = now, time.monotonic()

    def wait_finished(self, count: int) -> tuple[int, float]:
        """Waits until so many tasks are finished, or the limit; how many are, and when that was."""
        deadline = time.monotonic() + self.limit
        start: tuple[int, float] | None = None
        while True:
            # A count is of what was there when it began: beside a million rows it takes long.
            began = time.monotonic()
            finished = self.finished()
            if finished >= count or began > deadline:
                return finished, began
            for worker in self.workers:
                worker.look()
            start = start or (finished, began)
            time.sleep(_pause(time.monotonic() - began, start, (finished, began), count))

    def wait_marks(self, what: str, count: int) -> None:
        """Waits until handlers have got somewhere that often."""
        deadline = time.monotonic() + self.limit
        while sum(int(worker.ask("count_marks", what=what)) for worker in self.workers) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} × {what} not reached within {self.limit:.0f} s")
            time.sleep(0.05)

    def marks(self, what: str) -> dict[int, float]:
        """When the handlers got somewhere, by the number of the task; the first time counts."""
        found: dict[int, float] = {}
        taken: list[Mark] = [mark for worker in self.workers for mark in worker.ask("marks")]
        for name, index, moment in taken:
            if name == what:
                found[index] = min(moment, found.get(index, moment))
        return found

    # -- counters -----------------------------------------------------------------------------------------------------------

    def processors(self) -> Processors:
        """Processor time of the server and the workers."""
        return read_processors(self.databases.postmaster, [worker.pid for worker in self.workers])

    def work(self) -> Work:
        """The server's counters, after everybody but the benchmark has left."""
        database = self.conn.info.dbname
        self.looks += 1
        self.conn.execute("select pg_stat_force_next_flush()")
        self.databases.admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s and application_name <> 'bench'"
            " and backend_type = 'client backend'",
            (database,),
        )
        return read_work(self.databases.admin, database)


def _pause(look: float, start: tuple[int, float], now: tuple[int, float], count: int) -> float:
    """Seconds until the next look, which took so long: few looks in between, and one soon after the end.

    A fixed share of the time alone would be seconds late where looks are slow, and a drain may be over in one.
    """
    seldom = max(LOOK_SECONDS, 10 * look)
    if now[0] == start[0]:
        return min(seldom, max(LOOK_SECONDS, look))
    left = (count - now[0]) * (now[1] - start[1]) / (now[0] - start[0]) - look
    return min(seldom, max(LOOK_SECONDS, left))


@contextmanager
def open_cell(variant: Variant, databases: Databases, log: Path, limit: float) -> Iterator[Cell]:
    """A cell on a fresh database."""
    template = f"template_{variant.system}_{variant.configuration}".replace("-", "_")
    if not databases.has_template(template):
        url = databases.create_template(template)
        installer = Child(variant.system, "producer", variant.settings, url, log)
        try:
            installer.ask("install")
        finally:
            installer.kill()
    with databases.fresh(template) as url:
        cell = Cell(variant, databases, url, log, limit)
        try:
            yield cell
        finally:
            cell.close()
