"""The program: its commands, and the options that stand before a command."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

import absurd.cli.dashboard as dashboard
import absurd.cli.dev as dev
import absurd.cli.doctor as doctor
import absurd.cli.events as events
import absurd.cli.listen as listen
import absurd.cli.move as move
import absurd.cli.ping as ping
import absurd.cli.queues as queues
import absurd.cli.replay as replay
import absurd.cli.schedules as schedules
import absurd.cli.schema as schema
import absurd.cli.serve as serve
import absurd.cli.show as show
import absurd.cli.spawn as spawn
import absurd.cli.subscriptions as subscriptions
import absurd.cli.tail as tail
import absurd.cli.tasks as tasks
import absurd.cli.tokens as tokens
import absurd.cli.top as top
import absurd.cli.triggers as triggers
import absurd.cli.upkeep as upkeep
import absurd.cli.worker as worker
import absurd.cli.workers as workers
from absurd.cli.command import Globals, examples
from absurd.cli.options import DATABASE_HELP, DEBUG_HELP

PROGRAM = "absurdctl"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        sys.stdout.write(f"{PROGRAM} {version('absurd')}\n")
    except PackageNotFoundError:
        sys.stdout.write(f"{PROGRAM} (not installed as a package)\n")
    raise typer.Exit


@app.callback(
    epilog=examples(
        "absurdctl dev",
        "absurdctl -d postgresql://absurd@db.example/absurd list-tasks --state failed",
        "absurdctl worker --app myproject.tasks:app",
    )
)
def absurdctl(
    ctx: typer.Context,
    database: Annotated[str | None, typer.Option("-d", "--database", metavar="URL", help=DATABASE_HELP)] = None,
    debug: Annotated[bool, typer.Option("--debug", help=DEBUG_HELP)] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Durable tasks on PostgreSQL: queues, tasks, events and workers.

    Without a database given, commands use the embedded PostgreSQL of this user, and start it if need be.
    """
    ctx.obj = Globals(database=database, debug=debug)


# In the order in which --help lists them.
for module in (
    schema,
    doctor,
    dev,
    worker,
    serve,
    dashboard,
    queues,
    move,
    spawn,
    tasks,
    show,
    tail,
    replay,
    events,
    subscriptions,
    schedules,
    tokens,
    triggers,
    listen,
    workers,
    ping,
    top,
    upkeep,
):
    module.register(app)


def main() -> None:
    """Runs the program with the arguments of this process, and exits."""
    app(prog_name=PROGRAM)
