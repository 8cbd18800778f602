"""A drain while somebody holds a snapshot open, so that nothing that dies can be cleaned up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from bench.cell import Cell, Variant
from bench.workload import Figures, Scale, Workload, drain_once, warm_up_by_drain

# So many times the tasks of the other drains: what does not go away has to pile up.
TIMES = 3


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
    """The same under load for as long as the scale says: the last three drains are compared with the one before.

    Of this library only: what the others do is seen in the short form, and ten minutes of each would take an hour.
    """

    def applies(self, variant: Variant) -> bool:
        """See ``Workload``."""
        return super().applies(variant) and variant.system == "absurd"

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        if not scale.snapshot_seconds:
            raise LookupError("it is measured with --snapshot SECONDS only")
        count = warm_up_by_drain(cell, scale) * TIMES
        free = drain_once(cell, count, first=1_000_000)
        with _snapshot(cell):
            began, drains = time.monotonic(), []
            while time.monotonic() < began + scale.snapshot_seconds:
                drains.append(drain_once(cell, count, first=(len(drains) + 2) * 1_000_000))
            held = time.monotonic() - began
        rate = statistics.median(drain["rate"] for drain in drains[-3:])
        figures = {"free_rate": free["rate"], "ratio": rate / free["rate"], "held_seconds": held, "drains": float(len(drains))}
        return {**drains[-1], **figures, "rate": rate}


@contextmanager
def _snapshot(cell: Cell) -> Iterator[None]:
    """Held open for the length of the block."""
    with psycopg.connect(cell.url, application_name="bench") as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from pg_class")
        yield


WORKLOADS = [
    Snapshot("snapshot", "no-op drain while a snapshot is held open", max_rounds=3),
    LongSnapshot("snapshot_long", "no-op drain after a snapshot has been held open for long", max_rounds=1),
]
