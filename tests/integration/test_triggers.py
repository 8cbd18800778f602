"""Triggers that a worker polls: what fires, what fails, what is remembered."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import (
    Absurd,
    AsyncAbsurd,
    FileTrigger,
    Fire,
    HealthCheckTrigger,
    InvalidOptionError,
    QueueDepthTrigger,
    Skip,
    Trigger,
)
from absurd.queries.triggers import TriggerInfo
from tests.support import wait_until
from tests.support_tasks import Play, count

Conn = psycopg.Connection[Any]
QUICKLY = 0.1


def info(app: Absurd, name: str) -> TriggerInfo | None:
    return next((one for one in app.list_triggers() if one.name == name), None)


def started(play: Play, name: str = "work") -> list[Any]:
    """Params of the tasks of a name that have been spawned."""
    with psycopg.connect(play.url) as conn:
        return [row[0] for row in conn.execute("select params from absurd.tasks where task_name = %s order by task_id", (name,))]


def task(play: Play, name: str = "work") -> None:
    @play.task(name)
    async def work(params: Any, ctx: Any) -> None:
        play.seen.append(params)


class Switch(Trigger):
    """Fires when it is told to, with what it is given."""

    task = "work"
    poll_interval = QUICKLY

    def __init__(self, name: str = "switch") -> None:
        self.name = name
        self.answers: list[Any] = []
        self.polls = 0

    def poll(self) -> Any:
        self.polls += 1
        answer = self.answers.pop(0) if self.answers else Skip
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_l5_l9_trigger_starts_its_task_which_gets_the_context(sync_play: Play) -> None:
    task(sync_play)
    switch = sync_play.app.add_trigger(Switch())
    switch.answers = [False, Fire({"a": 1}), Skip, True]
    with sync_play.worker():
        wait_until(lambda: len(sync_play.seen) == 2, what="two tasks")
    first, second = sorted(sync_play.seen, key=len, reverse=True)
    assert (first["a"], first["trigger_name"]) == (1, "switch")
    assert list(second) == ["trigger_name", "triggered_at"]
    found = sync_play.app.trigger_executions("switch")
    assert len(found) == 2
    assert all(one.completed_at is not None and one.task_state == "completed" for one in found)


def test_l8_polls_may_be_async_and_share_an_event_loop(sync_play: Play) -> None:
    task(sync_play)
    loops = set()

    @sync_play.app.trigger(task="work", poll_interval=QUICKLY)
    async def slow(state: dict[str, Any]) -> Any:
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        state["n"] = state.get("n", 0) + 1
        return Fire({"n": state["n"]}) if state["n"] <= 3 else Skip

    with sync_play.worker():
        wait_until(lambda: len(sync_play.seen) == 3, what="three tasks")
    assert [params["n"] for params in started(sync_play)] == [1, 2, 3]
    assert len(loops) == 1


def test_l24_what_a_poll_returns_or_raises_need_not_even_be_printable(sync_play: Play) -> None:
    task(sync_play)
    app = sync_play.app

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise OSError("no")

        __repr__ = __str__

    @app.trigger(task="work", poll_interval=QUICKLY)
    def unprintable() -> Unprintable:
        return Unprintable()

    @app.trigger(task="work", poll_interval=QUICKLY)
    def unspeakable() -> None:
        raise Unprintable

    refused = "must return Fire(…), Skip, a bool or a list of Fire, not a value of type Unprintable"
    wanted = {
        "unprintable": f'TypeError: the poll of trigger "unprintable" {refused}',
        "unspeakable": "Unprintable: its str() raised OSError",
    }
    with sync_play.worker():
        wait_until(lambda: all((found := info(app, name)) and found.last_error == text for name, text in wanted.items()))


def test_l24_l27_k19_slow_hanging_raising_and_nonsense_polls_harm_no_neighbour(
    sync_play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    task(sync_play)
    app, release = sync_play.app, threading.Event()
    hangs: list[int] = []

    @app.trigger(task="work", poll_interval=QUICKLY, poll_timeout=0.3)
    def hanging() -> bool:
        hangs.append(1)
        first = len(hangs) == 1
        release.wait(60)
        return first

    @app.trigger(task="work", poll_interval=QUICKLY, poll_timeout=0.3)
    async def endless() -> None:
        await asyncio.Event().wait()

    @app.trigger(task="work", poll_interval=QUICKLY)
    async def blocking() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 -- what it must not do

    @app.trigger(task="work", poll_interval=QUICKLY)
    def raising() -> None:
        raise ValueError("broken \x00 \ud800")

    @app.trigger(task="work", poll_interval=QUICKLY)
    def leaving() -> None:
        raise SystemExit(3)

    @app.trigger(task="work", poll_interval=QUICKLY)
    def nonsense() -> int:
        return 42

    @app.trigger(task="work", poll_interval=QUICKLY)
    def forgetful(state: dict[str, Any]) -> None:
        state["set"] = {1, 2}

    app.add_trigger(Switch("nowhere"), queue="nowhere")
    healthy = app.add_trigger(Switch("healthy"))
    wanted = {
        "hanging": "TimeoutError: the poll did not end within 0.3 s (poll_timeout)",
        "endless": "TimeoutError: the poll did not end within 0.3 s (poll_timeout)",
        "raising": "ValueError: broken \\x00 \\ud800",
        "leaving": "SystemExit: 3",
        "nonsense": 'TypeError: the poll of trigger "nonsense" must return Fire(…), Skip, a bool or a list of Fire, not 42',
    }
    with caplog.at_level(logging.WARNING), sync_play.worker():
        wait_until(lambda: all((found := info(app, name)) and found.last_error == text for name, text in wanted.items()))
        wait_until(lambda: "is no JSON" in str((found := info(app, "forgetful")) and found.last_error))
        polls = healthy.polls
        wait_until(lambda: healthy.polls > polls + 5, what="more polls of the healthy one")
        assert len(hangs) == 1, "it was polled again while the old poll still ran"
        release.set()
        wait_until(lambda: len(hangs) == 2, what="a poll after the one that hung has ended")
    assert info(app, "nowhere") is None
    assert 'trigger "nowhere" cannot be registered and is not polled: queue "nowhere" does not exist' in caplog.text
    assert 'trigger "raising": ValueError: broken' in caplog.text
    assert started(sync_play) == []


def test_l18_trigger_is_polled_as_soon_as_its_queue_exists(sync_play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("absurd.triggers.loop.REGISTER_AGAIN", 0.2)
    task(sync_play)
    late = sync_play.app.add_trigger(Switch(), queue="late")
    with sync_play.worker():
        sync_play.app.create_queue("late")
        wait_until(lambda: late.polls, what="a poll")


def test_deleted_trigger_that_the_code_still_has_is_registered_again(sync_play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("absurd.triggers.loop.REGISTER_INTERVAL", 0.2)
    task(sync_play)
    switch = sync_play.app.add_trigger(Switch())
    with sync_play.worker():
        wait_until(lambda: switch.polls, what="a poll")
        assert sync_play.app.delete_trigger("switch")
        polls = switch.polls
        wait_until(lambda: switch.polls > polls + 2 and info(sync_play.app, "switch"), what="polls after the deletion")


def test_l29_disabled_trigger_is_not_polled_until_it_is_enabled_also_after_a_restart(sync_play: Play) -> None:
    task(sync_play)
    switch, other = sync_play.app.add_trigger(Switch()), sync_play.app.add_trigger(Switch("other"))
    with sync_play.worker():
        wait_until(lambda: switch.polls, what="a poll")
        sync_play.app.disable_trigger("switch")
    polls = switch.polls
    with sync_play.worker():
        before = other.polls
        wait_until(lambda: other.polls > before + 5, what="polls of the other")
        assert switch.polls == polls
        sync_play.app.enable_trigger("switch")
        wait_until(lambda: switch.polls > polls, what="a poll")


def test_l20_worker_without_triggers_leaves_them_alone(sync_play: Play) -> None:
    task(sync_play)
    switch = sync_play.app.add_trigger(Switch())
    switch.answers = [True]
    with sync_play.worker(triggers=False):
        sync_play.spawn("work").result(20)
    sync_play.app.run_worker_once()
    assert switch.polls == 0
    assert sync_play.app.list_triggers() == []
    with pytest.raises(InvalidOptionError, match="triggers must be True or False"):
        sync_play.worker(triggers="no")


def test_l21_clean_shutdown_lets_a_running_poll_end_and_releases_the_triggers(sync_play: Play) -> None:
    task(sync_play)
    begun, finish = threading.Event(), threading.Event()

    @sync_play.app.trigger(task="work", poll_interval=60)
    def slow() -> bool:
        begun.set()
        return finish.wait(20)

    worker = sync_play.worker()
    worker.start()
    assert begun.wait(20)
    threading.Timer(0.3, finish.set).start()
    worker.stop()
    assert len(started(sync_play)) == 1
    found = info(sync_play.app, "slow")
    assert found is not None
    assert (found.owner, found.polling) == (None, False)


def test_l13_triggers_and_schedules_work_side_by_side(sync_play: Play) -> None:
    task(sync_play)
    task(sync_play, "by the clock")
    switch = sync_play.app.add_trigger(Switch())
    switch.answers = [True]
    sync_play.app.create_schedule("tick", task="by the clock", every="1h")
    with sync_play.worker():
        wait_until(lambda: started(sync_play) and started(sync_play, "by the clock"), what="a task of each")


def test_state_survives_a_restart_and_an_error_leaves_it_as_it_was(sync_play: Play) -> None:
    task(sync_play)
    states: list[dict[str, Any]] = []

    @sync_play.app.trigger(task="work", poll_interval=QUICKLY)
    def counting(state: dict[str, Any]) -> None:
        states.append(dict(state))
        state["n"] = state.get("n", 0) + 1
        if state["n"] == 2:
            state["n"] = 100
            raise ValueError("not this time")

    for _ in range(2):
        seen = len(states)
        with sync_play.worker():
            wait_until(lambda seen=seen: len(states) > seen + 1, what="two polls")  # type: ignore[misc]
    assert states[0] == {}
    assert all(state == {"n": 1} for state in states[1:])


def test_fires_wait_for_a_row_that_somebody_has_locked_and_the_others_go_on(sync_play: Play, database_url: str) -> None:
    task(sync_play)
    held, free = sync_play.app.add_trigger(Switch("held")), sync_play.app.add_trigger(Switch("free"))
    with sync_play.worker():
        wait_until(lambda: held.polls and free.polls, what="polls")
        with psycopg.connect(database_url) as blocker:
            blocker.execute("select from absurd.triggers where trigger_name = 'held' for update")
            held.answers, polls = [Fire({"n": 1})], free.polls
            wait_until(lambda: free.polls > polls + 5, what="polls of the free one")
        wait_until(lambda: held.answers or started(sync_play), what="the fire of the held one")
        wait_until(lambda: len(started(sync_play)) == 1, what="the fire of the held one")


def write(path: Path, text: str, modified: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if modified is not None:
        os.utime(path, (modified, modified))


def test_l14_file_trigger_fires_once_for_each_new_and_changed_file_also_over_restarts(sync_play: Play, tmp_path: Path) -> None:
    task(sync_play)
    watched = tmp_path / "in"
    write(watched / "a.csv", "1", 1000)
    write(watched / "b.txt", "not watched")
    write(watched / "below" / "c.csv", "not watched either")
    sync_play.app.add_trigger(FileTrigger(watched, pattern="*.csv", task="work", name="files", poll_interval=QUICKLY))

    def paths() -> list[tuple[str, int]]:
        return [(Path(params["path"]).name, params["size"]) for params in started(sync_play)]

    with sync_play.worker():
        wait_until(lambda: paths() == [("a.csv", 1)], what="the first file")
        write(watched / "d.csv", "22", 2000)
        wait_until(lambda: len(paths()) == 2, what="the new file")
        write(watched / "a.csv", "333", 3000)
        wait_until(lambda: len(paths()) == 3, what="the changed file")
    write(watched / "e.csv", "4444")
    with sync_play.worker():
        wait_until(lambda: len(paths()) == 4, what="the file that came while nobody looked")
    assert paths() == [("a.csv", 1), ("d.csv", 2), ("a.csv", 3), ("e.csv", 4)]
    assert started(sync_play)[0]["modified_at"] == "1970-01-01T00:16:40+00:00"


def test_l14_file_that_still_grows_and_odd_names_are_looked_at_with_care(tmp_path: Path) -> None:
    trigger = FileTrigger(tmp_path, task="work", recursive=True)
    write(tmp_path / "below" / "ü \x1b.csv", "1", 1000)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link to a directory").symlink_to(tmp_path)
    with open(os.fsencode(tmp_path) + b"/\xff.csv", "wb"):
        pass
    write(tmp_path / "grows", "1", 1000)
    assert trigger.poll() == []
    write(tmp_path / "grows", "12", 1000)
    assert [fire.context and Path(str(fire.context["path"])).name for fire in trigger.poll()] == ["ü \x1b.csv"]
    assert [fire.context and fire.context["size"] for fire in trigger.poll()] == [2]
    assert trigger.poll() == []
    (tmp_path / "grows").unlink()
    trigger.poll()
    assert list(trigger.state["files"]) == ["below/ü \x1b.csv"]
    gone = FileTrigger(tmp_path / "gone", task="work")
    with pytest.raises(FileNotFoundError):
        gone.poll()


def test_l14_many_files_fire_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("absurd.triggers.files.BATCH", 10)
    trigger = FileTrigger(tmp_path, task="work")
    for number in range(25):
        write(tmp_path / f"{number:02}", "")
    found = [[Path(str(fire.context and fire.context["path"])).name for fire in trigger.poll()] for _ in range(5)]
    assert [len(batch) for batch in found] == [0, 10, 10, 5, 0]
    assert sorted(name for batch in found for name in batch) == [f"{number:02}" for number in range(25)]


def test_l22_queue_depth_trigger_fires_from_the_threshold_on_and_once_at_a_time(sync_play: Play) -> None:
    app, gate = sync_play.app, threading.Event()
    app.create_queue("full")

    @sync_play.task("work")
    async def work(params: Any, ctx: Any) -> None:
        await sync_play.hold(gate)

    app.add_trigger(QueueDepthTrigger("full", 3, task="work", poll_interval=QUICKLY))
    app.spawn_many("elsewhere", [1, 2], queue="full")

    def polled_since(moment: Any) -> bool:
        found = info(app, "queue-depth:full")
        return found is not None and found.last_poll_at is not None and (moment is None or found.last_poll_at > moment)

    with sync_play.worker(queues=["default"]):
        wait_until(lambda: polled_since(None), what="a poll")
        assert started(sync_play) == []
        app.spawn_many("elsewhere", [3, 4], queue="full")
        wait_until(lambda: started(sync_play), what="a fire")
        for _ in range(3):
            last = app.list_triggers()[0].last_poll_at
            wait_until(lambda last=last: polled_since(last), what="another poll")  # type: ignore[misc]
        gate.set()
        wait_until(lambda: len(started(sync_play)) > 1, what="another fire, once the first task is over")
    assert {key: started(sync_play)[0][key] for key in ("queue", "threshold")} == {"queue": "full", "threshold": 3}
    first, second = sorted(app.trigger_executions("queue-depth:full"), key=lambda one: one.execution_id)[:2]
    assert first.completed_at is not None
    assert second.started_at >= first.completed_at


def test_l23_health_check_trigger_counts_over_a_restart(sync_play: Play, conn: Conn) -> None:
    task(sync_play)
    answers = [False, True, False, False]
    sync_play.app.add_trigger(
        HealthCheckTrigger(lambda: answers.pop(0), failures=2, task="work", name="health", poll_interval="1h")
    )
    for left in (3, 2, 1, 0):
        conn.execute("update absurd.triggers set next_poll_at = now()")
        with sync_play.worker():
            wait_until(lambda left=left: len(answers) == left, what="a check")  # type: ignore[misc]
    assert [params["failures"] for params in started(sync_play)] == [2]


async def test_l28_l30_async_client_lists_enables_and_disables(database_url: str, conn: Conn) -> None:
    async with AsyncAbsurd(database_url) as app:
        conn.execute("select absurd.register_trigger('t', 'default', 'work', 2, 30, false)")
        assert [one.name for one in await app.list_triggers()] == ["t"]
        await app.disable_trigger("t")
        assert [one.enabled for one in await app.list_triggers()] == [False]
        await app.enable_trigger("t")
        assert await app.trigger_executions("t") == []
        with pytest.raises(InvalidOptionError, match="limit must be a whole number from 1 to 1000"):
            await app.trigger_executions("t", limit=0)
        with pytest.raises(InvalidOptionError, match='there is no trigger "nobody"'):
            await app.disable_trigger("nobody")
        assert await app.delete_trigger("t") is True
    assert count(conn, "select count(*) from absurd.triggers") == 0
