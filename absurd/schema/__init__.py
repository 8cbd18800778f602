"""The database schema ``absurd``: install it, upgrade it, and find out whether it fits this release.

Tables migrate; functions are re-applied whole at every upgrade. All of it comes from the files in ``sql/``, which the wheel
carries. Every function here takes a synchronous psycopg connection and does its work in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import scalar_row

from absurd.errors import SchemaError
from absurd.schema.contents import Contents, read_contents
from absurd.schema.functions import replace_functions

__all__ = [
    "CONTENTS",
    "REQUIRED_VERSION",
    "ROLES",
    "check",
    "check_version",
    "create_roles",
    "ensure",
    "install",
    "installed_version",
    "is_newer",
    "migrate",
]

Connection = psycopg.Connection[Any]

CONTENTS = read_contents()
REQUIRED_VERSION = CONTENTS.version
"""The version that this release needs: the number of its newest migration."""

ROLES = ("absurd_producer", "absurd_worker", "absurd_reader")
"""The group roles that ``create_roles`` makes."""

SUPERUSER_AS_OWNER = """
    select r.rolname from pg_class c join pg_roles r on r.oid = c.relowner
    where c.oid = 'absurd.schema_version'::regclass and r.rolsuper"""
OLDEST_SERVED = "select absurd.get_oldest_served_version()"
INSTALL_LOCK = "select pg_advisory_xact_lock(hashtextextended('absurd schema', 0))"
FOREIGN_OBJECTS = """
    select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'absurd')
      or exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'absurd')
