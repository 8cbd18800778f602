"""Routes of tasks: spawn, look, cancel, retry; and the emission of an event."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Header, HTTPException, Response
from fastapi.routing import APIRoute
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, Strict

from absurd.errors import TaskNotFoundError
from absurd.queries.task import read_task
from absurd.sources import with_source
from absurd.web.backend import Backend
from absurd.web.problems import API, responses

Number = Annotated[float, Strict()]
Whole = Annotated[int, Strict()]
Key = Annotated[str | None, Header(alias="Idempotency-Key", description="A second request with this key changes nothing.")]

SOURCE = {"kind": "http", "name": "api"}
"""What the routes of the API write into the headers of the tasks that they start."""


class SpawnBody(BaseModel):
    """A task to spawn: its params, and the options of ``Absurd.spawn``."""

    model_config = ConfigDict(extra="forbid")

    params: Any = Field(default=None, description="Any JSON value.")
    queue: str | None = Field(default=None, description="Default: the task's, else the server's.")
    idempotency_key: str | None = Field(default=None, description="A second spawn with this key returns the first task.")
    delay: Number | None = Field(default=None, description="Seconds until it may start.")
    available_at: AwareDatetime | None = Field(default=None, description="The moment from which it may start.")
    priority: Whole | None = Field(default=None, description="Higher first; 0 if nothing is said.")
    max_attempts: Whole | None = None
    retry: str | dict[str, Any] | None = Field(default=None, description="fixed, exponential, none, or a strategy.")
    cancellation: dict[str, Any] | None = Field(default=None, description="max_delay and max_duration, in seconds.")
    headers: dict[str, Any] | None = Field(default=None, description="JSON that travels with the task.")


class RetryBody(BaseModel):
    """How to retry."""

    model_config = ConfigDict(extra="forbid")

    spawn_new: bool = Field(default=False, description="Run a copy from the beginning instead.")
    max_attempts: Whole | None = Field(default=None, description="Default: one more than were made.")


class SpawnedTask(BaseModel):
    """A task that was made or found."""

    model_config = ConfigDict(from_attributes=True)

    task_id: UUID
    run_id: UUID
    attempt: int
    created: bool = Field(description="False when the task was there already.")


class TaskState(BaseModel):
    """A task and its state."""

    task_id: UUID
    state: str


class TaskView(TaskState):
    """What is known of a task."""

    run_id: UUID
    queue_name: str
    task_name: str
    attempt: int | None
    max_attempts: int | None
    priority: int
    params: Any
    headers: Any
    idempotency_key: str | None
    parent_task_id: UUID | None
    spawned_at: datetime
    available_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    note: str | None
    result: Any
    failure: Any = Field(description="Why it failed or was cancelled; while it is retried, why the last attempt failed.")


class Emitted(BaseModel):
    """An emission and its place in the log."""

    queue: str
    event: str
    seq: int


class TaskRoutes:
    """Handlers of the routes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def spawn(self, name: str, body: SpawnBody | None = None, idempotency_key: Key = None) -> SpawnedTask:
        """Spawn a task. It is durable when the answer is 201; no worker need know it yet."""
        given = body or SpawnBody()
        options = given.model_dump(exclude={"params"}, exclude_none=True)
        if idempotency_key and options.setdefault("idempotency_key", idempotency_key) != idempotency_key:
            raise HTTPException(422, "the header Idempotency-Key and idempotency_key in the body differ; give one of them")
        options["headers"] = with_source(given.headers, **SOURCE)
        client = await self._backend.client()
        handle = await client.spawn(name, given.params, **options)
        return SpawnedTask.model_validate(handle)

    async def show(self, task_id: UUID) -> Response:
        """State, result or failure of a task, and what it was spawned with."""
        client = await self._backend.client()
        text = await client._run(read_task(task_id))
        if text is None:
            raise TaskNotFoundError(f"there is no task {task_id}")
        # As the database wrote it: keys keep their order, numbers their digits.
        return Response(text, media_type="application/json")

    async def cancel(self, task_id: UUID) -> TaskState:
        """Cancel a task, also a running one. One that has ended stays as it is."""
        client = await self._backend.client()
        await client.cancel_task(task_id)
        return TaskState(task_id=task_id, state=(await client.get_result(task_id)).state)

    async def retry(self, task_id: UUID, body: RetryBody | None = None) -> SpawnedTask:
        """Give a failed or cancelled task another attempt, from its last checkpoint; with spawn_new, run a copy."""
        given = body or RetryBody()
        client = await self._backend.client()
        state = (await client.get_result(task_id)).state
        if not given.spawn_new and state not in ("failed", "cancelled"):
            raise HTTPException(409, f"task {task_id} is {state}; only failed and cancelled tasks can be retried")
        handle = await client.retry_task(task_id, spawn_new=given.spawn_new, max_attempts=given.max_attempts)
        return SpawnedTask.model_validate(handle)

    async def emit(
        self,
        queue: str,
        event: str,
        payload: Annotated[Any, Body(description="Any JSON value.")] = None,
        idempotency_key: Key = None,
    ) -> Emitted:
        """Emit an event: wake the tasks that wait for it and start those that subscribed. The body is its payload."""
        client = await self._backend.client()
        seq = await client.emit_event(event, payload, queue=queue, idempotency_key=idempotency_key or None, source=SOURCE)
        return Emitted(queue=queue, event=event, seq=seq)


def task_routes(backend: Backend, kind: type[APIRoute]) -> APIRouter:
    """The routes; names of tasks and events may hold slashes."""
    routes, router = TaskRoutes(backend), APIRouter(route_class=kind, tags=["tasks"])
    with_task = responses(*API, 404)
    router.add_api_route(
        "/api/tasks/{task_id}/cancel", routes.cancel, methods=["POST"], responses=with_task, summary="Cancel a task"
    )
    router.add_api_route(
        "/api/tasks/{task_id}/retry", routes.retry, methods=["POST"], responses=responses(*API, 404, 409), summary="Retry a task"
    )
    router.add_api_route(
        "/api/tasks/{task_id}",
        routes.show,
        methods=["GET"],
        response_model=None,
        responses={200: {"model": TaskView}, **with_task},
        summary="Show a task",
    )
    router.add_api_route(
        "/api/tasks/{name:path}",
        routes.spawn,
        methods=["POST"],
        status_code=201,
        responses=responses(*API, 404),
        summary="Spawn a task",
    )
    router.add_api_route(
        "/api/emit/{queue}/{event:path}", routes.emit, methods=["POST"], responses=with_task, summary="Emit an event"
    )
    return router
