"""On a terminal: the question, progress, colours and widths. A pseudo-terminal stands for the person."""

from __future__ import annotations

import re
import sys
from typing import Any

import pexpect
import psycopg
import pytest

from tests.cli import absurdctl, environment, invoke

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def terminal(database: str, *arguments: str, columns: int = 100, **env: str) -> pexpect.spawn[str]:
    """The command line on a terminal of its own."""
    settings = environment(database, {"TERM": "xterm-256color", **env})
    settings.pop("COLUMNS")
    return pexpect.spawn(
        sys.executable, ["-m", "absurd", *arguments], env=settings, encoding="utf-8", timeout=60, dimensions=(40, columns)
    )


def ended(child: pexpect.spawn[str]) -> tuple[str, int | None]:
    """What was still to be read, and the exit status."""
    child.expect(pexpect.EOF)
    text = str(child.before)
    child.close()
    return text, child.exitstatus


def queues(database: str) -> list[str]:
    return [row["queue_name"] for row in invoke("list-queues", "--json", database=database).json()]


def test_drop_queue_asks_and_no_means_no(database_url: str) -> None:
    invoke("spawn-task", "add", database=database_url)
    for answer in ("n", "", "maybe"):
        child = terminal(database_url, "drop-queue", "default")
        child.expect_exact('Drop queue "default" with 1 living tasks, all its events and history? [y/N] ')
        child.sendline(answer)
        text, status = ended(child)
        assert "Nothing was dropped." in text
        assert status == 1
    assert queues(database_url) == ["default"]


def test_drop_queue_drops_after_a_yes_and_shows_progress(database_url: str) -> None:
    child = terminal(database_url, "drop-queue", "default")
    child.expect_exact("[y/N] ")
    child.sendline("y")
    text, status = ended(child)
    assert 'Dropping queue "default"' in text
    assert 'Dropped queue "default"' in text
    assert status == 0
    assert queues(database_url) == []


def test_ctrl_c_at_the_question_drops_nothing_and_exits_with_130(database_url: str) -> None:
    child = terminal(database_url, "drop-queue", "default")
    child.expect_exact("[y/N] ")
    child.sendintr()
    text, status = ended(child)
    assert "Traceback" not in text
    assert status == 130
    assert queues(database_url) == ["default"]


def test_a_name_in_the_question_cannot_drive_the_terminal(database_url: str) -> None:
    name = "\x1b[2Jgone\x07"
    invoke("create-queue", name, database=database_url)
    child = terminal(database_url, "drop-queue", name)
    child.expect_exact('Drop queue "\\x1b[2Jgone\\x07"')
    child.sendline("y")
    text, _ = ended(child)
    assert "\x1b[2J" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("command", "shows"), [("migrate", "Migrating the schema absurd"), ("cleanup", "default: tasks deleted: 0")]
)
def test_long_commands_show_progress_on_a_terminal_and_none_elsewhere(
    database_url: str, conn: psycopg.Connection[Any], command: str, shows: str
) -> None:
    with conn.transaction():
        conn.execute("lock table absurd.tasks, absurd.schema_version")
        child = terminal(database_url, command)
        child.expect_exact(shows)
    _, status = ended(child)
    assert status == 0
    assert absurdctl(command, database=database_url).err == ""


def test_states_are_coloured_on_a_terminal_only_and_no_color_is_honoured(database_url: str) -> None:
    invoke("spawn-task", "add", database=database_url)
    coloured, _ = ended(terminal(database_url, "list-tasks"))
    assert COLOUR.search(coloured)
    plain, _ = ended(terminal(database_url, "list-tasks", NO_COLOR="1"))
    assert "\x1b[3" not in plain
    assert not COLOUR.search(absurdctl("list-tasks", database=database_url).out)


def test_a_table_fits_the_terminal_and_hides_nothing(database_url: str) -> None:
    name = "a-very-long-task-name-" * 4
    invoke("spawn-task", name, database=database_url)
    text, _ = ended(terminal(database_url, "list-tasks", columns=80))
    lines = [COLOUR.sub("", line).rstrip("\r") for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert len(lines) > 3
    start = lines[0].index("NAME")
    end = lines[0].index("STATE")
    assert "".join(line[start:end].strip() for line in lines[1:]) == name
    piped = absurdctl("list-tasks", database=database_url).out
    assert name in piped


def test_an_error_is_one_line_on_a_terminal(conn: psycopg.Connection[Any], database_url: str) -> None:
    conn.execute("update absurd.schema_version set version = '999'")
    conn.execute("create or replace function absurd.get_oldest_served_version() returns text language sql as $$ select '999' $$")
    text, status = ended(terminal(database_url, "migrate", columns=400))
    assert status == 1
    assert CONTROL.sub("", text).strip().splitlines()[-1].startswith("Error: The schema absurd has version 999")