"""
SETTINGS = {
    "search_path": "pg_catalog",  # so that the catalogue prints every name of ours with its schema
    "check_function_bodies": "off",  # so that functions may call others which are created after them
    "client_min_messages": "warning",
}


def installed_version(conn: Connection) -> str | None:
    """Return the version of the installed schema, or None if there is none."""
    with conn.transaction():
        if _scalar(conn, "select to_regclass('absurd.schema_version')") is None:
            return None
        if _scalar(conn, "select has_table_privilege('absurd.schema_version', 'select')"):
            # The owner's upgrade needs no function of the former release.
            version = _scalar(conn, "select version from absurd.schema_version")
        else:
            version = _scalar(conn, "select absurd.get_schema_version()")
    return None if version is None else str(version)


def check(conn: Connection) -> None:
    """Make sure that the installed schema fits this release.

    Raises:
        SchemaError: it is missing, older, or newer and does not serve this release; the message names the command that mends it.
    """
    installed = installed_version(conn)
    check_version(installed, str(_scalar(conn, OLDEST_SERVED)) if is_newer(installed) else None)


def is_newer(installed: str | None) -> bool:
    """Whether this version is one that this release does not know."""
    return installed is not None and installed.isdigit() and int(installed) > int(REQUIRED_VERSION)


def check_version(installed: str | None, oldest_served: str | None = None) -> None:
    """The same for a version that was read elsewhere, as asynchronous code does.

    Args:
        installed: what ``absurd.get_schema_version()`` returns.
        oldest_served: what ``absurd.get_oldest_served_version()`` returns; needed if the version ``is_newer``.

    Raises:
        SchemaError: as in ``check``.
    """
    if installed is None:
        raise SchemaError("The schema absurd is not installed in this database. Install it with: absurdctl init")
    if not installed.isdigit():
        raise SchemaError(
            f"The schema absurd in this database has version {installed!r}, which is none of this package's. "
            "Use a database of its own for this package."
        )
    if int(installed) < int(REQUIRED_VERSION):
        raise SchemaError(
            f"The schema absurd has version {installed}, this release needs {REQUIRED_VERSION}. Upgrade it: absurdctl migrate"
        )
    if is_newer(installed) and (oldest_served is None or int(oldest_served) > int(REQUIRED_VERSION)):
        raise SchemaError(
            f"The schema absurd has version {installed}, this release knows {REQUIRED_VERSION}. Upgrade the absurd package."
        )


def install(conn: Connection, *, contents: Contents = CONTENTS) -> bool:
    """Install the schema and the queue ``default``; an installed schema that serves this release stays as it is.

    Any number of processes may do this at the same moment.

    Returns:
        whether this call installed it.

    Raises:
        SchemaError: one that does not is installed, or the schema ``absurd`` belongs to something else.
    """
    with _changing(conn):
        installed = installed_version(conn)
        if installed is not None:
            if installed != contents.version:
                check(conn)
            return False
        _refuse_foreign_schema(conn)
        _apply_all(conn, contents)
        _record(conn, contents)
        return True


def migrate(conn: Connection, *, contents: Contents = CONTENTS) -> list[str]:
    """Upgrade the installed schema: apply the migrations it lacks, then re-apply all functions.

    Functions that are gone are dropped. Everything happens in one transaction, or not at all. A newer schema that serves this
    release stays as it is.

    Returns:
        the names of the migrations that were applied.

    Raises:
        SchemaError: nothing is installed, a newer version that does not serve this release is, or something else in the database
            stands in the way.
    """
    with _changing(conn):
        installed = installed_version(conn)
        if installed is None or not installed.isdigit() or int(installed) > int(contents.version):
            check(conn)
            return []
        pending = [migration for migration in contents.migrations if migration.number > int(installed)]
        for migration in pending:
            _execute(conn, migration.path.read_text(encoding="utf-8"))
        replace_functions(conn, apply_all=lambda: _apply_all(conn, contents), apply=lambda: _apply_functions(conn, contents))
        conn.execute("select absurd.apply_roles()")
        _record(conn, contents)
        return [migration.name for migration in pending]


def create_roles(conn: Connection) -> str | None:
    """Make the group roles ``ROLES``, if the server does not have them, and give them their rights in this database.

    Returns:
        the owner of the schema if that is a superuser, as whom the functions should better not run; else None.

    Raises:
        SchemaError: the schema is missing or another version's, or the caller may not make roles and they are not there.
    """
    with _changing(conn):
        check(conn)
        try:
            conn.execute("select absurd.create_roles()")
        except psycopg.errors.InsufficientPrivilege as error:
            hint = error.diag.message_hint or "Do it as the owner of the schema."
            raise SchemaError(f"The roles cannot be made: {error.diag.message_primary}. {hint}") from error
        except psycopg.errors.UndefinedFunction as error:
            raise SchemaError("The schema absurd is older than this release. Upgrade it: absurdctl migrate --roles") from error
        owner = _scalar(conn, SUPERUSER_AS_OWNER)
    return None if owner is None else str(owner)


def ensure(conn: Connection, *, contents: Contents = CONTENTS) -> None:
    """Bring the schema to this release whatever it is now, as the embedded PostgreSQL does on each start.

    Besides the version this compares a digest of the files, so that work on the functions in a checkout takes effect.
    """
    installed = installed_version(conn)
    if installed is None:
        install(conn, contents=contents)
    elif installed != contents.version or _installed_digest(conn) != contents.digest:
        migrate(conn, contents=contents)


@contextmanager
def _changing(conn: Connection) -> Iterator[None]:
    """One transaction, alone among those that change the schema; the caller's settings are restored."""
    with conn.transaction():
        conn.execute(INSTALL_LOCK)
        before = {name: _scalar(conn, "select current_setting(%s)", name) for name in SETTINGS}
        _set(conn, SETTINGS)
        yield
        _set(conn, before)


def _set(conn: Connection, settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        conn.execute("select set_config(%s, %s, true)", (name, value))


def _apply_all(conn: Connection, contents: Contents) -> None:
    for path in contents.files:
        _execute(conn, path.read_text(encoding="utf-8"))


def _apply_functions(conn: Connection, contents: Contents) -> None:
    for path in contents.function_files:
        _execute(conn, path.read_text(encoding="utf-8"))


def _refuse_foreign_schema(conn: Connection) -> None:
    if _scalar(conn, FOREIGN_OBJECTS):
        raise SchemaError(
            "This database has a schema absurd that this package has not installed. Rename or drop that schema, "
            "or use another database."
        )


def _record(conn: Connection, contents: Contents) -> None:
    conn.execute(
        "update absurd.schema_version set version = %s, installed_at = now() where version <> %s",
        (contents.version, contents.version),
    )
    _execute(conn, contents.comment_statement())


def _installed_digest(conn: Connection) -> str | None:
    comment = _scalar(conn, "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = 'absurd'")
    return str(comment).rpartition("sha256:")[2] if comment else None


def _execute(conn: Connection, text: str) -> None:
    conn.execute(text.encode())


def _scalar(conn: Connection, query: str, *arguments: object) -> Any:
    with conn.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query.encode(), arguments or None).fetchone()
