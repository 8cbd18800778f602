"""What a trigger is: something that is asked again and again whether a task shall start."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from absurd.errors import ConfigurationError


class Skip:
    """What a poll returns when there is nothing to do; ``False`` and ``None`` say the same."""


@dataclass(frozen=True, slots=True)
class Fire:
    """What a poll returns when a task shall start; ``True`` is ``Fire()``.

    ``context`` is a JSON object: the task's params, to which ``trigger_name`` and ``triggered_at`` are added. Without
    ``allow_concurrent`` nothing is started while a task that was fired with the same context is not over.
    """

    context: Mapping[str, Any] | None = None


Polled: TypeAlias = Fire | Skip | type[Skip] | bool | Sequence["Fire"] | None
"""What a poll may return; a list of fires starts several tasks, in one transaction."""


class Trigger:
    """A condition that workers poll. Subclass it, say what it starts and write ``poll``; then ``app.add_trigger(MyTrigger())``.

    One worker polls it at a time; another takes over when that one stops or dies. Attributes, of the class or the instance:

    * ``name``: unique in the database; the name of the class if nothing is said.
    * ``task``: what is started, a registered function or the name of a task.
    * ``poll_interval``: between the starts of two polls: seconds, a timedelta or a text like ``"2s"``; at least 0.1 s.
    * ``poll_timeout``: seconds that a poll may take.
    * ``allow_concurrent``: whether a task is started also while one with the same context is active.

    Example:

        class NewOrders(Trigger):
            task = "import-orders"
            poll_interval = "10s"

            def poll(self):
                last = newest_order_id()
                if last == self.state.get("last"):
                    return Skip
                self.state["last"] = last
                return Fire({"up_to": last})
    """

    name: str = ""
    task: Any = None
    poll_interval: float | str | timedelta = "2s"
    poll_timeout: float | str | timedelta = 30
    allow_concurrent: bool = False
    database_url: str | None = None
    """Where the worker that polls has its database; known while it polls."""

    def poll(self) -> Polled | Awaitable[Polled]:
        """Says whether a task shall start; plain (it runs in a thread of its own) or async. What it raises is kept as error."""
        raise NotImplementedError(f"{type(self).__name__} must say in poll() when it fires")

    @property
    def state(self) -> dict[str, Any]:
        """What the trigger remembers: a JSON object, read from the database before each poll and stored together with its fires.

        It survives restarts and goes with the trigger to another worker. A poll that raises or takes too long changes nothing.
        """
        found: dict[str, Any] = self.__dict__.setdefault("_state", {})
        return found

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self.__dict__["_state"] = value


class FunctionTrigger(Trigger):
    """A trigger whose poll is a function, without arguments or with the trigger's ``state``; made by ``@app.trigger``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._takes_state = _takes_state(function)
        self.is_async = inspect.iscoroutinefunction(function)

    def poll(self) -> Any:
        """What the function says."""
        return self._function(self.state) if self._takes_state else self._function()


def _takes_state(function: Callable[..., Any]) -> bool:
    signature = inspect.signature(function)
    choices: tuple[tuple[object, ...], ...] = ((), ({},))
    for arguments in choices:
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise ConfigurationError(f"{function!r} must take no argument, or one: the trigger's state")
