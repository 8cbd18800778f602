"""Routes of subscriptions: which tasks an event starts, and starting them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, HTTPException, Query
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from absurd.web.backend import Backend
from absurd.web.problems import API, responses
from absurd.web.tasks import SOURCE, Key


class SubscribeBody(BaseModel):
    """Which task the event starts."""

    model_config = ConfigDict(extra="forbid")

    workflow_id: str = Field(description="Name of the task.")
    config: Any = Field(default=None, description="Any JSON value; the task finds it as event_config.")


class SubscriptionView(BaseModel):
    """One subscription."""

    workflow_id: str
    config: Any
    created_at: datetime


class Subscribed(BaseModel):
    """A subscription that was made."""

    message: str
    subscription: SubscriptionView


class Message(BaseModel):
    """What was done."""

    message: str


class Started(BaseModel):
    """What became of one subscription."""

    workflow_id: str
    task_id: UUID | None
    run_id: UUID | None
    status: str = Field(description="PENDING when the task is durable; FAILED when it could not be made: message says why.")
    message: str | None = None


class Triggered(BaseModel):
    """What an emission started."""

    message: str
    workflows_executed: int
    results: list[Started]


class EventRoutes:
    """Handlers of the routes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def subscribe(self, event_type: str, body: SubscribeBody) -> Subscribed:
        """Let an event start a task. The name of the event may end in `*`: any event that begins like it."""
        client = await self._backend.client()
        made = await client.subscribe(event_type, body.workflow_id, config=body.config)
        return Subscribed(
            message=f"Workflow {body.workflow_id} subscribed to event {event_type}",
            subscription=SubscriptionView(workflow_id=made.task_name, config=made.config, created_at=made.created_at),
        )

    async def unsubscribe(self, event_type: str, workflow_id: Annotated[str, Query(description="Name of the task.")]) -> Message:
        """Take a subscription back."""
        client = await self._backend.client()
        if not await client.unsubscribe(event_type, workflow_id):
            raise HTTPException(404, f"No subscription found for event {event_type} and workflow {workflow_id}")
        return Message(message=f"Workflow {workflow_id} unsubscribed from event {event_type}")

    async def list_all(self) -> dict[str, list[SubscriptionView]]:
        """All subscriptions of the server's queue, by event."""
        return await self._subscriptions(None)

    async def list_one(self, event_type: str) -> dict[str, list[SubscriptionView]]:
        """The subscriptions of one event, in the form of the list of all."""
        found = await self._subscriptions(event_type)
        if not found:
            raise HTTPException(404, f"No subscriptions found for event {event_type}")
        return found

    async def _subscriptions(self, event_type: str | None) -> dict[str, list[SubscriptionView]]:
        client = await self._backend.client()
        found: dict[str, list[SubscriptionView]] = {}
        for one in await client.list_subscriptions(event_type):
            view = SubscriptionView(workflow_id=one.task_name, config=one.config, created_at=one.created_at)
            found.setdefault(one.pattern, []).append(view)
        return found

    async def trigger(
        self,
        event_type: str,
        payload: Annotated[Any, Body(description="Any JSON value.")] = None,
        idempotency_key: Key = None,
    ) -> Triggered:
        """Emit an event and tell which tasks it started. The body is its payload. The tasks are durable, begun or not."""
        client = await self._backend.client()
        key = idempotency_key or None
        done = await client.dispatch_event(event_type, payload, idempotency_key=key, source=SOURCE)
        results = [
            Started(
                workflow_id=one.task_name,
                task_id=one.task_id,
                run_id=one.run_id,
                status="FAILED" if one.task_id is None else "PENDING",
                message=one.message,
            )
            for one in done.tasks
        ]
        started = sum(one.task_id is not None for one in results)
        return Triggered(message=f"Event {event_type} triggered", workflows_executed=started, results=results)


def event_routes(backend: Backend, kind: type[APIRoute]) -> APIRouter:
    """The routes; names of events may hold slashes."""
    routes, router = EventRoutes(backend), APIRouter(route_class=kind, tags=["events"], responses=responses(*API, 404))
    router.add_api_route(
        "/api/events/subscribe/{event_type:path}", routes.subscribe, methods=["POST"], summary="Subscribe a task to an event"
    )
    router.add_api_route(
        "/api/events/unsubscribe/{event_type:path}", routes.unsubscribe, methods=["DELETE"], summary="Take a subscription back"
    )
    router.add_api_route(
        "/api/events/trigger/{event_type:path}", routes.trigger, methods=["POST"], summary="Emit an event and start its tasks"
    )
    router.add_api_route("/api/events", routes.list_all, methods=["GET"], summary="List subscriptions")
    router.add_api_route(
        "/api/events/{event_type:path}", routes.list_one, methods=["GET"], summary="Show an event's subscriptions"
    )
    return router
