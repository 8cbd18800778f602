"""``python -m bench``: measures, prints a table, writes JSON, and on request the page in ``docs/``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from bench import environments, page, results, server, table
from bench.cell import Variant
from bench.runner import Plan, Runner, describe, scale_as_dict
from bench.systems import NAMES, load
from bench.workload import Scale, Workload
from bench.workloads import load_all

RESULTS = environments.CACHE / "results.json"
LOG = environments.CACHE / "children.log"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        metavar="SYSTEM/WORKLOAD",
        help="measure these only; * and ? are wildcards, either part may be *",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies how long each figure is measured (1 is 1.2 s)")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the large tables (100000)")
    parser.add_argument(
        "--snapshot", type=float, default=0, metavar="SECONDS", help="hold a snapshot open under load for so long, too (0: not)"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="after these, further workloads get one round only (5)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument(
        "--directory", help="where the server's data go for the time of the run (the system's temporary directory)"
    )
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md with its plots")
    parser.add_argument(
        "--show", action="store_true", help="measure nothing: table, and page with --docs, of results that are there"
    )
    parser.add_argument("--list", action="store_true", help="list systems and workloads")
    return parser.parse_args(arguments)


def chosen(
    only: Sequence[str] | None, workloads: Sequence[Workload], systems: Sequence[str]
) -> list[tuple[Workload, list[Variant]]]:
    """Which variants each workload is to be measured with."""
    variants = [Variant(system, configuration) for system in systems for configuration in load(system).configurations]
    pairs = []
    for workload in workloads:
        found = [v for v in variants if workload.applies(v) and wanted(only, v.system, workload.name)]
        if found:
            pairs.append((workload, found))
    return pairs


def wanted(only: Sequence[str] | None, system: str, workload: str) -> bool:
    """Whether ``--only`` names it."""
    patterns = [(name.partition("/")[0] or "*", name.partition("/")[2] or "*") for name in only or ["*"]]
    return any(fnmatch(system, left) and fnmatch(workload, right) for left, right in patterns)


def measure(options: argparse.Namespace) -> results.Results:
    """Installs, measures and saves."""
    workloads = [workload for workload in load_all() if options.snapshot or workload.name != "snapshot_long"]
    systems = [name for name in NAMES if any(wanted(options.only, name, workload.name) for workload in workloads)]
    missing = environments.make_all(systems)
    pairs = chosen(options.only, workloads, [name for name in systems if name not in missing])
    scale = Scale(seconds=1.2 * options.scale, rows=options.rows, snapshot_seconds=options.snapshot)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text("")
    with server.databases(options.directory) as databases:
        shown = {**scale_as_dict(scale), "rounds": options.rounds}
        found = results.begin(command(), server.SETTINGS, shown, databases.version)
        found.problems += [f"{name} could not be installed: {problem}" for name, problem in missing.items()]
        describe(found, list(dict.fromkeys(variant for _, variants in pairs for variant in variants)))
        plan = Plan(pairs, options.rounds, scale, options.minutes)
        Runner(plan, databases, found, LOG, lambda: found.write(options.results)).run()
    found.write(options.results)
    return found


def command() -> list[str]:
    """What was typed."""
    return ["python", "-m", "bench", *sys.argv[1:]]


def main() -> int:
    """Runs the benchmark; 1 if something could not be measured."""
    options = parse(sys.argv[1:])
    if options.list:
        print("systems:  ", *NAMES, "\nworkloads:", *(workload.name for workload in load_all()))
        return 0
    found = results.read(options.results) if options.show else measure(options)
    print(table.render(found))
    if options.docs:
        page.write(found, environments.ROOT / "docs")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
