"""One parent, 1,000 children, one join."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cell import Cell
from bench.workload import Figures, Scale, Workload, start_and_warm_up

CHILDREN = 1000


@dataclass(frozen=True)
class FanOut(Workload):
    """Seconds from the commit of the parent's spawn until it has all results."""

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        producer = cell.producer()
        start_and_warm_up(cell, producer)
        (spawned,) = producer.ask("spawn_each", task="fan_out", first=1, count=1, fixed={"n": CHILDREN}, size=0)
        cell.wait_marks("joined", 1)
        joined = cell.marks("joined")
        return {"seconds": joined[1] - spawned}


WORKLOADS = [FanOut("fan_out", "fan-out to 1,000 children and join", "fan_out", ("seconds", "s"))]
