"""Params of 100 kB."""

from __future__ import annotations

from bench.workload import Drain

WORKLOADS = [Drain("payload_100k", "no-op task with 100 kB of params", size=100_000, guess=200)]
