"""Triggers, as methods of clients; generated from ``triggers.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from absurd.client.shells import AsyncShell


class AsyncTriggerMethods(AsyncShell):
    """What ``AsyncAbsurd`` does with triggers."""
