"""A task that does nothing."""

from __future__ import annotations

from bench.workload import Drain

WORKLOADS = [Drain("noop", "no-op task, drained from a backlog", configurations=("best", "default"))]
