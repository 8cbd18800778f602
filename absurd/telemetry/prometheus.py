"""Metrics with prometheus_client. Every label is a queue, a task or one of a few words, and there are so many of them at most."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from absurd.telemetry.harmless import harmless, harmless_context

# Task names, and queue names, that get a label of their own; the others share one: a server spawns by any name it is told.
MAX_NAMES = 200
OTHER = "(other)"
# Seconds: a step in memory, a request, a report that takes an hour.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
# Seconds between ready and claimed, and those of a commit.
SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)
MAX_SECONDS = 10 * 365 * 86_400
ITEMS = (1, 2, 5, 10, 25, 50, 100, 250, 500)
SWEPT = ("lease", "deadline", "worker", "event")


class Names:
    """The names that are labels of their own: the first so many."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._limit = limit
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> str:
        """The label for a name."""
        if name in self._known:
            return name
        with self._lock:
            if len(self._known) < self._limit:
                self._known.add(name)
                return name
        return OTHER


class Metrics:
    """The metrics of this process."""

    _made: ClassVar[weakref.WeakKeyDictionary[CollectorRegistry, Metrics]] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, registry: CollectorRegistry | None = None) -> Metrics:
        """Those of a registry, made when they are first asked for: a name can be registered once."""
        chosen = REGISTRY if registry is None else registry
        if chosen not in cls._made:
            cls._made[chosen] = cls(chosen)
        return cls._made[chosen]

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue, self._task = Names(), Names()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"absurd_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"absurd_{name}", text, labels, buckets=buckets, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"absurd_{name}", text, multiprocess_mode="livesum", registry=registry)

        task = ("queue", "task")
        self._spawned = counter("tasks_spawned", "Tasks that this process spawned.", *task)
        self._emitted = counter("events_emitted", "Events that this process emitted.", "queue")
        self._claims = counter("claims", "Claims, by what they found: empty, partial, full.", "queue", "found")
        self._ready = histogram(
            "run_ready_seconds", "Time from the moment a run became ready to its claim.", "queue", buckets=SHORT_SECONDS
        )
        self._duration = histogram("run_duration_seconds", "Time a run was in a worker's hands.", *task, buckets=SECONDS)
        self._ended = counter(
            "runs_ended",
            "Runs by outcome: completed, failed, suspended, released, lost, cancelled, unrecorded.",
            *task,
            "outcome",
        )
        self._failures = counter("attempts_failed", "Attempts whose handler raised.", *task)
        self._retries = counter("attempts_retried", "Failed attempts that another one follows.", *task)
        self._step = histogram("step_duration_seconds", "Time of an executed step.", *task, "kind", buckets=SECONDS)
        self._step_failures = counter("steps_failed", "Steps whose function raised.", *task, "kind")
        self._lost = counter("leases_lost", "Runs that another worker took over, or a sweep ended.", "queue")
        self._swept = counter(
            "swept", "What sweeps of this worker ended: expired leases, deadlines, dead workers; late events delivered.", "kind"
        )
        self._batch_items = histogram("writer_batch_items", "Writes in one transaction.", buckets=ITEMS)
        self._batch_seconds = histogram("writer_batch_seconds", "Time of one transaction of writes.", buckets=SHORT_SECONDS)
        self._reconnects = counter("database_reconnects", "Times that the writer lost its connection.")
        self._slots = gauge("worker_slots", "Runs that the workers here may have at a time.")
        self._busy = gauge("worker_runs", "Runs that they have.")

    # -- clients ------------------------------------------------------------------------------------------------------------

    @harmless
    def spawned(self, queue_name: str, task_name: str, count: int) -> None:
        """Tasks were spawned."""
        self._spawned.labels(self._queue(queue_name), self._task(task_name)).inc(count)

    @harmless
    def emitted(self, queue_name: str) -> None:
        """An event was emitted."""
        self._emitted.labels(self._queue(queue_name)).inc()

    # -- a worker -----------------------------------------------------------------------------------------------------------

    @harmless
    def worker_began(self, slots: int) -> None:
        """A worker begins, with so many slots."""
        self._slots.inc(slots)

    @harmless
    def worker_ended(self, slots: int) -> None:
        """It has ended."""
        self._slots.dec(slots)

    @harmless
    def claimed(self, queue_name: str, limit: int, runs: Sequence[Any]) -> None:
        """A claim for so many runs found these, each a ``ClaimedRun``."""
        queue = self._queue(queue_name)
        self._claims.labels(queue, "empty" if not runs else "partial" if len(runs) < limit else "full").inc()
        ready = self._ready.labels(queue)
        for run in runs:
            # A time that somebody wrote by hand may be infinite, and would make the sum so for ever.
            ready.observe(min(max(run.waited_seconds, 0), MAX_SECONDS))

    @harmless
    def run_began(self) -> None:
        """A run is in a worker's hands."""
        self._busy.inc()

    @harmless
    def run_ended(self, run: Any, outcome: str, seconds: float, *, retried: bool) -> None:
        """It has left them."""
        labels = self._queue(run.queue_name), self._task(run.task_name)
        self._busy.dec()
        self._duration.labels(*labels).observe(seconds)
        self._ended.labels(*labels, outcome).inc()
        if outcome == "failed":
            self._failures.labels(*labels).inc()
            self._retries.labels(*labels).inc(1 if retried else 0)
        elif outcome == "lost":
            self._lost.labels(labels[0]).inc()

    @harmless_context
    @contextmanager
    def step(self, run: Any, kind: str) -> Iterator[None]:
        """Around an executed step."""
        labels = self._queue(run.queue_name), self._task(run.task_name), kind
        began = time.perf_counter()
        try:
            yield
        except Exception:
            self._step_failures.labels(*labels).inc()
            raise
        finally:
            self._step.labels(*labels).observe(time.perf_counter() - began)

    @harmless
    def batch(self, items: int, seconds: float) -> None:
        """The writer committed a batch."""
        self._batch_items.observe(items)
        self._batch_seconds.observe(seconds)

    @harmless
    def reconnected(self) -> None:
        """The writer lost its connection."""
        self._reconnects.inc()

    @harmless
    def swept(self, counts: Sequence[int]) -> None:
        """A sweep ended so many of each kind."""
        for kind, count in zip(SWEPT, counts, strict=True):
            self._swept.labels(kind).inc(count)
