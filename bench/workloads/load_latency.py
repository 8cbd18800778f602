"""From the commit of a spawn to the first line of the handler under load: an open loop at 25, 50 and 75% of the peak."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cell import Cell
from bench.workload import Figures, Scale, Workload, percentiles, start_and_warm_up


@dataclass(frozen=True)
class LoadLatency(Workload):
    """The peak is what two cores can do when they produce as well: 1 / (1 / drain + 1 / spawn in bulk), as measured before."""

    share: float = 0.5

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        drain, spawn = (scale.rates.get((name, cell.variant.name)) for name in ("noop", "spawn_many"))
        if drain is None or spawn is None:
            raise LookupError("the rates of noop and spawn_many are not known; measure them in the same run")
        rate = self.share / (1 / drain + 1 / spawn)
        producer = cell.producer()
        start_and_warm_up(cell, producer)
        made = producer.ask("produce_at", task="noop", rate=rate, seconds=2 * scale.seconds, fixed={})
        moments = made["moments"]
        cell.wait_finished(20 + len(moments))
        starts = cell.marks("start")
        # The first quarter is left out: the workers come out of their rest.
        waited = [starts[i] - moment for i, moment in enumerate(moments) if i in starts and i >= len(moments) // 4]
        return {**percentiles(waited), "offered": rate, "produced": len(moments) / made["seconds"], "late_ms": made["late"] * 1e3}


WORKLOADS = [
    LoadLatency(f"start_{share}", f"spawn → handler starts, at {share}% of peak", figure=("p50_ms", "ms"), share=share / 100)
    for share in (25, 50, 75)
]
