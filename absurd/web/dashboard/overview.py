"""The first page: how the queues fare, what ended when, who works, what comes next, and what failed last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from absurd.client import AsyncAbsurd
from absurd.queries import dashboard, inspect
from absurd.queries.dashboard import Throughput
from absurd.queries.query import Query
from absurd.queries.schedules import Schedule, list_times
from absurd.schedules.slots import with_next
from absurd.web.dashboard import plot
from absurd.web.dashboard.page import Page, Visit
from absurd.web.dashboard.plot import Series

T = TypeVar("T")

# The spans that can be chosen: seconds, and how they are called.
SPANS = {
    "1h": (3600, "last hour"),
    "6h": (6 * 3600, "last 6 hours"),
    "24h": (24 * 3600, "last 24 hours"),
    "7d": (7 * 86400, "last 7 days"),
}
BUCKETS = 60
# Pieces that the plot of the failure rate takes together, so that a single failure in a quiet minute is no peak of 100%.
TOGETHER = 5
QUEUES, STUCK, WORKERS, SCHEDULES, FAILURES = 50, 5, 8, 8, 8
# Seconds for which all visitors are shown the same: what costs more than the rest of the page, and the counts of large queues.
PLOT_SECONDS, QUEUE_SECONDS = 10.0, 1.5


@dataclass(slots=True)
class _Kept:
    """What was asked last for a place, and when."""

    made_at: float
    now: datetime
    rows: list[Any]


class _Memory:
    """What all visitors of one client are shown for some seconds; one of them at a time asks the database for it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], _Kept] = {}
        self._lock = asyncio.Lock()

    async def rows(
        self, visit: Visit, place: tuple[str, ...], seconds: float, ask: Callable[[datetime], Query[list[T]]]
    ) -> _Kept:
        """The rows of a query, which is told the time of the database."""
        async with self._lock:
            now = time.monotonic()
            kept = self._kept.get(place)
            if kept is None or now - kept.made_at > seconds:
                self._kept = {key: old for key, old in self._kept.items() if now - old.made_at <= PLOT_SECONDS}
                at = await visit.run(inspect.current_time())
                kept = self._kept[place] = _Kept(time.monotonic(), at, list(await visit.run(ask(at))))
            return kept


_memories: WeakKeyDictionary[AsyncAbsurd, _Memory] = WeakKeyDictionary()


async def show(visit: Visit) -> Mapping[str, Any]:
    """Queues, what nobody can run, plots, workers, schedules, failures."""
    span, after = visit.arg("span") or "1h", visit.arg("after")
    span = span if span in SPANS else "1h"
    seconds, words = SPANS[span]
    memory = _memories.setdefault(visit.client, _Memory())
    kept = await memory.rows(visit, ("plots", span), PLOT_SECONDS, lambda now: dashboard.throughput(seconds, BUCKETS))
    width = timedelta(seconds=seconds / BUCKETS)
    start = kept.now - timedelta(seconds=seconds)

    def page_of_queues(now: datetime) -> Query[list[dashboard.QueueRow]]:
        return dashboard.page_of_queues(now - timedelta(seconds=seconds), after, QUEUES)

    queues = (await memory.rows(visit, ("queues", span, after or ""), QUEUE_SECONDS, page_of_queues)).rows
    workers = await visit.run(dashboard.page_of_workers(0, 1000))
    return {
        "span": span,
        "spans": {name: words for name, (_, words) in SPANS.items()},
        "words": words,
        "queues": queues,
        "stuck": await visit.run(dashboard.stuck_runs(STUCK)),
        "sparks": {queue.queue_name: _spark(kept.rows, queue.queue_name) for queue in queues},
        "more": queues[-1].queue_name if len(queues) == QUEUES else None,
        "ends": _ends(kept.rows, start, width, words),
        "failing": _failing(kept.rows, start, width, words),
        "total": {name: sum(getattr(row, name) for row in kept.rows) for name in ("completed", "failed", "cancelled")},
        "estimated": any(row.estimated for row in kept.rows),
        "workers": workers[:WORKERS],
        "alive": sum(not worker.stale for worker in workers),
        "worker_count": len(workers),
        "schedules": await _due_schedules(visit),
        "failures": await visit.run(dashboard.last_failures(FAILURES)),
    }


async def _due_schedules(visit: Visit) -> list[Schedule]:
    names = await visit.run(dashboard.due_schedules(SCHEDULES))
    found = [with_next(schedule) for schedule in await visit.run(list_times(names))] if names else []
    return sorted((schedule for schedule in found if schedule.due_at is not None), key=_due_at)


def _due_at(schedule: Schedule) -> datetime:
    assert schedule.due_at is not None
    return schedule.due_at


def _sums(rows: list[Throughput], name: str, queue_name: str | None = None) -> list[float]:
    found = [0.0] * BUCKETS
    for row in rows:
        if 0 <= row.bucket < BUCKETS and queue_name in (None, row.queue_name):
            found[row.bucket] += getattr(row, name)
    return found


def _ends(rows: list[Throughput], start: datetime, width: timedelta, words: str) -> Any:
    series = [Series(name, _sums(rows, name)) for name in ("completed", "failed", "cancelled")]
    return plot.bars(series, start, width, f"Tasks that ended, {words}")


def _failing(rows: list[Throughput], start: datetime, width: timedelta, words: str) -> Any:
    completed, failed = _sums(rows, "completed"), _sums(rows, "failed")
    shares = []
    for first in range(0, BUCKETS, TOGETHER):
        good, bad = (sum(values[first : first + TOGETHER]) for values in (completed, failed))
        shares.append(bad / (good + bad) if good + bad else None)
    return plot.share(shares, start, width * TOGETHER, f"Share of tasks that failed, {words}")


def _spark(rows: list[Throughput], queue_name: str) -> Any:
    ended = [sum(values) for values in zip(*(_sums(rows, name, queue_name) for name in ("completed", "failed")), strict=True)]
    halved = [ended[index] + ended[index + 1] for index in range(0, BUCKETS, 2)]
    return plot.sparkline(halved, f"tasks that ended in {queue_name}")


PAGE = Page("overview", "/", "Overview", show)
