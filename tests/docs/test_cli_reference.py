"""docs/cli.md says what the program does: no drift, every example is understood, every help has one."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from absurd.cli import app
from scripts import build_cli_docs

PROGRAM: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = PROGRAM.commands
PLANNED = (
    "init migrate schema-version doctor create-queue set-queue drop-queue list-queues pause-queue resume-queue spawn-task "
    "list-tasks show-task tail top cancel-task retry-task run-task-now list-events emit-event subscribe unsubscribe "
    "list-subscriptions complete-token list-waits listen list-listeners list-workers ping-worker cleanup dev worker serve "
    "create-schedule list-schedules pause-schedule resume-schedule trigger-schedule backfill-schedule delete-schedule "
    "scheduler list-triggers enable-trigger disable-trigger delete-trigger list-trigger-executions "
    "export-task check-replay dashboard move-queue"
)


def test_the_reference_is_what_the_program_says() -> None:
    assert build_cli_docs.PAGE.read_text(encoding="utf-8") == build_cli_docs.page(), "run: python scripts/build_cli_docs.py"


def test_all_commands_are_there() -> None:
    assert set(COMMANDS) == set(PLANNED.split())


def parse(line: str) -> None:
    """Understands a command line without running it."""
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    assert words.pop(0) == "absurdctl"
    with PROGRAM.make_context("absurdctl", words) as context:
        name, *rest = [*getattr(context, "_protected_args", []), *context.args]
        COMMANDS[name].make_context(name, rest, parent=context).close()


def lines() -> list[str]:
    """Every example of every help, and every command in the page's own examples."""
    found = [line for command in [PROGRAM, *COMMANDS.values()] for line in build_cli_docs.examples(command)]
    return [re.sub(r'^export \w+="\$\((.*)\)"$', r"\1", line) for line in found]


@pytest.mark.parametrize("line", lines())
def test_an_example_is_understood(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_a_command_shows_examples_and_every_option(name: str) -> None:
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}, prog_name="absurdctl").stdout
    flat = " ".join(text.split())
    assert "Examples" in text
    for line in build_cli_docs.examples(COMMANDS[name]):
        assert " ".join(line.split()) in flat
    for param in COMMANDS[name].params:
        for option in param.opts if param.param_type_name == "option" else []:
            assert option in text
    assert "ABSURD_DATABASE_URL" in text
