"""doctor: what is wrong with a database, why that matters, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.text import Text

from absurd.cli.command import command
from absurd.cli.session import Session
from absurd.cli.text import escape
from absurd.doctor import Finding, Level, examine

MARKS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.ERROR: ("✗", "red")}
Quiet = Annotated[bool, typer.Option("--quiet", help="Only what is not well.")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        "doctor",
        doctor,
        "absurdctl doctor",
        "absurdctl doctor --json -d postgresql://absurd@db.example/absurd",
        group="Database",
    )


def doctor(session: Session, quiet: Quiet = False) -> None:
    """Look at the database and say what is wrong, why that matters, and what to do.

    It asks for versions, settings, roles, poolers, old transactions, vacuum, workers, queues, and all that is late. It changes
    nothing. Exit status: 0 all is well, 1 there are warnings, 2 there are errors.
    """
    findings = examine(session.url, _version())
    worst = max((finding.level for finding in findings), key=lambda level: level.exit_code)
    shown = [finding for finding in findings if not quiet or finding.level is not Level.OK]
    if session.out.as_json:
        session.out.json({"level": worst, "findings": [asdict(finding) for finding in shown]})
    else:
        for finding in shown:
            _show(session, finding)
        _sum_up(session, findings)
    raise typer.Exit(worst.exit_code)


def _version() -> str:
    try:
        return version("absurd")
    except PackageNotFoundError:
        return "?"


def _show(session: Session, finding: Finding) -> None:
    mark, style = MARKS[finding.level]
    session.out.line(Text.assemble((f"{mark} ", style), (f"{finding.check}: ", "bold"), escape(finding.what)))
    if finding.why:
        session.out.line(Text.assemble(("  why: ", "dim"), escape(finding.why)))
    if finding.todo:
        session.out.line(Text.assemble(("  do:  ", "dim"), escape(finding.todo)))


def _sum_up(session: Session, findings: list[Finding]) -> None:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    session.out.line()
    session.out.line(f"{counts[Level.ERROR]} error(s), {counts[Level.WARNING]} warning(s), {counts[Level.OK]} check(s) well")
