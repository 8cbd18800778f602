"""Tokens, as methods of clients; ``aio_tokens.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from absurd.client.shells import SyncShell


class TokenMethods(SyncShell):
    """What ``Absurd`` does with tokens."""
