"""docs/why/promises.md: every line names tests, and they exist."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "why" / "promises.md"
ROW = re.compile(r"^\| (?P<line>[^|]+) \| (?P<promise>.+) \| (?P<tests>[^|]*) \|$")
# The numbers that the sections leave out have no promise of their own.
SECTIONS = {"C": set(range(1, 42)) - {21, 36}, "L": set(range(1, 33)) - {15, 16, 17, 25, 26}, "G": set(range(1, 35)) | {37}}


def promises() -> list[tuple[str, str]]:
    """Line and tests of each row."""
    found = [ROW.match(text) for text in PAGE.read_text().splitlines()]
    return [(m["line"], m["tests"]) for m in found if m is not None and m["line"] not in ("line", "---")]


@cache
def names(file: str) -> list[str]:
    """The tests of a file."""
    return re.findall(r"def (test_\w+)\(", (ROOT / "tests" / Path(file)).read_text())


@pytest.mark.parametrize(("line", "tests"), promises())
def test_each_promise_names_tests_that_exist(line: str, tests: str) -> None:
    wanted = re.findall(r"`([^`]+)`", tests)
    assert wanted, f"{line} names no test"
    for entry in wanted:
        file, _, name = entry.partition("::")
        pattern = name.partition("[")[0] or "test_*"
        assert any(fnmatchcase(found, pattern) for found in names(file)), f"{line}: there is no {entry}"


def test_no_line_of_the_sections_is_missing() -> None:
    found: set[str] = set()
    for line, _ in promises():
        for part in line.split(", "):
            first, _, last = part.partition("–")
            if first:
                end = int(re.sub(r"\D", "", last)) if last else int(first[1:])
                found |= {f"{first[0]}{number}" for number in range(int(first[1:]), end + 1)}
    missing = [f"{letter}{n}" for letter, numbers in SECTIONS.items() for n in sorted(numbers) if f"{letter}{n}" not in found]
    assert missing == []
