"""Triggers, as methods of clients; generated from ``triggers.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from typing import Any

from absurd.client.shells import AsyncShell
from absurd.client.trigger_registration import TriggerRegistration, check_page
from absurd.queries import triggers as queries
from absurd.queries.triggers import TriggerExecution, TriggerInfo
from absurd.registry import check_name


class AsyncTriggerMethods(TriggerRegistration, AsyncShell):
    """What ``AsyncAbsurd`` does with triggers."""

    async def list_triggers(self, *, conn: Any = None) -> list[TriggerInfo]:
        """All triggers that workers have registered, in order of name."""
        return await self._run(queries.list_triggers(), conn)

    async def enable_trigger(self, name: str, *, conn: Any = None) -> None:
        """Lets a disabled trigger be polled again, at once. Raises ``InvalidOptionError`` if there is none of that name."""
        await self._run(queries.set_trigger_enabled(check_name("trigger name", name), True), conn)

    async def disable_trigger(self, name: str, *, conn: Any = None) -> None:
        """Stops the polls of a trigger, in all processes, until it is enabled again; restarts and deployments do not enable it.

        When this returns (with ``conn``: when the caller commits) it fires nothing more, not even from a poll that is under way.
        Raises ``InvalidOptionError`` if there is none of that name.
        """
        await self._run(queries.set_trigger_enabled(check_name("trigger name", name), False), conn)

    async def delete_trigger(self, name: str, *, conn: Any = None) -> bool:
        """Deletes what is known of a trigger, with its history; false if there is none of that name.

        For those that are gone from the code: a worker that still has it registers it again within a minute.
        """
        return await self._run(queries.delete_trigger(check_name("trigger name", name)), conn)

    async def trigger_executions(
        self, name: str, *, limit: int = 50, before: int | None = None, conn: Any = None
    ) -> list[TriggerExecution]:
        """The fires of a trigger that became tasks, the newest first.

        Args:
            name: of the trigger.
            limit: at most so many, 1 to 1,000.
            before: the ``execution_id`` of the last one of a page, to get the next page.
            conn: as for ``spawn``.

        Raises:
            InvalidOptionError: there is no such trigger, or an argument is out of its range.
        """
        check_page(limit, before)
        return await self._run(queries.list_trigger_executions(check_name("trigger name", name), before, limit), conn)
