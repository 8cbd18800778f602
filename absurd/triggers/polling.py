"""Making polls: plain ones in threads of their own, async ones on an event loop of theirs, each within its time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from absurd.codec import decode, encode
from absurd.errors import SerializationError
from absurd.loops import LoopThread
from absurd.queries.triggers import PreparedFire, TriggerPoll
from absurd.triggers.fires import prepare, read_fires
from absurd.triggers.trigger import Trigger

# Characters of an error that are kept.
ERROR_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a poll ended: with fires and a state (``None``: unchanged), or with an error."""

    fires: list[PreparedFire]
    state: str | None = None
    error: str | None = None
    cause: BaseException | None = None


class _Call:
    """One call of a poll. It may outlive its time-out."""

    def __init__(self) -> None:
        self.answer: concurrent.futures.Future[tuple[Any, BaseException | None]] = concurrent.futures.Future()
        self.over = threading.Event()
        self.cancel: Callable[[], object] = _nothing

    def end(self, value: Any, error: BaseException | None) -> None:
        """Hands over what came of it, unless nobody waits any more."""
        self.over.set()
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.answer.set_result((value, error))


class Poller:
    """Makes polls. One that does not end within its time is left to itself, and its trigger is busy until it does."""

    def __init__(self) -> None:
        self._loop = LoopThread("absurd-polls")
        self._left: dict[str, _Call] = {}

    def busy(self, name: str) -> bool:
        """Whether an earlier poll of a trigger, whose time is over, still runs."""
        if name in self._left and self._left[name].over.is_set():
            del self._left[name]
        return name in self._left

    def stop(self) -> None:
        """Ends the event loop of the async polls; threads that hang are left behind, and end with the process."""
        self._loop.stop(timeout=1.0)

    async def poll(self, trigger: Trigger, poll: TriggerPoll) -> Outcome:
        """Asks a trigger, with the state that it had after its last poll. Never raises for what the trigger does."""
        before = decode(poll.state)
        trigger.state = decode(poll.state)
        value, error = await self._answer(trigger, poll)
        if error is None:
            try:
                fires = [prepare(poll.trigger_name, fire) for fire in read_fires(poll.trigger_name, value)]
                return Outcome(fires, _changed(trigger, before))
            except Exception as problem:  # what a poll returns is the user's, and so is its repr()
                error = problem
        return Outcome([], error=_describe(error), cause=error)

    async def _answer(self, trigger: Trigger, poll: TriggerPoll) -> tuple[Any, BaseException | None]:
        call = _Call()
        self._begin(trigger, call)
        answer = asyncio.wrap_future(call.answer)
        try:
            done, _ = await asyncio.wait({answer}, timeout=poll.poll_timeout)
        finally:
            # Also when the worker stops and does not wait any longer.
            if not answer.done():
                self._left[poll.trigger_name] = call
                answer.cancel()
                call.cancel()
        if done:
            return answer.result()
        return None, TimeoutError(f"the poll did not end within {poll.poll_timeout:g} s (poll_timeout)")

    def _begin(self, trigger: Trigger, call: _Call) -> None:
        if inspect.iscoroutinefunction(trigger.poll) or getattr(trigger, "is_async", False):
            self._submit(trigger.poll, call)
        else:
            threading.Thread(target=self._run, args=(trigger, call), name=f"absurd-poll {trigger.name}", daemon=True).start()

    def _run(self, trigger: Trigger, call: _Call) -> None:
        try:
            value = trigger.poll()
        except BaseException as error:  # also SystemExit: a poll must not end the worker
            call.end(None, error)
            return
        if inspect.isawaitable(value):
            self._submit(lambda: value, call)
        else:
            call.end(value, None)

    def _submit(self, poll: Callable[[], Any], call: _Call) -> None:
        async def run() -> None:
            try:
                found: Awaitable[Any] = poll()
                call.end(await found, None)
            except BaseException as error:
                call.end(None, error)

        call.cancel = self._loop.submit(run()).cancel


def _nothing() -> None:
    """What there is to cancel about a thread."""


def _changed(trigger: Trigger, before: Any) -> str | None:
    """The state as JSON, if the poll has changed it."""
    state: object = trigger.state
    if not isinstance(state, dict):
        raise SerializationError(
            f'the state of trigger "{trigger.name}" must be a dict, not a value of type {type(state).__name__}'
        )
    what = f'state of trigger "{trigger.name}"'
    text = encode(state, what)
    return None if text == encode(before, what) else text


def _describe(error: BaseException) -> str:
    """An error in a line that any database takes."""
    try:
        said = str(error)
    except Exception as problem:
        said = f"its str() raised {type(problem).__name__}"
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()[:ERROR_LENGTH]
