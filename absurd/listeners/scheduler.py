"""The scheduler as a listener: fires schedules in a process that runs no tasks."""

from __future__ import annotations

import asyncio
import threading

from absurd.listeners.base import EventListener
from absurd.schedules import ScheduleLoop


class Scheduler(EventListener):
    """Fires the schedules of a database. Workers do that too, unless they are started with ``--no-scheduler``.

    Any number may run at the same time, beside workers that do the same: each slot fires once.

    Example:

        Scheduler(app).start_listening()  # or, in a shell: absurdctl scheduler
    """

    def start_listening(self) -> None:
        """Fires schedules until ``stop`` is called. A database that is away is waited for."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        """Asks the scheduler to end; from any thread, or a signal handler."""
        super().stop()
        call = vars(self).get("_end")
        if call is not None:
            call()

    async def _serve(self) -> None:
        ended, here = asyncio.Event(), asyncio.get_running_loop()

        def end() -> None:
            # After the event loop has closed there is nobody left to tell.
            if not here.is_closed():
                here.call_soon_threadsafe(ended.set)

        vars(self)["_end"] = end
        stopped: threading.Event = self.stopped
        if stopped.is_set():
            return
        loop = ScheduleLoop(self._client.database_url)
        loop.start()
        try:
            await ended.wait()
        finally:
            await loop.stop()
