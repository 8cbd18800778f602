"""Schedules end to end: schedulers with a database, races, crashes, changes while they run."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from absurd import (
    Absurd,
    InvalidOptionError,
    QueueNotFoundError,
    Schedule,
    ScheduleConflictError,
    ScheduleNotFoundError,
    Scheduler,
)
from absurd.schedules import definition
from absurd.schedules import loop as loop_module
from tests.sql.calls import Connection, rows, sqlstate, value
from tests.sql.concurrent import Background
from tests.support import wait_until
from tests.support_proxy import LossyProxy
from tests.support_schedules import DatabaseClock, Schedulers, due, slots_of

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "REFRESH_PAUSE", 0.0)
    monkeypatch.setattr(loop_module, "RETRY_SECONDS", 0.2)


@pytest.fixture
def app(database_url: str) -> Absurd:
    return Absurd(database_url)


@pytest.fixture
def clock(conn: Connection) -> DatabaseClock:
    return DatabaseClock(conn, NOON)


def found(app: Absurd, name: str) -> Schedule:
    schedule = app.get_schedule(name)
    assert schedule is not None
    return schedule


def iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_k9_three_schedulers_and_a_clock_moved_over_a_change_to_summer_time_fire_each_slot_once(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    start = datetime(2024, 3, 30, 20, tzinfo=UTC)
    clock.move(start)
    app.create_schedule("nightly", task="t", cron="30 2 * * *", timezone="Europe/Vienna", catchup="all")
    app.create_schedule("quarter", task="t", cron="*/15 * * * *", timezone="Europe/Vienna", catchup="all")
    app.create_schedule("interval", task="t", every="10m", catchup="all")
    with Schedulers(database_url, database_url, database_url):
        for minutes in range(0, 481, 40):
            clock.move_and_settle(start + timedelta(minutes=minutes))
    assert slots_of(conn, "nightly") == ["2024-03-31T01:00:00Z"]
    assert slots_of(conn, "quarter") == [iso(start + 15 * k * MINUTE) for k in range(1, 33)]
    assert slots_of(conn, "interval") == [iso(start + 10 * k * MINUTE) for k in range(49)]


def test_k7_three_schedulers_fire_a_nightly_job_once_in_the_night_that_has_an_hour_twice(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    start = datetime(2024, 10, 26, 22, tzinfo=UTC)
    clock.move(start)
    app.create_schedule("nightly", task="t", cron="30 2 * * *", timezone="Europe/Vienna", catchup="all")
    with Schedulers(database_url, database_url, database_url):
        for minutes in range(0, 241, 30):
            clock.move_and_settle(start + timedelta(minutes=minutes))
    assert slots_of(conn, "nightly") == ["2024-10-27T00:30:00Z"]


@pytest.mark.parametrize("loss", ["statement", "answer"])
def test_c13_a_firing_whose_statement_or_answer_is_lost_happens_once(
    app: Absurd, database_url: str, conn: Connection, loss: str
) -> None:
    with LossyProxy(database_url) as proxy, Schedulers(proxy.url):
        rule = proxy.lose("fire_schedule", loss, "absurd scheduler")  # type: ignore[arg-type]
        app.create_schedule("s", task="t", every="1h")
        wait_until(lambda: rule.applied and found(app, "s").fired_count == 1 and not due(conn), what="the firing")
    assert len(slots_of(conn, "s")) == 1


def test_c13_a_scheduler_that_is_killed_in_the_middle_of_a_firing_loses_and_doubles_nothing(
    app: Absurd, database_url: str, conn: Connection
) -> None:
    command = [sys.executable, "-m", "absurd", "scheduler", "-d", database_url]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    try:
        with psycopg.connect(database_url) as holder:
            # A firing gets as far as its task, and waits there: row locked, nothing committed.
            holder.execute("lock table absurd.tasks in exclusive mode")
            app.create_schedule("s", task="t", every="1h", catchup="one")
            wait_until(
                lambda: rows(
                    conn,
                    "select 1 from pg_stat_activity where application_name = 'absurd scheduler' and query like '%fire_schedule%'"
                    " and cardinality(pg_blocking_pids(pid)) > 0",
                ),
                what="a firing that waits",
            )
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        process.kill()
        process.wait()
    with Schedulers(database_url, database_url):
        wait_until(lambda: found(app, "s").fired_count == 1 and not due(conn), what="the firing by another scheduler")
    assert len(slots_of(conn, "s")) == 1


def test_k4_a_notification_makes_a_new_schedule_fire_at_once(app: Absurd, database_url: str, conn: Connection) -> None:
    with Schedulers(database_url) as schedulers:
        wait_until(lambda: schedulers.loops[0]._clock, what="the first reading")
        began = time.monotonic()
        app.create_schedule("s", task="t", every="1h")
        wait_until(lambda: slots_of(conn, "s"), what="the firing")
    assert time.monotonic() - began < 5


def test_c16_a_refresh_without_any_notification_picks_up_new_changed_and_deleted_schedules(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "REFRESH_SECONDS", 0.1)
    rows(
        conn,
        "create or replace function absurd.notify_schedulers(p_schedule_name text) returns void language sql volatile"
        " as 'select null'",
    )
    with Schedulers(database_url) as schedulers:
        app.create_schedule("new", task="t", cron="0 * * * *")
        wait_until(lambda: schedulers.loops[0].firing, what="the new schedule")
        app.create_schedule("new", task="t", cron="30 * * * *", replace=True)
        wait_until(lambda: not due(conn), what="the changed schedule's slot")
        clock.move_and_settle(NOON + 31 * MINUTE)
        assert slots_of(conn, "new") == [iso(NOON + 30 * MINUTE)]
        app.delete_schedule("new")
        wait_until(lambda: not schedulers.loops[0].firing, what="the end of a deleted schedule")


def test_c19_without_schedules_nothing_fires_and_the_loop_waits_for_some(database_url: str, conn: Connection) -> None:
    with Schedulers(database_url) as schedulers:
        wait_until(lambda: schedulers.loops[0]._clock, what="the first reading")
        assert schedulers.loops[0].running
        assert not schedulers.loops[0].firing


def test_c8_an_invalid_schedule_is_logged_once_shown_and_stops_nothing_else(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock, caplog: pytest.LogCaptureFixture
) -> None:
    for name, cron in (("bad", "0 0 31 2 *"), ("good", "* * * * *"), ("worse", "99 99 * * *")):
        rows(conn, "select absurd.create_schedule(%s, 'default', %s)", name, {"task": "t", "cron": cron})
    with caplog.at_level(logging.ERROR, "absurd.schedules"), Schedulers(database_url):
        clock.move_and_settle(NOON)
        clock.move_and_settle(NOON + MINUTE)
    assert slots_of(conn, "good") == [iso(NOON + MINUTE)]
    assert [(s.schedule_name, s.status) for s in app.list_schedules()] == [
        ("bad", "invalid"),
        ("good", "active"),
        ("worse", "invalid"),
    ]
    assert "never comes" in (found(app, "bad").last_error or "")
    assert len([record for record in caplog.records if '"bad"' in record.getMessage()]) == 1
    app.create_schedule("bad", task="t", cron="0 0 1 2 *", replace=True)
    assert found(app, "bad").status == "active"


def test_k19_a_firing_that_fails_is_shown_its_slot_is_over_and_neighbours_fire(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    app.create_queue("small")
    app.create_schedule("large", task="t", every="1m", params="x" * 5000, queue="small")
    app.create_schedule("other", task="t", every="1m")
    app.set_queue_limits("small", max_payload_bytes=1024)
    with Schedulers(database_url):
        clock.move_and_settle(NOON)
        assert "5002 bytes" in (found(app, "large").last_error or "")
        app.set_queue_limits("small", max_payload_bytes=100_000)
        clock.move_and_settle(NOON + MINUTE)
    assert slots_of(conn, "large") == [iso(NOON + MINUTE)]
    assert slots_of(conn, "other") == [iso(NOON), iso(NOON + MINUTE)]


def test_k19_a_schedule_in_somebodys_open_transaction_holds_up_no_other(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    app.create_schedule("held", task="t", every="1m")
    app.create_schedule("free", task="t", every="1m")
    with psycopg.connect(database_url) as holder:
        app.pause_schedule("held", conn=holder)
        with Schedulers(database_url):
            wait_until(lambda: slots_of(conn, "free"), what="the free one's firing")
            assert slots_of(conn, "held") == []
            holder.rollback()
            wait_until(lambda: slots_of(conn, "held"), what="the held one's firing")


def test_k8_catch_up_after_an_outage_goes_by_the_policy_of_each(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    for catchup in ("skip", "one", "all"):
        app.create_schedule(catchup, task="t", cron="0 * * * *", catchup=catchup, catchup_limit=2)  # type: ignore[arg-type]
    with Schedulers(database_url):
        clock.move_and_settle(NOON)
    clock.move(NOON + timedelta(hours=4, minutes=30))
    with Schedulers(database_url, database_url):
        clock.move_and_settle(NOON + timedelta(hours=4, minutes=30))
    hour = {name: [int(slot[11:13]) - 12 for slot in slots_of(conn, name)] for name in ("skip", "one", "all")}
    assert hour == {"skip": [], "one": [4], "all": [3, 4]}
    assert {s.next_slot for s in app.list_schedules()} == {NOON + timedelta(hours=5)}


def test_c15_a_scheduler_whose_database_goes_away_goes_on_when_it_is_back(
    app: Absurd, database_url: str, conn: Connection
) -> None:
    app.create_schedule("s", task="t", every="1s", catchup="all")
    with LossyProxy(database_url) as proxy, Schedulers(proxy.url):
        wait_until(lambda: slots_of(conn, "s"), what="the first firing")
        proxy.cut_links()
        wait_until(lambda: len(slots_of(conn, "s")) >= 3, what="firings after the cut")
    fired = slots_of(conn, "s")
    assert len(set(fired)) == len(fired)


def test_overlap_skip_leaves_slots_out_while_a_task_is_alive_and_manual_runs_do_not_care(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    app.create_schedule("s", task="t", every="1m", overlap="skip")
    with Schedulers(database_url):
        clock.move_and_settle(NOON)
        clock.move_and_settle(NOON + MINUTE)
        assert slots_of(conn, "s") == [iso(NOON)]
        task_id = found(app, "s").last_task_id
        assert task_id is not None
        app.cancel_task(task_id)
        clock.move_and_settle(NOON + 2 * MINUTE)
    assert slots_of(conn, "s") == [iso(NOON), iso(NOON + 2 * MINUTE)]
    assert app.trigger_schedule("s").task_id is not None
    assert app.backfill_schedule("s", NOON, NOON + 3 * MINUTE) == 1
    assert len(slots_of(conn, "s")) == 4


def test_a_paused_schedule_is_silent_and_goes_on_with_its_next_slot(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    app.create_schedule("s", task="t", cron="* * * * *", catchup="all")
    with Schedulers(database_url):
        clock.move_and_settle(NOON + MINUTE)
        app.pause_schedule("s")
        clock.move_and_settle(NOON + 5 * MINUTE)
        assert found(app, "s").status == "paused"
        assert app.trigger_schedule("s").task_id is not None
        app.resume_schedule("s")
        clock.move_and_settle(NOON + 6 * MINUTE)
    assert slots_of(conn, "s") == [iso(NOON + k * MINUTE) for k in (1, 5, 6)]


def test_a_backfill_runs_each_slot_once_also_beside_the_scheduler_and_after_the_schedule_was_made_anew(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    app.create_schedule("s", task="t", cron="0 * * * *", catchup="one")
    with Schedulers(database_url):
        clock.move_and_settle(NOON)
        clock.move_and_settle(NOON + timedelta(hours=2))
    assert app.backfill_schedule("s", NOON, NOON + timedelta(hours=2, microseconds=1)) == 2
    app.delete_schedule("s")
    app.create_schedule("s", task="t", cron="0 * * * *")
    assert app.backfill_schedule("s", NOON - timedelta(hours=1), NOON + timedelta(hours=2)) == 1
    assert slots_of(conn, "s") == [iso(NOON + timedelta(hours=h)) for h in (-1, 0, 1, 2)]
    with pytest.raises(InvalidOptionError, match=r"past slots only, and 2025-06-01 .*not past"):
        app.backfill_schedule("s", NOON, NOON + timedelta(hours=9))


def test_a_schedule_ends_before_its_end(app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock) -> None:
    app.create_schedule("s", task="t", cron="* * * * *", starts_at=NOON + 5 * MINUTE, ends_at=NOON + 7 * MINUTE, catchup="all")
    with Schedulers(database_url):
        clock.move_and_settle(NOON)
        clock.move_and_settle(NOON + 20 * MINUTE)
    assert slots_of(conn, "s") == [iso(NOON + 5 * MINUTE), iso(NOON + 6 * MINUTE)]
    assert found(app, "s").status == "ended"


def test_an_interval_that_is_made_after_its_end_does_not_fire_at_once(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    clock.move(NOON)
    past = app.create_schedule("past", task="t", every="5m", ends_at=NOON - MINUTE)
    with Schedulers(database_url):
        clock.move_and_settle(NOON + MINUTE)
    assert (past.next_slot, slots_of(conn, "past"), found(app, "past").status) == (None, [], "ended")


def test_k11_the_immediate_runs_of_intervals_with_jitter_all_come_at_once(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    clock.move(NOON)
    names = [f"s{number}" for number in range(10)]
    for name in names:
        app.create_schedule(name, task="t", every="1h", jitter="30m")
    with Schedulers(database_url):
        clock.move_and_settle(NOON + timedelta(seconds=1))
    assert [slots_of(conn, name) for name in names] == [[iso(NOON)]] * 10


def test_g29_an_event_schedule_carries_scheduled_at_and_then_last_run(
    app: Absurd, database_url: str, conn: Connection, clock: DatabaseClock
) -> None:
    app.create_schedule("beat", event="heartbeat", every=5, params={"z": 1, "a": 2})
    app.subscribe("heartbeat", "t")
    with Schedulers(database_url, database_url):
        clock.move_and_settle(NOON)
        clock.move_and_settle(NOON + timedelta(seconds=5))
    payloads = [found["payload"] for found in rows(conn, "select payload from absurd.events order by seq")]
    assert payloads == [
        {"z": 1, "a": 2, "scheduled_at": iso(NOON)},
        {"z": 1, "a": 2, "scheduled_at": iso(NOON), "last_run": iso(NOON + timedelta(seconds=5))},
    ]
    assert list(payloads[1]) == ["z", "a", "scheduled_at", "last_run"]
    sources = rows(conn, "select headers #> '{absurd-source,event_source}' as source from absurd.tasks order by spawned_at")
    assert [found["source"] for found in sources] == [
        {"kind": "schedule", "name": "beat", "slot": iso(NOON)},
        {"kind": "schedule", "name": "beat", "slot": iso(NOON + timedelta(seconds=5))},
    ]


def test_k11_an_interval_fires_at_once_and_cron_at_its_next_slot_unless_told_otherwise(app: Absurd, clock: DatabaseClock) -> None:
    first = {
        "interval": app.create_schedule("a", task="t", every=60),
        "late interval": app.create_schedule("b", task="t", every=60, run_immediately=False),
        "cron": app.create_schedule("c", task="t", cron="30 12 * * *"),
        "early cron": app.create_schedule("d", task="t", cron="30 12 * * *", run_immediately=True),
    }
    minutes = {name: (s.next_slot - NOON) / MINUTE for name, s in first.items() if s.next_slot is not None}
    assert minutes == {"interval": 0, "late interval": 1, "cron": 30, "early cron": 0}


def test_k12_a_name_is_unique_the_same_again_changes_nothing_and_another_is_refused(app: Absurd) -> None:
    assert app.create_schedule("s", task="t", every="5m", params={"a": 1}).created
    again = app.create_schedule("s", task="t", every=300, params={"a": 1})
    assert (again.created, again.changed, again.revision) == (False, False, 1)
    with pytest.raises(ScheduleConflictError, match=r"another interval_seconds.*replace=True"):
        app.create_schedule("s", task="t", every="6m", params={"a": 1})
    slot = again.next_slot
    assert app.create_schedule("s", task="t", every="5m", params={"a": 2}, replace=True).next_slot == slot
    other = app.create_schedule("s", task="t", every="6m", params={"a": 2}, replace=True)
    assert (other.created, other.changed, other.next_slot != slot) == (False, True, True)


def test_k12_two_that_make_the_same_schedule_at_once_make_one(app: Absurd, database_url: str) -> None:
    definition = {"task": "t", "every": 60}
    statement = "select change from absurd.create_schedule('s', 'default', %s)"
    with psycopg.connect(database_url) as first:
        assert value(first, statement, definition) == "created"
        second = Background(database_url, lambda conn: value(conn, statement, definition)).wait_until_blocked()
        first.commit()
    assert second.result() == "unchanged"


def test_k9_of_two_firings_at_once_the_second_does_not_wait_and_then_finds_it_done(
    app: Absurd, database_url: str, conn: Connection
) -> None:
    slot = app.create_schedule("s", task="t", every=60).next_slot
    assert slot is not None
    statement = "select status from absurd.fire_schedule('s', 1, %s, array[%s]::timestamptz[], %s, %s)"
    args = (slot, slot, slot + MINUTE, slot + MINUTE)
    with psycopg.connect(database_url) as first:
        assert value(first, statement, *args) == "fired"
        assert value(conn, statement, *args) == "busy"
        first.commit()
    assert value(conn, statement, *args) == "stale"
    assert len(slots_of(conn, "s")) == 1


def test_a_firing_that_was_decided_before_a_pause_or_change_is_void(app: Absurd, conn: Connection) -> None:
    slot = app.create_schedule("s", task="t", every=60).next_slot
    app.pause_schedule("s")
    statement = "select status from absurd.fire_schedule('s', 1, %s, array[%s]::timestamptz[], null, null)"
    assert value(conn, statement, slot, slot) == "stale"
    app.resume_schedule("s")
    assert value(conn, statement, slot, slot) == "stale"
    assert slots_of(conn, "s") == []


def test_dropping_a_queue_drops_its_schedules_also_while_one_fires(app: Absurd, database_url: str, conn: Connection) -> None:
    app.create_queue("gone")
    slot = app.create_schedule("s", task="t", every=60, queue="gone").next_slot
    app.create_schedule("stays", task="t", every=60)
    with psycopg.connect(database_url) as first:
        rows(first, "select absurd.fire_schedule('s', 1, %s, array[%s]::timestamptz[], %s, %s)", slot, slot, slot, slot)
        drop = Background(database_url, lambda other: rows(other, "select absurd.drop_queue('gone')")).wait_until_blocked()
        first.commit()
    drop.result()
    assert [s.schedule_name for s in app.list_schedules()] == ["stays"]
    assert slots_of(conn, "s") == []
    with pytest.raises(QueueNotFoundError):
        app.create_schedule("s", task="t", every=60, queue="gone")


def test_c6_the_scheduler_is_a_listener_that_starts_and_stops(app: Absurd, conn: Connection) -> None:
    app.create_schedule("s", task="t", every="1h")
    scheduler = Scheduler(app)
    thread = threading.Thread(target=scheduler.start_listening)
    thread.start()
    try:
        wait_until(lambda: slots_of(conn, "s"), what="the firing")
    finally:
        scheduler.stop()
        thread.join(20)
    assert not thread.is_alive()
    Scheduler.start_listening(scheduler)  # stopped before it starts: it returns


def test_c20_a_worker_fires_schedules_unless_it_is_told_not_to(app: Absurd, conn: Connection) -> None:
    ran = threading.Event()

    @app.register_task("t")
    def t(params: object, ctx: object) -> None:
        ran.set()

    app.create_schedule("s", task=t, every="1h")
    with app.worker(scheduler=False):
        app.spawn(t).result(20)
    assert slots_of(conn, "s") == []
    ran.clear()
    with app.worker():
        assert ran.wait(20)
    assert len(slots_of(conn, "s")) == 1
    assert app.run_worker_once() == 0


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"cron": "* * * * *"}, "give a task or an event"),
        ({"task": "t", "event": "e", "every": 5}, "give a task or an event"),
        ({"task": "t"}, "give cron or every"),
        ({"task": "t", "every": 0.5}, "every must be between 1"),
        ({"task": "t", "every": "5"}, "every must be a number"),
        ({"task": "t", "cron": "* * * *"}, "4 field"),
        ({"task": "t", "cron": "@reboot"}, "is not known"),
        ({"task": "t", "cron": "* * * * !"}, 'holds "!"'),
        ({"task": "t", "every": 5, "timezone": "Mars"}, "timezone"),
        ({"task": "t", "every": 5, "starts_at": "never"}, "starts_at|timestamp"),
        ({"task": "t", "every": 5, "starts_at": "2025-02-01Z", "ends_at": "2025-01-01Z"}, "after starts_at"),
        ({"task": "t", "every": 5, "jitter": -1}, "jitter"),
        ({"task": "t", "every": 5, "catchup": "some"}, "catchup"),
        ({"task": "t", "every": 5, "overlap": "some"}, "overlap"),
        ({"task": "t", "every": 5, "options": {"max_attempts": 0}}, "max_attempts"),
        ({"task": "t", "every": 5, "options": {"idempotency_key": "k"}}, "idempotency_key"),
        ({"event": "e", "every": 5, "params": [1]}, "must be an object"),
        ({"event": "e", "every": 5, "overlap": "skip"}, "overlap skip is for"),
        ({"task": "t", "every": 5, "color": "red"}, '"color"'),
    ],
)
def test_k6_sql_refuses_a_definition_that_cannot_be_used(conn: Connection, definition: dict[str, object], reason: str) -> None:
    with pytest.raises(psycopg.Error, match=reason) as caught:
        rows(conn, "select absurd.create_schedule('s', 'default', %s)", definition)
    assert caught.value.sqlstate == "AB012"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("[" * 501 + "]" * 501, "nested more than 500 deep"),
        ('{"a":' * 501 + "1" + "}" * 501, "nested more than 500 deep"),
        ("1" + "0" * 4300, "more than 4300 digits"),
    ],
)
def test_k6_sql_refuses_params_that_python_cannot_read(conn: Connection, app: Absurd, params: str, reason: str) -> None:
    make = "select change from absurd.create_schedule('s', 'default', %s, %s::json)"
    with pytest.raises(psycopg.Error, match=reason) as caught:
        rows(conn, make, {"task": "t", "every": 5}, params)
    assert caught.value.sqlstate == "AB012"
    harmless = '{"text": "' + "[" * 600 + "9" * 5000 + '\\"{", "deep": ' + "[" * 499 + "]" * 499 + ', "long": ' + "9" * 4300 + "}"
    assert value(conn, make, {"task": "t", "every": 5}, harmless) == "created"
    assert [schedule.schedule_name for schedule in app.list_schedules()] == ["s"]


def test_sql_and_python_have_the_same_limits(conn: Connection) -> None:
    make = "select change from absurd.create_schedule(%s, 'default', %s)"
    plain = {"task": "t", "every": definition.MIN_EVERY_SECONDS}
    limits = {"jitter": definition.MAX_JITTER_SECONDS, "catchup_limit": definition.MAX_CATCHUP_LIMIT}
    assert value(conn, make, "n" * definition.MAX_NAME_BYTES, {**plain, **limits}) == "created"
    assert sqlstate(conn, make, "n" * (definition.MAX_NAME_BYTES + 1), plain)[0] == "AB012"
    assert sqlstate(conn, make, "s", {**plain, "every": definition.MIN_EVERY_SECONDS - 0.01})[0] == "AB012"
    for name, limit in limits.items():
        assert sqlstate(conn, make, "s", {**plain, name: limit + 1})[0] == "AB012"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"task": "t"}, "give cron"),
        ({"task": "t", "cron": "* * * * *", "every": 5}, "give cron"),
        ({"cron": "* * * * *"}, "task that it starts or the event"),
        ({"task": "t", "cron": "0 0 31 2 *"}, "never comes"),
        ({"task": "t", "every": "5 parsecs"}, "parsecs"),
        ({"task": "t", "every": 5, "timezone": "Mars"}, "IANA"),
        ({"task": "t", "every": 5, "starts_at": datetime(2025, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"task": "t", "every": 5, "catchup": "some"}, "catchup"),
        ({"task": "t", "every": 5, "idempotency_key": "k"}, "idempotency_key"),
        ({"event": "e", "every": 5, "max_attempts": 3}, "takes no options"),
        ({"event": "e", "every": 5, "params": [1]}, "must be a dict"),
    ],
)
def test_k6_python_refuses_what_cannot_be_used_before_it_is_sent(app: Absurd, arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidOptionError, match=reason):
        app.create_schedule("s", **arguments)  # type: ignore[arg-type]
    assert app.get_schedule("s") is None


def test_what_does_not_exist_is_said(app: Absurd) -> None:
    for call in (app.pause_schedule, app.resume_schedule, app.trigger_schedule):
        with pytest.raises(ScheduleNotFoundError, match='no schedule "nix"'):
            call("nix")
    with pytest.raises(ScheduleNotFoundError):
        app.backfill_schedule("nix", NOON, NOON + MINUTE)
    assert not app.delete_schedule("nix")
