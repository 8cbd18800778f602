"""The worker: engine (claim → run → record), writer (group commit), leases, promoter, threads."""

from __future__ import annotations

from absurd.worker.engine import Engine
from absurd.worker.options import WorkerOptions

__all__ = ["Engine", "WorkerOptions"]
