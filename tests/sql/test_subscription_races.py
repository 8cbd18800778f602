"""Subscriptions, emits, keys and queues that change at the same moment, in both orders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.sql.calls import Connection, claim, emit, row, rows, spawn, value
from tests.sql.concurrent import Background
from tests.sql.test_subscriptions import append, dispatch, started, subscribe, unsubscribe


@pytest.fixture
def first(database_url: str) -> Iterator[Connection]:
    """The session that comes first and holds its transaction open."""
    with psycopg.connect(database_url) as connection:
        yield connection


@pytest.fixture
def snapshot(database_url: str) -> Iterator[Connection]:
    """A session in REPEATABLE READ."""
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection


def end(first: Connection, commit: bool) -> None:
    first.commit() if commit else first.rollback()


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("pattern", ["e", "e*", "*"])
def test_g7_an_emit_waits_for_a_subscribe_in_progress_and_reaches_it(
    conn: Connection, first: Connection, database_url: str, pattern: str, commit: bool
) -> None:
    subscribe(first, pattern, "a")
    second = Background(database_url, lambda c: emit(c, "e")).wait_until_blocked()
    end(first, commit)
    second.result()
    assert started(conn) == (["a"] if commit else [])


@pytest.mark.parametrize("commit", [True, False])
def test_g7_a_subscribe_waits_for_an_emit_in_progress_and_gets_what_is_committed_after_it(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    emit(first, "e", "before")
    second = Background(database_url, lambda c: subscribe(c, "e", "a")).wait_until_blocked()
    end(first, commit)
    second.result()
    emit(conn, "e", "after")
    assert value(conn, "select json_agg(params -> 'event_payload') from absurd.tasks") == ["after"]


def test_g7_no_emission_is_missed_between_subscribe_and_its_commit(
    conn: Connection, first: Connection, database_url: str
) -> None:
    """Whoever lists events after he has subscribed sees each emission there or gets it as a task: none falls between."""
    emit(first, "e", 1)
    second = Background(database_url, lambda c: (subscribe(c, "e", "a"), rows(c, "select * from absurd.list_events()")))
    second.wait_until_blocked()
    first.commit()
    assert [event["payload"] for event in second.result()[1]] == [1]


@pytest.mark.parametrize("commit", [True, False])
def test_g4_an_emit_waits_for_an_unsubscribe_in_progress(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    subscribe(conn, "e", "a")
    assert unsubscribe(first, "e", "a")
    second = Background(database_url, lambda c: emit(c, "e")).wait_until_blocked()
    end(first, commit)
    second.result()
    assert started(conn) == ([] if commit else ["a"])


def test_g4_when_an_unsubscribe_has_returned_nothing_is_started_any_more(
    conn: Connection, first: Connection, database_url: str
) -> None:
    subscribe(conn, "e", "a")
    emit(first, "e")
    second = Background(database_url, lambda c: (unsubscribe(c, "e", "a"), started(c))).wait_until_blocked()
    first.commit()
    assert second.result() == (True, ["a"])
    assert started(conn) == ["a"]


def test_g1_the_same_subscription_again_waits_for_no_emit(conn: Connection, first: Connection, database_url: str) -> None:
    number = subscribe(conn, "e", "a", {"config": 1})
    emit(first, "e")
    assert Background(database_url, lambda c: subscribe(c, "e", "a", {"config": 1})).result() == number


def test_g1_of_two_that_subscribe_the_same_at_once_both_get_the_one(
    conn: Connection, first: Connection, database_url: str
) -> None:
    number = subscribe(first, "e", "a")
    second = Background(database_url, lambda c: subscribe(c, "e", "a")).wait_until_blocked()
    first.commit()
    assert second.result() == number
    assert value(conn, "select count(*) from absurd.subscriptions") == 1


def test_k2_emits_of_two_names_for_one_subscriber_do_not_wait_for_each_other(
    conn: Connection, first: Connection, database_url: str
) -> None:
    subscribe(conn, "e*", "a")
    emit(first, "e1")
    Background(database_url, lambda c: emit(c, "e2")).result()
    assert started(conn) == ["a"]
    first.commit()
    assert started(conn) == ["a", "a"]


def test_k2_two_emits_of_a_name_at_once_start_it_twice(conn: Connection, first: Connection, database_url: str) -> None:
    subscribe(conn, "e", "a")
    emit(first, "e", 1)
    second = Background(database_url, lambda c: emit(c, "e", 2)).wait_until_blocked()
    first.commit()
    second.result()
    tasks = rows(conn, "select t.params from absurd.event_tasks e join absurd.tasks t using (task_id) order by e.seq")
    assert [task["params"]["event_payload"] for task in tasks] == [1, 2]


def test_k19_emits_that_fail_for_one_subscriber_do_not_wait_for_each_other(
    conn: Connection, first: Connection, database_url: str
) -> None:
    rows(conn, "select absurd.create_queue('gone')")
    subscribe(conn, "e*", "a", {"target_queue": "gone"})
    rows(conn, "select absurd.drop_queue('gone')")
    emit(first, "e1")
    Background(database_url, lambda c: emit(c, "e2")).result()
    first.commit()
    assert value(conn, "select count(*) from absurd.event_tasks where status = 'no_queue'") == 2


@pytest.mark.parametrize("by", ["sweep", "the next emit", "a claim", "a repeated key"])
def test_k2_what_a_repeatable_read_emitted_is_started_later_and_once(conn: Connection, snapshot: Connection, by: str) -> None:
    subscribe(conn, "e", "a")
    append(snapshot, "e", "key")
    snapshot.commit()
    assert started(conn) == []
    if by == "sweep":
        assert row(conn, "select * from absurd.sweep()")["events_delivered"] == 1
    elif by == "the next emit":
        emit(conn, "e")
    elif by == "a claim":
        rows(conn, "select * from absurd.claim_task('default', 'w')")
    else:
        assert [a["task_name"] for a in dispatch(conn, "e", key="key")] == ["a"]
    wanted = ["a", "a"] if by == "the next emit" else ["a"]
    rows(conn, "select * from absurd.sweep()")
    assert started(conn) == wanted
    assert value(conn, "select bool_and(claimed_at is not null and delivered) from absurd.events")


def test_k2_who_subscribes_after_a_repeatable_read_has_emitted_does_not_get_it(conn: Connection, snapshot: Connection) -> None:
    subscribe(conn, "e", "before")
    emit(snapshot, "e")
    snapshot.commit()
    subscribe(conn, "e*", "after")
    rows(conn, "select * from absurd.sweep()")
    assert started(conn) == ["before"]


def test_k2_an_emit_whose_snapshot_is_older_than_a_subscription_still_reaches_it(conn: Connection, snapshot: Connection) -> None:
    rows(snapshot, "select 1")
    subscribe(conn, "e", "a")
    emit(snapshot, "e")
    snapshot.commit()
    rows(conn, "select * from absurd.sweep()")
    assert started(conn) == ["a"]


@pytest.mark.parametrize("name", ["e", "another"])
@pytest.mark.parametrize("commit", [True, False])
def test_k9_the_second_of_two_with_one_key_waits_for_the_first(
    conn: Connection, first: Connection, database_url: str, commit: bool, name: str
) -> None:
    subscribe(conn, "*", "a")
    seq = append(first, "e", "key")
    second = Background(database_url, lambda c: dispatch(c, name, key="key")).wait_until_blocked()
    end(first, commit)
    [answer] = second.result()
    assert (answer["created"], answer["seq"] == seq) == (not commit, commit)
    assert started(conn) == ["a"]
    assert value(conn, "select count(*) from absurd.events") == 1


def test_k9_a_snapshot_that_cannot_see_the_first_with_its_key_fails_and_emits_nothing(
    conn: Connection, snapshot: Connection
) -> None:
    rows(snapshot, "select 1")
    append(conn, "e", "key")
    with pytest.raises(psycopg.errors.SerializationFailure):
        append(snapshot, "e", "key")
    snapshot.rollback()
    assert value(conn, "select count(*) from absurd.events") == 1


def test_k9_a_key_that_a_cleanup_is_deleting_is_taken_anew(conn: Connection, first: Connection, database_url: str) -> None:
    subscribe(conn, "e", "a")
    old = append(conn, "e", "key")
    rows(first, "select absurd.cleanup_events('default', 0)")
    second = Background(database_url, lambda c: append(c, "e", "key"))
    second.wait_until_blocked()
    first.commit()
    assert second.result() > old


def mailing(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('mail')")
    subscribe(conn, "e", "a", {"target_queue": "mail"})


def test_drop_queue_waits_for_an_emit_that_starts_tasks_in_it(conn: Connection, first: Connection, database_url: str) -> None:
    mailing(conn)
    emit(first, "e")
    second = Background(database_url, lambda c: rows(c, "select absurd.drop_queue('mail')")).wait_until_blocked()
    first.commit()
    second.result()
    assert value(conn, "select count(*) from absurd.tasks") == 0


@pytest.mark.parametrize("commit", [True, False])
def test_an_emit_waits_for_a_drop_of_a_queue_that_it_starts_tasks_in(
    conn: Connection, first: Connection, database_url: str, commit: bool
) -> None:
    mailing(conn)
    rows(first, "select absurd.drop_queue('mail')")
    second = Background(database_url, lambda c: dispatch(c, "e")).wait_until_blocked()
    # It waits before it has the name: those who wait for the event are not held up.
    free = "select pg_try_advisory_xact_lock(absurd.event_lock_key('default', 'e'))"
    assert value(conn, free)
    end(first, commit)
    assert [a["status"] for a in second.result()] == ["no_queue" if commit else "ok"]


@pytest.mark.parametrize("holder", ["subscribe", "drop of the target"])
def test_a_worker_waits_for_nobody_and_asks_again(conn: Connection, first: Connection, holder: str) -> None:
    mailing(conn)
    spawn(conn, "work")
    run = claim(conn)

    def emitted() -> Any:
        return value(conn, """
            select absurd.emit_events(array[%s::uuid], array[%s::uuid], array[1], array['step'], array[0], array['default'],
              array['e'], array[null::json])""", run["task_id"], run["run_id"])  # fmt: skip

    subscribe(first, "other", "b") if holder == "subscribe" else rows(first, "select absurd.drop_queue('mail')")
    rows(conn, "set lock_timeout = '1s'")
    assert emitted() == ["busy"]
    first.rollback()
    assert emitted() == ["ok"]
    assert value(conn, "select count(*) from absurd.event_tasks where status = 'ok'") == 1


def test_a_sweep_leaves_events_whose_target_queue_is_being_dropped(
    conn: Connection, first: Connection, snapshot: Connection
) -> None:
    mailing(conn)
    emit(snapshot, "e")
    snapshot.commit()
    rows(first, "select absurd.drop_queue('mail')")
    rows(conn, "set lock_timeout = '1s'")
    assert row(conn, "select * from absurd.sweep()")["events_delivered"] == 0
    first.rollback()
    assert row(conn, "select * from absurd.sweep()")["events_delivered"] == 1
    assert started(conn) == ["a"]


def test_emits_and_drops_of_their_target_queue_never_deadlock(conn: Connection, database_url: str) -> None:
    mailing(conn)
    rows(conn, "select absurd.create_queue('other')")
    subscribe(conn, "e*", "b", {"target_queue": "other"})
    subscribe(conn, "e", "back", {"target_queue": "default"}, queue="other")
    rounds = 40

    def emits(queue: str) -> Any:
        return lambda c: [emit(c, "e", n, queue=queue) for n in range(rounds)]

    def drops(queue: str) -> Any:
        return lambda c: [rows(c, f"select absurd.{verb}_queue('{queue}')") for _ in range(rounds) for verb in ("drop", "create")]

    running = [Background(database_url, call) for call in (emits("default"), emits("default"), drops("mail"), drops("mail"))]
    for one in running:
        one.result()
    answers = rows(conn, "select status, count(*) as n from absurd.event_tasks where task_name = 'a' group by 1")
    assert sum(a["n"] for a in answers) == 2 * rounds
    assert value(conn, "select count(*) from absurd.event_tasks where task_name = 'b' and status = 'ok'") == 2 * rounds


def test_emits_go_on_while_a_subscribe_waits_for_a_long_transaction(
    conn: Connection, first: Connection, database_url: str
) -> None:
    emit(first, "e")
    second = Background(database_url, lambda c: subscribe(c, "e", "a")).wait_until_blocked()
    conn.execute("set lock_timeout = '5s'")
    for number in range(20):
        emit(conn, f"other {number}")
    first.commit()
    second.result()
    emit(conn, "e")
    assert started(conn) == ["a"]


def test_a_subscribe_gives_up_after_the_lock_timeout_of_its_session(
    conn: Connection, first: Connection, database_url: str
) -> None:
    emit(first, "e")

    def impatient(connection: Connection) -> None:
        connection.execute("set lock_timeout = '300ms'")
        subscribe(connection, "e", "a")

    assert Background(database_url, impatient).code() == "55P03"
    assert value(conn, "select count(*) from absurd.subscriptions") == 0
    first.rollback()
    subscribe(conn, "e", "a")
    assert value(conn, "show lock_timeout") == "0"


def test_g7_a_subscribe_and_an_emitter_that_wait_for_each_other_are_told_so(
    conn: Connection, first: Connection, database_url: str
) -> None:
    rows(conn, "create table orders as select 1 as id")
    emit(first, "e")
    # It may have looked for a deadlock while the subscribe took a pause; it never looks again.
    rows(first, "set deadlock_timeout = '1h'")

    def subscribe_behind_a_row(c: Connection) -> None:
        rows(c, "set deadlock_timeout = '300ms'")
        with c.transaction():
            rows(c, "update orders set id = 2")
            subscribe(c, "e", "a")

    subscriber = Background(database_url, subscribe_behind_a_row).wait_until_blocked()
    emitter = threading.Thread(target=lambda: rows(first, "update orders set id = 3"))
    emitter.start()
    assert subscriber.code() == "40P01"
    emitter.join()
    end(first, commit=True)
    assert value(conn, "select id from orders") == 3
