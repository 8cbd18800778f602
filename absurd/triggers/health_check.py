"""A trigger that fires when a check has failed several times in a row."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from absurd.errors import InvalidOptionError
from absurd.triggers.trigger import Fire, Skip, Trigger


class HealthCheckTrigger(Trigger):
    """Fires when a check has failed so many times in a row. A success and a fire both begin the count anew.

    The check fails when it raises or returns something false. The count is kept in the database, so it survives restarts. A
    check that takes longer than ``poll_timeout`` is an error of the poll and does not count: give it a time-out of its own.
    The context is ``{"failures": n}``; the last error stands in ``state["last_failure"]``.

    Args:
        check: a function without arguments, plain or async.
        task: what it starts.
        failures: so many in a row.
        name: of the trigger; ``health-check:FUNCTION`` if nothing is said.
        poll_interval: between two checks.
        poll_timeout: seconds that a check may take.

    Example:

        app.add_trigger(HealthCheckTrigger(payments_are_up, task="page-somebody", failures=3, poll_interval="10s"))
    """

    def __init__(
        self,
        check: Callable[[], Any],
        *,
        task: Any,
        failures: int = 3,
        name: str | None = None,
        poll_interval: float | str | timedelta = "10s",
        poll_timeout: float | str | timedelta = 30,
    ) -> None:
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise InvalidOptionError(f"failures must be a whole number of 1 or more, not {failures!r}")
        if not callable(check):
            raise InvalidOptionError(f"check must be a function without arguments, not {check!r}")
        self.check = check
        self.failures = failures
        self.task = task
        self.name = name or f"health-check:{getattr(check, '__name__', type(check).__name__)}"
        self.poll_interval = poll_interval
        self.poll_timeout = poll_timeout
        self.is_async = inspect.iscoroutinefunction(check)

    def poll(self) -> Fire | type[Skip] | Awaitable[Fire | type[Skip]]:
        """Makes the check and counts."""
        try:
            answer = self.check()
        except Exception as error:
            return self._failed(error)
        return self._awaited(answer) if inspect.isawaitable(answer) else self._judge(answer)

    async def _awaited(self, answer: Awaitable[Any]) -> Fire | type[Skip]:
        try:
            healthy = await answer
        except Exception as error:
            return self._failed(error)
        return self._judge(healthy)

    def _judge(self, healthy: Any) -> Fire | type[Skip]:
        if not healthy:
            return self._failed(None)
        self.state = {}
        return Skip

    def _failed(self, error: Exception | None) -> Fire | type[Skip]:
        count = self.state.get("failures", 0) + 1
        said = "the check returned a false value" if error is None else f"{type(error).__name__}: {error}"
        self.state["last_failure"] = said[:1000].replace("\x00", "").encode("utf-8", "backslashreplace").decode()
        fired = count >= self.failures
        self.state["failures"] = 0 if fired else count
        return Fire({"failures": self.failures}) if fired else Skip
