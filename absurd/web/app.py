"""The routes together: as a router for an application of the user's, and as an application of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from absurd.client.base import BaseClient
from absurd.web.auth import ApiKey, FromEnvironment, allow, choose_guard
from absurd.web.backend import MAX_BODY_BYTES, Backend, make_settings, require_app
from absurd.web.body import JsonRequest, LimitedRequest
from absurd.web.events import event_routes
from absurd.web.health import health_routes
from absurd.web.metrics import MetricsRoutes, metrics_routes
from absurd.web.route import route_class
from absurd.web.schedules import schedule_routes
from absurd.web.tasks import task_routes
from absurd.web.tokens import token_routes
from absurd.web.webhooks import webhook_routes

TITLE = "absurd"
DESCRIPTION = "Durable tasks on PostgreSQL: spawn tasks, emit events, subscribe tasks to events, receive webhooks."

# For OpenAPI only: the guard has decided before these are asked.
_KEYS = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name="X-API-Key", auto_error=False))]


def router(
    app: BaseClient | None = None,
    *,
    api_key: ApiKey = FromEnvironment.ABSURD_API_KEY,
    webhook_secret: str | None = None,
    allow_unsigned: bool = False,
    max_body_bytes: int = MAX_BODY_BYTES,
    loopback_only: bool = False,
    metrics: bool = False,
) -> APIRouter:
    """The routes, to be mounted: ``fastapi_app.include_router(absurd.web.router(app))``.

    ``/api/…`` asks for the API key, ``/webhooks/…`` for a signature, ``/tokens/…`` for its token; ``/healthz`` and ``/readyz``
    are open. The routes use a client of their own, on the database of ``app`` and with its queue, tasks and hooks.

    Args:
        app: an ``Absurd`` or ``AsyncAbsurd``; without one, the database of the environment and the queue ``default``.
        api_key: what callers of ``/api`` must name; read from ``ABSURD_API_KEY`` when it is not given. ``None`` leaves it
            open, for an application that checks its callers itself.
        webhook_secret: what webhooks are signed with; read from ``WEBHOOK_SECRET`` when it is not given. Without it they
            are off.
        allow_unsigned: accepts webhooks from everybody.
        max_body_bytes: the largest body; 1 MiB.
        loopback_only: without a key, answers only requests to ``localhost`` that come from no web page of another origin.
        metrics: adds ``/metrics`` for Prometheus, which asks for the API key too; needs ``absurd[metrics]``.

    Raises:
        ConfigurationError: there is no API key, or one of the arguments cannot be used.
    """
    backend = Backend(require_app(app), make_settings(webhook_secret, allow_unsigned, max_body_bytes))
    guard = choose_guard(api_key, loopback_only)

    measured = MetricsRoutes(backend)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        yield
        measured.close()
        await backend.close()

    together = APIRouter(lifespan=lifespan)
    api = route_class(guard, JsonRequest, max_body_bytes)
    for make in (task_routes, event_routes, schedule_routes):
        together.include_router(make(backend, api), dependencies=[] if guard is allow else _KEYS)
    if metrics:
        together.include_router(metrics_routes(measured, api), dependencies=[] if guard is allow else _KEYS)
    raw = route_class(allow, LimitedRequest, max_body_bytes)
    for make in (webhook_routes, token_routes):
        together.include_router(make(backend, raw))
    together.include_router(health_routes(backend, route_class(allow, JsonRequest, max_body_bytes)))
    return together


def create_app(
    app: BaseClient | None = None,
    *,
    api_key: ApiKey = FromEnvironment.ABSURD_API_KEY,
    webhook_secret: str | None = None,
    allow_unsigned: bool = False,
    max_body_bytes: int = MAX_BODY_BYTES,
    loopback_only: bool = False,
    metrics: bool = False,
) -> FastAPI:
    """An ASGI application with the routes of ``router``, which says what the arguments mean, and ``/openapi.json``.

    There are no interactive pages at ``/docs``: FastAPI's load scripts from other servers.

    Example:

        web = absurd.web.create_app(app)   # uvicorn mymodule:web
    """
    # Its own traces, where it makes some, go where telemetry.instrument() was told; it sets up none of itself.
    options: dict[str, Any] = {"telemetry": {"auto_configure": False}} if find_spec("fastapi.telemetry") is not None else {}
    web = FastAPI(title=TITLE, description=DESCRIPTION, version="1", docs_url=None, redoc_url=None, **options)
    web.include_router(
        router(
            app,
            api_key=api_key,
            webhook_secret=webhook_secret,
            allow_unsigned=allow_unsigned,
            max_body_bytes=max_body_bytes,
            loopback_only=loopback_only,
            metrics=metrics,
        )
    )
    return web
