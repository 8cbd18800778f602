"""Triggers, as methods of clients; ``aio_triggers.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from typing import Any

from absurd.client.shells import SyncShell
from absurd.client.trigger_registration import TriggerRegistration, check_page
from absurd.queries import triggers as queries
from absurd.queries.triggers import TriggerExecution, TriggerInfo
from absurd.registry import check_name


class TriggerMethods(TriggerRegistration, SyncShell):
    """What ``Absurd`` does with triggers."""

    def list_triggers(self, *, conn: Any = None) -> list[TriggerInfo]:
        """All triggers that workers have registered, in order of name."""
        return self._run(queries.list_triggers(), conn)

    def enable_trigger(self, name: str, *, conn: Any = None) -> None:
        """Lets a disabled trigger be polled again, at once. Raises ``InvalidOptionError`` if there is none of that name."""
        self._run(queries.set_trigger_enabled(check_name("trigger name", name), True), conn)

    def disable_trigger(self, name: str, *, conn: Any = None) -> None:
        """Stops the polls of a trigger, in all processes, until it is enabled again; restarts and deployments do not enable it.

        When this returns (with ``conn``: when the caller commits) it fires nothing more, not even from a poll that is under way.
        Raises ``InvalidOptionError`` if there is none of that name.
        """
        self._run(queries.set_trigger_enabled(check_name("trigger name", name), False), conn)

    def delete_trigger(self, name: str, *, conn: Any = None) -> bool:
        """Deletes what is known of a trigger, with its history; false if there is none of that name.

        For those that are gone from the code: a worker that still has it registers it again within a minute.
        """
        return self._run(queries.delete_trigger(check_name("trigger name", name)), conn)

    def trigger_executions(
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
        return self._run(queries.list_trigger_executions(check_name("trigger name", name), before, limit), conn)
