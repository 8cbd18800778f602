"""The worker's sign of life, on a thread and a connection of its own: user code may block the event loop, but not the leases.

Its session holds an advisory lock by which the other workers see at once that this process has died. It also sweeps: leases
that ran out elsewhere, deadlines, dead workers.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import psycopg

from absurd import failpoints, telemetry
from absurd.db import connect, run
from absurd.errors import AbsurdError
from absurd.queries import runs as run_queries
from absurd.queries import workers as queries
from absurd.worker.options import WorkerOptions
from absurd.worker.pace import Pace
from absurd.writes import Holder

logger = logging.getLogger("absurd.worker")

# Seconds between looks. The others wait three seconds before they believe that a session is gone, so this has to be well below.
TICK = 1.0
# Of sweeps from the beginning, see Pace. The others leave nothing behind, so these may be rare: all workers of a database
# make them.
FULL_SWEEP_SHARE = 0.005
LONGEST_PAUSE = 300.0
# The same of the others, for they look for late events too.
SWEEP_SHARE = 0.1
LONGEST_SWEEP_PAUSE = 30.0
# Seconds that a sweep waits for a row which somebody else has locked: the leases must not wait for it.
LOCK_SECONDS = 0.5
# A worker that was out of touch for longer than the first figure ends no leases for as long as the second, once it is back. Most
# likely the database was away and all were: those that live have to renew their leases before anybody ends them. Nor does one
# that connects, for the first time or again, while others have not been back since the database began anew, however quickly.
OUT_OF_TOUCH = 3.0
SETTLING = 10.0
# Seconds between heartbeats of the worker's row.
HEARTBEAT = 5.0


class LeaseHolder(Protocol):
    """The engine, as its lease keeper sees it. Called from the keeper's thread."""

    @property
    def idle(self) -> bool:
        """Whether it waits for work, and has to be notified of it."""

    def held(self) -> Sequence[Holder]:
        """The runs that are in the engine's hands."""

    @property
    def claiming_since(self) -> float | None:
        """When the claim that waits for its answer was made, by time.monotonic(); ``None`` if there is none."""

    def look_for_forgotten(self) -> None:
        """Has runs handed back that are this worker's and unknown to it, as soon as no claim waits for its answer."""

    def lost(self, holder: Holder, status: str) -> None:
        """Takes note that a run is lost or cancelled."""


