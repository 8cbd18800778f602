"""What sleeping tasks wait for, the longest waiting first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from absurd.queries import dashboard, inspect
from absurd.web.dashboard.forms import choose
from absurd.web.dashboard.page import PAGE_ROWS, Page, Visit

KINDS = ("event", "task", "token", "sleep")


async def show(visit: Visit) -> Mapping[str, Any]:
    """Waits, by queue, kind and event."""
    queue, event, kind = visit.arg("queue"), visit.arg("event"), visit.arg("kind")
    kind = kind if kind in KINDS else None
    found = await visit.run(dashboard.page_of_waits(queue, event, None if event else kind, visit.number("after"), PAGE_ROWS))
    last = found.rows[-1].wait_id if len(found.rows) == PAGE_ROWS else found.searched_to
    chosen = choose(queue=queue, event=event, kind=kind)
    return {
        "waits": found.rows,
        "searched": found.searched_to is not None,
        "queue": queue,
        "event": event,
        "kind": kind,
        "kinds": KINDS,
        "queues": await visit.run(inspect.queue_names()),
        "next": urlencode({**chosen, "after": last}) if last is not None else None,
        "first": urlencode(chosen) if visit.number("after") is not None else False,
    }


PAGE = Page("waits", "/waits", "Waits", show)
