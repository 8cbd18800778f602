"""dashboard: the pages that show what runs, as a server of their own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from absurd.cli.command import command
from absurd.cli.logs import LogFormat, set_up
from absurd.cli.logs import LogLevel as Level
from absurd.cli.options import listed_keys
from absurd.cli.serve import check_served, find_served, run_server
from absurd.cli.session import Session
from absurd.cli.worker import App, Format
from absurd.cli.worker import Level as LevelOption
from absurd.errors import ConfigurationError

Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; others than loopback need a token.")]
Port = Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0: any that is free.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="What visitors log in with. Default: ABSURD_DASHBOARD_TOKEN, which other users of this machine do not see.",
    ),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Show everything, change nothing.")]
Redact = Annotated[
    str | None,
    typer.Option(
        "--redact",
        metavar="KEYS",
        help="Keys whose values are not shown, separated by commas. Default: password,secret,token,authorization,api_key,cookie.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        "dashboard",
        dashboard,
        "absurdctl dashboard",
        "absurdctl dashboard --read-only --redact password,card",
        "ABSURD_DASHBOARD_TOKEN=a-long-random-text absurdctl dashboard --host 0.0.0.0",
        group="Workers",
        takes_json=False,
    )


def dashboard(
    session: Session,
    app: App = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    token: TokenOption = None,
    read_only: ReadOnly = False,
    redact: Redact = None,
    log_format: Format = LogFormat.TEXT,
    log_level: LevelOption = Level.INFO,
) -> None:
    """Serve the dashboard until SIGTERM or Ctrl-C: what runs, what waits for what, what failed and why.

    On a loopback address it asks for nothing; on others for a token. An app need not be given: it says where the database is.
    """
    set_up(log_format, log_level)
    create_app, security, is_loopback = _library()
    found_token = security.find_token(security.FromEnvironment.ABSURD_DASHBOARD_TOKEN if token is None else token)
    if found_token is None and not is_loopback(host):
        raise ConfigurationError(
            f"to listen on {host} the dashboard needs a token, because others can reach it: "
            f"set {security.TOKEN_VARIABLE} or give --token"
        )
    found = find_served(session, app, None)
    check_served(session, found.queue_name)
    chosen: dict[str, Any] = {} if redact is None else {"redact": listed_keys(redact)}
    run_server(create_app(found, token=found_token, read_only=read_only, **chosen), host, port)


def _library() -> tuple[Any, Any, Any]:
    """What the extra brings."""
    try:
        import jinja2  # noqa: F401
        import uvicorn  # noqa: F401

        from absurd.web.auth import is_loopback
        from absurd.web.dashboard import create_app, security
    except ImportError as error:
        raise ConfigurationError("dashboard needs FastAPI, Jinja2 and uvicorn: pip install 'absurd[web]'") from error
    return create_app, security, is_loopback
