"""What people choose about a worker."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field

from absurd.errors import InvalidOptionError
from absurd.registry import check_name
from absurd.types import DEFAULT_QUEUE

# How many tasks one process runs at a time unless told otherwise: enough to hide waiting, few enough for threads.
DEFAULT_CONCURRENCY = 32

# It is written into each run that the worker claims.
MAX_WORKER_ID_BYTES = 255


def make_worker_id() -> str:
    """Host, process and some random letters: unique, and people see where it runs."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Settings of one worker process.

    Args:
        queues: which queues it serves, in turn.
        concurrency: how many tasks it runs at a time.
        lease_seconds: how long a run stays its own without renewal; renewed from half of it on.
        poll_interval: seconds between looks at the queue when nobody notifies.
        grace_seconds: how long running tasks may go on after a request to stop.
        unknown_task_delay: seconds until a run whose task is not registered here is offered again.
        strict_replay: raise instead of warn when a handler takes other steps than recorded.
        scheduler: whether it fires schedules; each slot fires once, however many processes do.
        triggers: whether it polls the triggers of the application.
        retention: whether it deletes what queues need not keep; one process at a time does.
        health_file: a path; ``PATH.PID`` is touched every few seconds while the event loop goes round.
        worker_id: how it appears in ``list-workers``, 1 to 255 bytes; no other living worker may have it.
    """

    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    concurrency: int = DEFAULT_CONCURRENCY
    lease_seconds: float = 30.0
    poll_interval: float = 1.0
    grace_seconds: float = 30.0
    unknown_task_delay: float = 5.0
    strict_replay: bool = False
    scheduler: bool = True
    triggers: bool = True
    retention: bool = True
    health_file: str | None = None
    worker_id: str = field(default_factory=make_worker_id)

    def __post_init__(self) -> None:
        if not isinstance(self.queues, (tuple, list)) or not self.queues:
            raise InvalidOptionError(f"queues must be a list of at least one queue name, not {self.queues!r}")
        if isinstance(self.concurrency, bool) or not isinstance(self.concurrency, int) or not 1 <= self.concurrency <= 10_000:
            raise InvalidOptionError(f"concurrency must be a whole number from 1 to 10000, not {self.concurrency!r}")
        check_name("worker_id", self.worker_id)
        if len(self.worker_id.encode()) > MAX_WORKER_ID_BYTES:
            raise InvalidOptionError(f"worker_id {self.worker_id[:40]!r}… has more than {MAX_WORKER_ID_BYTES} bytes of UTF-8")
        for name in ("scheduler", "triggers", "retention", "strict_replay"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidOptionError(f"{name} must be True or False, not {getattr(self, name)!r}")
        for name, low, high in (
            ("lease_seconds", 0.5, 86_400),
            ("poll_interval", 0.01, 60),
            ("grace_seconds", 0, 86_400),
            ("unknown_task_delay", 0.01, 86_400),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InvalidOptionError(f"{name} must be between {low} and {high} seconds, not {value!r}")
