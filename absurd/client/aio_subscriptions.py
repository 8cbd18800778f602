"""Subscriptions, as methods of clients; generated from ``subscriptions.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from absurd.client.shells import AsyncShell


class AsyncSubscriptionMethods(AsyncShell):
    """What ``AsyncAbsurd`` does with subscriptions."""
