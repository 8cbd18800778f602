"""A worker process that plays programs: ``python -m tests.faults.programs.worker_app URL DIRECT_URL NAME [options as JSON]``.

Options: ``offset`` (seconds by which its clocks are off) and the settings of a worker. It begins as soon as there is a database.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from absurd import Absurd, DatabaseUnavailableError, clock
from tests.faults.programs import ASYNC, QUEUES, SYNC
from tests.faults.programs.interpreter import play_async, play_sync
from tests.faults.programs.world import World

SUBSCRIBER = "play-subscriber"


def make_app(url: str, direct_url: str, name: str) -> Absurd:
    """The application."""
    app, world = Absurd(url, QUEUES[0]), World(direct_url, name)

    @app.register_task(SYNC)
    def sync_task(params: Any, ctx: Any) -> Any:
        return play_sync(params, ctx, world)

    @app.register_task(ASYNC)
    async def async_task(params: Any, ctx: Any) -> Any:
        return await play_async(params, ctx, world)

    @app.register_task(SUBSCRIBER)
    async def subscriber(params: Any, ctx: Any) -> Any:
        return await play_async(params["event_payload"], ctx, world)

    return app


def shift_clocks(seconds: float) -> None:
    """Everything in this process that asks Python what time it is gets an answer that is wrong by so much."""
    real_time, real_time_ns = time.time, time.time_ns
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
    clock.now = lambda: datetime.now(UTC) + timedelta(seconds=seconds)


class Beginning(logging.Handler):
    """Notices that a worker has begun: from then on it must survive whatever happens to the database."""

    over = False

    def emit(self, record: logging.LogRecord) -> None:
        """Looks at a message."""
        self.over = self.over or " serves " in str(record.msg)


def main() -> None:
    """Runs the worker until it is told to stop."""
    url, direct_url, name = sys.argv[1:4]
    options = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger().handlers[0].setLevel(logging.WARNING)
    beginning = Beginning()
    logging.getLogger("absurd.worker").setLevel(logging.INFO)
    logging.getLogger("absurd.worker").addHandler(beginning)
    if offset := options.pop("offset", 0):
        shift_clocks(offset)
    while True:
        try:
            return make_app(url, direct_url, name).start_worker(QUEUES, worker_id=name, **options)
        except DatabaseUnavailableError as error:
            if beginning.over:
                raise
            logging.warning("cannot begin yet: %s", error)
            time.sleep(0.2)


if __name__ == "__main__":
    main()
