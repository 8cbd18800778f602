"""Triggers, two at the same moment: the loser sees what the winner did, and nothing is fired twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd.db import run
from absurd.queries import triggers as queries
from absurd.triggers import Fire
from absurd.triggers.fires import prepare
from tests.sql.calls import NOON, Connection, after, claim, complete, fail, rows, set_clock, value
from tests.sql.concurrent import Background
from tests.sql.trigger_calls import executions, fire, info, poll_once, register, settle, take, taken


@pytest.fixture
def first(database_url: str) -> Iterator[Connection]:
    """The session that comes first and holds its transaction open."""
    with psycopg.connect(database_url) as connection:
        yield connection


def end(first: Connection, commit: bool) -> None:
    first.commit() if commit else first.rollback()


@pytest.mark.parametrize("commit", [True, False])
def test_l32_two_processes_claim_at_once_and_one_of_them_polls(conn: Connection, first: Connection, commit: bool) -> None:
    register(conn)
    assert take(first, "a") is not None
    assert take(conn, "b") is None
    end(first, commit)
    assert (take(conn, "b") is None) is commit


@pytest.mark.parametrize("commit", [True, False])
def test_l32_settlement_waits_for_a_takeover_in_progress_and_then_does_not_count(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    set_clock(conn, NOON)
    register(conn)
    late = taken(conn, "a")
    set_clock(first, after(10))
    assert take(first, "b") is not None
    second = Background(database_url, lambda c: settle(c, late, fire(), state='{"late": 1}')).wait_until_blocked()
    end(first, commit)
    assert second.result().fires == (["lost"] if commit else ["fired"])
    assert value(conn, "select count(*) from absurd.tasks") == (0 if commit else 1)


@pytest.mark.parametrize("commit", [True, False])
def test_l32_takeover_passes_over_a_settlement_in_progress(conn: Connection, first: Connection, commit: bool) -> None:
    set_clock(conn, NOON)
    register(conn)
    poll = taken(conn, "a")
    set_clock(first, NOON)
    assert settle(first, poll, fire()).fires == ["fired"]
    set_clock(conn, after(6))
    assert take(conn, "b") is None
    end(first, commit)
    assert (take(conn, "b") is None) is commit
    assert value(conn, "select count(*) from absurd.tasks") == (1 if commit else 0)


@pytest.mark.parametrize("commit", [True, False])
def test_l29_settlement_waits_for_a_disabling_in_progress(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    register(conn)
    poll = taken(conn)
    run(first, queries.set_trigger_enabled("t", False))
    second = Background(database_url, lambda c: settle(c, poll, fire())).wait_until_blocked()
    end(first, commit)
    assert second.result().fires == (["disabled"] if commit else ["fired"])


def test_l10_task_that_is_being_retried_counts_as_active(conn: Connection, first: Connection) -> None:
    register(conn)
    assert poll_once(conn, fire({"a": 1})) == ["fired"]
    fail(conn, claim(conn))
    rows(first, "select absurd.retry_task('default', task_id) from absurd.tasks")
    assert poll_once(conn, fire({"a": 1})) == ["skipped"]
    first.commit()
    assert executions(conn)[0].completed_at is None
    assert value(conn, "select completed_at from absurd.trigger_executions") is None


@pytest.mark.parametrize("commit", [True, False])
def test_l10_retry_waits_for_a_fire_that_notes_the_end_of_the_task_and_makes_it_active_again(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    register(conn)
    old = fire({"a": 1})
    assert poll_once(conn, old) == ["fired"]
    fail(conn, claim(conn))
    rows(conn, "update absurd.triggers set next_poll_at = absurd.current_time()")
    poll = taken(conn)
    assert settle(first, poll, fire({"a": 1})).fires == ["fired"]
    retry = Background(database_url, lambda c: rows(c, "select absurd.retry_task('default', %s)", old.task_id))
    retry.wait_until_blocked()
    end(first, commit)
    retry.result()
    assert value(conn, "select completed_at from absurd.trigger_executions where task_id = %s", old.task_id) is None


@pytest.mark.parametrize("commit", [True, False])
def test_l10_task_that_is_being_completed_is_active_until_that_commits(conn: Connection, first: Connection, commit: bool) -> None:
    register(conn)
    assert poll_once(conn, fire({"a": 1})) == ["fired"]
    complete(first, claim(conn))
    assert poll_once(conn, fire({"a": 1})) == ["skipped"]
    end(first, commit)
    assert poll_once(conn, fire({"a": 1})) == (["fired"] if commit else ["skipped"])


@pytest.mark.parametrize("commit", [True, False])
def test_settlement_waits_for_a_drop_of_the_queue(conn: Connection, first: Connection, database_url: str, commit: bool) -> None:
    register(conn)
    poll = taken(conn)
    rows(first, "select absurd.drop_queue('default')")
    second = Background(database_url, lambda c: settle(c, poll, fire())).wait_until_blocked()
    end(first, commit)
    assert second.result().fires == (["lost"] if commit else ["fired"])
    left = value(conn, "select count(*) from absurd.tasks") + value(conn, "select count(*) from absurd.trigger_executions")
    assert left == (0 if commit else 2)


@pytest.mark.parametrize("commit", [True, False])
def test_drop_of_a_queue_waits_for_a_settlement_and_takes_its_task_along(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    register(conn)
    assert settle(first, taken(conn), fire()).fires == ["fired"]
    drop = Background(database_url, lambda c: rows(c, "select absurd.drop_queue('default')")).wait_until_blocked()
    end(first, commit)
    drop.result()
    assert run(conn, queries.list_triggers()) == []
    assert value(conn, "select count(*) from absurd.tasks") == value(conn, "select count(*) from absurd.trigger_executions") == 0


def test_settlement_follows_a_registration_that_moves_the_trigger_to_another_queue(
    conn: Connection, first: Connection, database_url: str
) -> None:
    rows(conn, "select absurd.create_queue('other')")
    register(conn)
    poll = taken(conn)
    register(first, queue_name="other")
    second = Background(database_url, lambda c: settle(c, poll, fire())).wait_until_blocked()
    first.commit()
    assert second.result().fires == ["fired"]
    assert value(conn, "select queue_name from absurd.tasks") == "other"


def test_k19_rows_that_somebody_has_locked_do_not_hold_up_the_other_triggers(conn: Connection, first: Connection) -> None:
    set_clock(conn, NOON)
    register(conn)
    register(conn, "u")
    held = taken(conn, "a")
    rows(first, "select from absurd.triggers where trigger_name = 't' for update")
    found = run(conn, queries.claim_trigger_polls("a", ["t", "u"], [held.poll_id]))
    assert [poll.trigger_name for poll in found] == ["u"]
    with pytest.raises(Exception, match="lock timeout"):
        register(conn, poll_interval=9.0)
    first.rollback()
    assert info(conn).poll_interval == 2.0


def test_two_registrations_of_one_name_make_one_row(conn: Connection, first: Connection, database_url: str) -> None:
    register(first, task_name="one")
    second = Background(database_url, lambda c: register(c, task_name="two")).wait_until_blocked()
    first.commit()
    second.result()
    assert info(conn).task_name == "two"


def test_same_context_is_fired_once_by_trigger_and_hash_however_many_fires_one_poll_brings(conn: Connection) -> None:
    register(conn)
    fires = [prepare("t", Fire({"n": number % 3})) for number in range(9)]
    answers: list[Any] = settle(conn, taken(conn), *fires).fires
    assert answers == ["fired"] * 3 + ["skipped"] * 6
