"""Schedules, as methods of clients; ``aio_schedules.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from absurd.client.shells import SyncShell


class ScheduleMethods(SyncShell):
    """What ``Absurd`` does with schedules."""
