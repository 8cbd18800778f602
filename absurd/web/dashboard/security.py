"""Who may see the dashboard, and which requests may change something.

Sessions live in a signed cookie and nowhere else, so that several processes may serve one dashboard: the key comes from the token
and the URL of the database, which they share.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response

from absurd.errors import ConfigurationError
from absurd.web.auth import is_loopback

TOKEN_VARIABLE = "ABSURD_DASHBOARD_TOKEN"
# Characters: whoever has a cookie can try tokens as fast as he can hash.
TOKEN_CHARACTERS = 16
# Seconds after which one has to log in again.
SESSION_SECONDS = 24 * 3600
# Characters of a message that is told after an action: a cookie holds 4 kB.
MESSAGE_CHARACTERS = 600

# Headers by which a proxy says that it passes on what others ask.
_PROXIES = ("forwarded", "x-forwarded-for", "x-real-ip")

Auth = Callable[[Request], Any | Awaitable[Any]]
"""Says whether a request may see the dashboard: true or false, or raises ``HTTPException``; plain or async."""


class FromEnvironment(Enum):
    """The default of ``token``: read ``ABSURD_DASHBOARD_TOKEN``."""

    ABSURD_DASHBOARD_TOKEN = TOKEN_VARIABLE


Token = str | FromEnvironment | None


class LoginNeeded(Exception):
    """The token has to be given first."""


class CrossSite(Exception):
    """A browser followed a link from elsewhere, and so left the cookie out: it shall ask once more, of its own."""


def find_token(given: Token) -> str | None:
    """The token, checked: the one given or that of the environment.

    Raises:
        ConfigurationError: it is too short, or cannot be sent in a header.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None if isinstance(given, FromEnvironment) else given
    if token is None:
        return None
    if not isinstance(token, str) or len(token) < TOKEN_CHARACTERS or not all("!" <= sign <= "~" for sign in token):
        raise ConfigurationError(
            f"the token of the dashboard must be at least {TOKEN_CHARACTERS} visible ASCII characters without blanks; "
            "make one with: openssl rand -hex 16"
        )
    return token


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session. ``fresh``: its cookie has still to be set."""

    session_id: str
    logged_in: bool
    made_at: int
    fresh: bool


class Gate:
    """Lets requests in, or not."""

    def __init__(self, token: str | None, auth: Auth | None) -> None:
        if auth is not None and not callable(auth):
            raise ConfigurationError(f"auth must be a function that takes the request, not {auth!r}")
        if auth is not None and token is not None:
            raise ConfigurationError("token and auth are both given; a dashboard asks for one of them")
        self.token = token
        self._auth = auth

    async def admit(self, request: Request, seal: Seal) -> Session:
        """The session of a request that may see the dashboard.

        Raises:
            LoginNeeded, CrossSite: see there.
            HTTPException: it may not.
        """
        session = seal.session(request)
        if session.fresh and _followed_link(request):
            raise CrossSite
        if self._auth is not None:
            answer = self._auth(request)
            if inspect.isawaitable(answer):
                answer = await answer
            if not answer:
                raise HTTPException(403, "you may not see this dashboard")
        elif self.token is None:
            require_local(request)
        elif not session.logged_in and not self.is_named(_bearer(request)):
            raise LoginNeeded
        return session

    def is_named(self, given: str | None) -> bool:
        """Whether a text is the token."""
        if given is None or self.token is None:
            return False
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


class Seal:
    """Signs cookies and form fields, and reads those that it has signed."""

    def __init__(self, token: str | None, database_url: str) -> None:
        self._key = hashlib.sha256(f"absurd dashboard\0{token or ''}\0{database_url}".encode()).digest()
        # Cookies know no ports: two dashboards on one host must not overwrite each other's.
        self.cookie = f"absurd_dashboard_{hashlib.sha256(self._key).hexdigest()[:8]}"
        self.message_cookie = f"{self.cookie}_message"

    def session(self, request: Request) -> Session:
        """The session of a request; a new one when it has none."""
        name, _, signature = request.cookies.get(self.cookie, "").rpartition(".")
        session_id, _, rest = name.partition(".")
        kind, _, made = rest.partition(".")
        if made.isascii() and made.isdigit() and len(made) < 12 and self._is_signed("session", name, signature):
            made_at = int(made)
            if time.time() - made_at < SESSION_SECONDS:
                return Session(session_id, kind == "in", made_at, fresh=False)
        return self.new_session(logged_in=False)

    def new_session(self, *, logged_in: bool) -> Session:
        """A session with an id that nobody knows: at the login too, so that nobody can have planted it."""
        return Session(secrets.token_urlsafe(24), logged_in, int(time.time()), fresh=True)

    def set_session(self, response: Response, request: Request, session: Session) -> None:
        """Sends the cookie of a session."""
        name = f"{session.session_id}.{'in' if session.logged_in else 'out'}.{session.made_at}"
        self._set_cookie(response, request, self.cookie, f"{name}.{self._signature('session', name)}", SESSION_SECONDS)

    def end_session(self, response: Response) -> None:
        """Has the browser forget its session."""
        response.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict")

    def csrf(self, session: Session) -> str:
        """What every form of a session sends along."""
        return self._signature("csrf", session.session_id)

    def check_form(self, request: Request, session: Session, fields: Mapping[str, str]) -> None:
        """Refuses a form that none of this session's pages has sent."""
        if session.fresh or not hmac.compare_digest(
            self.csrf(session).encode(), fields.get("csrf", "").encode("utf-8", "replace")
        ):
            raise HTTPException(
                403, "this form is too old, or cookies are switched off: go back, load the page again, and repeat"
            )

    def set_message(self, response: Response, request: Request, text: str) -> None:
        """Keeps a message for the next page."""
        packed = base64.urlsafe_b64encode(text[:MESSAGE_CHARACTERS].encode("utf-8", "replace")).decode()
        self._set_cookie(response, request, self.message_cookie, f"{packed}.{self._signature('message', packed)}", 60)

    def take_message(self, request: Request, response: Response) -> None:
        """Has the browser forget the message that a page has shown."""
        if self.message_cookie in request.cookies:
            response.delete_cookie(self.message_cookie, path="/", httponly=True, samesite="strict")

    def message(self, request: Request) -> str | None:
        """The message that an action has left for this page."""
        packed, _, signature = request.cookies.get(self.message_cookie, "").rpartition(".")
        if not packed or not self._is_signed("message", packed, signature):
            return None
        try:
            return base64.urlsafe_b64decode(packed).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None

    def _set_cookie(self, response: Response, request: Request, name: str, value: str, seconds: int) -> None:
        secure = request.url.scheme == "https"
        response.set_cookie(name, value, max_age=seconds, path="/", httponly=True, samesite="strict", secure=secure)

    def _signature(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()

    def _is_signed(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(self._signature(purpose, text).encode(), signature.encode("utf-8", "replace"))


def require_local(request: Request) -> None:
    """Refuses what does not come from this machine, or by a name that only leads to it (DNS rebinding)."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname if _is_host(request) else None
    client = request.client.host if request.client is not None else ""
    passed_on = any(name in request.headers for name in _PROXIES)
    if host is None or not is_loopback(host) or not is_loopback(client) or passed_on:
        raise HTTPException(
            403,
            f"without a token the dashboard answers requests from this machine to localhost only; set {TOKEN_VARIABLE}, "
            "or give auth=… where it is mounted",
        )


def _is_host(request: Request) -> bool:
    try:
        return bool(urlsplit(f"//{request.headers.get('host', '')}").hostname)
    except ValueError:
        return False


def refuse_cross_origin(request: Request) -> None:
    """Refuses a form that a page of another origin sends, as browsers say."""
    origin = request.headers.get("origin")
    if origin is not None:
        try:
            place = urlsplit(origin).netloc.lower()
        except ValueError:
            place = ""
        # A proxy may have put its own name in Host; a page elsewhere cannot send the other header.
        if (
            place not in (request.headers.get("host", "").lower(), request.headers.get("x-forwarded-host", "").lower())
            or not place
        ):
            raise HTTPException(403, "forms from web pages of other origins are refused")
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HTTPException(403, "forms from web pages of other origins are refused")


def _followed_link(request: Request) -> bool:
    return request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site"


def _bearer(request: Request) -> str | None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None
