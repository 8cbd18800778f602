"""Resume tokens: what a task hands to a person or another service, who answers it once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from absurd.codec import Codec, encode, typed_codec
from absurd.context.core import Core, Steps
from absurd.context.durations import check_timeout
from absurd.errors import ConfigurationError, ContextError, InvalidOptionError
from absurd.registry import check_name
from absurd.writes import CreateToken

T = TypeVar("T")

# It is part of the names of two steps, with an id in one of them.
MAX_NAME_BYTES = 950

URL_VARIABLE = "ABSURD_PUBLIC_URL"
# Visible ASCII, to which a path can be added.
_BASE = re.compile(r"https?://[^?#\x00- \x7f-\U0010ffff]+")


@dataclass(frozen=True, slots=True)
class Token(Generic[T]):
    """What a task hands out and then awaits: whoever knows ``secret``, or ``url``, may answer it, once.

    ``expires_at`` is the moment after which no answer is taken any more, ``None`` for never. Keep secret and URL like a password.
    """

    id: UUID
    name: str
    secret: str = field(repr=False)
    expires_at: datetime | None
    task_id: UUID
    _codec: Codec | None = field(repr=False)
    _base_url: str | None = field(repr=False)

    @property
    def url(self) -> str:
        """The page on which a person answers, and to which a program posts; served by ``absurd.web``.

        Raises:
            ConfigurationError: nobody said under which address that is.
        """
        if self._base_url is None:
            raise ConfigurationError(
                f'token "{self.name}" has no URL, because the public address of your server is not known: give it as '
                f"Absurd(public_url=…), in {URL_VARIABLE}, or as create_token(url=…), like https://example.com; "
                "or make a link of your own from token.secret"
            )
        return f"{self._base_url}/tokens/{self.secret}"


def create_token(
    core: Core,
    name: str,
    timeout: float | timedelta | str | None,
    declared: Any,
    title: str | None,
    description: str | None,
    base_url: str | None,
) -> Steps:
    """``ctx.create_token``."""
    if len(check_name("token name", name).encode()) > MAX_NAME_BYTES:
        raise InvalidOptionError(f"token name {name[:40]!r}… has {len(name.encode())} bytes; the limit is {MAX_NAME_BYTES}")
    base_url = find_public_url(base_url)
    seconds = check_timeout(timeout)
    codec = None if declared is None else typed_codec(declared)
    texts = (_text("title", title), _text("description", description))
    schema = None if codec is None else encode(codec.json_schema(), f'JSON schema of token "{name}"')
    state = yield from core.ask_once(
        f"token:{name}", lambda key, place: CreateToken(core.holder, key, place, name, seconds, *texts, schema)
    )
    expires_at = None if state["expires_at"] is None else datetime.fromisoformat(state["expires_at"])
    return Token(UUID(state["id"]), name, state["secret"], expires_at, core.run.task_id, codec, base_url)


def await_token(core: Core, token: Token[Any], timeout: float | timedelta | str | None) -> Steps:
    """``ctx.await_token``: the answer."""
    if not isinstance(token, Token):
        raise InvalidOptionError(f"await_token takes what ctx.create_token returned, not {token!r}")
    if token.task_id != core.run.task_id:
        raise ContextError(f"{token} was made by task {token.task_id}, which alone can await it")
    seconds = check_timeout(timeout)
    answer = yield from core.await_token(token.id, token.name, seconds, token.expires_at)
    return answer if token._codec is None else token._codec.load(answer, f'the answer to token "{token.name}"')


def find_public_url(given: str | None) -> str | None:
    """The address under which the routes of ``absurd.web`` are reached: the one given, or ``ABSURD_PUBLIC_URL``.

    Raises:
        InvalidOptionError: it is no http or https URL to which a path can be added.
    """
    url = given if given is not None else os.environ.get(URL_VARIABLE, "").strip() or None
    return None if url is None else check_public_url(url)


def check_public_url(url: object) -> str:
    """The URL without a slash at its end, if a path can be added to it."""
    if not isinstance(url, str) or not _is_base(url):
        raise InvalidOptionError(
            f"the public URL must be an http or https URL without query and fragment, like https://example.com, not {url!r}"
        )
    return url.rstrip("/")


def _is_base(url: str) -> bool:
    try:
        return bool(_BASE.fullmatch(url) and urlsplit(url).hostname)
    except ValueError:
        return False


def _text(what: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidOptionError(f"{what} must be a string, not {value!r}")
    encode(value, what)
    return value
