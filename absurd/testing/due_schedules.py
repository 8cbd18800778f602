"""Fires the schedules of a test when its clock has reached their slots, as the scheduler of a worker does."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg

from absurd.db import run
from absurd.queries import schedules as queries
from absurd.registry import Registry
from absurd.schedules import declared_schedules
from absurd.schedules.slots import due_plan, first_plan


class DueSchedules:
    """The schedules of one test database, with those that the code of an application declares."""

    def __init__(self, conn: psycopg.Connection[Any], registry: Registry) -> None:
        self._conn = conn
        self._registry = registry
        self._declared = 0

    def declare(self) -> None:
        """Stores what the code declares and has not been stored."""
        if self._declared != len(self._registry.schedules):
            self._declared = len(self._registry.schedules)
            run(self._conn, queries.reconcile_schedules(self._registry.queue_name, declared_schedules(self._registry)))

    def fire(self, now: datetime) -> int:
        """Fires what is due, slot by slot; returns how often.

        Raises:
            AssertionError: a slot failed; the message says why.
        """
        self.declare()
        fired = 0
        while any(results := [self._step(schedule, now) for schedule in self._waiting()]):
            fired += sum(results)
        return fired

    def next_due(self) -> datetime | None:
        """When the next slot fires."""
        self.fire_first_plans()
        return min((schedule.due_at for schedule in self._waiting() if schedule.due_at is not None), default=None)

    def fire_first_plans(self) -> None:
        """Has the first slot of new schedules computed."""
        self.declare()
        for schedule in self._waiting():
            if schedule.next_slot is None:
                self._plan(schedule)

    def _waiting(self) -> list[queries.Schedule]:
        found = [s for s in run(self._conn, queries.list_times()) if s.paused_at is None and s.ended_at is None]
        return sorted(found, key=lambda schedule: (schedule.due_at is not None, schedule.due_at, schedule.schedule_name))

    def _step(self, schedule: queries.Schedule, now: datetime) -> bool:
        if schedule.next_slot is None:
            return self._plan(schedule)
        if schedule.due_at is None or schedule.due_at > now:
            return False
        plan = due_plan(schedule, now)
        outcome = run(self._conn, queries.fire_schedule(schedule, plan.slots, plan.next_slot, plan.next_due))
        if outcome.status == "failed":
            raise AssertionError(f'schedule "{schedule.schedule_name}" failed at {schedule.next_slot}: {outcome.message}')
        return outcome.status in ("fired", "skipped")

    def _plan(self, schedule: queries.Schedule) -> bool:
        plan = first_plan(schedule)
        return run(self._conn, queries.plan_schedule(schedule, plan.next_slot, plan.next_due, None))
