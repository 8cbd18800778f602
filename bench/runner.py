"""The rounds: each workload with all variants in turn, A B C A B C …, on one server."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import environments
from bench.cell import Variant, open_cell
from bench.results import Results
from bench.server import Databases
from bench.workload import Figures, Scale, Workload

# A measurement that took less than this share of the time wished for is made again with more tasks.
TOO_SHORT = 0.4
# A cell may take so many times the time that is measured, and at least so many seconds.
PATIENCE = (8, 20.0)


@dataclass
class Plan:
    """What is to be measured, and how much."""

    pairs: Sequence[tuple[Workload, Sequence[Variant]]]
    rounds: int
    scale: Scale
    # After so many minutes each further workload gets one round only.
    minutes: float


class Runner:
    """Runs a plan; what fails is noted and the rest goes on."""

    def __init__(self, plan: Plan, databases: Databases, results: Results, log: Path, save: Callable[[], None]) -> None:
        self._plan = plan
        self._databases = databases
        self._results = results
        self._log = log
        self._save = save
        self._began = time.monotonic()

    def run(self) -> None:
        """Measures everything."""
        for workload, variants in self._plan.pairs:
            left = list(variants)
            for turn in range(min(self._plan.rounds, workload.max_rounds)):
                if turn > 0 and self._minutes() > self._plan.minutes:
                    break
                left = [variant for variant in left if self._measure(workload, variant, turn)]
            self._results.minutes = round(self._minutes(), 1)
            self._save()

    def _minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    def _measure(self, workload: Workload, variant: Variant, turn: int) -> bool:
        """One round of one variant; whether it is worth another one."""
        try:
            figures = self._once(workload, variant)
            if turn == 0 and workload.adaptive and figures["seconds"] < TOO_SHORT * self._plan.scale.seconds:
                figures = self._once(workload, variant)
        except Exception as error:
            problem = f"{workload.name}, {variant.name}: {type(error).__name__}: {error}"
            print(problem, file=sys.stderr)
            self._results.problems.append(problem)
            return False
        self._results.add(workload, variant, figures)
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"[{self._minutes():5.1f} min] {workload.name:14} {variant.name:22} {shown}", file=sys.stderr)
        return True

    def _once(self, workload: Workload, variant: Variant) -> Figures:
        scale = self._plan.scale
        limit = max(PATIENCE[0] * scale.seconds, PATIENCE[1])
        with open_cell(variant, self._databases, self._log, limit) as cell:
            figures = workload.measure(cell, scale)
        if "rate" in figures:
            scale.rates[(workload.name, variant.name)] = figures["rate"]
        return figures


def describe(results: Results, variants: Sequence[Variant]) -> None:
    """Notes who was measured."""
    installed = {system: environments.versions(system) for system in dict.fromkeys(variant.system for variant in variants)}
    for variant in variants:
        _, says = variant.adapter.configurations[variant.configuration]
        results.variants[variant.name] = {
            "title": variant.adapter.title,
            "configuration": variant.configuration,
            "says": says,
            "versions": installed[variant.system],
        }


def scale_as_dict(scale: Scale) -> dict[str, float]:
    """The scale without what it learns."""
    return {key: value for key, value in dataclasses.asdict(scale).items() if key != "rates"}
