"""docs/security.md: each threat names the test that shows what stops it, or says that none can."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"


def threats() -> list[list[str]]:
    """The cells of the table's lines."""
    table = PAGE.read_text().partition("## Threats")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("cells", threats(), ids=lambda cells: cells[1][:60])
def test_a_threat_names_a_test_that_there_is(cells: list[str]) -> None:
    assert len(cells) == 5
    _, tried, stopped, left, shown = cells
    assert tried
    assert stopped or left
    if shown == "–":
        return
    named = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", shown)
    assert named is not None, shown
    text = (ROOT / "tests" / named[1]).read_text()
    assert re.search(rf"^(?:async )?def {named[2]}\(", text, re.MULTILINE), shown
