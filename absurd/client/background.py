"""The listener of a sync client, on a thread of its own that starts with the first wait."""

from __future__ import annotations

import threading

from absurd.client.listener import Listener
from absurd.loops import LoopThread


class Background:
    """Keeps one listener running, also in a forked child."""

    def __init__(self) -> None:
        self._thread = LoopThread("absurd client")
        self._listener: Listener | None = None
        self._lock = threading.Lock()

    def listener(self, url: str) -> Listener:
        """The listener, started."""
        with self._lock:
            if self._listener is None or not self._thread.alive:
                self._listener = self._thread.submit(_start(url)).result()
            return self._listener

    def stop(self) -> None:
        """Ends listener and thread."""
        self._listener = None
        self._thread.stop()


async def _start(url: str) -> Listener:
    listener = Listener(url)
    listener.start()
    return listener
