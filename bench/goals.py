"""What the library wants to reach, as ratios within one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.results import Results

OURS = "absurd/best"
SDK, DBOS, PGQUEUER, BARE = "absurd-sdk/best", "dbos/best", "pgqueuer/best", "bare/best"


@dataclass(frozen=True)
class Goal:
    """A goal: what is compared, the limit, whether the figure has to be at least or at most that, and how to get it."""

    title: str
    limit: float
    at_least: bool
    unit: str
    value: Callable[[Results], float | None]

    def met(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


def _ratio(workload: str, *others: str, key: str = "rate") -> Callable[[Results], float | None]:
    """Ours by the best of the others."""

    def value(results: Results) -> float | None:
        mine = results.median(workload, OURS, key)
        theirs = [found for other in others if (found := results.median(workload, other, key))]
        return mine / max(theirs) if mine and theirs else None

    return value


def _inverse(workload: str, other: str) -> Callable[[Results], float | None]:
    """How many times as long as the other's."""

    def value(results: Results) -> float | None:
        ratio = _ratio(workload, other)(results)
        return 1 / ratio if ratio else None

    return value


def _own(workload: str, key: str, variant: str = OURS) -> Callable[[Results], float | None]:
    return lambda results: results.median(workload, variant, key)


GOALS: Sequence[Goal] = (
    Goal("no-op, by the better of Absurd's client and DBOS", 10, True, "×", _ratio("noop", SDK, DBOS)),
    Goal("no-op, by PgQueuer", 1, True, "×", _ratio("noop", PGQUEUER)),
    Goal("one step, by Absurd's client", 20, True, "×", _ratio("steps_1", SDK)),
    Goal("one step, by DBOS", 50, True, "×", _ratio("steps_1", DBOS)),
    Goal("one step: server", 60, False, "µs", _own("steps_1", "server_us")),
    Goal("one step: client", 60, False, "µs", _own("steps_1", "client_us")),
    Goal("one step: WAL", 2500, False, "B", _own("steps_1", "wal_bytes")),
    Goal("one step: commits", 0.05, False, "", _own("steps_1", "commits")),
    Goal("five steps, by Absurd's client", 15, True, "×", _ratio("steps_5", SDK)),
    Goal("five steps, by DBOS", 50, True, "×", _ratio("steps_5", DBOS)),
    Goal("one step in a sync handler, by Absurd's client", 10, True, "×", _ratio("sync_steps_1", SDK)),
    Goal("spawn one by one, time by that of a bare INSERT", 1.3, False, "×", _inverse("spawn_one", BARE)),
    Goal("spawn in bulk", 30_000, True, "/s", _own("spawn_many", "rate")),
    Goal("idle worker: spawn → handler starts, p50", 3, False, "ms", _own("start_idle", "p50_ms")),
    Goal("idle worker: spawn → handler starts, p99", 10, False, "ms", _own("start_idle", "p99_ms")),
    Goal("emit → task runs again, p50", 4, False, "ms", _own("emit", "p50_ms")),
    Goal("emit → task runs again, p99", 15, False, "ms", _own("emit", "p99_ms")),
    Goal("one event, 1,000 waiting tasks: all run again", 0.5, False, "s", _own("broadcast", "seconds")),
    Goal("beside many pending tasks, by empty tables", 0.9, True, "×", _own("beside_pending", "ratio")),
    Goal("beside many sleeping tasks, by empty tables", 0.9, True, "×", _own("beside_sleeping", "ratio")),
    Goal("beside many finished tasks, by empty tables", 0.9, True, "×", _own("beside_finished", "ratio")),
    Goal("while a snapshot is held open, by without", 0.7, True, "×", _own("snapshot", "ratio")),
    Goal("after a snapshot has been held open for long, by before", 0.7, True, "×", _own("snapshot_long", "ratio")),
    Goal("worker at rest: processor", 1, False, "% of a core", _own("rest", "percent")),
    Goal("worker at rest: statements", 5, False, "/s", _own("rest", "statements_per_s")),
    Goal("import", 150, False, "ms", _own("import", "ms")),
)
