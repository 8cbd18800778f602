"""The rate of a drain beside many other rows: pending, sleeping, finished."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cell import Cell, Variant
from bench.workload import Figures, Scale, Workload, drain_once, warm_up_by_drain

# The count of what is finished, at the beginning of a drain, takes its time from it beside many rows: a small part of a long one.
LONGER = 4


@dataclass(frozen=True)
class LargeTables(Workload):
    """Compared with the drain of the same tasks on empty tables, measured in the same cell before."""

    rows: str = "sleeping"

    def applies(self, variant: Variant) -> bool:
        """See ``Workload``."""
        return super().applies(variant) and self.rows in variant.adapter.fills

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        count = LONGER * warm_up_by_drain(cell, scale)
        self._settle(cell)
        empty = drain_once(cell, count, first=1_000_000)
        self._fill(cell, scale.rows)
        full = drain_once(cell, count, first=2_000_000)
        return {**full, "rows": scale.rows, "empty_rate": empty["rate"], "ratio": full["rate"] / empty["rate"]}

    def _fill(self, cell: Cell, rows: int) -> None:
        """By SQL, for no interface is made for that."""
        statement = cell.adapter.fills[self.rows].replace(":count", str(rows))
        cell.conn.execute(statement.encode())
        self._settle(cell)

    def _settle(self, cell: Cell) -> None:
        """What autovacuum and the checkpointer would do in time: nobody's drain has to write what was there before."""
        cell.conn.execute("vacuum analyze")
        cell.conn.execute("checkpoint")


WORKLOADS = [
    LargeTables(f"beside_{rows}", f"no-op drain beside many {rows} tasks", rows=rows, max_rounds=3)
    for rows in ("pending", "sleeping", "finished")
]
