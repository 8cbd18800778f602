"""A drain while somebody holds a snapshot open, so that nothing that dies can be cleaned up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from bench.cell import Cell, Variant
from bench.processes import Child
from bench.workload import Figures, Scale, Workload, drain_once, warm_up_by_drain

# So many times the tasks of the other drains: what does not go away has to pile up.
TIMES = 3
# Of the long form: how long each rate is measured, and how many tasks are ready at most. As long as autovacuum_naptime: each
# minute autovacuum goes through all that it may not clean up while the snapshot is open, and a shorter time shows that or the
# rest.
WINDOW_SECONDS = 60.0
READY = 40_000


@dataclass(frozen=True)
class Snapshot(Workload):
    """Compared with the same drain without a snapshot, measured before in the same cell."""

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        count = warm_up_by_drain(cell, scale) * TIMES
        free = drain_once(cell, count, first=1_000_000)
        with _snapshot(cell):
            held = drain_once(cell, count, first=2_000_000)
        return {**held, "free_rate": free["rate"], "ratio": held["rate"] / free["rate"]}


@dataclass(frozen=True)
class LongSnapshot(Workload):
    """Under load for as long as the scale says: tasks are spawned and run at once; its last seconds and those before it.

    Of this library only: what the others do is seen in the short form, and ten minutes of each would take an hour.
    """

    def applies(self, variant: Variant) -> bool:
        """See ``Workload``."""
        return super().applies(variant) and variant.system == "absurd"

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        if not scale.snapshot_seconds:
            raise LookupError("it is measured with --snapshot SECONDS only")
        cell.load_workers()
        cell.go()
        load = _Load(cell, cell.producer())
        load.go_on(WINDOW_SECONDS / 2)
        free = load.go_on(WINDOW_SECONDS)
        with _snapshot(cell):
            load.go_on(scale.snapshot_seconds - WINDOW_SECONDS)
            held = load.go_on(WINDOW_SECONDS)
        figures = {"tasks": float(cell.finished()), "held_seconds": scale.snapshot_seconds}
        return {"rate": held, "free_rate": free, "ratio": held / free, **figures}


class _Load:
    """Spawns in bulk as fast as the workers finish: never more than a few seconds of work are ready."""

    def __init__(self, cell: Cell, producer: Child) -> None:
        self._cell = cell
        self._producer = producer
        self.spawned = 0

    def go_on(self, seconds: float) -> float:
        """Goes on for so long; the rate at which handlers began."""
        began, first = time.monotonic(), self._begun()
        while time.monotonic() < began + seconds:
            if self.spawned - self._begun() > READY:
                time.sleep(0.02)
                continue
            self._producer.ask("spawn_many", task="noop", first=self.spawned, count=READY // 4, fixed={}, size=0)
            self.spawned += READY // 4
        return (self._begun() - first) / (time.monotonic() - began)

    def _begun(self) -> int:
        return sum(int(worker.ask("count_marks", what="start")) for worker in self._cell.workers)


@contextmanager
def _snapshot(cell: Cell) -> Iterator[None]:
    """Held open for the length of the block."""
    with psycopg.connect(cell.url, application_name="bench") as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from pg_class")
        yield


WORKLOADS = [
    Snapshot("snapshot", "no-op drain while a snapshot is held open", max_rounds=3),
    LongSnapshot("snapshot_long", "no-op tasks spawned and run, after a snapshot has been held open for long", max_rounds=1),
]
