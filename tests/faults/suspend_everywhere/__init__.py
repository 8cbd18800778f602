"""A pytest plugin: every wait suspends, and after each checkpoint the run goes to another worker, which replays all of it.

    python -m pytest -p tests.faults.suspend_everywhere PATHS

What the user is promised does not depend on where a run is cut. So the functional tests have to pass under this plugin as they
are; ``exceptions.py`` lists those that do not apply, each with its reason. Programs that a test starts in processes of their own
run as usual.
"""

from __future__ import annotations

import pytest

from tests.faults.report import record
from tests.faults.suspend_everywhere.exceptions import reason_against
from tests.faults.suspend_everywhere.moves import Moves
from tests.faults.suspend_everywhere.pairs import work_in_pairs

MOVES = Moves()


def pytest_configure(config: pytest.Config) -> None:
    """Before any test: contexts hand their runs back, and background workers come in pairs."""
    MOVES.install()
    work_in_pairs(MOVES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that ask for the very thing that is taken away here."""
    for item in items:
        if reason := reason_against(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=f"suspend everywhere: {reason}"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Counts what has passed in this process."""
    MOVES.tests += report.when == "call" and report.passed


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    """A run in which something was cut and nothing failed counts as an attack that was withstood."""
    if exitstatus == 0 and MOVES.handed_back:
        record(
            "every wait suspended, every run moved to another worker after each checkpoint",
            ["one end", "steps once", "transactions once", "events once", "recovery"],
            runs=MOVES.tests,
            injected=MOVES.handed_back + MOVES.waits,
            tasks=len(MOVES.tasks),
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how often it cut. With pytest-xdist the figures stay with the processes, and in the report of ``make faults``."""
    if MOVES.handed_back:
        terminalreporter.write_line(
            f"suspend everywhere: {MOVES.handed_back:,} runs handed back after a checkpoint, {MOVES.moved:,} of them claimed by "
            f"another worker; {MOVES.waits:,} waits suspended; {len(MOVES.tasks):,} tasks"
        )
