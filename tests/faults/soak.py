"""Random programs under random faults, for as long as you like.

    python -m tests.faults.soak --minutes 60 [--seed S] [--report FILE]

It works in rounds of about a minute: programs run while faults strike, everything is healed, everything has to end, the oracle
judges, new work has to run, and the history is cleaned up. Ctrl-C ends it with the report. The exit code is 1 if a promise was
broken; the evidence is printed, and the programs concerned are kept in ``.cache/faults``, to be played again by
``--programs FILE``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.kinds import FAULTS, DownLong, Fault
from tests.faults.programs import Task
from tests.faults.programs.field import Field, Round
from tests.faults.programs.generator import make_programs
from tests.faults.programs.workers import memory_of
from tests.faults.striker import Striker

ROUND = 45.0  # seconds of strikes in a round
PROGRAMS = 450  # in a round
TIMEOUT = 180.0  # seconds after healing within which everything has to end
# One round in so many has PostgreSQL down for a minute.
LONG_OUTAGES = 15
KEPT = Path(__file__).parents[2] / ".cache" / "faults"
MAX_LATENCIES = 100_000  # kept of the newest
MAX_SHOWN = 20  # violations of a round
MAX_LINE = 3000  # characters of a violation


@dataclass
class Tally:
    """The sums of all rounds."""

    seed: str
    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    latencies: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    memory_start: int = 0
    memory_end: int = 0
    driver_start: int = 0
    driver_end: int = 0
    largest_table: int = 0

    def add(self, one: Round, faults: Counter[str]) -> None:
        """Counts a round in."""
        self.rounds += 1
        self.counts.update(one.counts)
        self.faults.update(faults)
        self.violations += len(one.violations)
        self.latencies = [*self.latencies, *one.latencies][-MAX_LATENCIES:]

    @property
    def minutes(self) -> float:
        """Since the beginning."""
        return (time.monotonic() - self.began) / 60

    def percentile(self, share: float) -> float | None:
        """Of the seconds from spawn to end of new work after healing."""
        if not self.latencies:
            return None
        return sorted(self.latencies)[min(len(self.latencies) - 1, math.ceil(share * len(self.latencies)) - 1)]

    def report(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "seed": self.seed,
            "minutes": round(self.minutes, 1),
            "rounds": self.rounds,
            **self.counts,
            "faults": dict(sorted(self.faults.items())),
            "faults in all": sum(self.faults.values()),
            "violations": self.violations,
            "memory of a long-lived worker, kB": [self.memory_start, self.memory_end],
            "memory of the driver, kB": [self.driver_start, self.driver_end],
            "largest table at the end of a round, bytes": self.largest_table,
            "seconds from spawn to end after healing": {
                "p50": self.percentile(0.5),
                "p99": self.percentile(0.99),
                "max": self.percentile(1.0),
            },
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the soak; the exit code."""
    options = _options(arguments)
    seed = options.seed or str(random.SystemRandom().randrange(10**9))
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    directory.chmod(0o755)
    tally = Tally(seed)
    try:
        with Field(directory, options.workers, binaries=os.environ.get("ABSURD_TEST_POSTGRES_BIN")) as field_:
            _soak(field_, tally, options)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        _say(tally, options.report)
        if not tally.violations:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"logs of server and workers are in {directory}")
    return 1 if tally.violations or not tally.rounds else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long, in minutes (60); the round under way is finished")
    parser.add_argument("--seed", help="of programs and faults; random unless given, and printed")
    parser.add_argument("--report", type=Path, help="writes the figures as JSON into this file, after each round")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (3)")
    parser.add_argument("--programs", type=Path, help="plays the programs of this file again instead of new ones")
    parser.add_argument("--round", type=float, default=ROUND, help=f"seconds of strikes in a round ({ROUND:.0f})")
    parser.add_argument("--faults", help="names of the classes of faults, with commas; all unless given")
    return parser.parse_args(arguments)


def _soak(field_: Field, tally: Tally, options: argparse.Namespace) -> None:
    tally.began = time.monotonic()
    while tally.minutes < options.minutes and not tally.violations:
        rng = random.Random(f"{tally.seed}/{tally.rounds}")
        roots = _roots(tally, options)
        striker = Striker(field_, _kinds(tally, options), rng, together=4, gaps=(0.1, 1.2))
        one = field_.play(
            roots, lambda striker=striker: striker.attack(options.round), spread=options.round * 0.9, timeout=TIMEOUT
        )
        if not one.violations:
            tally.largest_table = max(tally.largest_table, *field_.table_sizes().values())
            one.violations += field_.clean_up()
        tally.add(one, striker.counts)
        tally.memory_end, tally.driver_end = field_.slots[0].memory, memory_of()
        if tally.rounds == 1:
            tally.memory_start, tally.driver_start = tally.memory_end, tally.driver_end
        _line(tally)
        if one.violations:
            _keep(tally, one, field_.roots)
        if options.report:
            options.report.write_text(json.dumps(tally.report(), indent=2) + "\n")


def _roots(tally: Tally, options: argparse.Namespace) -> list[Task]:
    if options.programs:
        found: list[Task] = json.loads(options.programs.read_text())
        return found
    count = max(1, round(PROGRAMS * options.round / ROUND))
    return make_programs(f"{tally.seed}/{tally.rounds}", count, f"r{tally.rounds}p")


def _kinds(tally: Tally, options: argparse.Namespace) -> list[type[Fault]]:
    if options.faults:
        names = options.faults.split(",")
        return [kind for kind in (*FAULTS, DownLong) if kind.__name__ in names]
    return [DownLong, *FAULTS] if tally.rounds % LONG_OUTAGES == LONG_OUTAGES - 1 else list(FAULTS)


def _line(tally: Tally) -> None:
    print(
        f"{tally.minutes:6.1f} min: {tally.counts['programs']:,} programs, {tally.counts['tasks']:,} tasks, "
        f"{sum(tally.faults.values()):,} faults, {tally.counts['attempts lost']:,} attempts cut off; "
        f"worker {tally.memory_end / 1024:.1f} MB, driver {tally.driver_end / 1024:.1f} MB, "
        f"largest table {tally.largest_table / 1e6:.1f} MB; {tally.violations} violations",
        flush=True,
    )


def _keep(tally: Tally, one: Round, roots: list[Task]) -> None:
    """Shows the evidence, and keeps the programs that it is about."""
    for violation in one.violations[:MAX_SHOWN]:
        print(f"VIOLATION {violation[:MAX_LINE]}", flush=True)
    concerned = {violation.split(":")[0].split(".")[0] for violation in one.violations}
    kept = [root for root in roots if root["key"] in concerned] or roots
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / f"soak-{tally.seed}-{tally.rounds}.json"
    file.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"seed {tally.seed}, round {tally.rounds}; its programs: {file}", flush=True)


def _say(tally: Tally, file: Path | None) -> None:
    report = tally.report()
    for name, value in report.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for part, figure in value.items():
                print(f"    {part:45} {figure}")
        else:
            print(f"{name:49} {value}")
    if file is not None:
        file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
