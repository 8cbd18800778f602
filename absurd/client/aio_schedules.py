"""Schedules, as methods of clients; generated from ``schedules.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from absurd.client.shells import AsyncShell


class AsyncScheduleMethods(AsyncShell):
    """What ``AsyncAbsurd`` does with schedules."""
