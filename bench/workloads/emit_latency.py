"""From the commit of an emit to the moment at which the suspended task runs again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.cell import Cell
from bench.workload import Figures, Scale, Workload, percentiles, start_and_warm_up

PAUSE = 0.0413  # seconds between emits
SETTLE = 1.0  # seconds that the suspensions get to be recorded


@dataclass(frozen=True)
class EmitLatency(Workload):
    """Each task waits for an event of its own; the events come one by one."""

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        producer = cell.producer()
        start_and_warm_up(cell, producer)
        count = max(30, int(2.5 * scale.seconds / PAUSE))
        producer.ask("spawn_many", task="wait", first=0, count=count, fixed={}, size=0)
        cell.wait_marks("waits", count)
        time.sleep(SETTLE)
        moments = producer.ask("emit_each", keys=list(range(count)), pause=PAUSE)
        cell.wait_finished(20 + count)
        resumed = cell.marks("resumed")
        return percentiles([resumed[index] - moment for index, moment in enumerate(moments) if index in resumed])


WORKLOADS = [
    EmitLatency("emit", "emit → suspended task runs again", "wait", ("p50_ms", "ms"), configurations=("best", "default"))
]
