"""Names in README and docs exist, and what exists is documented."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
import typer.main

import absurd
from absurd import Absurd, AsyncAbsurd, Context, TaskHandle, errors
from absurd.cli.app import app as program
from absurd.client.keywords import SpawnKeywords
from absurd.worker import WorkerOptions
from tests.docs.pages import PAGES, ROOT, commands, read_blocks

DOCS = ROOT / "docs"
COMMAND: Any = typer.main.get_command(program)
INLINE = re.compile(r"`((?:absurdctl|python -m absurd|make|python) [^`]+)`")


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def shell_commands(page: Path) -> list[str]:
    blocks = [block for block in read_blocks(page) if block.language in ("console", "sh")]
    found = [command for block in blocks for command in (commands(block.text) or block.text.splitlines())]
    return [*found, *INLINE.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_named_exists_with_its_options(page: Path) -> None:
    for command in shell_commands(page):
        words = re.sub(r"^(\w+=\S+ +)*", "", command).split()
        if words[:3] == ["python", "-m", "absurd"]:
            words[:3] = ["absurdctl"]
        if words[:1] == ["make"] and len(words) > 1:
            assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        if words[:1] == ["absurdctl"]:
            check_absurdctl(command, words[1:])
        if words[:1] == ["python"] and words[1].endswith(".py"):
            shown = {block.file_name for block in read_blocks(page)}
            assert words[1] in shown or any((ROOT / place / words[1]).exists() for place in ("examples", ".")), command


def check_absurdctl(command: str, words: list[str]) -> None:
    options = {option for parameter in COMMAND.params for option in parameter.opts}
    for number, word in enumerate(words):
        if not word.startswith("-") and (number == 0 or words[number - 1] not in ("-d", "--database")):
            assert word in COMMAND.commands, f"{command}: there is no command {word}"
            found: click.Command = COMMAND.commands[word]
            options |= {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
            break
    for word in words:
        if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word):
            assert word.partition("=")[0] in {*options, "-h", "--help"}, f"{command}: there is no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        goal = (page.parent / name).resolve() if name else page
        assert goal.exists(), f"{target} in {page}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", goal.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target} in {page}; there are {sorted(slugs)}"


def exceptions() -> dict[str, type[BaseException]]:
    own = [value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__]
    return {kind.__name__: kind for kind in own if issubclass(kind, BaseException)}


def test_errors_page_has_every_exception_and_no_other() -> None:
    rows = re.findall(r"^\| `([A-Z][a-z]\w+)`", text_of("errors.md"), re.MULTILINE)
    assert sorted(rows) == sorted(exceptions())


def test_errors_page_tells_the_bases_rightly() -> None:
    for name, bases in re.findall(r"^\| `([A-Z][a-z]\w+)` \| ([^|]*) \|", text_of("errors.md"), re.MULTILINE):
        direct = [base for base in exceptions()[name].__bases__ if base not in (Exception, BaseException)]
        named = re.findall(r"`(\w+)`", bases)
        assert named == [base.__name__ for base in direct], name
        assert all(hasattr(errors, base) or hasattr(builtins, base) for base in named)


def test_errors_page_has_every_code_that_sql_raises() -> None:
    raised = {code for path in (ROOT / "sql" / "functions").glob("*.sql") for code in re.findall(r"AB\d{3}", path.read_text())}
    assert set(re.findall(r"^\| `(AB\d{3})`", text_of("errors.md"), re.MULTILINE)) == raised


def test_errors_page_has_every_failure_that_sql_makes() -> None:
    made = {
        name for path in (ROOT / "sql" / "functions").glob("*.sql") for name in re.findall(r"'(\$[A-Z]\w+)'", path.read_text())
    }
    assert set(re.findall(r"^\| `(\$\w+)`", text_of("errors.md"), re.MULTILINE)) == made


def test_configuration_page_has_every_environment_variable() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "absurd").rglob("*.py"))
    variables = {"PGDATABASE", *re.findall(r"\bABSURD_[A-Z_]+\b", sources)}
    assert set(re.findall(r"^\| `((?:ABSURD_|PG)\w+)`", text_of("configuration.md"), re.MULTILINE)) == variables


def test_configuration_page_has_every_argument_and_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text_of("configuration.md"), re.MULTILINE))
    parameters = list(inspect.signature(Absurd.__init__).parameters.values())[1:]
    assert parameters == list(inspect.signature(AsyncAbsurd.__init__).parameters.values())[1:]
    for parameter in parameters:
        assert rows[parameter.name] == repr(parameter.default).replace("'", '"'), parameter.name
    for field in dataclasses.fields(WorkerOptions):
        if field.default is dataclasses.MISSING or field.name == "queues":
            assert f"| `{field.name}` |" in text_of("configuration.md"), field.name
        else:
            assert rows[field.name] == repr(field.default), field.name


@pytest.mark.parametrize("name", absurd.__all__)
def test_python_page_names_everything_public(name: str) -> None:
    assert re.search(rf"`[^`]*\b{name}\b", text_of("python.md") + text_of("errors.md")), name


@pytest.mark.parametrize("owner", [Absurd, Context, TaskHandle])
def test_python_page_names_every_method_and_property(owner: type) -> None:
    names = [name for name in dir(owner) if not name.startswith("_") and name != "registry"]
    missing = [name for name in names if not re.search(rf"\b{name}\b", text_of("python.md"))]
    assert not missing


def test_python_page_names_every_spawn_option() -> None:
    assert not [name for name in get_type_hints(SpawnKeywords) if f"`{name}`" not in text_of("python.md")]
