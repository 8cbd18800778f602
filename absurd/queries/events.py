"""Queries about events outside tasks."""

from __future__ import annotations

from absurd.queries.query import Query, scalar


def append_event(queue_name: str, event_name: str, payload: str | None) -> Query[int]:
    """Emits an event, ``payload`` being JSON text; its place in the log. Not repeatable: twice is two emissions."""
    return Query("select absurd.append_event(%s, %s, %s::json)", (queue_name, event_name, payload), scalar, repeatable=False)
