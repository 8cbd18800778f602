"""Who may call the API: holders of the key; without one, on loopback, local programs but no web pages of others."""

from __future__ import annotations

import enum
import hmac
import ipaddress
import os
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers

from absurd.errors import ConfigurationError

KEY_VARIABLE = "ABSURD_API_KEY"

Guard = Callable[[Request], None]
"""Looks at a request before its body is read, and raises ``HTTPException`` to refuse it."""


class FromEnvironment(enum.Enum):
    """The default of ``api_key``: read ``ABSURD_API_KEY``."""

    ABSURD_API_KEY = KEY_VARIABLE


ApiKey = str | FromEnvironment | None


def find_key(given: ApiKey) -> str | None:
    """The key, checked: the one given or that of the environment.

    Raises:
        ConfigurationError: it cannot be sent in a header.
    """
    key = os.environ.get(KEY_VARIABLE) or None if isinstance(given, FromEnvironment) else given
    if key is None:
        return None
    if not isinstance(key, str) or not key or not all("!" <= sign <= "~" for sign in key):
        raise ConfigurationError("the API key must be made of visible ASCII characters, without blanks")
    return key


def choose_guard(api_key: ApiKey, loopback_only: bool) -> Guard:
    """The guard of the API routes.

    Raises:
        ConfigurationError: there is no key, and nobody said that there need be none.
    """
    key = find_key(api_key)
    if key is not None:
        return _KeyGuard(key)
    if loopback_only:
        return require_local
    if api_key is None:
        return allow
    raise ConfigurationError(
        f"the HTTP API needs a key: set {KEY_VARIABLE} or give api_key=…; api_key=None leaves the API open, "
        "for an application that checks its callers itself"
    )


def allow(request: Request) -> None:
    """Refuses nothing."""


class _KeyGuard:
    """Refuses who does not name the key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def __call__(self, request: Request) -> None:
        given = _named_key(request.headers)
        # latin-1 is how header bytes became text, so that none of them can fail here.
        if given is not None and hmac.compare_digest(given.encode("latin-1", "replace"), self._key):
            return
        problem = "no API key was given" if given is None else "the API key is wrong"
        raise HTTPException(
            401,
            f"{problem}; send it as Authorization: Bearer KEY or as X-API-Key: KEY",
            headers={"WWW-Authenticate": 'Bearer realm="absurd"'},
        )


def _named_key(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key")


def require_local(request: Request) -> None:
    """Refuses what a web page could send: by a name that leads to this host (DNS rebinding), or across origins."""
    if not is_loopback(_host_name(request.headers.get("host", ""))):
        raise HTTPException(
            403, f"without an API key this server answers requests to localhost only; set {KEY_VARIABLE} to serve other names"
        )
    refuse_cross_site(request)


def refuse_cross_site(request: Request) -> None:
    """Refuses requests that a browser says come from a page of another origin; other programs say nothing of the kind."""
    origin = request.headers.get("origin")
    foreign = origin is not None and _host_of(origin) != request.headers.get("host", "").lower()
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HTTPException(403, "requests from web pages of other origins are refused")


def _host_of(origin: str) -> str:
    """Host and port of an origin; empty for ``null`` and what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """The name or address in a ``Host`` header."""
    if host.startswith("[") and "]" in host:
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
