"""Tokens, as methods of clients; generated from ``tokens.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

from absurd.client.shells import AsyncShell


class AsyncTokenMethods(AsyncShell):
    """What ``AsyncAbsurd`` does with tokens."""
