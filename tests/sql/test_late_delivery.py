"""Events of REPEATABLE READ transactions, which a sweep delivers, while somebody holds a lock for long."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.sql.calls import Connection, await_event, claim_all, emit, row, spawn_and_claim, value


@pytest.fixture
def sweeper(database_url: str) -> Iterator[Connection]:
    """A session like that of a worker's lease keeper, an hour later than everybody else."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set lock_timeout = '300ms'")
        connection.execute("select set_config('absurd.fake_now', (clock_timestamp() + interval '1 hour')::text, false)")
        yield connection


def test_a_locked_run_that_awaits_a_late_event_does_not_hold_up_the_sweep(
    conn: Connection, database_url: str, sweeper: Connection
) -> None:
    """Expired leases are ended all the same, and so are other late events delivered; the locked one comes when it can."""
    locked, other, _ = [spawn_and_claim(conn) for _ in range(3)]
    with psycopg.connect(database_url) as snapshot:
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("select 1")
        for run, name in ((locked, "first"), (other, "second")):
            await_event(conn, run, name)
            emit(snapshot, name, "payload")
        snapshot.commit()
    with psycopg.connect(database_url) as holder:
        holder.execute("select from absurd.runs where run_id = %s for update", (locked["run_id"],))
        swept = row(sweeper, "select leases_expired, events_delivered from absurd.sweep()")
        assert swept == {"leases_expired": 1, "events_delivered": 1}
        assert value(conn, "select event_name from absurd.events where not delivered") == "first"
        # The clock of a claim has not moved, and it meets the late event too: it does not wait for it either.
        assert other["run_id"] in [run["run_id"] for run in claim_all(conn, 2)]
    assert row(sweeper, "select events_delivered from absurd.sweep()") == {"events_delivered": 1}
    assert [run["event_payload"] for run in claim_all(conn, 1)] == ["payload"]


def test_an_emit_while_a_sweep_looks_delivers_the_late_event_first(conn: Connection, database_url: str) -> None:
    """All who wait for a name get its first emission: a sweep that could not have the name does not keep its events either."""
    run = spawn_and_claim(conn)
    with (
        psycopg.connect(database_url) as snapshot,
        psycopg.connect(database_url) as emitter,
        psycopg.connect(database_url) as sweep,
    ):
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("select 1")
        await_event(conn, run, "name")
        emit(snapshot, "name", "first")
        snapshot.commit()
        # An emit that has just got the lock of the name; then a sweep, whose transaction goes on.
        emitter.execute("select pg_advisory_xact_lock(absurd.event_lock_key('default', 'name'))")
        assert value(sweep, "select absurd.deliver_late()") == 0
        emitter.execute("set local lock_timeout = '5s'")
        emit(emitter, "name", "second")
        emitter.commit()
    assert [claimed["event_payload"] for claimed in claim_all(conn, 1)] == ["first"]
