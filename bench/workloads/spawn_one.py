"""Spawning one by one, each in a commit of its own, on one connection."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from bench.cell import Cell, Variant
from bench.counters import read_processors
from bench.workload import Figures, Scale, Workload, percentiles


@dataclass(frozen=True)
class SpawnOne(Workload):
    """No workers run meanwhile."""

    def applies(self, variant: Variant) -> bool:
        """See ``Workload``."""
        return variant.configuration in self.configurations

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        producer = cell.producer()
        producer.ask("spawn_each", task="noop", first=10_000_000, count=50, fixed={}, size=0)
        count = scale.tasks(self.name, cell.variant, 300)
        before = read_processors(cell.databases.postmaster, [producer.pid])
        moments = producer.ask("spawn_each", task="noop", first=0, count=count, fixed={}, size=0)
        used = read_processors(cell.databases.postmaster, [producer.pid]).since(before)
        gaps = [later - sooner for sooner, later in itertools.pairwise(moments)]
        return {
            "rate": (count - 1) / (moments[-1] - moments[0]),
            "seconds": moments[-1] - moments[0],
            **percentiles(gaps),
            "server_us": used.server / count * 1e6,
            "client_us": used.client / count * 1e6,
        }


WORKLOADS = [SpawnOne("spawn_one", "spawn one by one, one connection", figure=("rate", "spawns/s"), adaptive=True)]
