"""The workloads, one file each."""

from __future__ import annotations

import importlib

from bench.workload import Workload

# Modules in the order in which their workloads are run and shown.
MODULES = (
    "noop", "steps", "sync_handlers", "payload", "transaction_step", "child_await", "fan_out", "spawn_one", "spawn_bulk",
    "start_latency", "load_latency", "emit_latency", "broadcast", "large_tables", "snapshot", "at_rest", "import_time",
)  # fmt: skip


def load_all() -> list[Workload]:
    """All workloads."""
    return [workload for name in MODULES for workload in importlib.import_module(f"bench.workloads.{name}").WORKLOADS]
