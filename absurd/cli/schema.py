"""init, migrate, schema-version: the schema in the database."""

from __future__ import annotations

from typing import Annotated

import typer

from absurd import schema
from absurd.cli.command import command
from absurd.cli.session import Session
from absurd.errors import SchemaError

GROUP = "Database"
Roles = Annotated[
    bool,
    typer.Option(
        "--roles",
        help="Also make the group roles absurd_producer, absurd_worker and absurd_reader, to be granted to login roles.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    url = "postgresql://absurd@db.example/absurd"
    command(app, "init", init, "absurdctl init", f"absurdctl init --roles -d {url}", group=GROUP)
    command(app, "migrate", migrate, "absurdctl migrate", "absurdctl migrate --roles", group=GROUP)
    command(app, "schema-version", schema_version, "absurdctl schema-version", "absurdctl schema-version --json", group=GROUP)


def init(session: Session, roles: Roles = False) -> None:
    """Install the schema `absurd` and the queue `default` into the database.

    A schema that is there already and serves this release stays as it is; `--roles` may be added later.
    """
    with session.out.progress("Installing the schema absurd"):
        installed = schema.install(session.connection)
    version = schema.installed_version(session.connection)
    text = "Installed the schema absurd" if installed else "The schema absurd is installed already"
    facts = _make_roles(session) if roles else {}
    session.out.done(f"{text}, version {version}", installed=installed, version=version, **facts)


def migrate(session: Session, roles: Roles = False) -> None:
    """Bring an installed schema up to date: apply the migrations it lacks and replace all functions.

    Everything happens in one transaction, or not at all. Roles that were made before keep their rights; `--roles` makes them.
    A schema of a newer release that serves this one stays as it is.
    """
    with session.out.progress("Migrating the schema absurd"):
        before = schema.installed_version(session.connection)
        applied = schema.migrate(session.connection)
    facts = _make_roles(session) if roles else {}
    after = schema.installed_version(session.connection)
    text = f"The schema absurd went from version {before} to {after}" if applied else f"The schema absurd is at version {after}"
    for name in applied:
        if not session.out.as_json:
            session.out.line(f"  {name}")
    whose = "a newer release, which serves this one" if schema.is_newer(after) else "this release"
    session.out.done(f"{text}; its functions are those of {whose}", version=after, previous=before, applied=applied, **facts)


def _make_roles(session: Session) -> dict[str, list[str]]:
    """Makes the roles that are missing; says so, and what of it is worth a thought."""
    owner = schema.create_roles(session.connection)
    if not session.out.as_json:
        session.out.line(
            f"The roles {', '.join(schema.ROLES)} are there; give one to a login role with: grant {schema.ROLES[0]} to app"
        )
    if owner is not None:
        session.out.note(
            f'The schema belongs to the superuser "{owner}", and its functions run as their owner. '
            "Better have it belong to a role of its own: see docs/security.md."
        )
    return {"roles": list(schema.ROLES)}


def schema_version(session: Session) -> None:
    """Show the version of the installed schema and the one that this release was made for; exit 1 if they do not fit."""
    installed = schema.installed_version(session.connection)
    problem = _problem(session)
    fits = problem is None
    if session.out.as_json:
        session.out.json({"installed": installed, "required": schema.REQUIRED_VERSION, "fits": fits})
    else:
        session.out.line(f"installed: {installed or '-'}")
        session.out.line(f"required:  {schema.REQUIRED_VERSION}")
    if problem is not None:
        raise problem


def _problem(session: Session) -> SchemaError | None:
    try:
        schema.check(session.connection)
    except SchemaError as error:
        return error
    return None
