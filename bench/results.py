"""Results: what was measured, of whom, on which machine; kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cell import Variant
from bench.workload import Figures, Workload

FSYNC_TIMES = 50


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float


@dataclass
class Results:
    """All figures of a run of the benchmark."""

    command: str
    made_at: str
    machine: dict[str, Any]
    settings: dict[str, str]
    scale: dict[str, Any]
    # By variant: title, configuration, what that is, versions.
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    # By workload: title, figure, unit.
    workloads: dict[str, dict[str, str]] = field(default_factory=dict)
    # By workload and variant: the figures of each round.
    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    minutes: float = 0.0

    def add(self, workload: Workload, variant: Variant, figures: Figures) -> None:
        """Keeps the figures of one round."""
        key, unit = workload.figure
        self.workloads[workload.name] = {"title": workload.title, "figure": key, "unit": unit}
        self.figures.setdefault(workload.name, {}).setdefault(variant.name, []).append(figures)

    def spread(self, workload: str, variant: str, key: str) -> Spread | None:
        """Median, smallest and largest of a figure, if it was measured."""
        values = [figures[key] for figures in self.figures.get(workload, {}).get(variant, []) if key in figures]
        return Spread(statistics.median(values), min(values), max(values)) if values else None

    def median(self, workload: str, variant: str, key: str) -> float | None:
        """Only the median."""
        found = self.spread(workload, variant, key)
        return None if found is None else found.median

    def write(self, path: Path) -> None:
        """Writes everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read(path: Path) -> Results:
    """Results that were written before."""
    return Results(**json.loads(path.read_text()))


def begin(command: Sequence[str], settings: dict[str, str], scale: dict[str, Any], postgres: str) -> Results:
    """Empty results of this machine, now."""
    made_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Results(" ".join(command), made_at, {**_machine(), "postgresql": postgres}, settings, scale)


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fdatasync_ms": round(_fdatasync_seconds() * 1e3, 3),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _fdatasync_seconds() -> float:
    """What a durable write of 8 kB costs where the server has its data."""
    with tempfile.TemporaryFile() as file:
        times = []
        for _ in range(FSYNC_TIMES):
            file.write(b"x" * 8192)
            file.flush()
            began = time.monotonic()
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - began)
    return statistics.median(times)
