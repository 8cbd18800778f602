"""Tokens, as methods of clients; ``aio_tokens.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from typing import Any

import psycopg

from absurd.client.answers import answer_text, read_secret
from absurd.client.shells import SyncShell
from absurd.queries import tokens
from absurd.queries.tokens import TokenInfo


class TokenMethods(SyncShell):
    """What ``Absurd`` does with tokens."""

    def complete_token(self, token: str, payload: Any = None, *, conn: psycopg.Connection[Any] | None = None) -> None:
        """Answers a token, once: the task that waits for it, or will, gets the payload.

        Args:
            token: its secret, or the link that ends with it.
            payload: the answer, JSON, of the type that the task declared when it made the token.
            conn: an open connection of the caller's: the answer is part of its transaction, which is not committed here. Until
                then it holds up the task, so commit soon.

        Raises:
            TokenError: the token is unknown, used, expired, or its task has ended; ``reason`` says which.
            ValidationError: the payload is of another type; the token stays open.
            PayloadTooLargeError: it is larger than the task's queue allows; the token stays open.
            DatabaseUnavailableError: the connection broke before the answer came; ``read_token`` tells whether it took place.
        """
        secret = read_secret(token)
        info = self._run(tokens.read_token(secret), conn)
        self._run(tokens.use_token(secret, answer_text(info, payload)), conn)

    def read_token(self, token: str, *, conn: psycopg.Connection[Any] | None = None) -> TokenInfo:
        """What is known of a token; changes nothing.

        Args:
            token: its secret, or the link that ends with it.
            conn: an open connection of the caller's, to look within its transaction.

        Raises:
            TokenError: it is unknown.
        """
        return self._run(tokens.read_token(read_secret(token)), conn)
