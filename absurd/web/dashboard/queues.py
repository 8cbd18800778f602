"""Queues: how full they are, and whether they are paused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from absurd.queries import dashboard
from absurd.web.dashboard.forms import require
from absurd.web.dashboard.page import PAGE_ROWS, Done, Page, Visit


async def show(visit: Visit) -> Mapping[str, Any]:
    """Queues in order of name; what failed is that of the last day."""
    after = visit.arg("after")
    found = await visit.run(dashboard.page_of_queues(None, after, PAGE_ROWS))
    return {
        "queues": found,
        "may_pause": not visit.read_only and await visit.run(dashboard.may_pause()),
        "next": urlencode({"after": found[-1].queue_name}) if len(found) == PAGE_ROWS else None,
        "first": after is not None and "",
    }


async def pause(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Stops the start of tasks of a queue."""
    name = require(fields, "queue", "the name of a queue")
    await visit.client.pause_queue(name)
    return Done(f"Queue {name} is paused: what runs goes on, and nothing new is started.")


async def resume(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Lets tasks of a queue start again."""
    name = require(fields, "queue", "the name of a queue")
    await visit.client.resume_queue(name)
    return Done(f"Queue {name} goes on.")


PAGE = Page("queues", "/queues", "Queues", show, {"pause": pause, "resume": resume})
