"""What a task has done before: its checkpoints, handed out as replay asks for them. It notices code that changed meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from absurd.codec import decode
from absurd.errors import ReplayMismatchError
from absurd.types import Checkpoint

logger = logging.getLogger("absurd.replay")

# Kinds of checkpoints, in words.
KINDS = {
    "step": "a step",
    "sleep": "a sleep",
    "event": "a wait for an event",
    "task": "a wait for a task",
    "token": "a wait for a token",
    "timeout": "a wait that timed out",
}


class History:
    """The recorded effects of a task, by name.

    ``task`` names it in messages. Replay lasts until every recorded effect has been asked for, or until the handler does
    something that was not recorded.
    """

    def __init__(self, text: str | None, total: int, *, task: object, strict: bool) -> None:
        self._recorded: dict[str, Checkpoint] = {}
        self._unseen: dict[str, Checkpoint] = {}
        self._asked: list[str] = []
        self._total = total
        self._last_place = (-1, "")
        self._task = task
        self._strict = strict
        self._live = total == 0
        self._reported = False
        if text is not None:
            self.extend(text)

    @property
    def is_replaying(self) -> bool:
        """Whether the handler is still doing again what an earlier run did."""
        return not self._live

    @property
    def incomplete(self) -> bool:
        """Whether there are checkpoints that have not been fetched yet."""
        return len(self._recorded) < self._total

    @property
    def last_place(self) -> tuple[int, str]:
        """Where the next piece begins."""
        return self._last_place

    def extend(self, text: str | None) -> None:
        """Takes a piece of history in the form of ``claim_runs``; ``None`` says that there is no more."""
        if text is None:
            self._total = len(self._recorded)
            return
        for checkpoint in parse_checkpoints(text):
            self._recorded[checkpoint.step_name] = checkpoint
            self._unseen[checkpoint.step_name] = checkpoint
            # The last of the piece, not the greatest: the database may order names otherwise than Python does.
            self._last_place = (checkpoint.position, checkpoint.step_name)

    def add(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Takes arrivals of this run: they are known from now on and no longer to be replayed."""
        for checkpoint in checkpoints:
            self._recorded[checkpoint.step_name] = checkpoint
            self._total = max(self._total, len(self._recorded))

    def find(self, step_name: str) -> Checkpoint | None:
        """A recorded effect, without asking for it."""
        return self._recorded.get(step_name)

    def replay(self, checkpoint: Checkpoint, position: int, kind: str | None = None) -> None:
        """Notes that the handler has asked for a recorded effect at this place, taking it for one of that kind."""
        if self._unseen.pop(checkpoint.step_name, None) is None:
            return
        self._asked.append(checkpoint.step_name)
        if kind is not None and checkpoint.kind != kind:
            self._report(f'"{checkpoint.step_name}" was recorded as {KINDS[checkpoint.kind]} and is {KINDS[kind]} now')
        elif checkpoint.position != position:
            self._report(f'step "{checkpoint.step_name}" stood at place {checkpoint.position} and stands at {position} now')
        if not self._unseen and not self.incomplete:
            self._live = True

    def drop(self, step_names: Iterable[str]) -> None:
        """Notes recorded effects that do not count: arrivals of a wait that ended otherwise."""
        for name in step_names:
            self._unseen.pop(name, None)
        if not self._unseen and not self.incomplete:
            self._live = True

    def go_live(self, step_name: str, position: int) -> None:
        """Notes that the handler does something new at this place."""
        if self._live:
            return
        passed = [c.step_name for c in self._unseen.values() if c.position <= position]
        self._live = True
        if passed:
            self._asked.append(step_name)
            self._report(f'step "{step_name}" is new where "{passed[0]}" was recorded')

    def finish(self) -> None:
        """Notes that the handler has ended: what it has not asked for by now has vanished from the code."""
        if self._unseen and not self._reported:
            self._report(f"it ended without the recorded {', '.join(sorted(self._unseen))}")

    def _report(self, what: str) -> None:
        if self._reported:
            return
        self._reported = True
        before = [c.step_name for c in sorted(self._recorded.values(), key=lambda c: (c.position, c.step_name))]
        message = f"{self._task} does other steps than before: {what}. Recorded: {before}. Now: {self._asked}"
        if self._strict:
            raise ReplayMismatchError(message)
        logger.warning(message)


def parse_checkpoints(text: str) -> list[Checkpoint]:
    """Checkpoints from their JSON form, ``[[step_name, position, kind, state, event_seq], …]``."""
    return [Checkpoint(name, position, kind, state, seq) for name, position, kind, state, seq in decode(text)]
