"""Threads for sync handlers.

Daemons, unlike those of ``concurrent.futures``: a handler that hangs must not keep the process alive after its run has been
handed back.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Threads:
    """Up to ``limit`` threads, made when they are needed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = 0
        self._idle = 0
        self._lock = threading.Lock()

    def submit(self, call: Callable[[], None]) -> None:
        """Runs a call, which must not raise, on a thread."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._count < self._limit:
                self._count += 1
                threading.Thread(target=self._serve, name=f"absurd-handler-{self._count}", daemon=True).start()
        self._work.put(call)

    def stop(self) -> None:
        """Lets idle threads end; one that hangs is left behind."""
        for _ in range(self._count):
            self._work.put(None)

    def _serve(self) -> None:
        while (call := self._work.get()) is not None:
            call()
            with self._lock:
                self._idle += 1
