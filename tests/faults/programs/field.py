"""The field on which programs are attacked: a server of its own, a proxy before it, worker processes, and clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from absurd import devdb, schema
from tests.faults.chaos_proxy import ChaosProxy
from tests.faults.programs import QUEUES, SUBSCRIBED, SYNC, Task, world
from tests.faults.programs.evidence import Evidence, read
from tests.faults.programs.oracle import judge
from tests.faults.programs.outside import Outside
from tests.faults.programs.worker_app import SUBSCRIBER
from tests.faults.programs.workers import WorkerSlot

T = TypeVar("T")

DATABASE = "field"
SERVER = {"track_commit_timestamp": "on", "max_connections": "200"}
# Seconds: a lease is short, so that a frozen worker loses it within a test.
WORKER = {"concurrency": 8, "lease_seconds": 1.5, "poll_interval": 0.5, "grace_seconds": 0.3}
# How many tasks have to run in each queue after healing.
PROBES = 5
# What a clean-up has to leave empty.
HISTORY = ("tasks", "attempts", "checkpoints", "events", "event_tasks", "idempotency_keys", "tokens", "runs", "waits")


@dataclass
class Round:
    """What came of a round."""

    violations: list[str]
    counts: dict[str, int]
    latencies: list[float] = field(default_factory=list)
    """Seconds from spawn to end of the tasks that were spawned after healing."""
    evidence: Evidence | None = None


class Field:
    """A context manager.

    Args:
        directory: short enough for a socket; for the server, the logs of the workers.
        workers: how many processes; the first one is never killed and speaks to the server directly, the others through
            the proxy.
        settings: of the workers, beside ``WORKER``.
        binaries: PostgreSQL's bin directory; found if not given.
        server: settings of PostgreSQL, beside ``SERVER``.
    """

    def __init__(
        self,
        directory: Path,
        workers: int = 3,
        settings: dict[str, Any] | None = None,
        binaries: str | None = None,
        server: dict[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._count = workers
        self._settings = {**WORKER, **(settings or {})}
        self._exits = ExitStack()
        self.server = devdb.Server(directory / "server", settings={**SERVER, **(server or {})}, binaries=binaries)
        self.slots: list[WorkerSlot] = []
        self.roots: list[Task] = []
        self._rounds = 0
        self.spoilt = False
        """An earlier round was not clean: what it left would be taken for what a later one did."""

    def __enter__(self) -> Field:
        with ExitStack() as exits:
            self.server.start()
            exits.callback(self.server.stop, "immediate")
            with psycopg.connect(self.server.url(), autocommit=True) as conn:
                conn.execute(f"create database {DATABASE}".encode())
            self.url = self.server.url(DATABASE)
            self._prepare()
            self.proxy = exits.enter_context(ChaosProxy(self.url))
            self.outside = exits.enter_context(Outside(self.proxy.url))
            exits.callback(self._end_workers)
            for place in range(self._count):
                url = self.proxy.url if place else self.url
                self.slots.append(WorkerSlot(place, url, self.url, self._directory, mortal=place > 0, settings=self._settings))
                self.slots[-1].start()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.close()

    def _prepare(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as conn:
            schema.install(conn)
            conn.execute(world.TABLES.encode())
            for queue in QUEUES:
                conn.execute("select absurd.create_queue(%s)", (queue,))
                conn.execute(
                    "select absurd.subscribe(%s, %s, %s, %s)",
                    (queue, f"{SUBSCRIBED}*", SUBSCRIBER, '{"retry_strategy": {"kind": "fixed", "base_seconds": 0.05}}'),
                )

    def _end_workers(self) -> None:
        for slot in self.slots:
            slot.kill()

    # -- a round ------------------------------------------------------------------------------------------------------------

    def add(self, root: Task) -> None:
        """Spawns one more program in the present round."""
        self.roots.append(root)
        self.outside.play_one(root)

    def play(self, roots: Sequence[Task], attack: Callable[[], None], spread: float, timeout: float) -> Round:
        """Plays programs while ``attack()`` strikes and heals, then judges.

        Args:
            roots: the programs.
            attack: returns when all faults are healed.
            spread: seconds over which the programs are spawned.
            timeout: seconds after healing, or after the end of another task, within which some task has to end.
        """
        self._rounds += 1
        self.roots = list(roots)
        self.outside.play(roots, spread)
        attack()
        probes = self._probe()
        stuck = self._await_end(timeout)
        evidence = self._persist(lambda conn: read(conn, {name for slot in self.slots for name in slot.stopped}))
        violations = [*stuck, *evidence.left] if stuck else [*self._worker_problems(), *judge([*self.roots, *probes], evidence)]
        latencies = [
            (row["finished_at"] - row["spawned_at"]).total_seconds()
            for probe in probes
            for row in evidence.tasks[probe["key"]]
            if row["finished_at"] is not None
        ]
        return Round(violations, {"programs": len(self.roots), **evidence.count()}, latencies, evidence)

    def _probe(self) -> list[Task]:
        """New work after healing, in every queue."""
        probes = [
            {
                "key": f"probe{self._rounds}.{queue}{number}",
                "task": SYNC,
                "queue": queue,
                "nodes": [],
                "options": {},
                "outside": [],
            }
            for queue in QUEUES
            for number in range(PROBES)
        ]
        for probe in probes:
            self.outside.play_one(probe)
        return probes

    def _await_end(self, timeout: float) -> list[str]:
        # By what still happens, for a machine may be slow; but not for ever.
        now = time.monotonic()
        deadline, limit, ended = now + timeout, now + 10 * timeout, 0
        while not (self.outside.done and self._count_unfinished() == 0):
            now, before, ended = time.monotonic(), ended, self._count_ended()
            if ended > before:
                deadline = now + timeout
            if now > min(deadline, limit):
                return [f"it did not end in time; {slot.name}: {slot.log_tail()}" for slot in self.slots] or ["no worker"]
            if problems := self._worker_problems():
                return problems
            self._cancel_orphans()
            time.sleep(0.1)
        return []

    def _cancel_orphans(self) -> None:
        """Children that wait for ever, whose parent was cancelled or failed before it could cancel them."""
        statement = (
            "select absurd.cancel_task(t.queue_name, t.task_id) from absurd.waits w join absurd.tasks t on t.task_id = w.task_id"
            " join absurd.tasks p on p.task_id = t.parent_task_id where w.event_name like 'never %' and p.outcome is not null"
        )
        self._persist(lambda conn: conn.execute(statement).fetchall())

    def _count_unfinished(self) -> int:
        statement = "select (select count(*) from absurd.runs) + (select count(*) from absurd.events where not delivered)"
        return int(self._persist(lambda conn: conn.execute(statement).fetchone())[0])

    def _count_ended(self) -> int:
        return int(
            self._persist(lambda conn: conn.execute("select count(*) from absurd.tasks where outcome is not null").fetchone())[0]
        )

    def _worker_problems(self) -> list[str]:
        return [problem for slot in self.slots if (problem := slot.problem()) is not None]

    # -- between rounds -----------------------------------------------------------------------------------------------------

    def clean_up(self) -> list[str]:
        """Deletes what the round left, by the library's own means; what is wrong with that."""
        return self._persist(_clean_up)

    def table_sizes(self) -> dict[str, int]:
        """Bytes of the tables of the schema with their indexes, the largest first."""
        statement = (
            "select c.relname, pg_total_relation_size(c.oid) as size from pg_class c"
            " where c.relnamespace = 'absurd'::regnamespace and c.relkind = 'r' order by 2 desc"
        )
        rows = self._persist(lambda conn: conn.execute(statement).fetchall())
        return {str(name): int(size) for name, size in rows}

    def _persist(self, ask: Callable[[psycopg.Connection[Any]], T]) -> T:
        deadline = time.monotonic() + 120
        while True:
            try:
                with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as conn:
                    return ask(conn)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def _clean_up(conn: psycopg.Connection[Any]) -> list[str]:
    calls = [(function, queue) for queue in QUEUES for function in ("cleanup_tasks", "purge_events")]
    # Again after the last that found something: a child may be kept until its parent is gone, which is in another queue.
    while any(conn.execute(f"select absurd.{name}(%s, 0)".encode(), (queue,)).fetchone() != (0,) for name, queue in calls):
        pass
    conn.execute("truncate public.effects, public.acts")
    # A crash makes PostgreSQL forget its statistics, so that autovacuum never learns how much there is to do on this field.
    conn.execute("vacuum")
    left = []
    for table in HISTORY:
        row = conn.execute(f"select count(*) from absurd.{table}".encode()).fetchone()
        if row != (0,):
            left.append(f"clean-up has left {row} rows of {table}")
    return left
