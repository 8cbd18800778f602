"""Queries about queues."""

from __future__ import annotations

import json

from absurd.queries.query import Query, column, nothing


def create_queue(queue_name: str) -> Query[None]:
    """Creates a queue; one that exists stays as it is."""
    return Query("select absurd.create_queue(%s)", (queue_name,), nothing)


def drop_queue(queue_name: str) -> Query[None]:
    """Drops a queue with everything in it, if it exists."""
    return Query("select absurd.drop_queue(%s)", (queue_name,), nothing)


def list_queues() -> Query[list[str]]:
    """The names of all queues."""
    return Query("select queue_name from absurd.list_queues()", (), column)


def pause_queue(queue_name: str) -> Query[None]:
    """Stops claims from a queue."""
    return Query("select absurd.pause_queue(%s)", (queue_name,), nothing)


def resume_queue(queue_name: str) -> Query[None]:
    """Lets claims go on."""
    return Query("select absurd.resume_queue(%s)", (queue_name,), nothing)


def set_max_payload_bytes(queue_name: str, limit: int) -> Query[None]:
    """Changes how large params, payloads and results may be."""
    return Query("select absurd.set_queue_policy(%s, %s::jsonb)", (queue_name, json.dumps({"max_payload_bytes": limit})), nothing)
