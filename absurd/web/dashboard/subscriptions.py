"""Subscriptions: which tasks events start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from absurd.queries import dashboard, inspect
from absurd.web.dashboard.forms import choose, require
from absurd.web.dashboard.page import PAGE_ROWS, Done, Page, Visit


async def show(visit: Visit) -> Mapping[str, Any]:
    """Subscriptions in their order, by queue and a text in pattern or task."""
    queue, text, after = visit.arg("queue"), visit.arg("q"), visit.number("after")
    found = await visit.run(dashboard.page_of_subscriptions(queue, text, after, PAGE_ROWS))
    chosen = choose(queue=queue, q=text)
    full = len(found) == PAGE_ROWS
    return {
        "subscriptions": found,
        "queue": queue,
        "text": text,
        "queues": await visit.run(inspect.queue_names()),
        "next": urlencode({**chosen, "after": found[-1].subscription_id}) if full else None,
        "first": urlencode(chosen) if after is not None else False,
    }


async def unsubscribe(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Ends a subscription."""
    pattern, task = fields.get("pattern", ""), fields.get("task", "")
    queue = require(fields, "queue", "the queue of the subscription")
    if not await visit.client.unsubscribe(pattern, task, queue=queue):
        return Done(f"There was no subscription of {task} to {pattern} any more.")
    return Done(f"{task} is not started by {pattern} any more.")


PAGE = Page("subscriptions", "/subscriptions", "Subscriptions", show, {"unsubscribe": unsubscribe})
