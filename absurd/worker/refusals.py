"""Runs that were claimed and are not begun here: nobody knows the task, what is stored cannot be read, or the worker stops."""

from __future__ import annotations

import functools
import logging
import time

from absurd.errors import SerializationError
from absurd.types import ClaimedRun
from absurd.worker.failures import describe, summary
from absurd.worker.running import Ending
from absurd.worker.writer import Writer
from absurd.writes import Fail, Holder, Release, Write, WriteResult

logger = logging.getLogger("absurd.worker")

# Seconds between warnings about one and the same unknown task.
WARNING_INTERVAL = 60.0
# What a run says that a worker gave back because it stops.
STOPPED = "handed back by a worker that stopped"


class Refusals:
    """Sends back, or fails, what the engine does not begin. Belongs to its loop."""

    def __init__(self, writer: Writer, unknown_task_delay: float) -> None:
        self._writer = writer
        self._delay = unknown_task_delay
        self._quiet_until: dict[str, float] = {}

    def unknown(self, run: ClaimedRun) -> None:
        """Nobody here knows the task: the run goes back for a worker that does, and says so."""
        self._warn_unknown(run)
        note = f'no worker that claimed it knows task "{run.task_name}"'
        self._send(Release(_holder(run), self._delay, note))

    def unreadable(self, run: ClaimedRun, error: Exception) -> None:
        """Somebody stored what cannot be read here, such as an event of a thousand levels: its task fails, not the worker."""
        problem = SerializationError(f"what is recorded of the task cannot be read: {summary(error)}")
        logger.warning('task "%s" %s fails: %s', run.task_name, run.task_id, problem)
        self._send(Fail(_holder(run), describe(problem), retryable=False))

    def stopped(self, run: ClaimedRun) -> None:
        """The claim was on its way when the worker was told to stop: the run goes to another one at once."""
        self._send(Release(_holder(run), note=STOPPED))

    def _send(self, write: Write) -> None:
        self._writer.send(write, Ending(functools.partial(_sent, write)))

    def _warn_unknown(self, run: ClaimedRun) -> None:
        now = time.monotonic()
        if now < self._quiet_until.get(run.task_name, 0.0):
            return
        self._quiet_until[run.task_name] = now + WARNING_INTERVAL
        logger.warning(
            'no task "%s" is registered here, but queue "%s" holds some (such as %s): they go back and are offered again '
            "in %s s. Register it with this app, or give it a queue of its own",
            run.task_name,
            run.queue_name,
            run.task_id,
            self._delay,
        )


def _sent(write: Write, answer: WriteResult | BaseException) -> None:
    if isinstance(answer, BaseException):
        logger.error("could not send back run %s; its lease will bring it back: %s", write.holder.run_id, answer)


def _holder(run: ClaimedRun) -> Holder:
    return Holder(run.queue_name, run.task_id, run.run_id, run.epoch)
