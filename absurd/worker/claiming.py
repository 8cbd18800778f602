"""From which queue a worker claims next, from which place on, and whether it says that it is idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from absurd import telemetry
from absurd.queries import runs as queries
from absurd.queries.query import Query
from absurd.types import ClaimedRun
from absurd.worker.options import WorkerOptions
from absurd.worker.pace import Pace

# A worker that got as many runs as it asked for, this often in a row, is busy: notifications would only cost.
BUSY_CLAIMS = 3
# Seconds between full looks at a queue in which every claim finds enough. Rows that became ready long before the place of the
# claims, such as those of a long transaction, wait for one.
FULL_LOOK_INTERVAL = 1.0
# Of full looks, see Pace.
FULL_LOOK_SHARE = 0.05
LONGEST_PAUSE = 30.0


@dataclass(slots=True)
class _Place:
    """How far the claims of a queue have got, and when one has to begin at the beginning again."""

    after: str | None = None
    # A full look is wanted as soon as it may be if claims find too little, else from this moment on, by time.monotonic().
    full_looks: Pace = field(default_factory=lambda: Pace(FULL_LOOK_SHARE, LONGEST_PAUSE))
    must_look_at: float = 0.0
    short: bool = True
    timer: asyncio.TimerHandle | None = None

    def wants_full_look(self, now: float) -> bool:
        return self.after is None or now >= (self.full_looks.next_at if self.short else self.must_look_at)


@dataclass(frozen=True, slots=True)
class _Sent:
    """The claim that is on its way."""

    queue: str
    limit: int
    full_look: bool
    at: float


class Claims:
    """Makes the claims of one engine, one at a time, the queues in turn. Belongs to one event loop."""

    def __init__(self, options: WorkerOptions, wake: Callable[[], None], tell_idle: Callable[[bool], None]) -> None:
        self.count = 0
        # How long the last claim took, with the batch that it was sent along with. Read from any thread.
        self.answer_seconds = 0.0
        # From the beginning: what is spawned while a worker starts has to notify it.
        self.idle = True
        self._options = options
        self._wake = wake
        self._tell_idle = tell_idle
        self._draining = False
        self._looking = dict.fromkeys(options.queues, True)
        self._turn = list(options.queues)
        self._places = {queue: _Place() for queue in options.queues}
        self._sent: _Sent | None = None
        self._full_claims = 0

    @property
    def pending(self) -> bool:
        """Whether a claim is on its way or wanted."""
        return self._sent is not None or any(self._looking.values()) or any(place.timer for place in self._places.values())

    @property
    def sent_at(self) -> float | None:
        """When the claim that waits for its answer was made, by time.monotonic(). From any thread."""
        sent = self._sent
        return None if sent is None else sent.at

    def drain(self) -> None:
        """From now on finds everything that is ready, at any price, and nobody needs to notify this worker."""
        self._draining, self.idle = True, False

    def look(self, queue: str) -> None:
        """Something may be ready there."""
        self._looking[queue] = True
        self._wake()

    def next(self, free: int) -> Query[list[ClaimedRun]] | None:
        """The next claim, for so many slots; ``None`` if there is nothing to look for."""
        queue = next((name for name in self._turn if self._looking[name]), None)
        if queue is None:
            return None
        self._turn.remove(queue)
        self._turn.append(queue)
        # Before it is sent: whatever is heard from now on asks for another one.
        self._looking[queue] = False
        place, now = self._places[queue], time.monotonic()
        full_look = place.wants_full_look(now)
        self._sent = _Sent(queue, free, full_look, now)
        after = None if full_look else place.after
        return queries.claim_runs(queue, self._options.worker_id, self._options.lease_seconds, free, after)

    def took(self, runs: list[ClaimedRun], seconds: float) -> bool:
        """Takes note of what the claim on its way has found in so many seconds; whether that was less than it asked for."""
        sent, self._sent = self._sent, None
        if sent is None:
            return False
        self.count += len(runs)
        self.answer_seconds = seconds
        if telemetry.metrics is not None:
            telemetry.metrics.claimed(sent.queue, sent.limit, runs)
        short = len(runs) < sent.limit
        self._remember(sent, runs, short, seconds)
        if short:
            self._full_claims = 0
            if not self.idle and not self._draining:
                self._say_idle(True)
        else:
            self._looking[sent.queue] = True
            self._full_claims += 1
            if self.idle and self._full_claims >= BUSY_CLAIMS:
                self._say_idle(False)
        return short

    def go_on(self) -> None:
        """Has the next claim sent, if one is wanted: each is for one queue, and the others have their turn."""
        if any(self._looking.values()):
            self._wake()

    def _remember(self, sent: _Sent, runs: list[ClaimedRun], short: bool, seconds: float) -> None:
        place, now = self._places[sent.queue], time.monotonic()
        place.short = short
        place.after = next((run.next_after for run in reversed(runs) if run.next_after is not None), place.after)
        if sent.full_look:
            # By what the look itself took. While the server was away nobody looked, and then there is most to be found:
            # runs that others had claimed become ready again, with places of long ago.
            pause = place.full_looks.took(0.0 if self._draining else seconds)
            place.must_look_at = now + max(pause, FULL_LOOK_INTERVAL)
        elif short and place.timer is None:
            # What a full look would have found must not wait for the next poll.
            place.timer = asyncio.get_running_loop().call_later(
                max(place.full_looks.next_at - now, 0), self._look_fully, sent.queue
            )

    def _look_fully(self, queue: str) -> None:
        self._places[queue].timer = None
        self.look(queue)

    def _say_idle(self, idle: bool) -> None:
        self.idle = idle
        self._tell_idle(idle)
