"""The same in sync handlers, which run in threads."""

from __future__ import annotations

from typing import Any

from bench.workload import Drain

# Threads instead of coroutines, as many as serve best.
SETTINGS: dict[str, dict[str, Any]] = {
    "absurd": {"worker": {"concurrency": 64}},
    "absurd-sdk": {"sync": True, "worker": {"concurrency": 32, "batch_size": 32, "poll_interval": 0.01}},
}

WORKLOADS = [
    Drain("sync_noop", "no-op task, sync handler", task="sync_noop", worker_settings=SETTINGS),
    Drain("sync_steps_1", "one step, sync handler", task="sync_steps", fixed={"n": 1}, guess=300, worker_settings=SETTINGS),
    Drain("sync_steps_5", "five steps, sync handler", task="sync_steps", fixed={"n": 5}, guess=150, worker_settings=SETTINGS),
    Drain("sync_steps_50", "fifty steps, sync handler", task="sync_steps", fixed={"n": 50}, guess=20, worker_settings=SETTINGS),
]
