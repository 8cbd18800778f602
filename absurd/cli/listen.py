"""listen and list-listeners: processes that start tasks for what happens outside."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from absurd import schema, telemetry
from absurd.cli.arguments import read_pairs
from absurd.cli.command import command
from absurd.cli.complete import complete_queue
from absurd.cli.find_app import find_app, find_configured_app
from absurd.cli.find_listener import AnyListener, make_listener
from absurd.cli.logs import LogFormat, LogLevel, set_up
from absurd.cli.options import seconds
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import age, escape, moment_text
from absurd.cli.worker import App, Format, Level
from absurd.client import Absurd, AsyncAbsurd
from absurd.errors import ConfigurationError
from absurd.listeners import run_listener
from absurd.listeners.run import DEFAULT_GRACE
from absurd.location import VARIABLES
from absurd.spawning import check_queue_name

Listener = Annotated[
    str, typer.Argument(metavar="MODULE:CLASS", help="The listener: a class derived from EventListener or AsyncEventListener.")
]
TaskQueue = Annotated[
    str | None,
    typer.Option(
        "-q",
        "--queue",
        metavar="QUEUE",
        help="Queue of the tasks. Default: that of each task, or the app's.",
        autocompletion=complete_queue,
    ),
]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Its name. Default: that of the class.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "-o", "--option", metavar="KEY=VALUE", help="Argument of the class: a text; KEY:=JSON for others. May be repeated."
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace", metavar="DURATION", help="How long it may take to end after SIGTERM.", parser=seconds, show_default="30s"
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        "listen",
        listen,
        "absurdctl listen myproject.listeners:MailListener",
        "absurdctl listen absurd.listeners:RabbitMQListener --option queue=orders --queue orders",
        "absurdctl listen absurd.listeners:FileListener --option path=/data/in --option workflow_id=import-file",
        "absurdctl listen absurd.listeners:NotifyListener --option channel=workflow_triggers",
        "ABSURD_API_KEY=… absurdctl listen absurd.listeners:WebhookListener --option host=0.0.0.0 --option port:=8090",
        group="Workers",
        takes_json=False,
    )
    command(app, "list-listeners", list_listeners, "absurdctl list-listeners", "absurdctl list-listeners --json", group="Workers")


def listen(
    session: Session,
    listener: Listener,
    app: App = None,
    queue: TaskQueue = None,
    name: Name = None,
    option: Options = None,
    grace: Grace = DEFAULT_GRACE,
    log_format: Format = LogFormat.TEXT,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Start tasks for what a listener hears, until SIGTERM or Ctrl-C.

    An error of the listener is logged and followed by another start. A second signal ends at once.
    """
    set_up(log_format, log_level)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    if session.database is not None:
        # An app that says nothing of its own, Absurd(), then means the same database.
        os.environ[VARIABLES[0]] = session.url
    made = make_listener(listener, read_pairs(option or [], "--option"))
    _bind(session, made, app)
    telemetry.instrument_from_environment()
    if queue is not None:
        made.target_queue = check_queue_name(queue)
    if name is not None:
        made.name = name
    _check(session, made)
    try:
        run_listener(made, grace_seconds=grace)
    except NotImplementedError as error:
        raise ConfigurationError(f"{listener} cannot listen: {error}") from error


def _bind(session: Session, listener: AnyListener, app: str | None) -> None:
    """Whose tasks it starts: the app of the command line, else its own, else the one that is configured, else ``Absurd()``."""
    found = find_app(app) if app is not None else None if listener._has_app else find_configured_app()
    if isinstance(found, (Absurd, AsyncAbsurd)):
        listener._bind(found)
    if session.database is not None:
        client = listener._client
        chosen = type(client)(session.url, client.queue_name, pool_size=client.pool_size)
        chosen.registry = client.registry
        listener._bind(chosen)


def _check(session: Session, listener: AnyListener) -> None:
    """What a listener cannot do without, said before it starts: database, schema, queue."""
    session.database = listener._client.database_url
    with session.connection:
        schema.check(session.connection)
        session.require_queue(listener.target_queue)


def list_listeners(session: Session) -> None:
    """List the listener processes, with their last error; those without a sign of life for a minute are dead."""
    rows = session.client().list_listeners()
    if session.out.as_json:
        session.out.json([asdict(row) for row in rows])
        return
    columns = [
        Column("LISTENER"),
        Column("QUEUE"),
        Column("STATE", fixed=True),
        Column("HOST"),
        Column("PID", right=True),
        Column("STARTED"),
        Column("HEARTBEAT"),
        Column("STARTS", right=True),
        Column("FAILURES", right=True),
        Column("LAST ERROR"),
    ]
    cells: Rows = [
        [
            escape(row.name),
            escape(row.queue_name or ""),
            state_text(row.status),
            escape(row.hostname),
            str(row.pid),
            moment_text(row.started_at, session.now),
            age(row.heartbeat_at, session.now),
            str(row.started_count),
            str(row.failures),
            escape(f"{age(row.last_error_at, session.now)}: {row.last_error}" if row.last_error and row.last_error_at else ""),
        ]
        for row in rows
    ]
    session.out.table(columns, cells, empty="No listeners. Start one with: absurdctl listen module:Class")
