"""The site has every page in its menus, and its reference everything that is public. `make docs` builds it, strictly."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import absurd
from scripts import build_reference
from tests.docs.pages import ROOT

REFERENCE = ROOT / "docs" / "reference"
MODULES = ("absurd", "absurd.testing", "absurd.web", "absurd.triggers", "absurd.listeners")


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, without what its tags stand for."""


Loader.add_multi_constructor("", lambda loader, suffix, node: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)


def pages(nav: Any) -> Iterator[str]:
    """The pages that menus lead to."""
    if isinstance(nav, str):
        yield nav
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from pages(item)


def directives() -> dict[str, list[str]]:
    """What the reference shows, and which members of it if it names them."""
    text = "\n".join(path.read_text() for path in REFERENCE.glob("*.md"))
    found = re.findall(r"^::: (\S+)\n((?: +.*\n)*)", text + "\n", re.MULTILINE)
    return {
        name: [word for group in re.findall(r"members: \[(.*?)\]", options) for word in group.split(", ")]
        for name, options in found
    }


def resolve(path: str) -> Any:
    """The object of a path with dots."""
    names = path.split(".")
    for place in range(len(names), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(names[:place]))
        except ModuleNotFoundError:
            continue
        for name in names[place:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"{path} is nowhere")


def test_every_page_is_in_the_menus_once() -> None:
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    shown = list(pages(SITE["nav"]))
    assert sorted(set(shown)) == sorted(shown)
    assert {page for page in shown if not page.startswith("project/")} == written
    assert all((ROOT / page.removeprefix("project/")).exists() for page in shown if page.startswith("project/"))


@pytest.mark.parametrize("module", MODULES)
def test_reference_has_every_public_name(module: str) -> None:
    shown = [resolve(name) for name in directives()]
    missing = [name for name in resolve(module).__all__ if not any(resolve(f"{module}.{name}") is thing for thing in shown)]
    assert not missing


@pytest.mark.parametrize("name", directives())
def test_reference_shows_what_exists_and_says_something(name: str) -> None:
    thing = resolve(name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing), f"{name} has no docstring"
    for member in vars(thing) if inspect.isclass(thing) else ():
        value = inspect.getattr_static(thing, member)
        if not member.startswith("_") and (callable(value) or isinstance(value, property | classmethod | staticmethod)):
            assert inspect.getdoc(getattr(thing, member)), f"{name}.{member} has no docstring, and is not shown therefore"


@pytest.mark.parametrize("name", ["Absurd", "AsyncAbsurd", "Context", "AsyncContext"])
def test_reference_names_every_member_in_its_order(name: str) -> None:
    members = directives()[f"absurd.{name}"]
    public = {member for member in dir(getattr(absurd, name)) if not member.startswith("_")}
    assert public <= set(members), public - set(members)
    assert len(members) == len(set(members))


def test_sql_reference_is_up_to_date() -> None:
    assert build_reference.PAGE.read_text() == build_reference.page(), "run: python scripts/build_reference.py"


def test_sql_reference_says_of_each_function_what_it_does_and_who_may_call_it() -> None:
    sections = re.split(r"^### ", build_reference.PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert [section.partition("\n")[0] for section in sections] != []
    for section in sections:
        name, _, rest = section.partition("\n")
        assert re.search(r"```\n\n\S", rest), f"{name} has no comment"
        assert re.search(r"^May be called by: (`absurd_\w+`|the owner)", rest, re.MULTILINE), name
    assert {section.partition("\n")[0] for section in sections} == set(build_reference.published())
