"""Subscriptions, as methods of clients; ``aio_subscriptions.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from absurd.client.shells import SyncShell


class SubscriptionMethods(SyncShell):
    """What ``Absurd`` does with subscriptions."""
