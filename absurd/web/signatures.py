"""Signatures of webhooks: HMAC-SHA256 of the raw body with a shared secret, as hex digits."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

OWN_HEADER = "x-webhook-signature"
GITHUB_HEADER = "x-hub-signature-256"
GITHUB_PREFIX = "sha256="


def sign(secret: str, body: bytes) -> str:
    """The hex digits of a body's signature."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_signed(secret: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether one of the signature headers holds the body's signature.

    ``headers`` is looked up in lower case. Compared as bytes and in constant time; a header of any characters is no error.
    """
    given = headers.get(OWN_HEADER)
    if given is None:
        given = headers.get(GITHUB_HEADER, "")
        if not given.startswith(GITHUB_PREFIX):
            return False
    digits = given.removeprefix(GITHUB_PREFIX)
    return hmac.compare_digest(digits.encode("latin-1", "replace").lower(), sign(secret, body).encode())
