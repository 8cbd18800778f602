"""One event for which 1,000 tasks wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.cell import Cell
from bench.workload import Figures, Scale, Workload, percentiles, start_and_warm_up
from bench.workloads.emit_latency import SETTLE

WAITERS = 1000


@dataclass(frozen=True)
class Broadcast(Workload):
    """Seconds from the commit of the emit until the last of them runs again."""

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        producer = cell.producer()
        start_and_warm_up(cell, producer)
        producer.ask("spawn_many", task="wait_all", first=0, count=WAITERS, fixed={}, size=0)
        cell.wait_marks("waits", WAITERS)
        time.sleep(SETTLE)
        emitted = producer.ask("broadcast", count=WAITERS)
        cell.wait_finished(20 + WAITERS)
        waited = [moment - emitted for moment in cell.marks("resumed").values()]
        return {"seconds": max(waited), "resumed": len(waited), **percentiles(waited)}


WORKLOADS = [Broadcast("broadcast", "one event, 1,000 waiting tasks: all run again", "wait_all", ("seconds", "s"))]
