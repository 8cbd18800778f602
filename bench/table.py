"""The results as text, for a terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Results, Spread

# What a task costs, for the workloads that drain a backlog: title, key, digits.
COSTS = (
    ("server µs", "server_us"),
    ("client µs", "client_us"),
    ("WAL B", "wal_bytes"),
    ("commits", "commits"),
    ("fsyncs", "fsyncs"),
    ("statements", "statements"),
)
COSTLY = ("noop", "steps_1", "steps_5", "steps_50", "sync_steps_1", "transaction", "child")
NOT_THERE = "n/a"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value != 0 and abs(value) < 0.001:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.3f}"


def with_unit(spread: Spread, unit: str) -> str:
    """A figure with its range."""
    suffix = "/s" if unit.endswith("/s") else f" {unit}"
    if spread.low == spread.high:
        return f"{number(spread.median)}{suffix}"
    return f"{number(spread.median)}{suffix} ({number(spread.low)}–{number(spread.high)})"


def shown(results: Results, workload: str, variant: str, note: bool = True) -> str:
    """The figure of a workload for one variant."""
    about = results.workloads[workload]
    key, unit = about["figure"], about["unit"]
    spread = results.spread(workload, variant, key)
    if spread is None:
        return NOT_THERE
    text = with_unit(spread, unit)
    if key == "p50_ms":
        high = results.median(workload, variant, "p99_ms")
        text = f"{number(spread.median)} / {number(high or 0)} ms"
    ratio = results.median(workload, variant, "ratio")
    if ratio is not None:
        text = f"{number(spread.median)}/s, {ratio:.0%}"
    statements = results.median(workload, variant, "statements_per_s")
    if statements is not None:
        text = f"{number(spread.median)}%, {number(statements)} stmt/s"
    complete = results.median(workload, variant, "complete")
    return text + (" †" if complete == 0.0 and note else "")


def grid(results: Results, variants: Sequence[str], workloads: Sequence[str]) -> list[list[str]]:
    """Head and rows: one row per workload, one column per variant."""
    head = ["", *(heading(results, variant) for variant in variants)]
    rows = [
        [results.workloads[workload]["title"] + (" p50/p99" if results.workloads[workload]["figure"] == "p50_ms" else "")]
        + [shown(results, workload, variant) for variant in variants]
        for workload in workloads
    ]
    return [head, *rows]


def costs(results: Results, workload: str) -> list[list[str]]:
    """Head and rows of what a task costs, one row per variant."""
    head = ["per task", "tasks/s", *(title for title, _ in COSTS)]
    rows = []
    for variant in results.figures.get(workload, {}):
        rate = results.median(workload, variant, "rate")
        values = [results.median(workload, variant, key) for _, key in COSTS]
        rows.append([heading(results, variant), number(rate or 0), *(NOT_THERE if v is None else number(v) for v in values)])
    return [head, *rows]


def heading(results: Results, variant: str) -> str:
    """The title of a variant; the best configuration goes without saying."""
    about = results.variants[variant]
    return str(about["title"]) + (", default" if about["configuration"] == "default" else "")


def in_configuration(results: Results, configuration: str) -> list[str]:
    """The variants of a configuration."""
    return [name for name, about in results.variants.items() if about["configuration"] == configuration]


def render(results: Results) -> str:
    """Everything, for a terminal."""
    best, default = (in_configuration(results, name) for name in ("best", "default"))
    parts = [f"medians of the rounds (smallest–largest), {results.made_at}, PostgreSQL {results.machine['postgresql']}"]
    parts.append(align(grid(results, best, list(results.workloads))))
    in_default = [w for w, by in results.figures.items() if any(v in by for v in default)]
    if in_default:
        parts += ["Default configurations", align(grid(results, default, in_default))]
    for workload in COSTLY:
        if workload in results.workloads:
            parts += [results.workloads[workload]["title"], align(costs(results, workload))]
    if results.problems:
        parts += ["Not measured:", *results.problems]
    return "\n\n".join(parts) + f"\n\n{results.minutes} minutes; † not all tasks were finished within the limit"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])
