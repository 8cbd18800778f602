"""Triggers in the database: who polls, what fires, what is remembered."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from absurd.db import run
from absurd.errors import InvalidOptionError, QueueNotFoundError
from absurd.queries import triggers as queries
from absurd.queries.triggers import Settlement, TriggerPoll
from tests.sql.calls import (
    NOON,
    Connection,
    after,
    claim,
    complete,
    fail,
    row,
    rows,
    set_clock,
    sqlstate,
    value,
)
from tests.sql.trigger_calls import executions, fire, info, poll_once, register, settle, take, taken


def test_l18_registration_makes_a_row_that_is_due_at_once(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn, headers='{"team": "x"}')
    found = info(conn)
    assert (found.task_name, found.queue_name, found.poll_interval, found.enabled) == ("work", "default", 2.0, True)
    assert (found.next_poll_at, found.created_at, found.owner, found.last_poll_at) == (NOON, NOON, None, None)


def test_l2_a_name_belongs_to_the_app_that_declared_it_first(conn: Connection) -> None:
    register(conn, declared_by="orders")
    with pytest.raises(InvalidOptionError, match='trigger "t" belongs to the app "orders"'):
        register(conn, declared_by="mail", task_name="other")
    assert info(conn).task_name == "work"
    register(conn, declared_by="orders", task_name="changed")
    assert info(conn).task_name == "changed"
    run(conn, queries.delete_trigger("t"))
    register(conn, declared_by="mail", task_name="other")
    assert info(conn).task_name == "other"


def test_l19_registration_again_brings_up_to_date_and_leaves_what_people_decided_and_what_it_remembers(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn, poll_interval=3600.0)
    settle(conn, taken(conn), state='{"n": 1}')
    run(conn, queries.set_trigger_enabled("t", False))
    set_clock(conn, after(10))
    before = info(conn)
    register(conn, poll_interval=3600.0)
    assert info(conn) == before
    register(conn, task_name="other", poll_interval=5.0, allow_concurrent=True)
    found = info(conn)
    assert (found.task_name, found.allow_concurrent, found.enabled, found.owner) == ("other", True, False, "a")
    assert (found.updated_at, found.next_poll_at) == (after(10), after(15))
    run(conn, queries.set_trigger_enabled("t", True))
    assert json.loads(taken(conn).state) == {"n": 1}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ""}, "trigger name must not be empty"),
        ({"name": "x" * 1001}, "trigger name"),
        ({"task_name": ""}, "task name must not be empty"),
        ({"poll_interval": 0.01}, "poll_interval must be between 0.1"),
        ({"poll_interval": float("nan")}, "poll_interval must be between"),
        ({"poll_interval": None}, "poll_interval must be between"),
        ({"poll_timeout": 1e9}, "poll_timeout must be between"),
        ({"headers": "[1]"}, "headers must be an object"),
        ({"options": '{"max_attempts": 0}'}, "max_attempts must be between"),
        ({"options": '{"idempotency_key": "k"}'}, 'options has no option "idempotency_key"'),
        ({"options": "[]"}, "options must be an object"),
        ({"queue_name": "nowhere"}, 'queue "nowhere" does not exist'),
    ],
)
def test_l18_nothing_is_stored_that_a_later_poll_would_stumble_over(
    conn: Connection, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises((InvalidOptionError, QueueNotFoundError), match=problem):
        register(conn, **changes)
    assert run(conn, queries.list_triggers()) == []


def test_l9_fire_spawns_a_task_with_the_options_of_the_trigger_and_its_source(conn: Connection) -> None:
    register(conn, options='{"max_attempts": 3, "priority": 7}', headers='{"team": "x"}')
    one = fire({"a": 1})
    assert settle(conn, taken(conn), one).fires == ["fired"]
    task = row(conn, "select * from absurd.tasks")
    assert (task["task_id"], task["task_name"], task["max_attempts"], task["priority"]) == (one.task_id, "work", 3, 7)
    assert task["headers"] == {"absurd-source": {"kind": "trigger", "name": "t"}, "team": "x"}
    assert executions(conn)[0].context_hash == one.context_hash


def test_l32_params_carry_the_context_in_its_order_the_name_and_the_database_s_time(conn: Connection) -> None:
    set_clock(conn, NOON)
    rows(conn, "set time zone 'Asia/Tokyo'")
    register(conn)
    settle(conn, taken(conn), fire({"zebra": 1, "a": 12345678901234567890, "é": [1.0, None]}), fire())
    stored = [found["params"] for found in rows(conn, "select params::text as params from absurd.tasks order by task_id")]
    added = {"trigger_name": "t", "triggered_at": "2025-06-01T12:00:00.000000+00:00"}
    assert list(json.loads(stored[0]).items()) == [
        ("zebra", 1), ("a", 12345678901234567890), ("é", [1.0, None]), *added.items()
    ]  # fmt: skip
    assert "1.0" in stored[0]
    assert json.loads(stored[1]) == added


def test_l10_fire_is_skipped_while_an_execution_with_the_same_context_is_active(conn: Connection) -> None:
    register(conn)
    assert poll_once(conn, fire({"a": 1, "b": 2})) == ["fired"]
    assert poll_once(conn, fire({"b": 2.0, "a": 1})) == ["skipped"]
    assert poll_once(conn, fire({"a": 2})) == ["fired"]
    assert poll_once(conn, fire(), fire(), fire({"a": 2})) == ["fired", "skipped", "skipped"]
    register(conn, "u")
    rows(conn, "update absurd.triggers set next_poll_at = absurd.current_time()")
    assert settle(conn, taken(conn, name="u"), fire({"a": 1, "b": 2})).fires == ["fired"]
    assert value(conn, "select count(*) from absurd.tasks") == 4


def end_by_completion(conn: Connection) -> None:
    complete(conn, claim(conn))


def end_by_failure(conn: Connection) -> None:
    fail(conn, claim(conn))


def end_by_cancellation(conn: Connection) -> None:
    rows(conn, "select absurd.cancel_task('default', task_id) from absurd.tasks where outcome is null")


def end_by_crash(conn: Connection) -> None:
    claim(conn, timeout=1)
    set_clock(conn, after(60))
    rows(conn, "select absurd.sweep()")
    set_clock(conn, None)


def end_by_clean_up(conn: Connection) -> None:
    complete(conn, claim(conn))
    rows(conn, "select absurd.cleanup_tasks('default', 0)")


ENDS = [end_by_completion, end_by_failure, end_by_cancellation, end_by_crash, end_by_clean_up]


@pytest.mark.parametrize("end", ENDS)
def test_l10_dedup_ends_with_the_task_however_it_ends(conn: Connection, end: Any) -> None:
    if end is end_by_crash:
        set_clock(conn, NOON)
    register(conn)
    assert poll_once(conn, fire({"a": 1})) == ["fired"]
    assert poll_once(conn, fire({"a": 1})) == ["skipped"]
    end(conn)
    assert poll_once(conn, fire({"a": 1})) == ["fired"]
    newest, oldest = executions(conn)
    assert newest.completed_at is None
    assert oldest.completed_at is not None


def test_l10_sleeping_and_retrying_tasks_are_active(conn: Connection) -> None:
    register(conn, options='{"max_attempts": 2, "retry_strategy": {"kind": "fixed", "base_seconds": 3600}}')
    assert poll_once(conn, fire()) == ["fired"]
    fail(conn, claim(conn))
    assert value(conn, "select state from absurd.runs") == "sleeping"
    assert poll_once(conn, fire()) == ["skipped"]


@pytest.mark.parametrize("looked", [True, False], ids=["its end was noted", "nobody looked"])
def test_l10_task_that_is_retried_by_hand_is_active_again(conn: Connection, looked: bool) -> None:
    register(conn)
    assert poll_once(conn, fire({"a": 1})) == ["fired"]
    fail(conn, claim(conn))
    if looked:
        value(conn, "select absurd.has_active_execution('t', %s)", fire({"a": 1}).context_hash)
        assert value(conn, "select completed_at is not null from absurd.trigger_executions")
    rows(conn, "select absurd.retry_task('default', task_id) from absurd.tasks")
    assert poll_once(conn, fire({"a": 1})) == ["skipped"]
    assert executions(conn)[0].completed_at is None
    complete(conn, claim(conn))
    assert poll_once(conn, fire({"a": 1})) == ["fired"]


def test_l12_with_allow_concurrent_nothing_is_skipped(conn: Connection) -> None:
    register(conn, allow_concurrent=True)
    assert [poll_once(conn, fire({"a": 1}), fire({"a": 1})) for _ in range(2)] == [["fired", "fired"]] * 2


def test_l28_l31_history_is_newest_first_in_pages_and_survives_clean_up(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn, allow_concurrent=True)
    fires = [fire({"n": number}) for number in range(5)]
    for number, one in enumerate(fires):
        set_clock(conn, after(number))
        poll_once(conn, one)
    complete(conn, claim(conn))
    rows(conn, "select absurd.cleanup_tasks('default', 0)")
    found = executions(conn, limit=2)
    assert [one.task_id for one in found] == [fires[4].task_id, fires[3].task_id]
    rest = executions(conn, before=found[-1].execution_id)
    assert [(one.task_id, one.context_hash, one.started_at) for one in rest] == [
        (one.task_id, one.context_hash, after(number)) for number, one in reversed(list(enumerate(fires[:3])))
    ]
    assert [(one.completed_at, one.task_state) for one in rest] == [(None, "pending"), (None, "pending"), (after(4), None)]
    with pytest.raises(InvalidOptionError, match='there is no trigger "nobody"'):
        run(conn, queries.list_trigger_executions("nobody", None, 1))


def test_l31_clean_up_keeps_the_newest_thousand_executions_and_those_with_a_task(conn: Connection) -> None:
    register(conn, allow_concurrent=True)
    kept = fire({"kept": True})
    poll_once(conn, kept)
    poll_once(conn, *(fire({"n": number}) for number in range(1100)))
    rows(conn, "select absurd.cancel_task('default', task_id) from absurd.tasks where task_id <> %s", kept.task_id)
    while value(conn, "select absurd.cleanup_tasks('default', 0, 400)"):
        pass
    assert value(conn, "select count(*) from absurd.tasks") == 1
    assert value(conn, "select count(*) from absurd.trigger_executions") == 1001
    assert value(conn, "select task_id from absurd.trigger_executions order by execution_id limit 1") == kept.task_id


def test_l32_trigger_is_polled_by_one_process_which_keeps_it_between_polls(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn)
    poll = taken(conn, "a")
    assert take(conn, "b") is None
    assert settle(conn, poll).next_in == 2
    assert take(conn, "a") is None
    set_clock(conn, after(2))
    assert take(conn, "b") is None
    assert taken(conn, "a").poll_id != poll.poll_id


def test_l32_process_that_died_is_replaced_when_its_lease_has_run_out(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn)
    dead = taken(conn, "a")
    set_clock(conn, after(4.9))
    assert take(conn, "b") is None
    set_clock(conn, after(5))
    alive = taken(conn, "b")
    assert settle(conn, dead, fire({"a": 1}), state='{"by": "a"}') == Settlement("lost", ["lost"], None, None)
    assert value(conn, "select count(*) from absurd.tasks") == 0
    assert settle(conn, alive, fire({"a": 1})).fires == ["fired"]
    assert (info(conn).owner, json.loads(taken_later(conn).state)) == ("b", {})


def taken_later(conn: Connection) -> TriggerPoll:
    rows(conn, "update absurd.triggers set next_poll_at = absurd.current_time()")
    return taken(conn, "b")


def test_l32_lease_of_a_poll_that_runs_is_renewed(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn)
    poll = taken(conn, "a")
    for second in (4, 8, 12):
        set_clock(conn, after(second))
        assert take(conn, "a", "other", (poll.poll_id,)) is None
        assert take(conn, "b") is None
    assert settle(conn, poll, fire()).fires == ["fired"]


def test_l21_process_that_stops_leaves_its_triggers_to_others_at_once(conn: Connection) -> None:
    register(conn)
    register(conn, "u")
    poll = taken(conn, "a")
    taken(conn, "b", "u")
    assert run(conn, queries.release_triggers("a")) == 1
    assert take(conn, "b") is not None
    assert settle(conn, poll, fire()).status == "lost"
    assert info(conn, "u").owner == "b"


def test_settlement_is_repeated_without_harm_when_its_answer_was_lost(conn: Connection) -> None:
    register(conn)
    poll, fires = taken(conn), [fire({"n": 1}), fire({"n": 2})]
    assert settle(conn, poll, *fires).fires == ["fired", "fired"]
    assert settle(conn, poll, *fires).fires == ["fired", "fired"]
    poll_once(conn)
    assert settle(conn, poll, *fires).fires == ["fired", "fired"]
    assert value(conn, "select count(*) from absurd.tasks") == value(conn, "select count(*) from absurd.trigger_executions") == 2


def test_repeated_error_of_one_poll_counts_once(conn: Connection) -> None:
    register(conn)
    poll = taken(conn)
    settle(conn, poll, error="broken")
    assert settle(conn, poll, error="broken").status == "lost"
    assert info(conn).failures == 1


def test_l27_error_is_kept_and_polls_go_on_with_back_off_until_one_goes_well(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn)
    now, delays = 0.0, []
    for number in range(9):
        answer = settle(conn, taken(conn), error=f"broken {number}")
        assert answer.next_in is not None
        delays.append(answer.next_in)
        now += answer.next_in
        set_clock(conn, after(now))
    assert delays == [4, 8, 16, 32, 64, 128, 256, 300, 300]
    found = info(conn)
    assert (found.failures, found.last_error) == (9, "broken 8")
    assert found.last_error_at == after(now - 300)
    assert settle(conn, taken(conn)).next_in == 2
    assert (info(conn).failures, info(conn).last_error) == (0, None)


def test_l27_back_off_never_polls_more_often_than_the_interval(conn: Connection) -> None:
    register(conn, poll_interval=3600.0)
    assert settle(conn, taken(conn), error="broken").next_in == 3600


def test_l27_error_changes_nothing_that_the_trigger_remembers(conn: Connection) -> None:
    register(conn)
    poll_once(conn, state='{"n": 1}')
    poll_once(conn, error="broken", state='{"n": 2}')
    rows(conn, "update absurd.triggers set next_poll_at = absurd.current_time()")
    assert json.loads(taken(conn).state) == {"n": 1}


def test_k19_fire_that_the_queue_refuses_is_an_error_of_its_poll_and_leaves_nothing_of_it(conn: Connection) -> None:
    register(conn)
    rows(conn, "update absurd.queues set max_payload_bytes = 1024")
    answer = settle(conn, taken(conn), fire({"n": 1}), fire({"text": "x" * 2000}), state='{"n": 1}')
    assert (answer.status, answer.fires) == ("refused", [])
    assert "allows 1024" in str(answer.message)
    assert value(conn, "select count(*) from absurd.tasks") == value(conn, "select count(*) from absurd.trigger_executions") == 0
    assert (info(conn).failures, info(conn).last_error) == (1, answer.message)


def test_l29_disabled_trigger_is_not_polled_and_fires_nothing_from_a_poll_in_flight(conn: Connection) -> None:
    register(conn)
    poll = taken(conn)
    run(conn, queries.set_trigger_enabled("t", False))
    answer = settle(conn, poll, fire(), state='{"n": 1}')
    assert (answer.status, answer.fires) == ("disabled", ["disabled"])
    rows(conn, "update absurd.triggers set next_poll_at = absurd.current_time()")
    assert take(conn) is None
    run(conn, queries.set_trigger_enabled("t", True))
    assert json.loads(taken(conn).state) == {}
    assert value(conn, "select count(*) from absurd.tasks") == 0


def test_l29_enabling_polls_at_once_and_an_unknown_name_is_an_error(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn, poll_interval=3600.0)
    settle(conn, taken(conn))
    run(conn, queries.set_trigger_enabled("t", False))
    run(conn, queries.set_trigger_enabled("t", False))
    set_clock(conn, after(5))
    run(conn, queries.set_trigger_enabled("t", True))
    assert info(conn).next_poll_at == after(5)
    assert sqlstate(conn, "select absurd.set_trigger_enabled('nobody', true)") == ("AB012", 'there is no trigger "nobody"')


def test_deleted_trigger_takes_its_history_along_and_a_late_settlement_changes_nothing(conn: Connection) -> None:
    register(conn)
    poll_once(conn, fire())
    rows(conn, "update absurd.triggers set next_poll_at = absurd.current_time()")
    poll = taken(conn)
    assert run(conn, queries.delete_trigger("t")) is True
    assert run(conn, queries.delete_trigger("t")) is False
    assert settle(conn, poll, fire({"late": 1})).status == "lost"
    register(conn)
    assert settle(conn, poll, fire({"late": 1})).status == "lost"
    assert value(conn, "select count(*) from absurd.trigger_executions") == 0
    assert run(conn, queries.missing_triggers(["t", "u"])) == ["u"]


def test_dropped_queue_takes_its_triggers_and_their_history_along(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('other')")
    register(conn, queue_name="other")
    register(conn, "u")
    poll_once(conn, fire())
    rows(conn, "select absurd.drop_queue('other')")
    assert [one.name for one in run(conn, queries.list_triggers())] == ["u"]
    assert value(conn, "select count(*) from absurd.trigger_executions") == 0


def test_trigger_that_moved_goes_on_when_its_former_queue_is_dropped(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('other')")
    register(conn, queue_name="other")
    assert poll_once(conn, fire()) == ["fired"]
    register(conn)
    assert poll_once(conn, fire()) == ["skipped"]
    rows(conn, "select absurd.drop_queue('other')")
    assert poll_once(conn, fire()) == ["fired"]
    assert [one.completed_at is None for one in executions(conn)] == [True, False]


def test_l22_ready_tasks_are_counted_up_to_the_limit(conn: Connection) -> None:
    for _ in range(5):
        rows(conn, "select absurd.spawn_task('default', 'work', '{}')")
    rows(conn, "select absurd.spawn_task('default', 'work', '{}', '{\"delay\": 60}')")
    claim(conn)
    assert [run(conn, queries.count_ready("default", limit)) for limit in (1, 4, 5, 100)] == [1, 4, 4, 4]
    with pytest.raises(QueueNotFoundError):
        run(conn, queries.count_ready("nowhere", 1))


def test_poll_is_due_an_interval_after_the_last_one_began(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn, poll_interval=10.0)
    poll = taken(conn)
    set_clock(conn, after(3))
    assert settle(conn, poll).next_in == 7
    set_clock(conn, after(10))
    poll = taken(conn)
    set_clock(conn, after(60))
    assert settle(conn, poll).next_in == 0
    assert info(conn).last_poll_at == NOON + timedelta(seconds=10)


@pytest.mark.parametrize("change", ["a shorter interval", "enabled again"])
def test_l32_a_trigger_that_is_due_sooner_than_said_is_taken_over_then_from_a_process_that_has_died(
    conn: Connection, change: str
) -> None:
    set_clock(conn, NOON)
    register(conn, poll_interval=3600.0)
    settle(conn, taken(conn, "dead"))
    if change == "enabled again":
        run(conn, queries.set_trigger_enabled("t", False))
        set_clock(conn, after(3))
        run(conn, queries.set_trigger_enabled("t", True))
    else:
        register(conn, poll_interval=3.0)
        set_clock(conn, after(3))
    assert take(conn, "alive") is None
    set_clock(conn, after(9))
    assert take(conn, "alive") is not None


def test_l32_a_registration_takes_no_lease_from_a_poll_in_flight(conn: Connection) -> None:
    set_clock(conn, NOON)
    register(conn, poll_interval=3600.0)
    poll = taken(conn, "a")
    set_clock(conn, after(4))
    take(conn, "a", name="other", running=(poll.poll_id,))
    register(conn, poll_interval=3.0)
    set_clock(conn, after(8))
    assert take(conn, "b") is None
    assert settle(conn, poll, fire()).fires == ["fired"]
