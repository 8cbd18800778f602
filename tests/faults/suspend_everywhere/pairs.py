"""Background workers in pairs: two engines with ids of their own, which share nothing but the database."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from absurd.queries.query import Query
from absurd.types import ClaimedRun
from absurd.worker import runner
from absurd.worker.engine import Engine
from tests.faults.suspend_everywhere.moves import Moves

# Seconds until a worker that leaves a run to the other one looks again.
LOOK_AGAIN = 0.02


class PairedEngine(Engine):
    """An engine that leaves the runs that it has handed back to its neighbour."""

    moves: Moves
    neighbour: PairedEngine | None = None

    def wanted_claim(self, endings: int) -> Query[list[ClaimedRun]] | None:
        """None as long as the neighbour is to claim; not if it waits in the same way for this one."""
        neighbour = self.neighbour
        leaves = self.moves.leaves_to_others
        if neighbour is not None and neighbour.takes_part and leaves(self.worker_id) and not leaves(neighbour.worker_id):
            self._loop.call_later(LOOK_AGAIN, self._writer.wake)
            return None
        return super().wanted_claim(endings)

    def take_claimed(self, runs: list[ClaimedRun], seconds: float) -> None:
        """Takes note of what has moved."""
        for run in runs:
            self.moves.claimed(run.run_id, self.worker_id)
        super().take_claimed(runs, seconds)

    @property
    def takes_part(self) -> bool:
        """Whether it claims."""
        return self._registered and not self._stopping

    def stop(self) -> None:
        """Asks both to stop."""
        neighbour, self.neighbour = self.neighbour, None
        super().stop()
        if neighbour is not None:
            neighbour.stop()


def work_in_pairs(moves: Moves) -> None:
    """From now on a background worker is a pair; one that works until nothing is ready stays alone."""
    PairedEngine.moves = moves

    async def serve(worker: Any) -> None:
        worker._loop = asyncio.get_running_loop()
        options, version = worker.options, runner.package_version()
        other_options = dataclasses.replace(options, worker_id=f"{options.worker_id}-2", scheduler=False, triggers=False)
        first = PairedEngine(worker._registry, worker._url, options, version)
        second = PairedEngine(worker._registry, worker._url, other_options, version)
        first.neighbour, second.neighbour = second, first
        worker._engine = first
        beside: list[asyncio.Task[None]] = []
        first.on_ready = lambda: beside.append(asyncio.create_task(second.run()))
        second.on_ready = worker._ready.set
        try:
            await first.run()
        finally:
            second.stop()
            worker._ready.set()
            await asyncio.gather(*beside)

    runner.BackgroundWorker._serve = serve  # type: ignore[method-assign]
    runner.Engine = PairedEngine  # type: ignore[misc]
