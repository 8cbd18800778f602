from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from absurd.cli.find_app import find_app
from absurd.errors import AppNotFoundError

HEAD = "from absurd import Absurd, AsyncAbsurd\n"
URL = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project as the working directory; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("ABSURD_APP", raising=False)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def module(project: Path, text: str, name: str = "shop.py") -> None:
    path = project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + text, encoding="utf-8")


def problem(option: str | None = None) -> str:
    with pytest.raises(AppNotFoundError) as caught:
        find_app(option)
    return str(caught.value)


def test_the_option_names_module_and_attribute(project: Path) -> None:
    module(project, f"app = Absurd({URL!r}, 'mail')\nother = Absurd({URL!r})")
    assert find_app("shop:app").queue_name == "mail"


def test_an_attribute_may_be_dotted_and_an_app_async(project: Path) -> None:
    module(project, f"class Apps:\n    mail = AsyncAbsurd({URL!r}, 'mail')")
    assert find_app("shop:Apps.mail").queue_name == "mail"


def test_a_module_alone_means_its_only_app(project: Path) -> None:
    module(project, f"app = Absurd({URL!r}, 'mail')\nalias = app")
    assert find_app("shop").queue_name == "mail"


def test_the_option_wins_over_the_variable_and_that_over_pyproject(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(project, "".join(f"{name} = Absurd({URL!r}, '{name}')\n" for name in "abc"))
    (project / "pyproject.toml").write_text('[tool.absurd]\napp = "shop:a"\n')
    assert find_app(None).queue_name == "a"
    monkeypatch.setenv("ABSURD_APP", "shop:b")
    assert find_app(None).queue_name == "b"
    assert find_app("shop:c").queue_name == "c"


def test_pyproject_is_found_above_and_its_directory_holds_the_modules(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(project, f"app = Absurd({URL!r}, 'mail')", "pkg/tasks.py")
    (project / "pyproject.toml").write_text('[tool.absurd]\napp = "pkg.tasks:app"\n')
    (project / "deep" / "down").mkdir(parents=True)
    (project / "deep" / "pyproject.toml").write_text("[tool.other]\n")
    monkeypatch.chdir(project / "deep" / "down")
    assert find_app(None).queue_name == "mail"


def test_nothing_configured_says_the_three_ways(project: Path) -> None:
    text = problem()
    assert "--app" in text
    assert "ABSURD_APP" in text
    assert "[tool.absurd]" in text


def test_a_missing_module_says_where_it_looked(project: Path) -> None:
    text = problem("nosuch.tasks:app")
    assert 'there is no module "nosuch"' in text
    assert "--app" in text
    assert str(project) in text


def test_a_module_missing_inside_the_module_is_another_error(project: Path) -> None:
    module(project, "import nosuchlibrary")
    text = problem("shop:app")
    assert "was found, but importing it failed" in text
    assert "No module named 'nosuchlibrary'" in text
    assert "shop.py, line 2" in text


@pytest.mark.parametrize("body", ["1 / 0", "raise SystemExit('stop')", "def broken(:"])
def test_an_error_inside_the_module_is_shown(project: Path, body: str) -> None:
    module(project, body)
    text = problem("shop:app")
    assert "was found, but importing it failed" in text
    assert any(kind in text for kind in ("ZeroDivisionError", "SystemExit: stop", "SyntaxError"))


def test_an_error_that_the_library_raised_names_the_line_of_the_module(project: Path) -> None:
    module(project, f"app = Absurd({URL!r}, pool_size=0)")
    text = problem("shop:app")
    assert "pool_size" in text
    assert "shop.py, line 2" in text


def test_a_missing_attribute_lists_the_apps_there_are(project: Path) -> None:
    module(project, f"jobs = Absurd({URL!r})\nmail = Absurd({URL!r})\nnumber = 3")
    text = problem("shop:app")
    assert 'no attribute "app"' in text
    assert "shop:jobs, shop:mail" in text
    assert "number" not in text


@pytest.mark.parametrize(("value", "kind"), [("3", "of type int"), ("Absurd", "the class Absurd"), ("len", "a function")])
def test_an_attribute_that_is_no_app_says_what_it_is(project: Path, value: str, kind: str) -> None:
    module(project, f"app = {value}\nreal = Absurd({URL!r})")
    text = problem("shop:app")
    assert f"no Absurd or AsyncAbsurd but {kind}" in text
    assert "shop:real" in text


def test_a_module_without_or_with_several_apps_is_refused(project: Path) -> None:
    module(project, "", "empty.py")
    assert "holds no Absurd" in problem("empty")
    module(project, f"a = Absurd({URL!r})\nb = Absurd({URL!r})", "several.py")
    text = problem("several")
    assert "choose one" in text
    assert "several:a, several:b" in text


@pytest.mark.parametrize(("given", "hint"), [("shop.py", "shop:app"), ("src/shop.py:jobs", "src.shop:jobs")])
def test_a_file_name_gets_a_hint(project: Path, given: str, hint: str) -> None:
    assert f'Did you mean "{hint}"' in problem(given)


@pytest.mark.parametrize("given", ["", ":app", "shop:", "a b:c", "shop:app:more", "shop:app()"])
def test_a_form_that_is_none_is_refused(project: Path, given: str) -> None:
    assert "module:attribute" in problem(given)


@pytest.mark.parametrize("content", ["[tool.absurd\n", "[tool.absurd]\napp = 3\n", "[tool]\nabsurd = 3\n", "\x00"])
def test_a_broken_pyproject_is_named(project: Path, content: str) -> None:
    (project / "pyproject.toml").write_text(content)
    assert str(project / "pyproject.toml") in problem()
