"""A parent that spawns a child and awaits its result."""

from __future__ import annotations

from bench.workload import Drain

WORKLOADS = [Drain("child", "parent that awaits a child (a pair counts as one)", task="child", guess=200, family=2)]
