"""serve: the HTTP API and webhooks, as a server of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from absurd import schema, telemetry
from absurd.cli.command import command
from absurd.cli.complete import complete_queue
from absurd.cli.find_app import find_app, find_configured_app
from absurd.cli.logs import LogFormat, set_up
from absurd.cli.logs import LogLevel as Level
from absurd.cli.session import Session
from absurd.cli.worker import App, Format
from absurd.cli.worker import Level as LevelOption
from absurd.client import Absurd
from absurd.client.base import BaseClient
from absurd.errors import ConfigurationError
from absurd.location import VARIABLES
from absurd.telemetry.asgi import traced
from absurd.types import DEFAULT_QUEUE

logger = logging.getLogger("absurd.web")

# Seconds that requests may take to end after SIGTERM.
GRACE_SECONDS = 30
# Requests at a time; more are answered 503, so that a flood does not fill the memory.
MAX_REQUESTS = 1000

# Where the dashboard is on a server of the API.
DASHBOARD = "/dashboard"

Host = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; others than loopback need an API key.")
]
Port = Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0: any that is free.")]
Queue = Annotated[
    str | None,
    typer.Option(
        "-q",
        "--queue",
        metavar="QUEUE",
        help="Queue of events, webhooks and tasks that name none. Default: the app's.",
        autocompletion=complete_queue,
    ),
]
Unsigned = Annotated[bool, typer.Option("--allow-unsigned", help="Accept webhooks without a signature, from everybody.")]
Body = Annotated[int, typer.Option("--max-body", metavar="BYTES", min=1, help="The largest body of a request.")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        "serve",
        serve,
        "absurdctl serve",
        "WEBHOOK_SECRET=s3cr3t absurdctl serve --app myproject.tasks:app --port 8080",
        "ABSURD_API_KEY=k3y absurdctl serve --host 0.0.0.0 --queue orders --log-format json",
        group="Workers",
        takes_json=False,
    )


def serve(
    session: Session,
    app: App = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    queue: Queue = None,
    allow_unsigned: Unsigned = False,
    max_body: Body = 1024 * 1024,
    log_format: Format = LogFormat.TEXT,
    log_level: LevelOption = Level.INFO,
) -> None:
    """Serve the HTTP API and webhooks until SIGTERM or Ctrl-C; requests that have begun are finished.

    Callers of /api name the key of ABSURD_API_KEY; on a loopback address there need not be one. Webhooks are signed with
    WEBHOOK_SECRET. Tasks need not be known here: without an app, any can be spawned by name. A worker runs them.

    The dashboard is at /dashboard, for those who name the token of ABSURD_DASHBOARD_TOKEN; without an API key, for this machine.
    """
    set_up(log_format, log_level)
    create_app, auth = _library()
    key = auth.find_key(auth.FromEnvironment.ABSURD_API_KEY)
    if key is None and not auth.is_loopback(host):
        raise ConfigurationError(
            f"to listen on {host} the HTTP API needs a key, because others can reach it: set {auth.KEY_VARIABLE}"
        )
    found = find_served(session, app, queue)
    check_served(session, found.queue_name)
    telemetry.instrument_from_environment()
    web = create_app(
        found,
        api_key=key,
        allow_unsigned=allow_unsigned,
        max_body_bytes=max_body,
        loopback_only=key is None,
        metrics=find_spec("prometheus_client") is not None,
    )
    _add_dashboard(web, found, key)
    # Newer releases of FastAPI make these spans themselves.
    run_server(web if find_spec("fastapi.telemetry") is not None else traced(web), host, port)


def _library() -> tuple[Any, Any]:
    """What the extra brings."""
    try:
        import jinja2  # noqa: F401
        import uvicorn  # noqa: F401

        from absurd.web import auth, create_app
    except ImportError as error:
        raise ConfigurationError("serve needs FastAPI, Jinja2 and uvicorn: pip install 'absurd[web]'") from error
    return create_app, auth


def _add_dashboard(web: Any, found: BaseClient, key: str | None) -> None:
    """Adds the pages, unless nobody could be asked for a token who comes by a proxy that looks like this machine."""
    from absurd.web.dashboard import router, security

    token = security.find_token(security.FromEnvironment.ABSURD_DASHBOARD_TOKEN)
    if token is not None or key is None:
        web.include_router(router(found, token=token), prefix=DASHBOARD)
    else:
        logger.info("no dashboard is served: set %s to have one at %s", security.TOKEN_VARIABLE, DASHBOARD)


def find_served(session: Session, app: str | None, queue: str | None) -> BaseClient:
    """The application, or a plain one on the database; with the queue that was asked for."""
    if session.database is not None:
        # An app that says nothing of its own, Absurd(), then means the same database.
        os.environ[VARIABLES[0]] = session.url
    found = find_configured_app() if app is None else find_app(app)
    if found is None:
        return Absurd(session.url, DEFAULT_QUEUE if queue is None else queue)
    if session.database is None:
        session.database = found.database_url
    if queue is None and session.url == found.database_url:
        return found
    chosen = Absurd(session.url, found.queue_name if queue is None else queue, pool_size=found.pool_size)
    chosen.registry = found.registry
    return chosen


def check_served(session: Session, queue: str) -> None:
    """Refuses a database that cannot be served: an old schema, a queue that is not there."""
    with session.connection:
        schema.check(session.connection)
        session.require_queue(queue)


def run_server(web: Any, host: str, port: int) -> None:
    """Serves an ASGI application until SIGTERM or SIGINT."""
    import uvicorn

    from absurd.web.stopping import answering_when_stopped

    config = uvicorn.Config(
        answering_when_stopped(web, lambda: server.should_exit),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_REQUESTS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server, listening = uvicorn.Server(config), _listen(host, port)

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn ends with the signal that it was sent, by whoever heard it before: the exit status is 0 with this.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    logger.info("serving on http://%s", _place(listening))
    asyncio.run(server.serve(sockets=[listening]))
    logger.info("stopped")


def _listen(host: str, port: int) -> socket.socket:
    try:
        if ":" in host:
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=socket.has_dualstack_ipv6())
        return socket.create_server((host, port))
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # Python repeats the address
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {reason}; choose with --host and --port") from None


def _place(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
