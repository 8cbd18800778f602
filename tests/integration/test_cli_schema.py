"""init, migrate, schema-version; which database; errors that every command shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from absurd import schema
from tests.cli import absurdctl, invoke, refused

BASELINE = Path(__file__).parents[1] / "baselines" / "1.sql"


def test_init_installs_once(empty_database_url: str) -> None:
    first = absurdctl("init", database=empty_database_url)
    assert "Installed the schema absurd" in first.out
    second = absurdctl("init", "--json", database=empty_database_url)
    assert second.json() == {"installed": False, "version": schema.REQUIRED_VERSION}
    assert [row["queue_name"] for row in absurdctl("list-queues", "--json", database=empty_database_url).json()] == ["default"]


def test_a_missing_schema_names_init(empty_database_url: str) -> None:
    for arguments in (["list-queues"], ["migrate"], ["create-queue", "x"], ["spawn-task", "x"], ["schema-version"]):
        done = invoke(*arguments, database=empty_database_url, code=1)
        assert "absurdctl init" in done.err
        assert "absurdctl migrate" not in done.err
        assert len(done.err.splitlines()) == 1


def test_an_old_schema_names_migrate_and_a_new_one_the_package(database_url: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("drop schema absurd cascade")
    conn.execute(BASELINE.read_text(encoding="utf-8").encode())
    done = absurdctl("schema-version", "--json", database=database_url, code=1)
    assert done.json() == {"installed": "1", "required": schema.REQUIRED_VERSION, "fits": False}
    assert "absurdctl migrate" in done.err
    migrated = absurdctl("migrate", "--json", database=database_url).json()
    assert (migrated["previous"], migrated["version"]) == ("1", schema.REQUIRED_VERSION)
    assert absurdctl("schema-version", database=database_url).out.split()[-1] == schema.REQUIRED_VERSION
    conn.execute("update absurd.schema_version set version = '999'")
    conn.execute("create or replace function absurd.get_oldest_served_version() returns text language sql as $$ select '999' $$")
    assert "Upgrade the absurd package" in refused("migrate", database=database_url)


def test_the_database_may_stand_before_or_after_the_command_and_after_wins(database_url: str) -> None:
    nowhere = "postgresql://x@127.0.0.1:1/nowhere"
    absurdctl("-d", database_url, "list-queues", database=nowhere)
    absurdctl("list-queues", "-d", database_url, database=nowhere)
    absurdctl("list-queues", "--database", database_url, database=nowhere)
    absurdctl("-d", nowhere, "list-queues", "-d", database_url)
    assert "127.0.0.1:1" in refused("-d", database_url, "list-queues", "-d", nowhere)


def test_the_environment_says_which_database(database_url: str) -> None:
    nowhere = "postgresql://x@127.0.0.1:1/nowhere"
    absurdctl("list-queues", env={"PGDATABASE": database_url})
    absurdctl("list-queues", env={"ABSURD_DATABASE_URL": database_url, "PGDATABASE": nowhere})
    parts = conninfo.conninfo_to_dict(database_url)
    libpq = {"PGHOST": str(parts["host"]), "PGUSER": str(parts["user"]), "PGDATABASE": str(parts["dbname"])}
    absurdctl("list-queues", env=libpq | ({"PGPORT": str(parts["port"])} if "port" in parts else {}))


def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    text = refused("list-queues", "-d", "postgresql://ann:sec%40ret@127.0.0.1:1/shop")
    assert text.startswith("Error: ")
    assert "127.0.0.1:1" in text
    assert "sec" not in text
    assert "ABSURD_DATABASE_URL" in text
    assert "sec%40ret" not in absurdctl("--debug", "list-queues", "-d", "postgresql://ann:sec%40ret@127.0.0.1:1/shop", code=1).err


@pytest.mark.parametrize("command", ["list-tasks -q", "list-tasks -n", "drop-queue", "create-queue", "list-queues -d"])
def test_an_argument_that_is_no_text_is_refused(database_url: str, command: str) -> None:
    text = refused(*command.split(), "bad\udcff", database=database_url)
    assert text.startswith("Error: ")
    assert "bad\\udcff" in text


def test_debug_shows_the_traceback_before_or_after_the_command() -> None:
    url = "postgresql://x@127.0.0.1:1/nowhere"
    for arguments in (["--debug", "list-queues", "-d", url], ["list-queues", "-d", url, "--debug"]):
        done = absurdctl(*arguments, code=1)
        assert "Traceback (most recent call last)" in done.err
        assert "\nError: " in done.err


@pytest.mark.parametrize("url", ["", "postgresql://[", "host=x nonsense=1", "mysql://x/y"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    assert "Error: " in refused("list-queues", "-d", url)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuchcommand"],
        ["list-tasks", "--state", "odd"],
        ["show-task", "not-an-id"],
        ["list-tasks", "--older-than", "soon"],
        ["list-tasks", "--limit", "0"],
        ["create-queue"],
        ["spawn-task", "x", "--params", "{"],
        ["spawn-task", "x", "--timeout", "3s"],
        ["emit-event", "x", "-p", "{"],
        ["spawn-task", "x", "--at", "someday"],
        ["list-events", "--prefix"],
        ["list-queues", "--odd"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], database_url: str) -> None:
    assert invoke(*arguments, database=database_url, code=2).out == ""


def test_the_version_is_shown() -> None:
    assert absurdctl("--version").out.startswith("absurdctl ")


def test_nothing_given_shows_the_help() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        done = absurdctl(*arguments, code=2 if not arguments else 0)
        assert "spawn-task" in done.out + done.err
