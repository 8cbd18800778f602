"""How often a worker does what may take long."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """All the time while it is cheap, more rarely the longer it takes.

    Looks at a queue from the beginning, and sweeps, are cheap until somebody holds an old snapshot: what has been dealt with
    since then stays in the indexes as dead entries, which they walk past.
    """

    # The part of a worker's time that it may take.
    share: float
    # Seconds until the next time, whatever the last one took: it may have been the server that stood still.
    longest_pause: float
    next_at: float = 0.0  # by time.monotonic()

    def due(self) -> bool:
        """Whether it may be done again."""
        return time.monotonic() >= self.next_at

    def took(self, seconds: float) -> float:
        """Takes note of how long the last time took; the seconds until the next."""
        pause = min(seconds / self.share, self.longest_pause)
        self.next_at = time.monotonic() + pause
        return pause