class LeaseKeeper:
    """Renews leases, beats and sweeps."""

    def __init__(self, url: str, options: WorkerOptions, holder: LeaseHolder, version: str) -> None:
        self._url = url
        self._options = options
        self._holder = holder
        self._version = version
        self._conn: psycopg.Connection[Any] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="absurd-leases", daemon=True)
        self._renewed: dict[UUID, float] = {}
        self._next_beat = 0.0
        self._swept_until: datetime | None = None
        self._full_sweeps = Pace(FULL_SWEEP_SHARE, LONGEST_PAUSE)
        self._sweeps = Pace(SWEEP_SHARE, LONGEST_SWEEP_PAUSE)
        self._settled_at = 0.0
        self._in_touch = time.monotonic()
        # A third of the lease: two more tries before it runs out.
        self._tick = min(TICK, options.lease_seconds / 4)

    def start(self) -> None:
        """Connects, registers and sweeps, then goes on in the background; raises what keeps it from it.

        The sweep comes before the first claim: nobody may have been there to cancel what waited too long.
        """
        conn = self._connect()
        while any(run(conn, queries.sweep(self._settling)).ended):
            if failpoints.hook is not None:
                failpoints.hook("leases.swept-first", self)
        self._in_touch = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and forgets the worker."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(self._tick):
            try:
                self._look()
            except (AbsurdError, psycopg.Error) as error:
                logger.warning("cannot renew leases, trying again: %s", error)
                self._disconnect()
            except Exception:
                logger.exception("the lease keeper met an error and goes on")
        self._say_goodbye()

    def _look(self) -> None:
        conn = self._conn or self._connect()
        self._renew(conn)
        if time.monotonic() - self._in_touch > OUT_OF_TOUCH + self._tick:
            self._settle()
        if time.monotonic() >= self._next_beat:
            if not run(conn, queries.heartbeat_worker(self._options.worker_id, len(self._holder.held()))):
                self._register(conn)
            if failpoints.hook is not None:
                failpoints.hook("leases.beaten", self)
            self._next_beat = time.monotonic() + HEARTBEAT
        if self._sweeps.due():
            self._sweep(conn)
        self._in_touch = time.monotonic()

    @property
    def _settling(self) -> bool:
        return time.monotonic() < self._settled_at

    def _settle(self) -> None:
        self._settled_at = time.monotonic() + SETTLING
        logger.info("the database seems to have been away: for %s s others may renew their leases before they end", SETTLING)

    def _sweep(self, conn: psycopg.Connection[Any]) -> None:
        began = time.monotonic()
        full = self._swept_until is None or self._full_sweeps.due()
        swept = run(conn, queries.sweep(self._settling, None if full else self._swept_until))
        seconds = time.monotonic() - began
        if failpoints.hook is not None:
            failpoints.hook("leases.swept", self)
        if telemetry.metrics is not None:
            telemetry.metrics.swept(swept.ended)
        self._swept_until = swept.swept_until
        if full:
            self._full_sweeps.took(seconds)
        elif not any(swept.ended):
            self._sweeps.took(seconds)
        if any(swept.ended):
            logger.info(
                "swept: %s lease(s) expired, %s deadline(s) passed, %s run(s) of dead workers, %s late event(s)", *swept.ended
            )

    def _renew(self, conn: psycopg.Connection[Any]) -> None:
        """Renews the leases of which less than half is left. A new run has its first lease from the claim."""
        self._renew_unanswered(conn)
        now = time.monotonic()
        held = {holder.run_id: holder for holder in self._holder.held()}
        self._renewed = {run_id: self._renewed.get(run_id, now) for run_id in held}
        # A tick early, so that half of the lease is never exceeded by a whole tick.
        due = [h for h in held.values() if now - self._renewed[h.run_id] >= self._options.lease_seconds / 2 - self._tick]
        if not due:
            return
        answers = run(conn, run_queries.extend_leases(due, self._options.lease_seconds))
        if failpoints.hook is not None:
            failpoints.hook("leases.renewed", self)
        for holder, answer in zip(due, answers, strict=True):
            if answer.status == "ok":
                self._renewed[holder.run_id] = now
            elif answer.status != "busy":
                self._holder.lost(holder, answer.status)

    def _renew_unanswered(self, conn: psycopg.Connection[Any]) -> None:
        """Renews what a claim may have taken whose answer waits for user code that blocks the loop: nobody here knows it yet.

        If the answer is lost instead, the writer notices that its connection is, and hands back what it does not know. What was
        forgotten for good is renewed here too; it must not be for ever, in a worker whose loop is blocked again and again.
        """
        since = self._holder.claiming_since
        # Sooner than the others: a run that gets known at this moment is taken for a new one, and has to last half a lease more.
        if since is None or time.monotonic() - since < self._options.lease_seconds / 4:
            return
        if run(conn, run_queries.extend_worker_leases(self._options.worker_id, self._options.lease_seconds)):
            self._holder.look_for_forgotten()
            if failpoints.hook is not None:
                failpoints.hook("leases.renewed", self)
            logger.info("renewed leases while a claim waits for its answer: the event loop is blocked, or the network is slow")

    def _connect(self) -> psycopg.Connection[Any]:
        self._conn = connect(self._url, application_name="absurd worker: leases")
        run(self._conn, queries.set_lock_timeout(LOCK_SECONDS))
        # A standby that took over may still have leases that had ended.
        self._swept_until = None
        # First the leases: from its sign of life on, nobody waits for them any more.
        self._renew(self._conn)
        self._register(self._conn)
        if run(self._conn, queries.workers_may_return(self._options.worker_id)):
            self._settle()
        return self._conn

    def _register(self, conn: psycopg.Connection[Any]) -> None:
        options = self._options
        session_key = run(conn, queries.hold_session_lock(options.worker_id))
        if failpoints.hook is not None:
            failpoints.hook("leases.session-held", self)
        run(
            conn,
            queries.register_worker(
                options.worker_id,
                options.queues,
                socket.gethostname(),
                os.getpid(),
                self._version,
                options.concurrency,
                options.lease_seconds,
                session_key,
            ),
        )
        if failpoints.hook is not None:
            failpoints.hook("leases.registered", self)
        # A new row says busy; nobody would notify a worker whose row was swept away and made again.
        run(conn, queries.set_worker_idle(options.worker_id, self._holder.idle))
        self._next_beat = time.monotonic() + HEARTBEAT

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _say_goodbye(self) -> None:
        try:
            if self._conn is not None:
                run(self._conn, queries.unregister_worker(self._options.worker_id))
        except AbsurdError:
            pass  # the others will notice that the session is gone
        self._disconnect()
