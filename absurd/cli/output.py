"""What a command prints: tables for people, one JSON document for scripts, progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from absurd.cli.text import dump, escape

STATE_STYLES = {
    "pending": "cyan",
    "running": "blue",
    "sleeping": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "disabled": "yellow",
    "stale": "red",
    "failing": "red",
}
# Piped output is not cut to a width: it is searched and split by other programs.
_UNLIMITED = 100_000


Cell: TypeAlias = str | Text
Rows: TypeAlias = list[list[Cell]]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; ``fixed`` ones (ids, times) are never broken over lines."""

    title: str
    fixed: bool = False
    right: bool = False


class Output:
    """Where a command writes; ``as_json`` decides for whom."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = _console(sys.stdout)
        self.errors = _console(sys.stderr)

    def json(self, value: Any) -> None:
        """Prints one JSON document. Nothing else goes to standard output in this mode."""
        sys.stdout.write(dump(value, indent=True) + "\n")
        sys.stdout.flush()

    def line(self, text: str | Text = "") -> None:
        """Prints a line for people; the caller has escaped what was stored."""
        self.console.print(text if isinstance(text, Text) else Text(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """Prints a remark beside the result, on standard error."""
        self.errors.print(Text(text), soft_wrap=True)

    def done(self, text: str, **facts: Any) -> None:
        """Says what a command has done: a line for people, or the facts for scripts."""
        if self.as_json:
            self.json(facts)
        else:
            self.line(Text.assemble(("✓ ", "green"), text))

    def table(self, columns: Sequence[Column], rows: Rows, *, empty: str) -> None:
        """Prints rows as wide as the terminal allows, or says that there are none."""
        if not rows:
            self.line(empty)
            return
        if not self.console.is_terminal:
            self.console.file.writelines(_plain_lines(columns, rows))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for column in columns:
            table.add_column(column.title, no_wrap=column.fixed, overflow="fold", justify="right" if column.right else "left")
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        self.console.print(table)

    @contextmanager
    def progress(self, description: str) -> Iterator[Progress]:
        """Shows on a terminal that something long goes on; silent elsewhere."""
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=self.errors,
            transient=True,
            disable=not self.errors.is_terminal,
        )
        bar.add_task(escape(description), total=None)
        with bar:
            yield bar


def _console(stream: Any) -> Console:
    terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if terminal else _UNLIMITED,
        force_terminal=terminal,
        legacy_windows=False,
    )


def _plain_lines(columns: Sequence[Column], rows: Rows) -> Iterator[str]:
    """The table without colours and breaks. Rich would take half a minute over 50,000 rows."""
    cells = [
        [column.title for column in columns],
        *([cell if isinstance(cell, str) else cell.plain for cell in row] for row in rows),
    ]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = zip(row, widths, columns, strict=True)
        line = "  ".join(_pad(text, width, right=column.right) for text, width, column in padded)
        yield line.rstrip() + "\n"


def _pad(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def print_error(message: str) -> None:
    """One line ``Error: …`` on standard error; further lines of the message are hints and details."""
    console = _console(sys.stderr)
    console.print(Text.assemble(("Error: ", "bold red"), escape(message, keep="\n\t")), soft_wrap=True)
