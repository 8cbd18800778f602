"""worker: runs the tasks of an application."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from absurd import schema, telemetry
from absurd.cli.command import command
from absurd.cli.complete import complete_queue
from absurd.cli.find_app import VARIABLE, find_app
from absurd.cli.logs import LogFormat, LogLevel, set_up
from absurd.cli.options import seconds
from absurd.cli.session import Session
from absurd.location import VARIABLES
from absurd.metrics import DIRECTORY_VARIABLE, Exposition, MetricsServer, ProcessDirectory
from absurd.worker import Supervisor, WorkerOptions, follow_supervisor, run_worker
from absurd.worker.options import DEFAULT_CONCURRENCY

logger = logging.getLogger("absurd.worker")

App = Annotated[
    str | None,
    typer.Option(
        "-a",
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help=f"The application. Default: {VARIABLE}, else \\[tool.absurd] in pyproject.toml.",
    ),
]
Queues = Annotated[
    list[str] | None,
    typer.Option(
        "-q",
        "--queue",
        metavar="QUEUE",
        help="Queue to serve; may be repeated. Default: the app's and those of its tasks.",
        autocompletion=complete_queue,
    ),
]
Concurrency = Annotated[
    int, typer.Option("-c", "--concurrency", metavar="N", min=1, max=10_000, help="Tasks at a time, per process.")
]
Processes = Annotated[int, typer.Option("--processes", metavar="N", min=1, max=1_000, help="Worker processes.")]
Lease = Annotated[
    float,
    typer.Option(
        "--lease",
        metavar="DURATION",
        help="How long a task stays with a worker that says nothing.",
        parser=seconds,
        show_default="30s",
    ),
]
PollInterval = Annotated[
    float,
    typer.Option(
        "--poll-interval", metavar="DURATION", help="Time between looks when nobody notifies.", parser=seconds, show_default="1s"
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace", metavar="DURATION", help="How long running tasks may go on after SIGTERM.", parser=seconds, show_default="30s"
    ),
]
Scheduler = Annotated[bool, typer.Option("--scheduler/--no-scheduler", help="Fire schedules too.")]
Triggers = Annotated[bool, typer.Option("--triggers/--no-triggers", help="Poll the app's triggers too.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT",
        min=0,
        max=65535,
        help="Serve metrics for Prometheus on this port, those of all --processes together; 0: any that is free.",
    ),
]
MetricsHost = Annotated[str, typer.Option("--metrics-host", metavar="ADDRESS", help="Address of the metrics.")]
Retention = Annotated[bool, typer.Option("--retention/--no-retention", help="Delete what queues need not keep, too.")]
HealthFile = Annotated[
    str | None,
    typer.Option("--health-file", metavar="PATH", help="Touch PATH.PID while the worker goes on, for absurdctl ping-worker."),
]
Format = Annotated[LogFormat, typer.Option("--log-format", help="Form of the log on standard error.")]
Level = Annotated[LogLevel, typer.Option("--log-level", help="From which severity on to log.")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        "worker",
        worker,
        "absurdctl worker --app myproject.tasks:app",
        "absurdctl worker --queue orders --queue mail --concurrency 50 --processes 4",
        "ABSURD_APP=myproject.tasks:app absurdctl worker --log-format json",
        group="Workers",
        takes_json=False,
    )


def worker(
    session: Session,
    app: App = None,
    queue: Queues = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    processes: Processes = 1,
    lease: Lease = 30.0,
    poll_interval: PollInterval = 1.0,
    grace: Grace = 30.0,
    scheduler: Scheduler = True,
    triggers: Triggers = True,
    retention: Retention = True,
    health_file: HealthFile = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_format: Format = LogFormat.TEXT,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run the tasks of an application until SIGTERM or Ctrl-C.

    The first signal stops claiming and lets what runs end within --grace; a second one ends at once.
    """
    set_up(log_format, log_level)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What tasks print is read while the worker runs, also from a file or pipe.
        sys.stdout.reconfigure(line_buffering=True)
    if session.database is not None:
        # An app that says nothing of its own, Absurd(), then means the same database in its tasks.
        os.environ[VARIABLES[0]] = session.url
    own = _arguments(session.database, app)
    found = find_app(app)
    if session.database is None:
        session.database = found.database_url
    options = found.worker_options(
        queue or None,
        concurrency=concurrency,
        lease_seconds=lease,
        poll_interval=poll_interval,
        grace_seconds=grace,
        scheduler=scheduler,
        triggers=triggers,
        retention=retention,
        health_file=health_file,
    )
    _check(session, options)
    telemetry.instrument_from_environment()
    if processes == 1:
        follow_supervisor()
        with _metrics(session.url, metrics_host, metrics_port):
            run_worker(found.registry, session.url, options)
        return
    own += [*(f"--queue={name}" for name in options.queues), f"--concurrency={concurrency}", f"--lease={lease}"]
    own += [f"--poll-interval={poll_interval}", f"--grace={grace}", f"--log-format={log_format}", f"--log-level={log_level}"]
    own += [*([] if scheduler else ["--no-scheduler"]), *([] if triggers else ["--no-triggers"])]
    own += [*([] if retention else ["--no-retention"]), *([] if health_file is None else [f"--health-file={health_file}"])]
    supervisor = Supervisor([sys.executable, "-m", "absurd", "worker", *own], processes)
    if metrics_port is None:
        raise typer.Exit(supervisor.run())
    with ProcessDirectory() as directory, _metrics(session.url, metrics_host, metrics_port):
        supervisor.on_end = directory.ended
        raise typer.Exit(supervisor.run())


@contextmanager
def _metrics(url: str, host: str, port: int | None) -> Iterator[None]:
    """Serves the metrics meanwhile. A process that another one started keeps its own for that one."""
    if port is None:
        if DIRECTORY_VARIABLE in os.environ:
            telemetry.instrument_metrics()
        yield
        return
    server = MetricsServer(Exposition(url), host, port)
    server.start()
    logger.info("metrics are served on http://%s:%s/metrics", f"[{host}]" if ":" in host else host, server.port)
    try:
        yield
    finally:
        server.stop()


def _arguments(database: str | None, app: str | None) -> list[str]:
    """What the processes of one worker are told of database and app: only what was on the command line.

    The rest they find as this process did. A password from the environment does not get into a list of processes.
    """
    given = {"--database": database, "--app": app}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def _check(session: Session, options: WorkerOptions) -> None:
    """What a worker cannot do without, said before it starts: database, schema, queues."""
    with session.connection:
        schema.check(session.connection)
        for name in options.queues:
            session.require_queue(name)
