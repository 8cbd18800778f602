"""What the runner needs of a workload, and the measurement that most of them share: draining a backlog."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.cell import Cell, Variant

Figures = dict[str, float]
MAX_TASKS = 400_000


@dataclass
class Scale:
    """How much to measure: seconds of work for each figure, rows of large tables, and rates that are known already."""

    seconds: float = 1.2
    rows: int = 100_000
    # How long a snapshot is held open in the one measurement that is about that; 0 leaves it out.
    snapshot_seconds: float = 0.0
    rates: dict[tuple[str, str], float] = field(default_factory=dict)

    def tasks(self, workload: str, variant: Variant, guess: int) -> int:
        """How many tasks keep a variant busy for the time wished for; a guess as long as its rate is not known."""
        rate = self.rates.get((workload, variant.name))
        return guess if rate is None else int(min(MAX_TASKS, max(20, rate * self.seconds)))


@dataclass(frozen=True)
class Workload:
    """A kind of measurement. Subclasses say how it is done."""

    name: str
    title: str
    # The kind of task it needs; a system without it is not measured.
    task: str = "noop"
    # The figure that it is about, as (key, unit); smaller is better where the unit is a time.
    figure: tuple[str, str] = ("rate", "tasks/s")
    # The configurations that are measured; the best one only, unless it matters otherwise.
    configurations: Sequence[str] = ("best",)
    # Rounds at most, for what hardly varies or takes long.
    max_rounds: int = 99
    # Whether a first measurement that was over too soon is repeated with more tasks.
    adaptive: bool = False

    def applies(self, variant: Variant) -> bool:
        """Whether a variant is measured."""
        adapter = variant.adapter
        return variant.configuration in self.configurations and self.task in adapter.tasks and adapter.has_workers

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """Measures once."""
        raise NotImplementedError


@dataclass(frozen=True)
class Drain(Workload):
    """A backlog first, then two workers: how fast it is gone, and what a task costs."""

    guess: int = 400
    fixed: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    # Finished tasks for each that is spawned.
    family: int = 1
    worker_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    adaptive: bool = True

    def measure(self, cell: Cell, scale: Scale) -> Figures:
        """See ``Workload``."""
        count = scale.tasks(self.name, cell.variant, self.guess)
        spawning = spawn_backlog(cell, count, task=self.task, fixed=self.fixed, size=self.size)
        figures = drain(cell, count * self.family, already=0, settings=self.worker_settings.get(cell.variant.system, {}))
        return {**per_spawned(figures, self.family), "spawn_rate": count / spawning}


def spawn_backlog(
    cell: Cell, count: int, first: int = 0, task: str = "noop", fixed: Mapping[str, Any] | None = None, size: int = 0
) -> float:
    """Spawns tasks before the workers start, by a process of its own that ends then; the seconds it took."""
    producer = cell.producer()
    seconds = producer.ask("spawn_many", task=task, first=first, count=count, fixed=dict(fixed or {}), size=size)
    cell.end(producer)
    return float(seconds)


def drain_once(cell: Cell, count: int, first: int) -> Figures:
    """Spawns a backlog of no-op tasks and drains it, whatever else is in the tables."""
    already = cell.finished()
    spawn_backlog(cell, count, first)
    return drain(cell, count, already, settings={})


def warm_up_by_drain(cell: Cell, scale: Scale) -> int:
    """Drains no-op tasks without measuring; how many of them take the time wished for.

    What is drained first on a fresh database finds nothing cached and all files short, which would spoil a comparison.
    """
    known = scale.tasks("noop", cell.variant, 0)
    rate = drain_once(cell, known // 3 if known else 2000, first=0)["rate"]
    return known or int(min(MAX_TASKS, max(100, rate * scale.seconds)))


def per_spawned(figures: Figures, family: int) -> Figures:
    """Figures of families of tasks: one parent with its children counts as one."""
    return {
        key: value / family if key == "rate" else value if key in ("seconds", "tasks", "complete") else value * family
        for key, value in figures.items()
    }


def drain(cell: Cell, count: int, already: int, settings: Mapping[str, Any]) -> Figures:
    """Starts the workers and waits until ``count`` more tasks are finished: rate, and costs per task.

    The time begins when both workers are at work, so that the start of the processes does not count.
    """
    cell.load_workers(**settings)
    work, looks = cell.work(), cell.looks
    cell.go()
    before, began, processors = cell.wait_both(already, count)
    cell.wait_begun(count)
    finished, ended = cell.wait_finished(already + count)
    used = cell.processors().since(processors)
    for worker in list(cell.workers):
        cell.end(worker)
    done = cell.work().since(work)
    looks = cell.looks - looks
    tasks = finished - already
    if finished <= before:
        raise TimeoutError(f"of {count} tasks none was finished within {cell.limit:.0f} s")
    share = tasks / (finished - before)
    return {
        "rate": (finished - before) / (ended - began),
        "seconds": ended - began,
        "tasks": tasks,
        "complete": float(finished - already >= count),
        "server_us": used.server / tasks * share * 1e6,
        "client_us": used.client / tasks * share * 1e6,
        "wal_bytes": done.wal_bytes / tasks,
        "commits": (done.commits - looks) / tasks,
        "fsyncs": done.fsyncs / tasks,
        "statements": (done.statements - looks) / tasks,
    }


def percentiles(seconds: Sequence[float]) -> Figures:
    """Median and 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        raise TimeoutError("nothing was measured")
    last = len(ordered) - 1
    return {"p50_ms": ordered[round(last * 0.5)] * 1e3, "p99_ms": ordered[round(last * 0.99)] * 1e3, "samples": len(ordered)}


def start_and_warm_up(cell: Cell, producer: Any, count: int = 20, task: str = "noop") -> None:
    """Starts the workers on an empty queue and runs a few tasks, so that everything is connected, prepared and idle."""
    cell.load_workers()
    cell.go()
    producer.ask("spawn_each", task=task, first=10_000_000, count=count, fixed={}, size=0)
    finished, _ = cell.wait_finished(count)
    if finished < count:
        raise TimeoutError(f"{finished} of {count} tasks of the warm-up were finished within {cell.limit:.0f} s")
    cell.marks("start")
    time.sleep(0.3)  # until the workers are idle
