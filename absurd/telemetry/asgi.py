"""A span around each request to an ASGI application, a child of the caller's: what FastAPI does by itself since 0.165."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from absurd import telemetry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def traced(app: Application) -> Application:
    """The application, with a span around each request while traces are on."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if telemetry.tracing is None or scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with telemetry.tracing.request(scope["method"], scope["path"], headers) as span:

            async def note(message: Any) -> None:
                if span is not None and message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            try:
                await app(scope, receive, note)
            finally:
                # The route is known when it has been found; its path has few values, the request's has many.
                if span is not None and (path := getattr(scope.get("route"), "path", None)) is not None:
                    span.set_attribute("http.route", path)
                    span.update_name(f"{scope['method']} {path}")

    return answer
