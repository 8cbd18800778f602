"""Schedules that the code of an application declares, and the loop that brings the database in line with them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable

from absurd import failpoints
from absurd.db import connect_async, run_async
from absurd.errors import ConfigurationError
from absurd.loops import Loop
from absurd.queries.schedules import ScheduleChange, ScheduleRequest, reconcile_schedules
from absurd.queries.workers import set_lock_timeout
from absurd.registry import DeclaredSchedule, Registry
from absurd.schedules.definition import check_schedule_name, make_schedule, timing_json

logger = logging.getLogger("absurd.schedules")

# Seconds for a lock on a schedule that somebody changes just now; then the loop tries again.
LOCK_SECONDS = 5.0


def declare(registry: Registry, declared: DeclaredSchedule) -> None:
    """Adds a declaration. Its task may be registered later.

    Raises:
        ConfigurationError: the name is taken.
        InvalidOptionError: the timing cannot be used.
    """
    timing_json(**declared.timing)
    if declared.name is not None:
        check_schedule_name(declared.name)
        if any(other.name == declared.name for other in registry.schedules):
            raise ConfigurationError(f'schedule "{declared.name}" is declared twice; give one of them another name')
    registry.schedules.append(declared)


def declared_schedules(registry: Registry) -> list[ScheduleRequest]:
    """All that an app declares, ready to be stored.

    Raises:
        ConfigurationError: two have one name, or a function is no task.
    """
    found: dict[str, ScheduleRequest] = {}
    for declared in registry.schedules:
        definition = registry.find(declared.handler)
        if definition is None:
            raise ConfigurationError(
                f"{declared.handler!r} has a schedule but is no task; decorate it with @app.register_task too"
            )
        name = definition.name if declared.name is None else declared.name
        if name in found:
            raise ConfigurationError(f'schedule "{name}" is declared twice; give one of them another name with name=')
        found[name] = make_schedule(
            registry,
            name,
            task=declared.handler,
            params=declared.params,
            queue=registry.queue_name,
            options=declared.options,
            **declared.timing,
        )
    return list(found.values())


def report(changes: Iterable[ScheduleChange]) -> None:
    """Logs what a reconciliation did."""
    for change in changes:
        if change.change == "refused":
            logger.warning("a declared schedule was refused: %s", change.message)
        elif change.change == "undeclared":
            logger.warning(
                'schedule "%s" is not declared by this code any more and goes on firing; unless another app of this queue_name '
                "declares it, delete it with: absurdctl delete-schedule %s",
                change.schedule_name,
                shlex.quote(change.schedule_name),
            )
        elif change.change != "unchanged":
            logger.info('schedule "%s" %s', change.schedule_name, change.change)


class Reconciliation(Loop):
    """Stores what an app declares, once, when its worker starts; again and again until the database has taken it."""

    def __init__(self, url: str, owner: str, requests: list[ScheduleRequest]) -> None:
        super().__init__("schedule declarations", 0)
        self._url = url
        self._owner = owner
        self._requests = requests

    async def tick(self) -> float | None:
        """Reconciles, and ends the loop."""
        conn = await connect_async(self._url, application_name="absurd worker: schedules")
        try:
            await run_async(conn, set_lock_timeout(LOCK_SECONDS))
            changes = await run_async(conn, reconcile_schedules(self._owner, self._requests))
            if failpoints.hook is not None:
                failpoints.hook("schedules.reconciled", self)
            report(changes)
        finally:
            await conn.close()
        self._stopping = True
        return None
