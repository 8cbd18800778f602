"""Makes sleepers ready when their time has come, and knows when to look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from absurd import failpoints
from absurd.loops import Loop
from absurd.queries import runs as queries
from absurd.worker.pace import Pace
from absurd.worker.writer import Writer
from absurd.writes import Suspend

# Seconds that a sleeper is looked for too early, never too late: timers end a little before their time.
SLACK = 0.001
# Seconds until the next look when what is due could not be made ready: somebody has locked it, perhaps for minutes.
LOCKED_LOOK = 0.05
# Of looks from the beginning, see Pace. Sleepers of a transaction that was open for more than a second after their time
# wait for one.
FULL_LOOK_SHARE = 0.05
LONGEST_PAUSE = 30.0


@dataclass(slots=True)
class _Place:
    """How far the looks at a queue have got."""

    after: datetime | None = None
    full_looks: Pace = field(default_factory=lambda: Pace(FULL_LOOK_SHARE, LONGEST_PAUSE))


class Promoter(Loop):
    """Looks at each queue when its next sleeper is due, at the latest after the interval."""

    def __init__(self, writer: Writer, queue_names: Sequence[str], interval: float, ready: Callable[[str], None]) -> None:
        super().__init__("promoter", interval)
        self._writer = writer
        self._places = {queue_name: _Place() for queue_name in queue_names}
        self._ready = ready
        self._next_look = 0.0

    async def tick(self) -> float | None:
        """Makes what is due ready; returns the seconds until the next sleeper."""
        waits = [self._interval]
        for queue_name in self._places:
            promoted, seconds = await self._look(queue_name)
            if failpoints.hook is not None:
                failpoints.hook("promoter.promoted", self)
            if seconds is not None:
                waits.append(max(seconds, 0) + SLACK if seconds > 0 or promoted else LOCKED_LOOK)
        pause = min(waits)
        self._next_look = time.monotonic() + pause
        return pause

    async def promote_now(self) -> int:
        """Makes what is due ready; returns how many runs that were."""
        return sum([(await self._look(queue_name, full=True))[0] for queue_name in self._places])

    async def _look(self, queue_name: str, *, full: bool = False) -> tuple[int, float | None]:
        """Makes what is due there ready: how many, and in how many seconds the next one is due."""
        place, began = self._places[queue_name], time.monotonic()
        full = full or place.after is None or place.full_looks.due()
        promoted, seconds, place.after = await self._writer.perform(
            queries.promote_due(queue_name, None if full else place.after)
        )
        if full:
            place.full_looks.took(time.monotonic() - began)
        if promoted:
            self._ready(queue_name)
        return promoted, seconds

    def expect(self, suspension: Suspend) -> None:
        """A run of this worker has gone to sleep: if it is due before the next look, look sooner."""
        if suspension.wake_at is not None:
            self.wake()  # only the database's clock can say how soon that is
        elif suspension.timeout is not None and time.monotonic() + suspension.timeout < self._next_look:
            self.wake()
