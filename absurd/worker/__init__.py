"""The worker: engine (claim → run → record), writer (group commit), leases, promoter, threads, and the ways to run it."""

from __future__ import annotations

from absurd.worker.engine import Engine
from absurd.worker.options import WorkerOptions
from absurd.worker.runner import BackgroundWorker, drain, run_worker, serve, serve_once
from absurd.worker.supervisor import Supervisor, follow_supervisor

__all__ = [
    "BackgroundWorker",
    "Engine",
    "Supervisor",
    "WorkerOptions",
    "drain",
    "follow_supervisor",
    "run_worker",
    "serve",
    "serve_once",
]
