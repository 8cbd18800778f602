"""Claims that go on where the last one ended: what they find at once, and what only a full look finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from absurd.db import run
from absurd.queries import runs as queries
from tests.sql.calls import NOON, QUEUE, Connection, after, set_clock, spawn

Claimed = tuple[list[UUID], str | None]


@pytest.fixture
def other(conn: Connection, database_url: str) -> Iterator[Connection]:
    """A second session, whose transactions the test ends."""
    with psycopg.connect(database_url) as made:
        yield made


@pytest.fixture(autouse=True)
def clock(conn: Connection) -> None:
    set_clock(conn, NOON)


def claim(conn: Connection, limit: int, place: str | None = None) -> Claimed:
    """The tasks of a claim, and where the next one may go on."""
    claimed = run(conn, queries.claim_runs(QUEUE, "w", 30, limit, place))
    places = [one.next_after for one in claimed if one.next_after is not None]
    assert len(places) == (1 if claimed else 0)
    return [one.task_id for one in claimed], places[0] if places else None


def spawn_at(conn: Connection, seconds: float, priority: int = 0) -> UUID:
    set_clock(conn, after(seconds))
    task_id = spawn(conn, options={"priority": priority})["task_id"]
    assert isinstance(task_id, UUID)
    return task_id


def test_claims_from_place_to_place_take_everything_once_and_in_order(conn: Connection) -> None:
    spawned = [(-priority, n, spawn_at(conn, n, priority)) for n in range(5) for priority in (0, 3, -2)]
    taken: list[UUID] = []
    place = None
    while len(taken) < len(spawned):
        found, place = claim(conn, 2, place)
        taken += found
        assert found
    assert taken == [task_id for *_, task_id in sorted(spawned)]


def test_rows_of_one_moment_are_not_passed_over(conn: Connection) -> None:
    spawned = {spawn_at(conn, 0) for _ in range(7)}
    first, place = claim(conn, 3)
    second, place = claim(conn, 3, place)
    third, _ = claim(conn, 3, place)
    assert sorted(first + second + third) == sorted(spawned)


@pytest.mark.parametrize("priority", [1, 5, 32767])
def test_a_new_row_of_a_better_priority_is_next_whatever_the_place(conn: Connection, priority: int) -> None:
    spawn_at(conn, 0, priority=5)
    waiting = [spawn_at(conn, n) for n in range(1, 6)]
    _, place = claim(conn, 3)  # has a place in priority 5, and one in 0
    urgent = spawn_at(conn, 10, priority)
    found, _ = claim(conn, 2, place)
    assert found == [urgent, waiting[2]]


def test_a_row_that_was_committed_out_of_order_is_found_by_the_claim_that_finds_too_little(
    conn: Connection, other: Connection
) -> None:
    late = spawn_at(other, 0)
    soon = spawn_at(conn, 0.5)
    found, place = claim(conn, 1)
    assert found == [soon]
    other.commit()
    assert claim(conn, 1, place)[0] == [late]


def test_a_row_far_behind_the_place_is_left_to_a_full_look(conn: Connection, other: Connection) -> None:
    late = spawn_at(other, 0)
    spawn_at(conn, 5)
    _, place = claim(conn, 1)
    other.commit()
    assert claim(conn, 1, place) == ([], None)
    assert claim(conn, 1)[0] == [late]


def test_a_place_never_goes_back(conn: Connection, other: Connection) -> None:
    late = spawn_at(other, 0)
    spawn_at(conn, 0.5)
    _, place = claim(conn, 1)
    other.commit()
    found, behind = claim(conn, 1, place)
    assert found == [late]
    assert behind == place


def test_two_workers_at_different_places_never_get_the_same_row(conn: Connection, other: Connection) -> None:
    spawned = [spawn_at(conn, n) for n in range(6)]
    _, place = claim(conn, 1)
    set_clock(other, after(10))
    held, _ = claim(other, 2)  # in a transaction that is still open
    found, place = claim(conn, 9, place)
    assert (held, found) == (spawned[1:3], spawned[3:])
    other.rollback()  # that worker has died
    assert claim(conn, 9, place) == ([], None)  # more than a second before the place
    assert claim(conn, 9)[0] == spawned[1:3]


def test_many_priorities_are_all_served(conn: Connection) -> None:
    spawned = [spawn_at(conn, 0, priority) for priority in range(40, 0, -1)]
    taken: list[UUID] = []
    place = None
    for _ in range(10):
        found, place = claim(conn, 4, place)
        taken += found
    assert taken == spawned


@pytest.mark.parametrize("place", ["{}", '{"(,,)"}'])
def test_a_place_that_says_nothing_is_a_full_look(conn: Connection, place: Any) -> None:
    spawned = spawn_at(conn, 0)
    assert claim(conn, 1, place)[0] == [spawned]
