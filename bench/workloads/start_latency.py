"""From the commit of a spawn to the first line of the handler, while the workers have nothing else to do."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cell import Cell
from bench.workload import Figures, Scale, Workload, percentiles, start_and_warm_up

# A task each so many seconds: nothing is left of one when the next one comes. Not a round part of anybody's polling interval.
PERIOD = 0.0613


@dataclass(frozen=True)
class StartLatency(Workload):
    """An open loop of single spawns."""

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        producer = cell.producer()
        start_and_warm_up(cell, producer)
        moments = producer.ask("produce_at", task="noop", rate=1 / PERIOD, seconds=3 * scale.seconds, fixed={})["moments"]
        cell.wait_finished(20 + len(moments))
        starts = cell.marks("start")
        return percentiles([starts[index] - moment for index, moment in enumerate(moments) if index in starts])


WORKLOADS = [
    StartLatency("start_idle", "idle worker: spawn → handler starts", figure=("p50_ms", "ms"), configurations=("best", "default"))
]
