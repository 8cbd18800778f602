"""What a page of the dashboard is, and what its functions are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

from fastapi import Request

from absurd.client import AsyncAbsurd
from absurd.queries.query import Query
from absurd.web.dashboard.redact import Redaction

T = TypeVar("T")

# Rows of a list.
PAGE_ROWS = 50
LIVE_HEADER = "x-absurd-live"
"""Says that a page asks for itself again: no message is taken, nobody is sent to the login."""


@dataclass(frozen=True, slots=True)
class Done:
    """What an action did: the message that the next page shows, and where that is, within the dashboard (``tasks/017…``).

    Without ``to`` the page that the action belongs to is shown again.
    """

    message: str
    to: str | None = None


@dataclass(slots=True)
class Visit:
    """One request to a page: whatever its functions need."""

    request: Request
    client: AsyncAbsurd
    redaction: Redaction
    read_only: bool
    given: Mapping[str, str] = field(default_factory=dict)
    """The fields of a form that was refused, to be shown again."""
    once: str = ""
    """What the page of the form was made with; every page has its own."""

    @property
    def live(self) -> bool:
        """Whether the page, which is there already, asks for itself again."""
        return LIVE_HEADER in self.request.headers

    async def run(self, query: Query[T]) -> T:
        """Runs a query."""
        return await self.client._run(query)

    def key(self, action: str, *parts: str) -> str | None:
        """The idempotency key of what a form makes: the same when it is sent twice. ``None`` for a form of no page."""
        text = "\0".join((self.once, self.request.url.path, *parts))
        return f"dashboard {action} {sha256(text.encode('utf-8', 'replace')).hexdigest()[:24]}" if self.once else None

    def arg(self, name: str) -> str | None:
        """A parameter of the URL's query without blanks around it; ``None`` when it is missing or empty."""
        return self.request.query_params.get(name, "").strip() or None

    def number(self, name: str) -> int | None:
        """The same as a whole number of 0 or more; ``None`` also for what is none, or does not fit into a bigint."""
        text = self.arg(name) or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


Show = Callable[[Visit], Awaitable[Mapping[str, Any]]]
Action = Callable[[Visit, Mapping[str, str]], Awaitable[Done]]


@dataclass(frozen=True, slots=True)
class Page:
    """One page: ``show`` answers what its template ``NAME.html`` is rendered with.

    Each of ``actions`` is a POST to ``PATH/ACTION``, made by the macro ``action()`` or a form with ``{{ csrf() }}``. It is given
    the fields of the form and returns a ``Done``; an ``AbsurdError`` that it raises is shown on the page, with the fields in
    ``visit.given``. ``section`` is the entry of the navigation that is marked; the page's own name when it is none.
    """

    name: str
    path: str
    title: str
    show: Show
    actions: Mapping[str, Action] = field(default_factory=dict)
    section: str | None = None


class NotFound(Exception):
    """There is no such thing: answered with a page of 404 that says ``str(error)``."""
