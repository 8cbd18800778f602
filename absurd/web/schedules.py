"""Routes of events that are emitted at an interval: schedules whose name is the event type."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Query
from fastapi.routing import APIRoute
from pydantic import BaseModel

from absurd.client import AsyncAbsurd
from absurd.errors import ScheduleConflictError
from absurd.queries.schedules import Schedule
from absurd.web.backend import Backend
from absurd.web.events import Message
from absurd.web.problems import API, responses

# Seconds: what is wanted more often than this is a task that runs on, not an event.
MIN_INTERVAL = 5


class ScheduledEvent(BaseModel):
    """A schedule that was made, or was there."""

    message: str
    event_type: str
    interval_seconds: int | float


class ScheduleView(BaseModel):
    """One schedule."""

    interval_seconds: int | float
    started_at: datetime
    payload: Any


class ScheduleRoutes:
    """Handlers of the routes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def create(
        self,
        event_type: str,
        interval_seconds: Annotated[int | None, Query(description="Seconds between emissions, 5 or more.")] = None,
        body: Annotated[Any, Body(description="The payload; without interval_seconds in the URL, both of them.")] = None,
    ) -> ScheduledEvent:
        """Emit an event at once and then every so many seconds, however many servers run.

        The payload is a JSON object; `scheduled_at` and, from the second time on, `last_run` are added to it. With
        `?interval_seconds=N` the body is the payload; without, it is `{"interval_seconds": N, "payload": {…}}`.
        """
        interval, payload = _read(interval_seconds, body)
        client = await self._backend.client()
        found = await self._find(client, event_type)
        if found is None:
            try:
                await client.create_schedule(event_type, event=event_type, every=interval, params=payload)
            except ScheduleConflictError:
                # Another request may have been quicker, with another interval.
                found = await self._find(client, event_type)
                if found is None:
                    raise
        if found is not None:
            return _answer(f"Event {event_type} already scheduled", event_type, found.interval_seconds)
        return _answer(f"Event {event_type} scheduled to run every {interval} seconds", event_type, interval)

    async def delete(self, event_type: str) -> Message:
        """Cancel the schedule of an event. What it has started goes on."""
        client = await self._backend.client()
        if await self._find(client, event_type) is None or not await client.delete_schedule(event_type):
            raise HTTPException(404, f"No scheduled event found for {event_type}")
        return Message(message=f"Scheduled event {event_type} cancelled")

    async def list_all(self) -> dict[str, ScheduleView]:
        """The events of the server's queue that are emitted at an interval."""
        client = await self._backend.client()
        return {
            one.schedule_name: ScheduleView(
                interval_seconds=_whole(one.interval_seconds), started_at=one.anchor_at, payload=one.params or {}
            )
            for one in await client.list_schedules()
            if _is_ours(one, client)
        }

    async def _find(self, client: AsyncAbsurd, event_type: str) -> Schedule | None:
        """The schedule of an event type, if it is of the kind that these routes make."""
        found = await client.get_schedule(event_type)
        return found if found is not None and _is_ours(found, client) else None


def _is_ours(schedule: Schedule, client: AsyncAbsurd) -> bool:
    """Whether a schedule emits the event of its own name, at an interval, to the server's queue."""
    return (
        schedule.event_name == schedule.schedule_name
        and schedule.interval_seconds is not None
        and schedule.queue_name == client.queue_name
    )


def _read(interval: int | None, body: Any) -> tuple[int, dict[str, Any]]:
    """Interval and payload, from either form."""
    payload = body
    if interval is None:
        if not isinstance(body, dict) or isinstance(body.get("interval_seconds"), bool):
            raise HTTPException(422, 'say how often: ?interval_seconds=N, or a body like {"interval_seconds": 60, "payload": {}}')
        unknown = set(body) - {"interval_seconds", "payload"}
        if unknown or not isinstance(body.get("interval_seconds"), int):
            raise HTTPException(
                422,
                "without ?interval_seconds=N the body must hold interval_seconds, a whole number, and payload if there is one; "
                f"it holds {', '.join(sorted(body)) or 'nothing'}",
            )
        interval, payload = body["interval_seconds"], body.get("payload")
    if interval < MIN_INTERVAL:
        raise HTTPException(400, f"Interval must be at least {MIN_INTERVAL} seconds")
    if payload is not None and not isinstance(payload, dict):
        raise HTTPException(
            422, "the payload of a scheduled event must be a JSON object: scheduled_at and last_run are added to it"
        )
    return interval, payload or {}


def _answer(message: str, event_type: str, interval: float | None) -> ScheduledEvent:
    return ScheduledEvent(message=message, event_type=event_type, interval_seconds=_whole(interval))


def _whole(seconds: float | None) -> int | float:
    """Whole seconds without a fraction, as they were given."""
    found = 0.0 if seconds is None else seconds
    return int(found) if float(found).is_integer() else found


def schedule_routes(backend: Backend, kind: type[APIRoute]) -> APIRouter:
    """The routes; names of events may hold slashes."""
    routes, router = ScheduleRoutes(backend), APIRouter(route_class=kind, tags=["schedules"])
    router.add_api_route(
        "/api/schedule", routes.list_all, methods=["GET"], responses=responses(*API), summary="List scheduled events"
    )
    router.add_api_route(
        "/api/schedule/{event_type:path}",
        routes.create,
        methods=["POST"],
        responses=responses(*API, 404, 409),
        summary="Emit an event at an interval",
    )
    router.add_api_route(
        "/api/schedule/{event_type:path}",
        routes.delete,
        methods=["DELETE"],
        responses=responses(*API, 404),
        summary="Cancel a scheduled event",
    )
    return router
