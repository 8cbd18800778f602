"""The log of events, one event with whom it started and whose waits it ended, and a form to emit one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from absurd.queries import dashboard, inspect
from absurd.queries.dashboard import EventRow, Takers
from absurd.web.dashboard.forms import choose, read_json, require
from absurd.web.dashboard.page import PAGE_ROWS, Done, NotFound, Page, Visit

SOURCE = {"kind": "http", "name": "dashboard"}
# Bytes of a payload that the page of one event reads.
PAYLOAD_BYTES = 200_000
STARTED, WAITING, TAKEN = 200, 50, 50
# For so long a page that stays open looks again who has got its event: then it is mostly over, and the search may be a long one.
FRESH = timedelta(minutes=1)
# A place in the search for them: a task and the name of a step.
_PLACE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/.*", re.DOTALL)


async def show(visit: Visit) -> Mapping[str, Any]:
    """The log, by queue and name; a name that ends in ``*`` is the beginning of names."""
    queue, name = visit.arg("queue"), visit.arg("name")
    prefix = name is not None and name.endswith("*")
    wanted = name[:-1] if name is not None and prefix else name
    found = await visit.run(dashboard.page_of_events(queue, wanted or None, prefix, visit.number("before"), PAGE_ROWS))
    last = found.rows[-1].seq if len(found.rows) == PAGE_ROWS else found.searched_to
    return {
        "events": found.rows,
        "searched": found.searched_to is not None,
        "queue": queue,
        "name": name,
        "queues": await visit.run(inspect.queue_names()),
        "next": urlencode(choose(queue=queue, name=name, before=last)) if last is not None else None,
        "newest": urlencode(choose(queue=queue, name=name)) if visit.number("before") is not None else False,
    }


async def emit(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Emits an event."""
    name, queue = require(fields, "name", "a name for the event"), require(fields, "queue", "a queue")
    payload = fields.get("payload", "")
    given = fields.get("key", "").strip() or None
    key = given or visit.key("emit", name, queue, payload)
    done = await visit.client.dispatch_event(
        name, read_json(payload, "the payload"), queue=queue, idempotency_key=key, source=SOURCE
    )
    if not done.created and given is None:
        return Done(f"This form has been sent twice: event number {done.seq} has been emitted once.", f"events/{done.seq}")
    if not done.created:
        return Done(f"An event with this key had been emitted before: number {done.seq}. Nothing was done.", f"events/{done.seq}")
    return Done(f"Event number {done.seq} has been emitted.", f"events/{done.seq}")


async def show_event(visit: Visit) -> Mapping[str, Any]:
    """One event: payload, source, the tasks that it started, those whose waits it ended, and who waits for its name now."""
    text = str(visit.request.path_params["seq"])
    seq = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1
    found = await visit.run(dashboard.page_of_events(None, None, False, seq + 1, 1, PAYLOAD_BYTES))
    if not found.rows or found.rows[0].seq != seq:
        raise NotFound(f"There is no event number {text[:40]}, or it has been cleaned up.")
    event = found.rows[0]
    waits = await visit.run(dashboard.page_of_waits(event.queue_name, event.event_name, None, None, WAITING))
    return {
        "event": event,
        "tasks": await visit.run(dashboard.tasks_of_event(seq, STARTED)),
        "waits": waits.rows,
        **await _takers(visit, event),
    }


async def _takers(visit: Visit, event: EventRow) -> Mapping[str, Any]:
    """Whose waits the event has ended. ``None`` when nobody looks: the page has them, and asks for the rest of it again."""
    earlier, later = (_place(visit.request.query_params.get(name, "")) for name in ("earlier", "later"))
    onward = earlier is not None or later is not None
    if visit.live and (onward or await visit.run(inspect.current_time()) - event.emitted_at > FRESH):
        return {"takers": None}
    none = Takers([], None, None)
    before = after = none
    if event.claimed_at is not None and later is None:
        before = await visit.run(dashboard.takers_of_event(event.seq, False, earlier, TAKEN))
    if event.claimed_at is not None and earlier is None:
        after = await visit.run(dashboard.takers_of_event(event.seq, True, later, TAKEN))
    return {
        "takers": sorted([*before.rows, *after.rows], key=lambda taker: taker.taken_at),
        "earlier": before.next and {"at": before.searched_at, "next": urlencode({"earlier": before.next})},
        "later": after.next and {"at": after.searched_at, "next": urlencode({"later": after.next})},
        "onward": onward,
    }


def _place(text: str) -> str | None:
    return text if _PLACE.fullmatch(text) and "\0" not in text else None


PAGE = Page("events", "/events", "Events", show, {"emit": emit})
EVENT_PAGE = Page("event", "/events/{seq}", "Event", show_event, section="events")
