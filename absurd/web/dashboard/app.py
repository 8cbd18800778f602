"""The routes: as a router for an application of the user's, and as an application of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from absurd.client.base import BaseClient
from absurd.web.backend import MAX_BODY_BYTES, Settings, require_app
from absurd.web.dashboard.backend import DashboardBackend
from absurd.web.dashboard.errors import sentence
from absurd.web.dashboard.frame import Frame, render_problem
from absurd.web.dashboard.page import Page
from absurd.web.dashboard.pages import PAGES
from absurd.web.dashboard.redact import DEFAULT_KEYS, Redaction
from absurd.web.dashboard.security import Auth, FromEnvironment, Gate, Token, find_token

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def router(
    app: BaseClient | None = None,
    *,
    token: Token = FromEnvironment.ABSURD_DASHBOARD_TOKEN,
    auth: Auth | None = None,
    read_only: bool = False,
    redact: Iterable[str] = DEFAULT_KEYS,
) -> APIRouter:
    """The dashboard, to be mounted: ``web.include_router(absurd.web.dashboard.router(app), prefix="/ops")``.

    Args:
        app: an ``Absurd`` or ``AsyncAbsurd``; without one, the database of the environment.
        token: what visitors log in with, 16 characters or more, or send as ``Authorization: Bearer``; read from
            ``ABSURD_DASHBOARD_TOKEN`` when it is not given. With neither this nor ``auth`` only this machine is answered.
        auth: a function, plain or async, that takes the request and says whether it may see the dashboard, instead of a token;
            may raise ``HTTPException``, also to redirect.
        read_only: shows no form and refuses all changes; connects as ``absurd_reader`` where that role may be taken.
        redact: keys whose values are not shown, wherever they stand in a JSON document.

    Raises:
        ConfigurationError: one of them cannot be used.

    Example:

        web.include_router(absurd.web.dashboard.router(app, auth=lambda request: request.session.get("staff")), prefix="/ops")
    """
    gate = Gate(None if auth is not None and isinstance(token, FromEnvironment) else find_token(token), auth)
    backend = DashboardBackend(require_app(app), Settings(max_body_bytes=MAX_BODY_BYTES), read_only=read_only)
    frame = Frame(backend, gate, Redaction(redact), tuple(PAGES))

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        yield
        await backend.close()

    routes = APIRouter(lifespan=lifespan, include_in_schema=False)
    for page in PAGES:
        routes.add_api_route(page.path, _showing(frame, page), methods=["GET"], name=f"dashboard {page.name}")
        for name in page.actions:
            path = f"{page.path.rstrip('/')}/{name}"
            routes.add_api_route(path, _acting(frame, page, name), methods=["POST"], name=f"dashboard {page.name} {name}")
    routes.add_api_route("/login", frame.login, methods=["GET", "POST"], response_class=Response)
    routes.add_api_route("/logout", frame.logout, methods=["POST"], response_class=Response)
    routes.add_api_route("/static/{name}", frame.static, methods=["GET"], response_class=Response)
    return routes


def create_app(
    app: BaseClient | None = None,
    *,
    token: Token = FromEnvironment.ABSURD_DASHBOARD_TOKEN,
    auth: Auth | None = None,
    read_only: bool = False,
    redact: Iterable[str] = DEFAULT_KEYS,
) -> FastAPI:
    """An ASGI application with the dashboard of ``router``, which says what the arguments mean.

    Example:

        web.mount("/ops", absurd.web.dashboard.create_app(app, token="…"))
    """
    web = FastAPI(title="absurd dashboard", openapi_url=None, docs_url=None, redoc_url=None)
    web.include_router(router(app, token=token, auth=auth, read_only=read_only, redact=redact))
    web.add_exception_handler(HTTPException, _problem_page)
    return web


async def _problem_page(request: Request, error: Exception) -> Response:
    """What the routing itself refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    depth = request.scope["path"].removeprefix(request.scope.get("root_path", "")).count("/") - 1
    text = "There is no such page." if error.status_code == 404 else sentence(str(error.detail))
    return render_problem(error.status_code, text, "../" * depth or "./", {})


def _showing(frame: Frame, page: Page) -> Endpoint:
    async def show(request: Request) -> Response:
        return await frame.show(page, request)

    return show


def _acting(frame: Frame, page: Page, name: str) -> Endpoint:
    async def act(request: Request) -> Response:
        return await frame.act(page, name, request)

    return act
