"""The workloads, one file each."""

from __future__ import annotations

import importlib

from bench.workload import Workload

# Modules in the order in which their workloads are run and shown: first what gets all rounds also in a short run.
MODULES = (
    "noop", "steps", "spawn_one", "spawn_bulk", "start_latency", "emit_latency", "sync_handlers", "transaction_step",
    "child_await", "fan_out", "broadcast", "load_latency", "payload", "large_tables", "snapshot", "at_rest", "import_time",
)  # fmt: skip


def load_all() -> list[Workload]:
    """All workloads."""
    return [workload for name in MODULES for workload in importlib.import_module(f"bench.workloads.{name}").WORKLOADS]
