"""Tasks of 1, 5 and 50 steps, in async handlers."""

from __future__ import annotations

from bench.workload import Drain

WORKLOADS = [
    Drain("steps_1", "one step", task="steps", fixed={"n": 1}, configurations=("best", "default"), guess=300),
    Drain("steps_5", "five steps", task="steps", fixed={"n": 5}, guess=150),
    Drain("steps_50", "fifty steps", task="steps", fixed={"n": 50}, guess=20),
]
