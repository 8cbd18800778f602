"""How an application says which triggers its workers poll. Does not ask the database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, Unpack

from absurd.client.base import BaseClient
from absurd.client.keywords import TaskDefaults, default_options
from absurd.errors import ConfigurationError, InvalidOptionError
from absurd.queries.triggers import PAGE_SIZE
from absurd.triggers import FunctionTrigger, Trigger
from absurd.triggers.declared import declare

Poll = TypeVar("Poll", bound=Callable[..., Any])
T = TypeVar("T", bound=Trigger)


class TriggerRegistration(BaseClient):
    """What both clients do with triggers of the application."""

    def add_trigger(self, trigger: T, **options: Unpack[TaskDefaults]) -> T:
        """Lets the workers of this application poll a trigger; the database learns of it when one of them starts.

        Args:
            trigger: an instance of a subclass of ``Trigger``.
            options: queue, max_attempts, retry, cancellation, priority and headers of the tasks that it starts; what is not
                said comes from the task's definition, then from the app.

        Returns:
            The trigger.

        Raises:
            ConfigurationError: it is no trigger, its name is taken, its task unknown, or an attribute or option is out of range.
        """
        declare(self.registry, trigger, default_options(options), queue=self.queue_name)
        return trigger

    def trigger(
        self,
        name: str | None = None,
        *,
        task: Callable[..., Any] | str,
        poll_interval: float | str | timedelta = "2s",
        poll_timeout: float | str | timedelta = 30,
        allow_concurrent: bool = False,
        **options: Unpack[TaskDefaults],
    ) -> Callable[[Poll], Poll]:
        """Makes a function, plain or async, the poll of a trigger; a decorator that returns the function unchanged.

        The function takes nothing, or the trigger's ``state``, and returns ``Fire(…)``, ``Skip`` or a bool.

        Args:
            name: of the trigger, unique in the database; the function's name if nothing is said.
            task: what it starts.
            poll_interval: between the starts of two polls: seconds, a timedelta or a text like ``"2s"``; at least 0.1 s.
            poll_timeout: seconds that a poll may take.
            allow_concurrent: whether a task is started also while one with the same context is active.
            options: as for ``add_trigger``.

        Example:

            @app.trigger(task="import-orders", poll_interval="10s")
            def new_orders():
                return Fire({"batch": 7}) if orders_waiting() else Skip
        """

        def register(function: Poll) -> Poll:
            if not callable(function):
                raise ConfigurationError(f"the poll of a trigger is a function, not {function!r}")
            made = FunctionTrigger(function)
            made.name = name if name is not None else getattr(function, "__name__", "")
            made.task, made.allow_concurrent = task, allow_concurrent
            made.poll_interval, made.poll_timeout = poll_interval, poll_timeout
            self.add_trigger(made, **options)
            return function

        return register


def check_page(limit: object, before: object) -> None:
    """Refuses arguments that name no page."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_SIZE:
        raise InvalidOptionError(f"limit must be a whole number from 1 to {PAGE_SIZE}, not {limit!r}")
    if before is not None and (isinstance(before, bool) or not isinstance(before, int)):
        raise InvalidOptionError(f"before must be an execution_id, a whole number, not {before!r}")
