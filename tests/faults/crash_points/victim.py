"""A process that makes victims: ``python -m tests.faults.crash_points.victim``. A line of JSON for each, an exit code back.

Each victim is a fork that begins a scenario and kills itself with SIGKILL where it reaches the point; without one it comes to its
end, and notes which points it has passed. The parent has imported everything and done nothing: it has no threads, connections or
event loops that a child could inherit.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from absurd import failpoints
from absurd.worker import leases
from tests.faults.crash_points.scenarios import SCENARIOS

# Seconds that a victim may take, on a machine that does other things as well.
LIMIT = 45
COMPLETED = 0


def main() -> None:
    """Serves until its input ends."""
    logging.basicConfig(level=logging.WARNING)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _live(order)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _live(order: dict[str, Any]) -> None:
    # Seconds between heartbeats, and between looks at leases; five and one would be long for a test.
    leases.HEARTBEAT, leases.TICK = 0.2, 0.1
    signal.alarm(LIMIT)
    os.dup2(2, 1)  # what it prints is no answer
    reached: set[str] = set()
    failpoints.hook = _Killer(order["point"], order["occurrence"]) if order["point"] else lambda name, subject: reached.add(name)
    try:
        SCENARIOS[order["scenario"]](order["url"], order["kind"], order["extra"])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if order["notes"]:
        Path(order["notes"]).write_text("\n".join(sorted(reached)))
    os._exit(COMPLETED)


class _Killer:
    """Kills the process when the point is reached for the n-th time."""

    def __init__(self, point: str, occurrence: int) -> None:
        self._point = point
        self._left = occurrence
        self._lock = threading.Lock()

    def __call__(self, name: str, subject: object) -> None:
        if name != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
