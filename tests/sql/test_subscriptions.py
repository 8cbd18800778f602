"""Subscriptions in SQL: who is started by an event, with what, and in which order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sql.calls import NOON, QUEUE, Connection, Row, emit, row, rows, set_clock, spawn_and_claim, sqlstate, value


def subscribe(conn: Connection, pattern: str, task: str, options: Any = None, queue: str = QUEUE) -> int:
    return int(value(conn, "select absurd.subscribe(%s, %s, %s, %s)", queue, pattern, task, options or {}))


def unsubscribe(conn: Connection, pattern: str, task: str, queue: str = QUEUE) -> bool:
    return bool(value(conn, "select absurd.unsubscribe(%s, %s, %s)", queue, pattern, task))


def dispatch(conn: Connection, name: str, payload: Any = None, key: str | None = None, queue: str = QUEUE) -> list[Row]:
    text = None if payload is None else json.dumps(payload)
    return rows(conn, "select * from absurd.dispatch_event(%s, %s, %s::json, %s)", queue, name, text, key)


def append(conn: Connection, name: str, key: str | None = None) -> int:
    return int(value(conn, "select absurd.append_event(%s, %s, null, %s)", QUEUE, name, key))


def started(conn: Connection) -> list[str]:
    """The names of all tasks there are, in the order in which they were started."""
    names = rows(conn, "select task_name from absurd.event_tasks where task_id is not null order by seq, subscription_id")
    assert value(conn, "select count(*) from absurd.tasks") == len(names)
    return [found["task_name"] for found in names]


def test_g1_a_subscription_is_listed_and_the_same_again_changes_nothing(conn: Connection) -> None:
    first = subscribe(conn, "order.placed", "invoice", {"config": {"copies": 2}, "max_attempts": 3})
    before = rows(conn, "select s.*, s.xmin from absurd.subscriptions s")
    assert subscribe(conn, "order.placed", "invoice", {"config": {"copies": 2}, "max_attempts": 3}) == first
    assert rows(conn, "select s.*, s.xmin from absurd.subscriptions s") == before
    [listed] = rows(conn, "select * from absurd.list_subscriptions()")
    assert (listed["queue_name"], listed["pattern"], listed["task_name"]) == (QUEUE, "order.placed", "invoice")
    assert (listed["config"], listed["options"]) == ({"copies": 2}, {"max_attempts": 3})
    assert (listed["target_queue"], listed["last_error"]) == (None, None)


def test_g1_other_values_replace_the_former_and_keep_the_place(conn: Connection) -> None:
    first = subscribe(conn, "e", "a", {"config": 1})
    subscribe(conn, "e", "b")
    assert subscribe(conn, "e", "a", {"config": 2, "priority": 5}) == first
    dispatch(conn, "e")
    tasks = rows(conn, "select task_name, params -> 'event_config' as config, priority from absurd.tasks order by task_name")
    assert [(t["task_name"], t["config"], t["priority"]) for t in tasks] == [("a", 2, 5), ("b", None, 0)]
    assert [found["task_name"] for found in dispatch(conn, "e")] == ["a", "b"]


def test_g4_unsubscribe_says_whether_there_was_one_and_ends_it(conn: Connection) -> None:
    subscribe(conn, "e", "a")
    assert [unsubscribe(conn, "e", "other"), unsubscribe(conn, "e*", "a")] == [False, False]
    emit(conn, "e")
    assert [unsubscribe(conn, "e", "a"), unsubscribe(conn, "e", "a")] == [True, False]
    emit(conn, "e")
    assert started(conn) == ["a"]


def test_g5_subscriptions_are_listed_by_queue_and_pattern_in_their_order(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('other')")
    subscribe(conn, "e", "z")
    subscribe(conn, "e*", "y")
    subscribe(conn, "e", "x", queue="other")
    subscribe(conn, "e", "a")

    def listed(*arguments: str | None) -> list[str]:
        return [r["task_name"] for r in rows(conn, "select * from absurd.list_subscriptions(%s, %s)", *arguments)]

    assert listed(None, None) == ["z", "y", "x", "a"]
    assert listed("default", None) == ["z", "y", "a"]
    assert listed(None, "e") == ["z", "x", "a"]
    assert listed("default", "e*") == ["y"]
    assert listed("nosuch", None) == []


def test_g9_dispatch_answers_in_the_order_of_subscriptions(conn: Connection) -> None:
    for task in ("z", "a", "m"):
        subscribe(conn, "e", task)
    answers = dispatch(conn, "e", {"n": 1})
    assert [(a["task_name"], a["status"], a["created"], a["message"]) for a in answers] == [
        (name, "ok", True, None) for name in ("z", "a", "m")
    ]
    found = rows(conn, "select t.task_id, r.run_id, r.state from absurd.tasks t join absurd.runs r using (task_id)")
    assert {(f["task_id"], f["run_id"], f["state"]) for f in found} == {(a["task_id"], a["run_id"], "pending") for a in answers}


def test_g10_nobody_subscribed_is_one_row_without_a_task(conn: Connection) -> None:
    subscribe(conn, "other", "a")
    [answer] = dispatch(conn, "e")
    assert answer == {
        "seq": answer["seq"], "created": True, "task_name": None, "task_id": None, "run_id": None, "status": None, "message": None
    }  # fmt: skip


def test_g11_params_carry_type_payload_config_and_time_in_this_order(conn: Connection) -> None:
    set_clock(conn, NOON)
    rows(conn, "set timezone = 'Asia/Tokyo'")
    rows(conn, "select absurd.store_subscription('default', 'e', 'a', '{}', '{\"z\": 1, \"a\": [null]}')")
    rows(conn, "select absurd.append_event('default', 'e', '{\"b\": 2, \"a\": 1.10}'::json)")
    text = value(conn, "select params::text from absurd.tasks")
    assert text == (
        '{"event_type" : "e", "event_payload" : {"b": 2, "a": 1.10}, "event_config" : {"z": 1, "a": [null]},'
        ' "event_time" : "2025-06-01T12:00:00.000000+00:00"}'
    )


def test_g11_without_payload_and_config_both_are_null(conn: Connection) -> None:
    subscribe(conn, "e", "a")
    emit(conn, "e")
    params = value(conn, "select params from absurd.tasks")
    assert (params["event_payload"], params["event_config"]) == (None, None)


def test_the_source_of_a_started_task_is_in_its_headers(conn: Connection) -> None:
    subscribe(conn, "order.*", "a", {"headers": {"tenant": "x"}})
    [answer] = dispatch(conn, "order.placed")
    assert value(conn, "select headers from absurd.tasks") == {
        "tenant": "x",
        "absurd-source": {
            "kind": "subscription", "name": "order.*", "event_name": "order.placed", "event_seq": answer["seq"],
            "event_queue": "default",
        },
    }  # fmt: skip


def test_what_emitted_an_event_is_told_on_by_the_tasks_that_it_starts(conn: Connection) -> None:
    subscribe(conn, "e", "a")
    source = {"kind": "webhook", "name": "e", "delivery": "7"}
    rows(conn, "select absurd.append_event('default', 'e', p_source => %s)", source)
    assert value(conn, "select headers #> '{absurd-source,event_source}' from absurd.tasks") == source
    assert sqlstate(conn, "select absurd.append_event('default', 'e', p_source => '[1]')")[0] == "AB012"
    assert value(conn, "select count(*) from absurd.events") == 1


def test_k1_one_emit_is_kept_wakes_the_waiter_and_starts_the_subscriber(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    row(conn, "select * from absurd.await_event('default', %s, %s, 's', 'e')", run["task_id"], run["run_id"])
    subscribe(conn, "e", "a")
    emit(conn, "e", {"n": 1})
    woken, new = rows(conn, "select * from absurd.claim_task('default', 'w', 30, 10) order by event_payload is null")
    assert (woken["run_id"], woken["event_payload"]) == (run["run_id"], {"n": 1})
    assert (new["task_name"], new["params"]["event_payload"]) == ("a", {"n": 1})
    assert value(conn, "select claimed_at is not null from absurd.events")


def test_k2_a_waiter_gets_the_first_emission_a_subscriber_every_one(conn: Connection) -> None:
    subscribe(conn, "e", "a")
    for n in range(3):
        emit(conn, "e", n)
    run = row(conn, "select * from absurd.claim_task('default', 'w', 30, 1)")
    found = row(conn, "select * from absurd.await_event('default', %s, %s, 's', 'e')", run["task_id"], run["run_id"])
    assert found["payload"] == 0
    payloads = rows(conn, "select params -> 'event_payload' as payload from absurd.tasks order by spawned_at")
    assert [p["payload"] for p in payloads] == [0, 1, 2]


def test_g12_options_apply_to_the_started_task(conn: Connection) -> None:
    set_clock(conn, NOON)
    rows(conn, "select absurd.create_queue('mail')")
    subscribe(conn, "e", "a", {
        "target_queue": "mail", "delay": 60, "priority": 7, "max_attempts": 2, "cancellation": {"max_duration": 9},
        "retry_strategy": {"kind": "fixed", "base_seconds": 3},
    })  # fmt: skip
    emit(conn, "e")
    task = row(conn, "select t.*, r.state, r.available_at from absurd.tasks t join absurd.runs r using (task_id)")
    assert (task["queue_name"], task["priority"], task["max_attempts"], task["max_duration"]) == ("mail", 7, 2, 9)
    assert task["retry_strategy"] == {"kind": "fixed", "base_seconds": 3}
    assert (task["state"], (task["available_at"] - NOON).total_seconds()) == ("sleeping", 60)


@pytest.mark.parametrize(
    ("pattern", "fitting", "other"),
    [
        ("pay", ["pay"], ["Pay", "pay ", "paid", "pa", "p*"]),
        ("pay*", ["pay", "payment", "pay*", "pay*x", "pay%"], ["Pay", "pa", "p", " pay"]),
        ("*", ["a", "*", "ä", "x y"], []),
        ("50%_*", ["50%_", "50%_off"], ["50x_off", "50%off", "500_off"]),
        ("größe:*", ["größe:", "größe:\U0001f600"], ["grosse:", "größ"]),
        ("\U0001f600*", ["\U0001f600", "\U0001f600\U0001f601"], ["\U0001f601"]),
        ("a\\b*", ["a\\b", "a\\bc"], ["ab"]),
        ("a.b*", ["a.b", "a.bc"], ["axb"]),
        ("e\u0301*", ["e\u0301x"], ["\u00e9x"]),
    ],
)
def test_g2_a_pattern_fits_exactly_or_as_the_beginning(
    conn: Connection, pattern: str, fitting: list[str], other: list[str]
) -> None:
    subscribe(conn, pattern, "a")
    for name in fitting:
        assert [a["task_name"] for a in dispatch(conn, name)] == ["a"], name
    for name in other:
        assert [a["task_name"] for a in dispatch(conn, name)] == [None], name


def test_g2_one_task_with_two_fitting_patterns_is_started_for_each(conn: Connection) -> None:
    subscribe(conn, "pay*", "a")
    subscribe(conn, "payment", "a")
    assert [a["task_name"] for a in dispatch(conn, "payment")] == ["a", "a"]


def test_g2_the_longest_names_can_be_subscribed_to(conn: Connection) -> None:
    name = "x" * 1000
    subscribe(conn, name, "t" * 1000)
    subscribe(conn, name[:999] + "*", "b")
    subscribe(conn, "ä" * 499 + "*", "c")
    assert [a["task_name"] for a in dispatch(conn, name)] == ["t" * 1000, "b"]
    assert [a["task_name"] for a in dispatch(conn, "ä" * 500)] == ["c"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("default", "a*b", "t", {}), "AB012", 'pattern "a*b" has a "*" before its end'),
        (("default", "**", "t", {}), "AB012", "before its end"),
        (("default", "", "t", {}), "AB012", "pattern must not be empty"),
        (("default", None, "t", {}), "AB012", "pattern must not be empty"),
        (("default", "x" * 1001, "t", {}), "AB012", "1001 bytes"),
        (("default", "e", "", {}), "AB012", "task name must not be empty"),
        (("nosuch", "e", "t", {}), "AB010", 'queue "nosuch" does not exist'),
        ((None, "e", "t", {}), "AB010", "does not exist"),
        (("default", "e", "t", {"target_queue": "nosuch"}), "AB010", 'queue "nosuch" does not exist'),
        (("default", "e", "t", {"target_queue": 3}), "AB012", "target_queue must be the name of a queue, not 3"),
        (("default", "e", "t", {"idempotency_key": "k"}), "AB012", 'no option "idempotency_key"; known are config'),
        (("default", "e", "t", {"parent_task_id": "k"}), "AB012", 'no option "parent_task_id"'),
        (("default", "e", "t", {"max_attempts": 0}), "AB012", "max_attempts must be between 1"),
        (("default", "e", "t", {"headers": [1]}), "AB012", "headers must be an object"),
        (("default", "e", "t", {"retry_strategy": {"kind": "often"}}), "AB012", "retry_strategy.kind"),
        (("default", "e", "t", [1]), "AB012", "options must be an object"),
        (("default", "e", "t", {"config": "x" * 2000}), "AB013", "allows 1024"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_subscribed(conn: Connection, arguments: Any, code: str, said: str) -> None:
    rows(conn, "select absurd.set_queue_policy('default', %s)", {"max_payload_bytes": 1024})
    found, message = sqlstate(conn, "select absurd.subscribe(%s, %s, %s, %s)", *arguments)
    assert (found, said in message) == (code, True), message
    assert value(conn, "select count(*) from absurd.subscriptions") == 0


def test_options_of_json_null_are_none(conn: Connection) -> None:
    rows(conn, "select absurd.subscribe('default', 'e', 't', 'null')")
    rows(conn, "select absurd.subscribe('default', 'e', 'u', null)")
    assert [a["status"] for a in dispatch(conn, "e")] == ["ok", "ok"]


def test_k19_a_failing_subscriber_is_told_and_stops_no_neighbour(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('gone')")
    rows(conn, "select absurd.create_queue('small')")
    rows(conn, "select absurd.set_queue_policy('small', %s)", {"max_payload_bytes": 1024})
    subscribe(conn, "e", "lost", {"target_queue": "gone"})
    subscribe(conn, "e", "tight", {"target_queue": "small"})
    subscribe(conn, "e", "well")
    rows(conn, "select absurd.drop_queue('gone')")
    answers = dispatch(conn, "e", "x" * 2000)
    assert [(a["task_name"], a["status"], a["task_id"] is None) for a in answers] == [
        ("lost", "no_queue", True), ("tight", "too_large", True), ("well", "ok", False)
    ]  # fmt: skip
    assert 'queue "gone" does not exist' in answers[0]["message"]
    errors = rows(conn, "select task_name, last_error, last_error_at is not null as at from absurd.list_subscriptions()")
    assert [(e["task_name"], e["last_error"], e["at"]) for e in errors] == [
        ("lost", answers[0]["message"], True), ("tight", answers[1]["message"], True), ("well", None, False)
    ]  # fmt: skip
    assert started(conn) == ["well"]
    rows(conn, "select absurd.create_queue('gone')")
    assert [a["status"] for a in dispatch(conn, "e")] == ["ok", "ok", "ok"]


def test_k19_when_nobody_could_be_started_the_event_stays_unclaimed(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('gone')")
    subscribe(conn, "e", "lost", {"target_queue": "gone"})
    rows(conn, "select absurd.drop_queue('gone')")
    emit(conn, "e")
    assert value(conn, "select claimed_at from absurd.events") is None


def test_a46_a_rollback_drops_the_event_and_what_it_started(conn: Connection) -> None:
    subscribe(conn, "e", "a")
    with conn.transaction(force_rollback=True):
        emit(conn, "e")
        assert started(conn) == ["a"]
    counts = "select (select count(*) from absurd.events) + (select count(*) from absurd.event_tasks) as n"
    assert (started(conn), value(conn, counts)) == ([], 0)


def test_a42_events_of_other_queues_start_nothing_here(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('other')")
    subscribe(conn, "e", "a")
    emit(conn, "e", queue="other")
    assert started(conn) == []


def test_k9_an_emission_with_a_key_happens_once_for_ever(conn: Connection) -> None:
    subscribe(conn, "e", "a")
    first = append(conn, "e", "key")
    assert append(conn, "e", "key") == first
    assert append(conn, "another name", "key") == first
    assert append(conn, "e", "other key") != first
    assert started(conn) == ["a", "a"]
    assert value(conn, "select count(*) from absurd.events") == 2


def test_k9_keys_of_queues_are_their_own(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('other')")
    first, second = (dispatch(conn, "e", key="k", queue=queue)[0] for queue in ("default", "other"))
    assert (first["created"], second["created"]) == (True, True)


def test_k9_a_repeated_dispatch_answers_what_the_first_has_started(conn: Connection) -> None:
    subscribe(conn, "e", "a")
    subscribe(conn, "e*", "b")
    first = dispatch(conn, "e", 1, key="k")
    subscribe(conn, "e", "late")
    unsubscribe(conn, "e", "a")
    second = dispatch(conn, "e", 2, key="k")
    assert [a["created"] for a in first + second] == [True, True, False, False]
    assert [{**a, "created": True} for a in second] == first
    assert started(conn) == ["a", "b"]


def test_k9_the_key_of_an_emission_that_was_rolled_back_or_refused_is_free(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        append(conn, "e", "k")
    rows(conn, "select absurd.set_queue_policy('default', %s)", {"max_payload_bytes": 1024})
    code, _ = sqlstate(conn, "select absurd.append_event('default', 'e', to_json(repeat('x', 2000)), 'k')")
    assert code == "AB013"
    assert dispatch(conn, "e", key="k")[0]["created"]


@pytest.mark.parametrize(("key", "said"), [("", "must not be empty"), ("k" * 1001, "1001 bytes")])
def test_k9_a_key_that_cannot_be_kept_is_refused(conn: Connection, key: str, said: str) -> None:
    code, message = sqlstate(conn, "select absurd.append_event('default', 'e', null, %s)", key)
    assert (code, said in message) == ("AB012", True)
    assert value(conn, "select count(*) from absurd.events") == 0


def test_k3_cleanup_takes_an_event_with_its_key_and_its_answers_and_spares_the_unclaimed(conn: Connection) -> None:
    subscribe(conn, "taken", "a")
    append(conn, "taken", "k1")
    append(conn, "unclaimed", "k2")
    assert value(conn, "select absurd.cleanup_events('default', 0)") == 1
    left = row(conn, """
        select (select array_agg(event_name) from absurd.events) as events,
          (select array_agg(idempotency_key) from absurd.event_keys) as keys,
          (select count(*) from absurd.event_tasks) as answers, (select count(*) from absurd.tasks) as tasks""")  # fmt: skip
    assert left == {"events": ["unclaimed"], "keys": ["k2"], "answers": 0, "tasks": 1}
    assert dispatch(conn, "taken", key="k1")[0]["created"]


def test_drop_queue_takes_what_belongs_to_it(conn: Connection) -> None:
    rows(conn, "select absurd.create_queue('other')")
    subscribe(conn, "e", "a", {"target_queue": "default"}, queue="other")
    subscribe(conn, "e", "b")
    dispatch(conn, "e", key="k", queue="other")
    dispatch(conn, "e", key="k")
    rows(conn, "select absurd.drop_queue('other')")
    left = row(conn, """
        select (select array_agg(task_name) from absurd.subscriptions) as subscriptions,
          (select array_agg(queue_name) from absurd.event_keys) as keys,
          (select array_agg(task_name) from absurd.event_tasks) as tasks""")  # fmt: skip
    assert left == {"subscriptions": ["b"], "keys": ["default"], "tasks": ["b"]}


def test_dispatch_needs_read_committed_and_emit_does_not(conn: Connection) -> None:
    rows(conn, "set default_transaction_isolation = 'repeatable read'")
    code, message = sqlstate(conn, "select absurd.dispatch_event('default', 'e')")
    assert (code, "READ COMMITTED" in message) == ("0A000", True)
    emit(conn, "e")


def test_g13_ten_thousand_subscribers_are_started_by_one_event(conn: Connection) -> None:
    rows(conn, """
        insert into absurd.subscriptions (queue_name, pattern, task_name, options, after_seq, created_at)
        select 'default', 'e', 'task ' || i, '{}', 0, now() from generate_series(1, 10000) i""")  # fmt: skip
    answers = dispatch(conn, "e", {"n": 1})
    assert [a["task_name"] for a in answers] == [f"task {i}" for i in range(1, 10001)]
    assert value(conn, "select count(*) from absurd.runs where state = 'pending'") == 10000


def test_a_large_payload_for_many_subscribers_is_started_in_pieces(conn: Connection) -> None:
    for i in range(9):
        subscribe(conn, "e", f"task {i}")
    answers = dispatch(conn, "e", "x" * 5_000_000)
    assert [(a["task_name"], a["status"]) for a in answers] == [(f"task {i}", "ok") for i in range(9)]


def test_a_session_that_knew_the_tables_while_they_were_small_still_reads_few_of_their_rows(conn: Connection) -> None:
    for table in ("subscriptions", "event_tasks"):
        conn.execute(f"alter table absurd.{table} set (autovacuum_enabled = off)")
    subscribe(conn, "e", "a")
    dispatch(conn, "e")
    conn.execute("vacuum analyze absurd.subscriptions, absurd.event_tasks")
    for _ in range(8):
        dispatch(conn, "e")
    conn.execute(
        "insert into absurd.subscriptions (queue_name, pattern, task_name, options, after_seq, created_at)"
        " select 'default', 's' || g, 't', '{}', 0, now() from generate_series(1, 5000) g"
    )
    conn.execute("insert into absurd.event_tasks select g, 1, 't', null, null, 'ok', null from generate_series(1000, 6000) g")
    read = (
        "select sum(seq_tup_read + idx_tup_fetch)::integer from pg_stat_xact_all_tables"
        " where relname in ('subscriptions', 'event_tasks')"
    )
    with conn.transaction():
        assert len(dispatch(conn, "e")) == 1
        assert value(conn, read) < 50


def test_an_emit_reads_few_pages_however_many_subscriptions_there_are(conn: Connection) -> None:
    def pages() -> int:
        plan: Any = None
        for _ in range(7):
            plan = value(conn, "explain (analyze, buffers, format json) select absurd.append_event('default', 'order.placed:17')")
        return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])

    subscribe(conn, "order.placed:*", "a")
    few = pages()
    rows(conn, """
        insert into absurd.subscriptions (queue_name, pattern, task_name, options, after_seq, created_at)
        select 'default', case when i % 2 = 0 then 'order.' || i || '*' else 'event ' || i end, 'task ' || i, '{}', 0, now()
        from generate_series(1, 100000) i""")  # fmt: skip
    assert pages() <= few + 120
