"""Sweeps and promotions that go on from where the last one ended: what they leave, they find again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.sql.calls import QUEUE, Connection, after, claim, claim_all, row, set_clock, spawn, value

SWEEP = "select leases_expired, deadlines_passed, swept_until from absurd.sweep(%s, p_after => %s)"
PROMOTE = "select promoted, next_due, looked_until from absurd.promote_due(%s, %s, %s)"


@pytest.fixture
def at_noon(conn: Connection) -> Connection:
    """A session at noon."""
    set_clock(conn, after(0))
    return conn


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """Somebody else, who may hold a lock."""
    with psycopg.connect(database_url) as connection:
        yield connection


def sweep(conn: Connection, at: float, since: Any = None, limit: int = 200) -> dict[str, Any]:
    set_clock(conn, after(at))
    return row(conn, SWEEP, limit, since)


def promote(conn: Connection, at: float, since: Any = None, limit: int = 500) -> dict[str, Any]:
    set_clock(conn, after(at))
    return row(conn, PROMOTE, QUEUE, limit, since)


def spawn_and_claim_some(conn: Connection, count: int, options: dict[str, Any] | None = None) -> None:
    for number in range(count):
        spawn(conn, options=options)
        claim(conn, timeout=30 + number)


def lock_first_lease(other: Connection) -> None:
    other.execute("select from absurd.runs order by lease_expires_at limit 1 for update")


def test_a_sweep_says_until_when_it_has_swept(at_noon: Connection) -> None:
    spawn_and_claim_some(at_noon, 2)
    first = sweep(at_noon, 30)
    assert first == {"leases_expired": 1, "deadlines_passed": 0, "swept_until": after(30)}
    assert sweep(at_noon, 31, after(30)) == {"leases_expired": 1, "deadlines_passed": 0, "swept_until": after(31)}


def test_a_lease_that_a_sweep_could_not_end_is_ended_by_the_next(at_noon: Connection, other: Connection) -> None:
    spawn_and_claim_some(at_noon, 3)
    lock_first_lease(other)
    first = sweep(at_noon, 31)
    assert first["leases_expired"] == 1
    assert first["swept_until"] < after(30)
    second = sweep(at_noon, 32, first["swept_until"])
    assert second["leases_expired"] == 1
    assert second["swept_until"] < after(30)
    other.rollback()
    assert sweep(at_noon, 33, second["swept_until"]) == {"leases_expired": 1, "deadlines_passed": 0, "swept_until": after(33)}


def test_leases_beyond_the_limit_of_a_sweep_are_ended_by_the_next(at_noon: Connection) -> None:
    spawn_and_claim_some(at_noon, 3)
    ended, place = [], None
    for moment in range(40, 44):
        swept = sweep(at_noon, moment, place, limit=1)
        ended.append(swept["leases_expired"])
        place = swept["swept_until"]
    assert ended == [1, 1, 1, 0]
    assert place == after(43)


def test_a_deadline_that_a_sweep_could_not_see_to_is_seen_to_by_the_next(at_noon: Connection, other: Connection) -> None:
    spawn(at_noon, options={"cancellation": {"max_delay": 5}})
    spawn(at_noon, options={"cancellation": {"max_delay": 10}})
    other.execute("select from absurd.runs order by deadline_at limit 1 for update")
    first = sweep(at_noon, 20)
    assert (first["deadlines_passed"], first["swept_until"] < after(5)) == (1, True)
    other.rollback()
    assert sweep(at_noon, 21, first["swept_until"]) == {"leases_expired": 0, "deadlines_passed": 1, "swept_until": after(21)}


def test_a_deadline_that_was_committed_after_a_sweep_had_passed_it_is_found_by_the_next(at_noon: Connection) -> None:
    """A task that may not wait is spawned while a sweep looks: its deadline is a moment older than the place of the sweep."""
    spawn(at_noon, options={"cancellation": {"max_delay": 0}})
    assert sweep(at_noon, 2, after(0.5)) == {"leases_expired": 0, "deadlines_passed": 1, "swept_until": after(2)}


def test_what_gets_a_lease_of_long_ago_is_found_by_a_sweep_from_the_beginning(at_noon: Connection) -> None:
    """It is what a place costs: a claim that was committed after its lease had run out, or a change by hand."""
    spawn_and_claim_some(at_noon, 1)
    at_noon.execute("update absurd.runs set lease_expires_at = %s", (after(1),))
    assert sweep(at_noon, 20, after(10))["leases_expired"] == 0
    assert sweep(at_noon, 20)["leases_expired"] == 1


def test_a_sweep_that_lets_others_settle_or_is_not_alone_keeps_its_place(at_noon: Connection, other: Connection) -> None:
    set_clock(at_noon, after(60))
    settling = "select swept_until from absurd.sweep(p_settling => true, p_after => %s)"
    assert value(at_noon, settling, after(10)) == after(10)
    other.execute("select pg_advisory_xact_lock(hashtextextended('absurd sweep', 0))")
    assert sweep(at_noon, 61, after(10))["swept_until"] == after(10)


def test_a_promotion_says_until_when_it_has_looked(at_noon: Connection) -> None:
    for seconds in (5, 9):
        spawn(at_noon, options={"available_at": after(seconds).isoformat()})
    assert promote(at_noon, 6) == {"promoted": 1, "next_due": after(9), "looked_until": after(6)}
    assert promote(at_noon, 9, after(6)) == {"promoted": 1, "next_due": None, "looked_until": after(9)}
    assert len(claim_all(at_noon, 3)) == 2


def test_a_sleeper_that_a_promotion_could_not_wake_is_woken_by_the_next(at_noon: Connection, other: Connection) -> None:
    for seconds in (5, 9):
        spawn(at_noon, options={"available_at": after(seconds).isoformat()})
    other.execute("select from absurd.runs order by available_at limit 1 for update")
    first = promote(at_noon, 100)
    assert first == {"promoted": 1, "next_due": after(5), "looked_until": after(5)}
    other.rollback()
    assert promote(at_noon, 101, first["looked_until"]) == {"promoted": 1, "next_due": None, "looked_until": after(101)}


def test_sleepers_beyond_the_limit_of_a_promotion_are_woken_by_the_next(at_noon: Connection) -> None:
    for seconds in (5, 6, 7):
        spawn(at_noon, options={"available_at": after(seconds).isoformat()})
    first = promote(at_noon, 60, limit=2)
    assert first == {"promoted": 2, "next_due": after(7), "looked_until": after(7)}
    assert promote(at_noon, 60, first["looked_until"])["promoted"] == 1


def test_a_promotion_goes_back_a_second_and_one_from_the_beginning_further(at_noon: Connection) -> None:
    """What was committed a little after its time, and what long after it."""
    spawn(at_noon, options={"available_at": after(9.5).isoformat()})
    spawn(at_noon, options={"available_at": after(5).isoformat()})
    assert promote(at_noon, 12, after(10)) == {"promoted": 1, "next_due": None, "looked_until": after(12)}
    assert promote(at_noon, 12)["promoted"] == 1


def test_a_deadline_before_all_times_is_seen_to_by_a_sweep_from_the_beginning(at_noon: Connection) -> None:
    spawn(at_noon, options={"cancellation": {"max_delay": 5}})
    at_noon.execute("update absurd.runs set deadline_at = '-infinity'")
    assert sweep(at_noon, 1)["deadlines_passed"] == 1
