"""Schedules that code declares, and schedules on the command line."""

from __future__ import annotations

import json
import logging
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from absurd import Absurd, AsyncAbsurd, ConfigurationError, InvalidOptionError, ScheduleConflictError
from tests.cli import absurdctl, invoke, refused
from tests.sql.calls import Connection, rows
from tests.support import wait_until


def make_app(url: str, **timings: Any) -> Absurd:
    """An app with one schedule for each keyword, by its name; "5m" is an interval, anything else cron."""
    app = Absurd(url)
    for name, timing in timings.items():
        declare(app, name, timing)
    return app


def declare(app: Absurd, name: str, timing: str) -> None:
    @app.schedule(every=timing, name=name) if " " not in timing else app.schedule(timing, name=name)
    @app.register_task(f"task of {name}")
    def handler(params: Any, ctx: Any) -> None: ...


def changes(app: Absurd) -> dict[str, str]:
    return {change.schedule_name: change.change for change in app.reconcile_schedules()}


def test_declarations_are_created_changed_left_alone_and_reported_when_they_are_gone(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert changes(make_app(database_url, a="5m", b="0 3 * * *", c="1h")) == {"a": "created", "b": "created", "c": "created"}
    app = make_app(database_url, a="5m", b="0 4 * * *")
    before = {s.schedule_name: s for s in app.list_schedules()}
    with caplog.at_level(logging.WARNING):
        assert changes(app) == {"a": "unchanged", "b": "changed", "c": "undeclared"}
    assert "absurdctl delete-schedule c" in caplog.text
    after = {s.schedule_name: s for s in app.list_schedules()}
    assert after["a"] == before["a"]
    assert (after["b"].cron, after["c"].status) == ("0 4 * * *", "undeclared")
    assert changes(make_app(database_url, a="5m", b="0 4 * * *", c="1h")) == {
        "a": "unchanged",
        "b": "unchanged",
        "c": "unchanged",
    }
    assert {s.status for s in app.list_schedules()} == {"active"}


def test_a_paused_schedule_stays_paused_also_when_its_declaration_changes(database_url: str) -> None:
    app = make_app(database_url, a="5m")
    app.reconcile_schedules()
    app.pause_schedule("a")
    app = make_app(database_url, a="6m")
    assert changes(app) == {"a": "changed"}
    assert [s.status for s in app.list_schedules()] == ["paused"]


def test_a_bad_declaration_is_refused_and_harms_no_other(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(database_url, a="5m", z="5m")

    @app.schedule(every="5m", queue="nowhere")
    @app.register_task("m")
    def m(params: Any, ctx: Any) -> None: ...

    app.create_schedule("z", task="t", every="1h")
    assert changes(app) == {"a": "created", "m": "refused", "z": "refused"}
    assert 'queue "nowhere" does not exist' in caplog.text
    assert "by hand" in caplog.text
    with pytest.raises(ScheduleConflictError, match="by the code of app"):
        app.create_schedule("a", task="t", every="1h", replace=True)


def test_many_workers_that_start_at_once_make_each_schedule_once(database_url: str, conn: Connection) -> None:
    barrier, answers = threading.Barrier(4), []

    def start() -> None:
        app = make_app(database_url, a="5m", b="6m", c="7m")
        barrier.wait()
        answers.append(changes(app))
        app.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "abc":
        assert sorted(answer[name] for answer in answers) == ["created", "unchanged", "unchanged", "unchanged"]
    assert len(rows(conn, "select 1 from absurd.schedules")) == 3


def test_a_worker_stores_what_its_app_declares_also_without_a_scheduler(database_url: str) -> None:
    app = make_app(database_url, a="5m")
    with app.worker(scheduler=False):
        wait_until(app.list_schedules, what="the declared schedule")
    assert [s.fired_count for s in app.list_schedules()] == [0]


def test_the_decorator_stands_over_or_under_register_task_and_takes_the_name_of_the_task(database_url: str) -> None:
    app = Absurd(database_url)

    def plain(params: Any, ctx: Any) -> None: ...

    over = app.schedule("@daily", params={"a": 1})(app.register_task("send-invoice", max_attempts=2)(plain))
    assert over is plain

    @app.register_task
    @app.schedule(every=timedelta(minutes=5), timezone="Europe/Vienna")
    @app.schedule("0 9 * * *", name="morning")
    def under(params: Any, ctx: Any) -> None: ...

    app.reconcile_schedules()
    found = {s.schedule_name: s for s in app.list_schedules()}
    assert {name: s.task_name for name, s in found.items()} == {
        "send-invoice": "send-invoice",
        "under": "under",
        "morning": "under",
    }
    assert found["send-invoice"].params == {"a": 1}
    assert found["send-invoice"].options["max_attempts"] == 2


def test_declarations_that_cannot_be_used_are_refused_when_they_are_made(database_url: str) -> None:
    app = make_app(database_url, a="5m")
    with pytest.raises(ConfigurationError, match='"a" is declared twice'):
        app.schedule(every="6m", name="a")(print)
    with pytest.raises(InvalidOptionError, match="never comes"):
        app.schedule("0 0 31 2 *")(print)
    with pytest.raises(ConfigurationError, match="needs to know when"):
        app.schedule(print)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="no option 'colour'"):
        app.schedule("@daily", colour="red")  # type: ignore[call-arg]


def test_a_schedule_of_a_function_that_is_no_task_and_two_of_one_name_keep_a_worker_from_starting(database_url: str) -> None:
    app = make_app(database_url, a="5m")
    app.schedule("@daily")(print)
    with pytest.raises(ConfigurationError, match="is no task"):
        app.worker().start()
    twice = Absurd(database_url)

    @twice.schedule("@daily")
    @twice.schedule("@hourly")
    @twice.register_task
    def t(params: Any, ctx: Any) -> None: ...

    with pytest.raises(ConfigurationError, match='"t" is declared twice'):
        twice.worker().start()


async def test_the_async_client_has_the_same_methods(database_url: str) -> None:
    app = AsyncAbsurd(database_url)
    made = await app.create_schedule("s", task="t", cron="0 9 * * *", timezone="Europe/Vienna")
    assert made.created
    assert made.next_slot is not None
    assert [s.schedule_name for s in await app.list_schedules()] == ["s"]
    assert (await app.trigger_schedule("s")).task_id is not None
    await app.pause_schedule("s")
    await app.resume_schedule("s")
    end = made.created_at
    assert await app.backfill_schedule("s", end - timedelta(days=7), end) in (6, 7)
    assert await app.delete_schedule("s")
    assert await app.get_schedule("s") is None
    await app.close()


def test_jitter_is_given_like_an_interval_and_an_event_has_nothing_to_overlap(database_url: str) -> None:
    app = Absurd(database_url)
    made = app.create_schedule("s", task="t", every="1h", jitter="1m30s")
    assert made.jitter_seconds == 90
    with pytest.raises(InvalidOptionError, match="jitter must be at most 3600 seconds"):
        app.create_schedule("s", task="t", every="1h", jitter="2h")
    with pytest.raises(InvalidOptionError, match="starts a task"):
        app.create_schedule("e", event="e", every="1h", overlap="skip")


# On the command line


def test_absurdctl_create_schedule_shows_the_next_five_times(database_url: str) -> None:
    text = ("create-schedule", "nightly", "--task", "report", "--cron", "0 3 * * *", "--timezone", "Europe/Vienna", "-P", "a=1")
    lines = invoke(*text, database=database_url).out.splitlines()
    assert lines[0] == '✓ Created schedule "nightly"'
    assert len(lines) == 6
    assert "is there, just so" in invoke(*text, database=database_url).out
    made = json.loads(invoke(*text, "--json", database=database_url).out)
    assert (made["schedule_name"], made["params"], made["created"]) == ("nightly", {"a": "1"}, False)
    times = [datetime.fromisoformat(moment) for moment in made["upcoming"]]
    assert len(times) == 5
    assert times == sorted(times)
    error = invoke("create-schedule", "nightly", "-t", "report", "--every", "5m", database=database_url, code=1).err
    assert "another cron" in error
    replaced = invoke("create-schedule", "nightly", "-t", "report", "--every", "5m", "--replace", database=database_url).out
    assert replaced.startswith('✓ Changed schedule "nightly"')


def test_absurdctl_lists_pauses_triggers_backfills_and_deletes_schedules(database_url: str, conn: Connection) -> None:
    invoke("create-schedule", "s", "-t", "report", "--cron", "0 12 * * *", database=database_url)
    invoke("create-schedule", "beat", "-e", "heartbeat", "--every", "1h30m", "--jitter", "10s", database=database_url)
    assert "Paused" in invoke("pause-schedule", "s", database=database_url).out
    listed = invoke("list-schedules", database=database_url).out
    assert "paused" in listed
    assert "event heartbeat" in listed
    assert "every 1h 30m" in listed
    assert [
        s["schedule_name"] for s in json.loads(invoke("list-schedules", "-e", "heartbeat", "--json", database=database_url).out)
    ] == ["beat"]
    assert "Resumed" in invoke("resume-schedule", "s", database=database_url).out
    assert "task " in invoke("trigger-schedule", "s", database=database_url).out
    assert "event seq" in invoke("trigger-schedule", "beat", database=database_url).out
    backfill = ("backfill-schedule", "s", "--from", "2025-06-01T00:00Z", "--to", "2025-06-08T00:00Z", "--json")
    assert json.loads(invoke(*backfill, database=database_url).out)["run"] == 7
    assert json.loads(invoke(*backfill, database=database_url).out)["run"] == 0
    assert len(rows(conn, "select 1 from absurd.tasks")) == 8
    assert "Deleted" in invoke("delete-schedule", "s", database=database_url).out


@pytest.mark.parametrize("name", ["pause-schedule", "resume-schedule", "trigger-schedule", "delete-schedule"])
def test_absurdctl_says_that_there_is_no_such_schedule(name: str, database_url: str) -> None:
    assert 'there is no schedule "nix"' in invoke(name, "nix", database=database_url, code=1).err


def test_absurdctl_refuses_nonsense_with_the_reason(database_url: str, tmp_path: Path) -> None:
    assert "never comes" in refused("create-schedule", "s", "-t", "x", "--cron", "0 0 31 2 *", database=database_url)
    assert absurdctl("list-schedules", database=database_url).out.startswith("No schedules. Make one with:")
