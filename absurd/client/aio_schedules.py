"""Schedules, as methods of clients; generated from ``schedules.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Unpack

from absurd.client.keywords import SpawnKeywords
from absurd.client.schedule_declaration import Catchup, Every, Overlap, ScheduleDeclaration
from absurd.client.shells import AsyncShell
from absurd.queries import schedules as queries
from absurd.queries.schedules import Schedule, ScheduleChange, ScheduleRun
from absurd.registry import check_name
from absurd.schedules.declared import declared_schedules, report
from absurd.schedules.definition import check_schedule_name
from absurd.schedules.slots import backfill_slots, required, with_next


class AsyncScheduleMethods(ScheduleDeclaration, AsyncShell):
    """What ``AsyncAbsurd`` does with schedules."""

    async def create_schedule(
        self,
        name: str,
        *,
        task: Any = None,
        event: str | None = None,
        cron: str | None = None,
        every: Every | None = None,
        params: Any = None,
        timezone: str = "UTC",
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        jitter: Every = 0,
        catchup: Catchup = "skip",
        catchup_limit: int = 100,
        overlap: Overlap = "allow",
        run_immediately: bool | None = None,
        replace: bool = False,
        conn: Any = None,
        **options: Unpack[SpawnKeywords],
    ) -> Schedule:
        """Makes a schedule: a task that starts, or an event that is emitted, by the clock. Any worker process fires it.

        The same call again changes nothing. Hooks (``before_spawn``) do not see its tasks: the database makes them.

        Args:
            name: unique in the database, 1 to 900 bytes.
            task: what it starts: a function registered with this app, or the name of a task.
            event: what it emits instead; its payload is ``params`` with ``scheduled_at`` and, from the second time on,
                ``last_run``: the moments of the schedule's making and of this run.
            cron: 5 fields (minute hour day month weekday), 6 with seconds first, or ``@daily`` and the like.
            every: 1 second to 10 years, as seconds, ``timedelta`` or text like ``"1h30m"``, instead; counted from ``starts_at``
                or from now, without drift.
            params: of its tasks, JSON or what the task's declared type takes.
            timezone: IANA name, for cron.
            starts_at: no slot lies before this moment, which needs a time zone.
            ends_at: no slot lies at this moment or later.
            jitter: by how much each firing is put off at most, given like ``every``, up to an hour; a slot always by the same.
            catchup: what becomes of slots that were missed because nobody ran a scheduler: ``"skip"`` fires the last one if it is
                not older than a minute, ``"one"`` the last one, ``"all"`` the last ``catchup_limit``, each.
            catchup_limit: 1 to 1,000.
            overlap: ``"skip"`` leaves a slot out while a task of this schedule is alive; not for an event.
            run_immediately: whether it also fires now; an interval does, if nothing is said, and cron does not.
            replace: change a schedule of that name which is different. New times begin anew, from now on.
            conn: as for ``spawn``.
            options: of its tasks, as for ``spawn``: ``queue``, where tasks or the event go, ``max_attempts`` and so on; no
                ``idempotency_key`` and no ``available_at``.

        Returns:
            The schedule, with ``created`` true if this call made it, and ``changed`` if it replaced another by it.

        Raises:
            InvalidOptionError, SerializationError, ValidationError: what was given cannot be used.
            ScheduleConflictError: there is another one of that name, and ``replace`` was not said; or an app's code declares it.
            QueueNotFoundError, PayloadTooLargeError: the database refused it.
        """
        request = self._schedule_request(
            name,
            task,
            options,
            event=event,
            params=params,
            cron=cron,
            every=every,
            timezone=timezone,
            starts_at=starts_at,
            ends_at=ends_at,
            jitter=jitter,
            catchup=catchup,
            catchup_limit=catchup_limit,
            overlap=overlap,
            run_immediately=run_immediately,
        )
        return with_next(await self._run(queries.create_schedule(request, bool(replace)), conn))

    async def get_schedule(self, name: str, *, conn: Any = None) -> Schedule | None:
        """A schedule by its name; ``None`` if there is none."""
        found = await self._run(queries.get_schedule(check_schedule_name(name)), conn)
        return None if found is None else with_next(found)

    async def list_schedules(self, *, event: str | None = None, conn: Any = None) -> list[Schedule]:
        """All schedules, or those that emit an event of this name; in order of name."""
        found = await self._run(queries.list_schedules(None, None if event is None else check_name("event name", event)), conn)
        return [with_next(schedule) for schedule in found]

    async def pause_schedule(self, name: str, *, conn: Any = None) -> None:
        """Stops a schedule until it is resumed; nothing fires once this has returned. Raises ``ScheduleNotFoundError``."""
        await self._run(queries.pause_schedule(check_schedule_name(name)), conn)

    async def resume_schedule(self, name: str, *, conn: Any = None) -> None:
        """Lets a schedule go on with its next slot from now; those of the pause are left out.

        Nothing happens if it is not paused. Raises ``ScheduleNotFoundError``.
        """
        await self._run(queries.resume_schedule(check_schedule_name(name)), conn)

    async def trigger_schedule(self, name: str, *, conn: Any = None) -> ScheduleRun:
        """Runs a schedule now, out of its turn, also while it is paused or a task of it is alive. Its slots stay as they are.

        If the connection breaks before the answer it raises ``DatabaseUnavailableError``, for twice would be two runs.
        Raises ``ScheduleNotFoundError``.
        """
        return await self._run(queries.trigger_schedule(check_schedule_name(name)), conn)

    async def backfill_schedule(self, name: str, start: datetime, end: datetime, *, limit: int = 1000, conn: Any = None) -> int:
        """Runs the past slots of a schedule from ``start`` on and before ``end``, all or none, except those that were run.

        Args:
            name: of the schedule; whether it is paused, and what ``overlap`` says, does not matter.
            start: a moment with a time zone.
            end: likewise; not in the future.
            limit: more slots than this are refused.
            conn: as for ``spawn``.

        Returns:
            How many were run. A slot counts as run as long as its task has not been cleaned up.

        Raises:
            ScheduleNotFoundError: there is no such schedule.
            InvalidOptionError: there are more slots than ``limit``, or some that are still to come.
            ScheduleConflictError: the schedule was changed meanwhile; nothing was run.
        """
        schedule = required(name, await self._run(queries.get_schedule(check_schedule_name(name)), conn))
        slots = backfill_slots(schedule, start, end, limit)
        return await self._run(queries.backfill_schedule(name, schedule.revision, slots), conn)

    async def delete_schedule(self, name: str, *, conn: Any = None) -> bool:
        """Deletes a schedule; false if there was none. Its tasks stay. One that code declares comes back with its next worker."""
        return await self._run(queries.delete_schedule(check_schedule_name(name)), conn)

    async def reconcile_schedules(self, *, conn: Any = None) -> list[ScheduleChange]:
        """Stores the schedules that this app declares, as each of its workers does when it starts.

        Returns:
            What became of each: ``created``, ``changed``, ``unchanged``, ``refused`` (its message says why), or ``undeclared``:
            it was declared by this app once, goes on firing, and ``delete_schedule`` ends it. Undeclared and refused ones are
            logged as warnings too.

        Raises:
            ConfigurationError: two declarations have one name, or a function with a schedule is no task.
        """
        changes = await self._run(queries.reconcile_schedules(self.queue_name, declared_schedules(self.registry)), conn)
        report(changes)
        return changes
