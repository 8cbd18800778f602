"""A trigger that fires while many tasks wait in a queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from absurd.db import Pool
from absurd.errors import InvalidOptionError
from absurd.queries.triggers import count_ready
from absurd.spawning import check_queue_name
from absurd.triggers.trigger import Fire, Skip, Trigger


class QueueDepthTrigger(Trigger):
    """Fires when at least ``threshold`` tasks of a queue are ready and wait for a worker: to start more of them, say.

    The context is ``{"queue", "threshold"}``, so that one task at a time handles it, however the depth changes meanwhile.

    Args:
        queue: whose tasks are counted.
        threshold: from how many on it fires.
        task: what it starts; in a queue that is served while the other one is full.
        name: of the trigger; ``queue-depth:QUEUE`` if nothing is said.
        poll_interval: between two looks.

    Example:

        app.add_trigger(QueueDepthTrigger("images", 1000, task="scale-up"), queue="operations")
    """

    def __init__(
        self,
        queue: str,
        threshold: int,
        *,
        task: Any,
        name: str | None = None,
        poll_interval: float | str | timedelta = "5s",
    ) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, int) or threshold < 1:
            raise InvalidOptionError(f"threshold must be a whole number of 1 or more, not {threshold!r}")
        self.queue = check_queue_name(queue)
        self.threshold = threshold
        self.task = task
        self.name = name or f"queue-depth:{queue}"
        self.poll_interval = poll_interval
        self._pool: Pool | None = None

    def poll(self) -> Fire | type[Skip]:
        """Counts, up to the threshold only."""
        if self._pool is None:
            if self.database_url is None:
                raise InvalidOptionError("a queue-depth trigger is polled by a worker, which tells it where the database is")
            self._pool = Pool(self.database_url, max_size=1, application_name="absurd worker: triggers")
        if self._pool.run(count_ready(self.queue, self.threshold)) < self.threshold:
            return Skip
        return Fire({"queue": self.queue, "threshold": self.threshold})
