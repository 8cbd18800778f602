"""A drain while somebody holds a snapshot open, so that nothing that dies can be cleaned up."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from bench.cell import Cell
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
        with psycopg.connect(cell.url, application_name="bench") as holder:
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select count(*) from pg_class")
            held = drain_once(cell, count, first=2_000_000)
        return {**held, "free_rate": free["rate"], "ratio": held["rate"] / free["rate"]}


WORKLOADS = [Snapshot("snapshot", "no-op drain while a snapshot is held open", max_rounds=3)]
