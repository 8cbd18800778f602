"""How an application declares schedules in its code. Does not ask the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, Unpack

from absurd.client.base import BaseClient
from absurd.client.keywords import SpawnKeywords, spawn_options
from absurd.errors import ConfigurationError
from absurd.queries.schedules import ScheduleRequest
from absurd.registry import DeclaredSchedule
from absurd.schedules.declared import declare
from absurd.schedules.definition import make_schedule

F = TypeVar("F", bound=Callable[..., Any])

Every = float | str | timedelta
Catchup = Literal["skip", "one", "all"]
Overlap = Literal["allow", "skip"]


class ScheduleDeclaration(BaseClient):
    """What both clients do to declare schedules."""

    def schedule(
        self,
        cron: str | None = None,
        *,
        every: Every | None = None,
        name: str | None = None,
        params: Any = None,
        timezone: str = "UTC",
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        jitter: Every = 0,
        catchup: Catchup = "skip",
        catchup_limit: int = 100,
        overlap: Overlap = "allow",
        run_immediately: bool | None = None,
        **options: Unpack[SpawnKeywords],
    ) -> Callable[[F], F]:
        """Starts a task of this app by the clock; a decorator, over or under ``@app.register_task``, that returns the function.

        The schedule is stored when a worker of the app starts, or by ``reconcile_schedules``. A changed declaration changes it;
        one that was removed from the code is reported and goes on until it is deleted. A task may have several schedules.

        Args:
            cron: 5 fields, 6 with seconds first, or ``@daily`` and the like.
            every: seconds, a ``timedelta``, or text like ``"5m"``, instead.
            name: of the schedule, unique in the database; the task's name otherwise.
            params: of its tasks.
            timezone: others, and the options of its tasks: as for ``create_schedule``.
            starts_at: see there.
            ends_at: see there.
            jitter: see there.
            catchup: see there.
            catchup_limit: see there.
            overlap: see there.
            run_immediately: see there.
            options: of its tasks.

        Raises:
            ConfigurationError: the name is taken, or an argument cannot be used.

        Example:

            @app.schedule("0 7 * * MON-FRI", timezone="Europe/Vienna")
            @app.register_task("morning-report")
            def morning_report(params, ctx): ...
        """
        if callable(cron):
            raise ConfigurationError(
                '@app.schedule needs to know when: @app.schedule("*/5 * * * *") or @app.schedule(every="5m")'
            )
        timing = {
            "cron": cron,
            "every": every,
            "timezone": timezone,
            "starts_at": starts_at,
            "ends_at": ends_at,
            "jitter": jitter,
            "catchup": catchup,
            "catchup_limit": catchup_limit,
            "overlap": overlap,
            "run_immediately": run_immediately,
        }
        choice = spawn_options(options)

        def add(handler: F) -> F:
            declare(self.registry, DeclaredSchedule(handler, name, params, choice, timing))
            return handler

        return add

    def _schedule_request(self, name: str, task: Any, options: Mapping[str, Any], **others: Any) -> ScheduleRequest:
        """A schedule made by hand, checked."""
        known = None if task is None else self._task_name(task)
        choice = spawn_options(options)
        return make_schedule(self.registry, name, task=known, queue=self.queue_name, options=choice, **others)
