"""Writes docs/performance.md and its plots from results; what people have to say about them stands in bench/notes.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import table
from bench.goals import GOALS
from bench.plots import Bar, bars
from bench.results import Results

NOTES = Path(__file__).with_name("notes.md")
PLOTTED = ("noop", "steps_1", "steps_5", "spawn_one", "spawn_many", "start_idle", "emit")

INTRODUCTION = """\
# Performance

How fast this library is beside others on PostgreSQL. This page is made by the benchmark in `bench/`; to make it on your machine:

    make bench          # about twenty minutes; writes this page
    make bench-full     # hours: five rounds, a million rows, a snapshot held open for ten minutes

The figures here come from `{command}`, {made_at}, {minutes} minutes.
"""

METHOD = """\
## How it is measured

- One embedded server for all, with the same settings and durable commits ({settings}). A fresh database for each measurement.
- Peers come from PyPI into an environment of their own, and are used by their public interface, each in its default configuration
  and in the best one that its documentation leads to. Two worker processes each.
- Up to {rounds} rounds, A B C A B C …; medians, with the smallest and the largest in brackets. A rate without brackets was
  measured once. Compare within one run only: on a shared machine rates move by a factor of two, even within a run. What a task
  costs in server time, WAL and commits holds still.
- A drain begins with the whole backlog in the table and nobody spawning, so that the producer cannot be the limit. Its time
  runs from the moment at which both workers are at work to the last finished task; finished tasks are counted in SQL.
- Latencies: an open loop, from the moment at which the spawn or emit has returned to the first line of the handler. The peak
  for the loads is `1 / (1 / drain + 1 / bulk spawn)`: producer, server and workers share the processors.
- Server time is that of all PostgreSQL processes, client time that of the workers.
- A queue has no durable steps, waits or children: n/a. Absurd's client has no step that writes in the transaction of its
  checkpoint. Not measured: children of Absurd's client, and large tables of awa. An event for a DBOS workflow is a message to it.
"""


def write(results: Results, docs: Path) -> None:
    """Writes the page and its plots."""
    pictures = docs / "performance"
    pictures.mkdir(parents=True, exist_ok=True)
    shown = []
    for workload in PLOTTED:
        if workload in results.workloads:
            (pictures / f"{workload}.svg").write_text(_plot(results, workload))
            shown.append(f"![{results.workloads[workload]['title']}](performance/{workload}.svg)")
    results.write(pictures / "results.json")
    settings = ", ".join(f"`{name}={value}`" for name, value in results.settings.items())
    parts = [
        INTRODUCTION.format(command=results.command, made_at=results.made_at, minutes=results.minutes),
        _machine(results),
        "## Results, each system at its best\n\n" + _grid(results, "best"),
        *shown,
        "## Default configurations\n\n" + _grid(results, "default"),
        "## What a task costs\n\n" + _costs(results),
        "## Goals\n\n" + _goals(results),
        NOTES.read_text().strip() if NOTES.exists() else "",
        METHOD.format(settings=settings, rounds=results.scale["rounds"]),
        "## Configurations\n\n" + _configurations(results),
    ]
    if results.problems:
        parts.append("## What could not be measured\n\n" + "\n".join(f"- {problem[:300]}" for problem in results.problems))
    (docs / "performance.md").write_text("\n\n".join(part.strip() for part in parts if part) + "\n")


def _machine(results: Results) -> str:
    machine = results.machine
    return (
        f"The machine: {machine['processors']} × {machine['processor']}, {machine['memory_gib']} GiB, {machine['system']}, "
        f"fdatasync {machine['fdatasync_ms']} ms, Python {machine['python']}, PostgreSQL {machine['postgresql']}, "
        f"load before the run {machine['load_before']}. Server, workers and producers share it."
    )


def _grid(results: Results, configuration: str) -> str:
    variants = table.in_configuration(results, configuration)
    workloads = [name for name, by in results.figures.items() if any(variant in by for variant in variants)]
    if not workloads:
        return "Not measured."
    note = "\n\n† not all tasks were finished within the limit; the rate is that of those that were."
    text = table.markdown(table.grid(results, variants, workloads))
    rows = results.scale["rows"]
    return (
        text + (note if "†" in text else "") + f'\n\n"Many" are {rows:,.0f} rows; the share is that of the rate on empty tables.'
    )


def _costs(results: Results) -> str:
    parts = [
        f"**{results.workloads[workload]['title']}**\n\n" + table.markdown(table.costs(results, workload))
        for workload in table.COSTLY
        if workload in results.workloads
    ]
    return "\n\n".join(parts)


def _goals(results: Results) -> str:
    rows: list[Sequence[str]] = [["", "goal", "measured", "met"]]
    for goal in GOALS:
        value = goal.value(results)
        if value is not None:
            sign = "≥" if goal.at_least else "≤"
            unit = f" {goal.unit}" if goal.unit else ""
            met = "yes" if goal.met(value) else "no"
            rows.append([goal.title, f"{sign} {table.number(goal.limit)}{unit}", f"{table.number(value)}{unit}", met])
    return table.markdown(rows)


def _configurations(results: Results) -> str:
    lines = []
    for about in results.variants.values():
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        lines.append(f"- **{about['title']}**, {about['configuration']} ({versions}): {about['says']}")
    return "\n".join(lines)


def _plot(results: Results, workload: str) -> str:
    about = results.workloads[workload]
    rows = []
    for variant in results.figures[workload]:
        spread = results.spread(workload, variant, about["figure"])
        if spread is not None:
            text = table.shown(results, workload, variant, note=False).partition(" (")[0]
            rows.append(Bar(table.heading(results, variant), spread, text, variant.startswith("absurd/")))
    suffix = ", p50 / p99" if about["figure"] == "p50_ms" else f", {about['unit']}"
    return bars(about["title"] + suffix, rows)
