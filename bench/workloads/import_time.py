"""How long the import of a library takes."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from bench.cell import Cell
from bench.environments import ROOT, python_of
from bench.workload import Figures, Scale, Workload

TIMES = 3


@dataclass(frozen=True)
class ImportTime(Workload):
    """Time of a process that imports it, less that of one that imports nothing; byte code is there already."""

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        python = str(python_of(cell.variant.system))
        empty = min(_seconds([python, "-c", "pass"]) for _ in range(TIMES))
        full = min(_seconds([python, "-c", cell.adapter.imports]) for _ in range(TIMES))
        return {"ms": (full - empty) * 1e3}


def _seconds(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, cwd=ROOT)
    return time.monotonic() - began


WORKLOADS = [ImportTime("import", "import of the library", figure=("ms", "ms"), max_rounds=3)]
