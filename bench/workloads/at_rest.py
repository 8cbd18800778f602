"""One worker process with nothing to do."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.cell import Cell
from bench.counters import STATEMENTS, read_processors
from bench.workload import Figures, Scale, Workload, start_and_warm_up


@dataclass(frozen=True)
class AtRest(Workload):
    """Processor time and statements per second."""

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        producer = cell.producer()
        start_and_warm_up(cell, producer)
        cell.end(producer)
        cell.end(cell.workers.pop())
        seconds = 8 * scale.seconds
        time.sleep(4.0)  # for what follows the death of the other worker, which is sure after three seconds
        statements, before = self._statements(cell), read_processors(cell.databases.postmaster, [cell.workers[0].pid])
        time.sleep(seconds)
        used = read_processors(cell.databases.postmaster, [cell.workers[0].pid]).since(before)
        return {
            "statements_per_s": (self._statements(cell) - statements) / used.at,
            "server_percent": used.server / used.at * 100,
            "client_percent": used.client / used.at * 100,
            "percent": (used.server + used.client) / used.at * 100,
        }

    def _statements(self, cell: Cell) -> float:
        row = cell.databases.admin.execute(STATEMENTS.encode(), (cell.conn.info.dbname,)).fetchone()
        return float(row[0]) if row else 0.0


WORKLOADS = [
    AtRest(
        "rest", "worker at rest: processor", figure=("percent", "% of a core"), configurations=("best", "default"), max_rounds=3
    )
]
