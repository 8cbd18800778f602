"""A step that writes a row of the application in the transaction of its checkpoint."""

from __future__ import annotations

from bench.workload import Drain

WORKLOADS = [Drain("transaction", "one transaction step", task="transaction", guess=300)]
