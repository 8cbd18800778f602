"""Tables where no terminal reads them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import rich.console
from rich.text import Text

from absurd.cli.output import Column, Output, Rows

COLUMNS = [Column("NAME"), Column("N", right=True), Column("NOTE")]


def test_columns_are_as_wide_as_their_widest_cell_seen(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(COLUMNS, [["ab", "7", "x"], [Text("日本", style="red"), "1234", ""]], empty="None.")
    assert capsys.readouterr().out.splitlines() == [
        "NAME     N  NOTE",
        "ab       7  x",
        "日本  1234",
    ]


def test_a_long_table_is_not_laid_out_by_rich(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    remember: Callable[..., None] = lambda _, *what, **__: printed.extend(what)  # noqa: E731
    monkeypatch.setattr(rich.console.Console, "print", remember)
    rows: Rows = [[f"task {number}", str(number), "-"] for number in range(20_000)]
    Output().table(COLUMNS, rows, empty="None.")
    assert printed == []
    assert len(capsys.readouterr().out.splitlines()) == 20_001
