"""Cuts runs: a wait is never decided at once, and whoever has written a checkpoint hands the run back before its next effect."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any
from uuid import UUID

from absurd import failpoints
from absurd.context import async_shell, sync_shell
from absurd.context.base import BaseContext
from absurd.context.ops import Ask, Send
from absurd.errors import RunReleased
from absurd.writes import CheckWaits, ExtendLease, WriteResult

# More than any wait can ask for: the database looks whether the queue, the tasks and the token exist, and says "waiting".
NEVER_ENOUGH = 1_000_000
# Seconds for which the worker that gave a run away leaves claiming to the other one.
PATIENCE = 0.3
# How often a task moves at most: each move is followed by a replay of all that was before.
MOST_MOVES = 100


class Moves:
    """Which runs were handed back, by whom, and how often."""

    def __init__(self) -> None:
        self.handed_back = 0
        self.moved = 0
        self.waits = 0
        self.tests = 0
        self.tasks: set[UUID] = set()
        self._lock = threading.Lock()
        self._moves: Counter[UUID] = Counter()
        # Of runs that nobody has claimed since: who gave them away, and until when it leaves them to others.
        self._given: dict[UUID, tuple[str, float]] = {}

    def install(self) -> None:
        """Takes hold of both kinds of contexts."""
        ask, send = sync_shell._PERFORM[Ask], sync_shell._PERFORM[Send]
        ask_async, send_async = async_shell._PERFORM[Ask], async_shell._PERFORM[Send]

        def ask_and_suspend(shell: Any, op: Ask) -> WriteResult:
            answer: WriteResult = ask(shell, self._without_answer(op))
            self._note(shell, op, answer)
            return answer

        async def ask_and_suspend_async(shell: Any, op: Ask) -> WriteResult:
            answer: WriteResult = await ask_async(shell, self._without_answer(op))
            self._note(shell, op, answer)
            return answer

        def send_and_note(shell: Any, op: Send) -> None:
            send(shell, op)
            shell.has_written = True

        async def send_and_note_async(shell: Any, op: Send) -> None:
            await send_async(shell, op)
            shell.has_written = True

        sync_shell._PERFORM.update({Ask: ask_and_suspend, Send: send_and_note})
        async_shell._PERFORM.update({Ask: ask_and_suspend_async, Send: send_and_note_async})
        failpoints.hook = self._reached

    def _without_answer(self, op: Ask) -> Ask:
        if not isinstance(op.write, CheckWaits):
            return op
        with self._lock:
            self.waits += 1
            self.tasks.add(op.write.holder.task_id)
        return Ask(op.write._replace(needed=NEVER_ENOUGH))

    def _note(self, shell: Any, op: Ask, answer: WriteResult) -> None:
        if answer.status == "ok" and not isinstance(op.write, (CheckWaits, ExtendLease)):
            shell.has_written = True

    def _reached(self, point: str, subject: Any) -> None:
        if point == "context.transacted":
            self._hand_back(subject, own_calls=1)
        elif point in ("context.settled", "context.answered") and getattr(subject, "has_written", False):
            self._hand_back(subject, own_calls=0)

    def _hand_back(self, context: BaseContext, own_calls: int) -> None:
        """Ends the run, unless steps are under way beside this one: what they have done they would do again."""
        core = context._core
        if core._calls_in_flight > own_calls or self._moves[core.run.task_id] >= MOST_MOVES:
            return
        worker_id = getattr(context._port, "worker_id", "")
        with self._lock:
            self.handed_back += 1
            self._moves[core.run.task_id] += 1
            self.tasks.add(core.run.task_id)
            self._given[core.run.run_id] = (worker_id, time.monotonic() + PATIENCE)
        core.interrupt(RunReleased())
        core.check_usable()

    def claimed(self, run_id: UUID, worker_id: str) -> None:
        """Takes note of who runs it next."""
        with self._lock:
            giver = self._given.pop(run_id, None)
            if giver is not None and giver[0] != worker_id:
                self.moved += 1

    def leaves_to_others(self, worker_id: str) -> bool:
        """Whether a worker has given a run away just now that nobody has taken yet."""
        now = time.monotonic()
        with self._lock:
            return any(giver == worker_id and now < until for giver, until in self._given.values())
