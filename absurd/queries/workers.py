"""Queries about workers: register, heartbeat, idle, sweep; and what a worker must know of its queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from absurd.queries.query import Query, nothing, scalar

# A commit waits for the synchronous standby only if its transaction has written to the log: a message, then, that nobody reads.
STANDBY_HAS_ALL = """
    case when current_setting('synchronous_standby_names') <> '' and current_setting('transaction_read_only') = 'off'
      then pg_logical_emit_message(true, 'absurd', '') end"""


def register_worker(
    worker_id: str,
    queue_names: Sequence[str],
    hostname: str,
    pid: int,
    version: str,
    concurrency: int,
    lease_seconds: float,
    session_key: int | None,
) -> Query[None]:
    """Makes a worker known."""
    sql = "select absurd.register_worker(%s, %s::text[], %s, %s::int, %s, %s::int, %s::float8, %s::bigint)"
    return Query(sql, (worker_id, list(queue_names), hostname, pid, version, concurrency, lease_seconds, session_key), nothing)


def hold_session_lock(worker_id: str) -> Query[int | None]:
    """Takes the lock by which others see that this session lives; its key, or ``None`` if another session still holds it."""
    sql = "select case when pg_try_advisory_lock(k) then k end from absurd.worker_lock_key(%s) k"
    return Query(sql, (worker_id,), scalar)


def heartbeat_worker(worker_id: str, running: int) -> Query[bool]:
    """Says that a worker lives; false when its row is gone."""
    return Query("select absurd.heartbeat_worker(%s, %s::int)", (worker_id, running), scalar)


def set_worker_idle(worker_id: str, idle: bool) -> Query[None]:
    """Says whether a worker waits for notifications."""
    return Query("select absurd.set_worker_idle(%s, %s)", (worker_id, idle), nothing)


def unregister_worker(worker_id: str) -> Query[None]:
    """Forgets a worker."""
    return Query("select absurd.unregister_worker(%s)", (worker_id,), nothing)


def workers_may_return(worker_id: str) -> Query[bool]:
    """Whether the database was away, and other workers than this one have not been back since."""
    return Query("select absurd.workers_may_return(%s)", (worker_id,), scalar)


class Swept(NamedTuple):
    """What a sweep has ended, and how far it has looked: for ``after`` of the next one."""

    leases_expired: int
    deadlines_passed: int
    worker_runs_ended: int
    events_delivered: int
    swept_until: datetime | None

    @property
    def ended(self) -> tuple[int, int, int, int]:
        """The counts alone."""
        return self[:4]


def sweep(settling: bool = False, after: datetime | None = None) -> Query[Swept]:
    """What time does to live rows: leases expired, deadlines passed, runs of dead workers ended, events delivered late.

    With ``settling`` the first and the third are left alone: the database may have been away.
    """
    sql = """
        select leases_expired, deadlines_passed, worker_runs_ended, events_delivered, swept_until
        from absurd.sweep(p_settling => %s, p_after => %s)"""
    return Query(sql, (settling, after), lambda rows: Swept(*rows[0]))


def queue_limits(queue_names: Sequence[str]) -> Query[dict[str, int]]:
    """The payload limit, in bytes, of each of these queues that exists."""
    sql = "select queue_name, max_payload_bytes from absurd.queue_limits(%s::text[])"
    return Query(sql, (list(queue_names),), lambda rows: dict(rows))


def queue_channel(queue_name: str) -> Query[str]:
    """The channel on which workers of a queue are told of work."""
    return Query("select absurd.queue_channel(%s)", (queue_name,), scalar)


def listen(channel: str) -> Query[None]:
    """Subscribes the session to a channel. LISTEN takes no parameters, so the name is quoted here, as an identifier."""
    return Query(f'listen "{channel.replace(chr(34), chr(34) * 2)}"', (), nothing)


def set_lock_timeout(seconds: float, local: bool = False) -> Query[None]:
    """Lets the statements of the session, or of the transaction, wait that long for a lock, and no longer."""
    return Query("select set_config('lock_timeout', %s, %s)", (f"{round(seconds * 1000)}ms", local), nothing)


def await_standby() -> Query[None]:
    """Waits, where the server replicates synchronously, until the standby has all that was committed before.

    A commit whose connection broke while it waited for the standby is seen by everybody. A repetition finds its work done, writes
    nothing, waits for nothing, and would acknowledge what is lost together with this server.
    """
    return Query(f"select {STANDBY_HAS_ALL}", (), nothing)
