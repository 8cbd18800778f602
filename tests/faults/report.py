"""What was attacked, how often, and what came of it: each attack that ended well leaves a line, `make faults` prints their table.

python -m tests.faults.report [--clear]
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

RECORDS = Path(__file__).parents[2] / ".cache" / "faults" / "records.jsonl"

Promise = Literal["one end", "steps once", "transactions once", "events once", "fence", "recovery", "open queue"]
"""The promises of docs/reliability.md: a task is never lost and ends once; a recorded step never runs again; a transaction takes
effect exactly once; events reach every wait and subscriber exactly once; an old holder changes nothing; what was interrupted
goes on; nothing stored stops a queue."""


@dataclass
class Attack:
    """The sum of what was recorded of one fault."""

    promises: set[str] = field(default_factory=set)
    runs: int = 0
    injected: int = 0
    tasks: int = 0


def record(fault: str, promises: Sequence[Promise], *, runs: int = 1, injected: int = 1, tasks: int = 1) -> None:
    """Notes an attack after all of its assertions have held.

    Args:
        fault: what was done, in the same words for all tests of one kind, its subject first: "worker killed (SIGKILL)".
        promises: which of the promises were looked at.
        runs: how many scenarios were gone through.
        injected: how many faults struck.
        tasks: how many tasks were under way.
    """
    unknown = set(promises) - set(get_args(Promise))
    assert not unknown, f"no such promise: {unknown}"
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"fault": fault, "promises": sorted(promises), "runs": runs, "injected": injected, "tasks": tasks}) + "\n"
    # One write to a file opened for appending: processes side by side do not mix their lines.
    descriptor = os.open(RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read() -> dict[str, Attack]:
    """What has been recorded since the last ``--clear``, by fault."""
    attacks: dict[str, Attack] = defaultdict(Attack)
    for line in RECORDS.read_text().splitlines() if RECORDS.exists() else ():
        found = json.loads(line)
        attack = attacks[found["fault"]]
        attack.promises |= set(found["promises"])
        attack.runs += found["runs"]
        attack.injected += found["injected"]
        attack.tasks += found["tasks"]
    return dict(sorted(attacks.items(), key=lambda item: item[0].casefold()))


def table(attacks: dict[str, Attack]) -> str:
    """A Markdown table: fault × promise, with the figures."""
    promises = get_args(Promise)
    lines = [
        "| fault | runs | faults | tasks | " + " | ".join(promises) + " |",
        "|---|--:|--:|--:|" + ":-:|" * len(promises),
    ]
    for fault, attack in attacks.items():
        marks = " | ".join("✓" if promise in attack.promises else "" for promise in promises)
        figures = " | ".join(f"{number:,}" if number else "–" for number in (attack.runs, attack.injected, attack.tasks))
        lines.append(f"| {fault} | {figures} | {marks} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or forget what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clear", action="store_true", help="forget what was recorded")
    options = parser.parse_args()
    if options.clear:
        RECORDS.unlink(missing_ok=True)
    else:
        print(table(read()))


if __name__ == "__main__":
    main()
