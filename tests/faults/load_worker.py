"""Some workers in one process: ``python -m tests.faults.load_worker URL COUNT [settings as JSON]``, until standard input ends."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from typing import Any

from absurd import Absurd

WORK, PARKED = "work", "parked"  # names of queues, and of their tasks


def make_app(url: str) -> Absurd:
    """The application: a task of one step, and one that waits for its event and says how late it was resumed."""
    app = Absurd(url, WORK)

    @app.register_task(WORK)
    async def work(params: Any, ctx: Any) -> Any:
        return await ctx.step("step", lambda: params)

    @app.register_task(PARKED, queue=PARKED)
    async def parked(params: Any, ctx: Any) -> float:
        """Seconds from the moment before the emit to the moment after it was resumed, by the one clock of this machine."""
        emitted_at = await ctx.await_event(f"wake {params}")
        return time.time() - emitted_at

    return app


def main() -> None:
    """Runs the workers until standard input ends."""
    url, count = sys.argv[1], int(sys.argv[2])
    settings = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    logging.basicConfig(level=logging.WARNING)
    app = make_app(url)
    with contextlib.ExitStack() as workers:
        for _ in range(count):
            workers.enter_context(app.worker([WORK, PARKED], **settings))
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
