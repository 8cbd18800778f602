"""init, migrate, schema-version: the schema in the database."""

from __future__ import annotations

import typer

from absurd import schema
from absurd.cli.command import command
from absurd.cli.session import Session

GROUP = "Database"


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(app, "init", init, "absurdctl init", "absurdctl init -d postgresql://absurd@db.example/absurd", group=GROUP)
    command(app, "migrate", migrate, "absurdctl migrate", group=GROUP)
    command(app, "schema-version", schema_version, "absurdctl schema-version", "absurdctl schema-version --json", group=GROUP)


def init(session: Session) -> None:
    """Install the schema `absurd` and the queue `default` into the database.

    A schema that is there already in this release's version stays as it is.
    """
    with session.out.progress("Installing the schema absurd"):
        installed = schema.install(session.connection)
    text = "Installed the schema absurd" if installed else "The schema absurd is installed already"
    session.out.done(f"{text}, version {schema.REQUIRED_VERSION}", installed=installed, version=schema.REQUIRED_VERSION)


def migrate(session: Session) -> None:
    """Bring an installed schema up to date: apply the migrations it lacks and replace all functions.

    Everything happens in one transaction, or not at all.
    """
    with session.out.progress("Migrating the schema absurd"):
        before = schema.installed_version(session.connection)
        applied = schema.migrate(session.connection)
    after = schema.REQUIRED_VERSION
    text = f"The schema absurd went from version {before} to {after}" if applied else f"The schema absurd is at version {after}"
    for name in applied:
        if not session.out.as_json:
            session.out.line(f"  {name}")
    session.out.done(f"{text}; its functions are those of this release", version=after, previous=before, applied=applied)


def schema_version(session: Session) -> None:
    """Show the version of the installed schema and the one that this release needs; exit 1 if they differ."""
    installed = schema.installed_version(session.connection)
    fits = installed == schema.REQUIRED_VERSION
    if session.out.as_json:
        session.out.json({"installed": installed, "required": schema.REQUIRED_VERSION, "fits": fits})
    else:
        session.out.line(f"installed: {installed or '-'}")
        session.out.line(f"required:  {schema.REQUIRED_VERSION}")
    if not fits:
        schema.check_version(installed)
