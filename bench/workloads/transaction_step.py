"""A step that writes a row of the application in the transaction of its checkpoint."""

from __future__ import annotations

from bench.workload import Drain

# A connection for each handler in a transaction: as many as a server of a usual size has for two workers.
SETTINGS = {"absurd": {"worker": {"concurrency": 32}}}

WORKLOADS = [Drain("transaction", "one transaction step", task="transaction", guess=300, worker_settings=SETTINGS)]
