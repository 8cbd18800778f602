"""Upgrading the schema: what has been migrated equals what is installed fresh, and nothing of the user's is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import schema
from absurd.errors import SchemaError
from absurd.schema.contents import Contents, read_contents
from tests.schema_catalog import describe

SINGLE_FILE = read_contents().root / "absurd.sql"  # the present version
BASELINES = Path(__file__).parents[1] / "baselines"  # released versions, kept by `make baseline`
Connection = psycopg.Connection[Any]

OLD_TABLE = "create table absurd.things (id integer primary key);\n"
NEW_TABLE = "create table absurd.things (id integer primary key, name text not null default 'none' check (name <> ''));\n"
OLD_FUNCTIONS = """\
create or replace function absurd.kept() returns integer language sql as $$ select 1 $$;
create or replace function absurd.retyped(p_old integer) returns integer language sql as $$ select p_old $$;
create or replace function absurd.gone() returns integer language sql as $$ select 1 $$;
create or replace function absurd.fewer_defaults(p integer default 1) returns integer language sql as $$ select p $$;
"""
NEW_FUNCTIONS = """\
create or replace function absurd.kept() returns integer language sql as $$ select 2 $$;
create or replace function absurd.retyped(p_new integer) returns bigint language sql as $$ select p_new::bigint + 100 $$;
create or replace function absurd.fewer_defaults(p integer) returns integer language sql as $$ select p $$;
create or replace function absurd.added() returns integer language sql as $$ select 3 $$;
"""


@pytest.fixture
def release(tmp_path: Path) -> Contents:
    """A release of the real schema with a small table and four functions of its own."""
    root = tmp_path / "sql"
    shutil.copytree(read_contents().root, root)
    (root / "tables" / "things.sql").write_text(OLD_TABLE)
    (root / "functions" / "things.sql").write_text(OLD_FUNCTIONS)
    page = (root / "install.sql").read_text()
    extra = "\\ir tables/things.sql\n\\ir functions/things.sql\n\\ir finish.sql"
    (root / "install.sql").write_text(page.replace("\\ir finish.sql", extra))
    return read_contents(root)


def publish(release: Contents, migration: str | None = None) -> Contents:
    """The next release: other functions and, with a migration, another table."""
    root = release.root
    (root / "functions" / "things.sql").write_text(NEW_FUNCTIONS)
    if migration is not None:
        number = int(release.version) + 1
        (root / "migrations").mkdir(exist_ok=True)
        (root / "migrations" / f"{number:04}_things_have_names.sql").write_text(migration)
        (root / "tables" / "things.sql").write_text(NEW_TABLE)
        finish = root / "finish.sql"
        finish.write_text(finish.read_text().replace(f"values ('{release.version}')", f"values ('{number}')"))
    return read_contents(root)


MIGRATION = "alter table absurd.things add column name text not null default 'none' check (name <> '');"


def fresh(server_conn: Connection, contents: Contents) -> list[str]:
    """The catalogue of a fresh installation, which is made in the same database and rolled back."""
    with server_conn.transaction(force_rollback=True):
        server_conn.execute("drop schema absurd cascade")
        schema.install(server_conn, contents=contents)
        return describe(server_conn)


@pytest.mark.parametrize("baseline", [SINGLE_FILE, *sorted(BASELINES.glob("*.sql"))], ids=lambda path: path.stem)
def test_a_schema_migrated_from_a_released_version_equals_a_fresh_one(empty_conn: Connection, baseline: Path) -> None:
    empty_conn.execute(baseline.read_bytes())
    schema.migrate(empty_conn)
    assert describe(empty_conn) == fresh(empty_conn, schema.CONTENTS)


def test_every_version_but_the_present_one_has_a_baseline() -> None:
    expected = {str(number) for number in range(1, int(schema.REQUIRED_VERSION))}
    assert expected <= {path.stem for path in BASELINES.glob("*.sql")}


def test_a_migrated_schema_equals_a_fresh_one(empty_conn: Connection, release: Contents) -> None:
    schema.install(empty_conn, contents=release)
    empty_conn.execute("insert into absurd.things values (1)")
    new = publish(release, MIGRATION)
    assert schema.migrate(empty_conn, contents=new) == [new.migrations[-1].name]
    assert schema.installed_version(empty_conn) == new.version != release.version
    assert empty_conn.execute("select id, name from absurd.things").fetchall() == [(1, "none")]
    assert describe(empty_conn) == fresh(empty_conn, new)


def test_functions_are_re_applied_without_a_migration(empty_conn: Connection, release: Contents) -> None:
    schema.install(empty_conn, contents=release)
    new = publish(release)
    assert schema.migrate(empty_conn, contents=new) == []
    assert describe(empty_conn) == fresh(empty_conn, new)
    assert empty_conn.execute("select absurd.kept(), absurd.retyped(1), absurd.added()").fetchone() == (2, 101, 3)


def test_functions_that_were_changed_by_hand_are_put_right(conn: Connection) -> None:
    before = describe(conn)
    conn.execute(
        "create or replace function absurd.list_queues() returns table (queue_name text) language sql as $$ select 'x' $$"
    )
    conn.execute("create function absurd.stranger() returns integer language sql as $$ select 1 $$")
    conn.execute("drop function absurd.get_schema_version()")
    assert describe(conn) != before
    schema.migrate(conn)
    assert describe(conn) == before


def test_what_depends_on_a_changed_function_survives(empty_conn: Connection, release: Contents) -> None:
    schema.install(empty_conn, contents=release)
    empty_conn.execute("create view mine as select absurd.kept() as kept, absurd.retyped(1)::integer as retyped")
    empty_conn.execute(
        """create table notes (
             id integer default absurd.kept(),
             other integer default absurd.retyped(5),
             constraint small check (absurd.retyped(id) < 1000))"""
    )
    empty_conn.execute("insert into notes default values")
    schema.migrate(empty_conn, contents=publish(release, MIGRATION))
    empty_conn.execute("insert into notes default values")
    assert empty_conn.execute("select * from mine").fetchone() == (2, 101)
    assert empty_conn.execute("select * from notes").fetchall() == [(1, 5), (2, 105)]
    with pytest.raises(psycopg.errors.CheckViolation):
        empty_conn.execute("insert into notes values (950)")


def test_what_depends_on_a_function_that_goes_stops_the_upgrade_by_name(empty_conn: Connection, release: Contents) -> None:
    schema.install(empty_conn, contents=release)
    empty_conn.execute("create view mine as select absurd.gone() as it")
    before = describe(empty_conn)
    with pytest.raises(SchemaError, match=r"view public.mine .*Drop it, upgrade"):
        schema.migrate(empty_conn, contents=publish(release, MIGRATION))
    assert describe(empty_conn) == before
    assert empty_conn.execute("select * from mine").fetchone() == (1,)


def test_a_migration_that_fails_changes_nothing(empty_conn: Connection, release: Contents) -> None:
    schema.install(empty_conn, contents=release)
    before = describe(empty_conn)
    with pytest.raises(psycopg.errors.UndefinedTable):
        schema.migrate(empty_conn, contents=publish(release, MIGRATION + "alter table absurd.no_such_table add column x text;"))
    assert describe(empty_conn) == before


def test_privileges_on_functions_survive(conn: Connection) -> None:
    conn.execute("revoke execute on function absurd.list_queues() from public")
    schema.migrate(conn)
    row = conn.execute("select proacl::text from pg_proc where oid = 'absurd.list_queues()'::regprocedure").fetchone()
    assert row is not None
    assert "=X/" not in row[0].replace(f"{conn.info.user}=X/", "")


def test_tasks_survive(conn: Connection) -> None:
    conn.execute("select absurd.spawn_task('default', 'hello', '{\"a\": 1}')")
    schema.migrate(conn)
    claimed = conn.execute("select task_name, params::text from absurd.claim_task('default', 'w')").fetchall()
    assert [name for name, _ in claimed] == ["hello"]


def test_ensure_takes_up_changed_functions_of_the_same_version(empty_conn: Connection, release: Contents) -> None:
    schema.ensure(empty_conn, contents=release)
    assert empty_conn.execute("select absurd.kept()").fetchone() == (1,)
    schema.ensure(empty_conn, contents=publish(release))
    assert empty_conn.execute("select absurd.kept()").fetchone() == (2,)


@pytest.mark.parametrize("name", ["0001_first.sql", "0999_gap.sql", "add_things.sql"])
def test_migrations_out_of_order_are_refused(release: Contents, name: str) -> None:
    (release.root / "migrations").mkdir(exist_ok=True)
    (release.root / "migrations" / name).write_text("")
    with pytest.raises(SchemaError, match=r"000[23]_what_it_does"):
        read_contents(release.root)


def test_a_contents_page_that_cannot_be_read_is_refused(release: Contents) -> None:
    page = release.root / "install.sql"
    page.write_text(page.read_text() + "drop table everything;\n")
    with pytest.raises(SchemaError, match="drop table everything"):
        read_contents(release.root)


def test_a_contents_page_that_names_a_file_twice_or_leaves_one_out_is_refused(release: Contents) -> None:
    page = release.root / "install.sql"
    line = next(line for line in page.read_text().splitlines() if "functions/clock.sql" in line)
    page.write_text(page.read_text() + line + "\n")
    with pytest.raises(SchemaError, match=r"clock\.sql.*more than once"):
        read_contents(release.root)
    page.write_text(page.read_text().replace(line + "\n", ""))
    with pytest.raises(SchemaError, match=r"does not name.*clock\.sql"):
        read_contents(release.root)
