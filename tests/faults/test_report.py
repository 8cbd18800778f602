"""The table of what was attacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import report


def test_what_is_recorded_of_one_fault_is_one_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RECORDS", tmp_path / "faults" / "records.jsonl")
    assert report.read() == {}
    report.record("worker killed", ["one end"], injected=1_000, tasks=7)
    report.record("PostgreSQL away", ["fence"], tasks=0)
    report.record("worker killed", ["recovery"], runs=2)
    heading, rule, *lines = report.table(report.read()).splitlines()
    assert heading.startswith("| fault | runs | faults | tasks | one end | ")
    assert heading.count("|") == rule.count("|")
    assert lines == [
        "| PostgreSQL away | 1 | 1 | – |  |  |  |  | ✓ |  |  |",
        "| worker killed | 3 | 1,001 | 8 | ✓ |  |  |  |  | ✓ |  |",
    ]


def test_a_promise_that_nobody_gave_is_refused() -> None:
    with pytest.raises(AssertionError, match="no such promise"):
        report.record("worker killed", ["speed"])  # type: ignore[list-item]
