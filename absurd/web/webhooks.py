"""Webhooks: a signed request from another service becomes an event, exactly once for each delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.datastructures import Headers

from absurd.web.auth import refuse_cross_site
from absurd.web.backend import SECRET_VARIABLE, Backend, Settings
from absurd.web.body import parse_json
from absurd.web.problems import responses
from absurd.web.signatures import is_signed

# What identifies a delivery, so that the same one again changes nothing; the first of them that is there.
DELIVERY_HEADERS = ("x-github-delivery", "idempotency-key")
# Headers with one of these in their name may hold secrets, which nobody wants to find in a database.
SECRET_WORDS = ("authorization", "cookie", "signature", "token", "secret", "api-key", "password")


class Accepted(BaseModel):
    """The event is durable, and so are the tasks that it started."""

    status: str = "success"
    event_type: str
    workflows_triggered: int


class Reachable(BaseModel):
    """The webhook can be called."""

    message: str
    event_type: str
    signed: bool = Field(description="Whether requests must be signed.")


class WebhookRoutes:
    """Handlers of the routes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def receive(self, event_type: str, request: Request) -> Accepted:
        """Receive a webhook.

        Signed by X-Webhook-Signature (hex HMAC-SHA256 of the raw body) or X-Hub-Signature-256 (the same behind `sha256=`).
        X-GitHub-Delivery or Idempotency-Key names the delivery: a second one of that name changes nothing.
        """
        settings = self._backend.settings
        _require_secret(settings)
        raw = await request.body()
        _check(settings, raw, request)
        payload = build_payload(raw, request.headers, request.query_params.multi_items())
        client = await self._backend.client()
        key = delivery_key(event_type, request.headers)
        source = {"kind": "webhook", "name": event_type, **({} if key is None else {"delivery": key})}
        done = await client.dispatch_event(event_type, payload, idempotency_key=key, source=source)
        started = sum(one.task_id is not None for one in done.tasks)
        return Accepted(event_type=event_type, workflows_triggered=started)

    async def test(self, event_type: str) -> Reachable:
        """Say whether the webhook can be reached and is signed. Starts nothing."""
        _require_secret(self._backend.settings)
        return Reachable(
            message=f"Webhook for event {event_type} is reachable",
            event_type=event_type,
            signed=self._backend.settings.webhook_secret is not None,
        )


def _require_secret(settings: Settings) -> None:
    if settings.webhook_secret is None and not settings.allow_unsigned:
        raise HTTPException(
            503,
            f"webhooks are off, for there is no secret to check their signatures with; set {SECRET_VARIABLE}. "
            "allow_unsigned=True, or serve --allow-unsigned, accepts webhooks from everybody",
        )


def _check(settings: Settings, raw: bytes, request: Request) -> None:
    if settings.webhook_secret is None:
        refuse_cross_site(request)
    elif not is_signed(settings.webhook_secret, raw, request.headers):
        raise HTTPException(401, "Invalid webhook signature")


def delivery_key(event_type: str, headers: Mapping[str, str]) -> str | None:
    """The idempotency key of a delivery; ``None`` when its sender does not name it."""
    delivery = next((headers[name] for name in DELIVERY_HEADERS if headers.get(name)), None)
    return None if delivery is None else f"webhook:{event_type}:{delivery}"


def build_payload(raw: bytes, headers: Headers, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The event's payload: the body's object, with ``headers`` and ``query_params`` added.

    An empty body is an empty object; JSON that is no object is put under ``body``; what is no JSON under ``raw_body``, as text.
    """
    added = {"headers": _plain_headers(headers), "query_params": {_storable(name): _storable(value) for name, value in query}}
    return {**_read_body(raw), **added}


def _read_body(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        value = parse_json(raw)
    except HTTPException:
        return {"raw_body": _storable(raw.decode(errors="replace"))}
    return value if isinstance(value, dict) else {"body": value}


def _plain_headers(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        if not any(word in name for word in SECRET_WORDS):
            found[name] = f"{found[name]}, {value}" if name in found else value
    return {_storable(name): _storable(value) for name, value in found.items()}


def _storable(text: str) -> str:
    """Without NUL characters and lone surrogates, which PostgreSQL cannot store."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def webhook_routes(backend: Backend, kind: type[APIRoute]) -> APIRouter:
    """The routes; names of events may hold slashes."""
    routes, router = WebhookRoutes(backend), APIRouter(route_class=kind, tags=["webhooks"])
    body = {"requestBody": {"content": {"application/json": {"schema": {}}}, "description": "Any body; a JSON object as a rule."}}
    router.add_api_route(
        "/webhooks/{event_type:path}/test",
        routes.test,
        methods=["GET"],
        responses=responses(404),
        summary="Test whether a webhook is reachable",
    )
    router.add_api_route(
        "/webhooks/{event_type:path}",
        routes.receive,
        methods=["POST"],
        openapi_extra=body,
        responses=responses(401, 403, 404, 408, 413),
        summary="Receive a webhook",
    )
    return router
