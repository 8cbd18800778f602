"""Installing the schema: once, by many at a time, and never over something else."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, devdb, schema
from absurd.errors import SchemaError
from tests.cli import absurdctl
from tests.schema_catalog import describe
from tests.support_web import serving

SQL = Path(__file__).parents[2] / "sql"
Connection = psycopg.Connection[Any]


def queues(conn: Connection) -> list[str]:
    return [row[0] for row in conn.execute("select queue_name from absurd.list_queues()")]


def set_version(conn: Connection, version: str) -> None:
    conn.execute("update absurd.schema_version set version = %s", (version,))


def set_oldest_served(conn: Connection, version: str) -> None:
    function = (
        "create or replace function absurd.get_oldest_served_version() returns text language sql immutable parallel safe as"
    )
    conn.execute(f"{function} $$ select '{version}' $$".encode())


def test_a_fresh_installation_has_the_required_version_and_the_default_queue(empty_conn: Connection) -> None:
    assert schema.installed_version(empty_conn) is None
    assert schema.install(empty_conn)
    assert schema.installed_version(empty_conn) == schema.REQUIRED_VERSION
    assert queues(empty_conn) == ["default"]
    schema.check(empty_conn)


def test_installing_again_changes_nothing(empty_conn: Connection) -> None:
    schema.install(empty_conn)
    empty_conn.execute("select absurd.create_queue('mine')")
    before = describe(empty_conn)
    assert not schema.install(empty_conn)
    assert describe(empty_conn) == before
    assert queues(empty_conn) == ["default", "mine"]


def test_many_may_install_at_the_same_moment(empty_database_url: str) -> None:
    def install(_: int) -> bool:
        with psycopg.connect(empty_database_url) as conn:
            return schema.install(conn)

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(install, range(6))) == [False] * 5 + [True]


def test_a_connection_that_is_not_in_autocommit_commits_nothing_by_itself(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("create table mine ()")
        schema.install(conn)
        conn.rollback()
        assert schema.installed_version(conn) is None


def test_the_callers_settings_are_restored(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("set search_path = public")
        schema.install(conn)
        assert conn.execute("show search_path").fetchone() == ("public",)
        assert conn.execute("show check_function_bodies").fetchone() == ("on",)


def test_a_schema_of_somebody_else_is_left_alone(empty_conn: Connection) -> None:
    empty_conn.execute("create schema absurd")
    empty_conn.execute("create table absurd.theirs ()")
    with pytest.raises(SchemaError, match="has not installed"):
        schema.install(empty_conn)
    assert empty_conn.execute("select count(*) from absurd.theirs").fetchone() == (0,)


def test_an_empty_schema_that_an_administrator_has_prepared_is_used(empty_conn: Connection) -> None:
    empty_conn.execute("create schema absurd")
    assert schema.install(empty_conn)


@pytest.mark.parametrize("role_may", ["create on database", "all on schema"])
def test_a_role_that_is_no_superuser_installs_migrates_and_uses_it(empty_conn: Connection, role_may: str) -> None:
    name = f"absurd_role_{os.getpid()}"
    empty_conn.execute(f"create role {name}".encode())
    try:
        empty_conn.execute(f"grant create on database {empty_conn.info.dbname} to {name}".encode())
        if role_may == "all on schema":
            empty_conn.execute(f"create schema absurd authorization {name}".encode())
        empty_conn.execute(f"set role {name}".encode())
        assert schema.install(empty_conn)
        schema.migrate(empty_conn)
        empty_conn.execute("select absurd.spawn_task('default', 'hello', '{}')")
    finally:
        empty_conn.execute("reset role")
        empty_conn.execute(f"drop owned by {name} cascade".encode())
        empty_conn.execute(f"drop role {name}".encode())


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("0", "absurdctl migrate"), ("9999", "Upgrade the absurd package"), ("main", "database of its own")],
)
def test_a_version_that_does_not_fit_is_refused_with_its_remedy(conn: Connection, version: str, remedy: str) -> None:
    set_version(conn, version)
    set_oldest_served(conn, str(int(schema.REQUIRED_VERSION) + 1))
    for use in (schema.check, schema.install, schema.migrate) if version != "0" else (schema.check, schema.install):
        with pytest.raises(SchemaError, match=remedy):
            use(conn)


def test_a_newer_schema_that_serves_this_release_is_used_and_left_as_it_is(conn: Connection, database_url: str) -> None:
    set_version(conn, "9999")
    set_oldest_served(conn, schema.REQUIRED_VERSION)
    before = describe(conn)
    schema.check(conn)
    assert schema.install(conn) is False
    assert schema.migrate(conn) == []
    schema.ensure(conn)
    migrated = absurdctl("migrate", "--json", database=database_url).json()
    assert (migrated["version"], migrated["previous"], migrated["applied"]) == ("9999", "9999", [])
    assert describe(conn) == before
    shown = absurdctl("schema-version", "--json", database=database_url).json()
    assert shown == {"installed": "9999", "required": schema.REQUIRED_VERSION, "fits": True}
    absurdctl("spawn-task", "double", database=database_url)
    with Absurd(database_url) as app, serving(app) as web:
        assert web.get("/readyz").status_code == 200
        set_oldest_served(conn, "9999")
        assert web.get("/readyz").status_code == 503


def test_a_missing_schema_is_refused_with_its_remedy(empty_conn: Connection) -> None:
    with pytest.raises(SchemaError, match="absurdctl init"):
        schema.check(empty_conn)
    with pytest.raises(SchemaError, match="absurdctl init"):
        schema.migrate(empty_conn)


@pytest.mark.parametrize("file", ["install.sql", "absurd.sql"])
def test_psql_installs_the_same_schema(empty_database_url: str, empty_conn: Connection, conn: Connection, file: str) -> None:
    psql = devdb.find_binaries().directory / "psql"
    answer = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", SQL / file, empty_database_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert describe(empty_conn) == describe(conn)
    assert queues(empty_conn) == ["default"]
    schema.check(empty_conn)


def test_psql_on_an_installed_schema_changes_nothing(database_url: str, conn: Connection) -> None:
    before = describe(conn)
    psql = devdb.find_binaries().directory / "psql"
    answer = subprocess.run([psql, "-X", "-q", "-f", SQL / "install.sql", database_url], capture_output=True, check=False)
    assert answer.returncode != 0
    assert describe(conn) == before


def test_every_function_is_one_that_postgresql_can_compile(conn: Connection) -> None:
    """The files are installed without looking into the bodies; here they are looked into."""
    definitions = conn.execute(
        "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'absurd'::regnamespace and prokind in ('f', 'p')"
    ).fetchall()
    assert len(definitions) > 20
    conn.execute("set check_function_bodies = on")
    for (definition,) in definitions:
        conn.execute(definition.encode())


def test_every_function_says_its_purpose() -> None:
    silent = []
    for path in sorted((SQL / "functions").glob("*.sql")):
        lines = path.read_text().splitlines()
        silent += [
            f"{path.name}: {line}"
            for previous, line in zip(["", *lines], lines, strict=False)
            if line.startswith("create or replace function") and not previous.startswith("--")
        ]
    assert silent == []


def test_function_files_can_be_applied_again() -> None:
    """Each statement of a function file replaces what is there: an upgrade applies these files whole."""
    for path in sorted((SQL / "functions").glob("*.sql")):
        creating = [line for line in path.read_text().splitlines() if line.lower().startswith("create ")]
        assert [line for line in creating if not line.lower().startswith("create or replace ")] == [], path
