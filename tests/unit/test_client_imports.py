"""The public names are there, and cost nothing before they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import absurd


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_every_public_name_can_be_imported() -> None:
    for name in absurd.__all__:
        assert getattr(absurd, name) is not None
        assert name in dir(absurd)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        absurd.nonsense  # type: ignore[attr-defined] # noqa: B018


def test_importing_the_package_imports_nothing_large() -> None:
    found = run_python("import sys, absurd; print([m for m in ('psycopg', 'asyncio', 'pydantic', 'typer') if m in sys.modules])")
    assert found.strip() == "[]"


def test_an_app_with_plain_tasks_needs_neither_pydantic_nor_typer() -> None:
    found = run_python(
        "import sys; from absurd import Absurd\n"
        "app = Absurd('postgresql://h/d')\n"
        "@app.register_task\n"
        "def work(params: dict, ctx) -> dict: return params\n"
        "print([m for m in ('pydantic', 'typer', 'rich', 'absurd.cli') if m in sys.modules])"
    )
    assert found.strip() == "[]"


def test_the_builtin_timeout_error_catches_ours() -> None:
    with pytest.raises(TimeoutError):
        raise absurd.TimeoutError("late")
