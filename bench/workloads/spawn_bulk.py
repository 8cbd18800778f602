"""Spawning many at once, in the fastest way that a library has."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cell import Cell, Variant
from bench.counters import read_processors
from bench.workload import Figures, Scale, Workload


@dataclass(frozen=True)
class SpawnBulk(Workload):
    """No workers run meanwhile."""

    def applies(self, variant: Variant) -> bool:
        """See ``Workload``."""
        return variant.configuration in self.configurations

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        producer = cell.producer()
        producer.ask("spawn_many", task="noop", first=10_000_000, count=1000, fixed={}, size=0)
        count = max(1000, scale.tasks(self.name, cell.variant, 2000) // 1000 * 1000)
        before = read_processors(cell.databases.postmaster, [producer.pid])
        seconds = producer.ask("spawn_many", task="noop", first=0, count=count, fixed={}, size=0)
        used = read_processors(cell.databases.postmaster, [producer.pid]).since(before)
        return {
            "rate": count / seconds,
            "seconds": seconds,
            "server_us": used.server / count * 1e6,
            "client_us": used.client / count * 1e6,
        }


WORKLOADS = [SpawnBulk("spawn_many", "spawn in bulk", figure=("rate", "spawns/s"), adaptive=True)]
