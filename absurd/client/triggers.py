"""Triggers, as methods of clients; ``aio_triggers.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from absurd.client.shells import SyncShell


class TriggerMethods(SyncShell):
    """What ``Absurd`` does with triggers."""
