"""The virtual clock moves everything that goes by time, and nothing goes by another one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from absurd import (
    Absurd,
    AsyncAbsurd,
    AsyncContext,
    ConfigurationError,
    Context,
    InvalidOptionError,
    TokenError,
    clock,
)
from absurd.db import connect
from absurd.queries.query import Query
from absurd.queries.testing import checkpoints
from absurd.testing import TestApp, VirtualClock
from absurd.testing import app as testing_app
from absurd.testing.plugin import AppFactory
from tests.support_testing import absurd_databases  # noqa: F401

START = datetime(2025, 3, 28, 9, 30, tzinfo=UTC)
app = Absurd("postgresql://nobody@127.0.0.1:1/production", "shop")
async_app = AsyncAbsurd("postgresql://nobody@127.0.0.1:1/production", "shop")


@app.register_task("sleeper")
def sleeper(params: Any, ctx: Context) -> Any:
    began = ctx.now()
    ctx.sleep_for(params)
    return (ctx.now() - began).total_seconds()


@app.register_task("waiter")
def waiter(params: Any, ctx: Context) -> Any:
    try:
        return ctx.await_event("go", timeout=params)
    except TimeoutError:
        return "late"


@app.register_task("noop")
def noop(params: Any, ctx: Context) -> Any:
    return ctx.now().isoformat()


@app.register_task("flaky", max_attempts=4, retry={"kind": "exponential", "base_seconds": 60, "factor": 2})
def flaky(params: Any, ctx: Context) -> Any:
    if ctx.attempt < 4:
        raise ValueError("not yet")
    return ctx.attempt


@app.register_task("asks")
def asks(params: Any, ctx: Context) -> Any:
    token = ctx.create_token("approve", timeout=3600)
    ctx.step("mail", lambda: params.append(token.secret) if isinstance(params, list) else None)
    ctx.step("secret", lambda: token.secret)
    return ctx.await_token(token)


@async_app.register_task("async-sleeper")
async def async_sleeper(params: Any, ctx: AsyncContext) -> Any:
    began = await ctx.now()
    await ctx.sleep_for(params)
    return ((await ctx.now()) - began).total_seconds()


@pytest.fixture
def t(absurd_test: AppFactory) -> TestApp:
    test = absurd_test(app)
    test.clock.set(START)
    return test


def test_time_stands_still_until_it_is_moved(t: TestApp) -> None:
    now = t.clock.now()
    app.spawn(noop)
    t.drain()
    assert t.clock.now() == now == START
    assert t.clock.advance(days=1, hours=2) == START + timedelta(days=1, hours=2)
    assert t.clock.advance(timedelta(minutes=3)) == START + timedelta(days=1, hours=2, minutes=3)


def test_every_connection_sees_the_same_time(t: TestApp) -> None:
    for _ in range(2):
        with psycopg.connect(t.database_url) as conn:
            assert conn.execute("select absurd.current_time()").fetchone() == (START,)


def test_now_of_the_context_is_the_virtual_time(t: TestApp) -> None:
    task = app.spawn(noop)
    t.drain()
    t.assert_completed(task, START.isoformat())


def test_now_of_this_process_is_the_real_one_again_after_the_test(absurd_database_url: str) -> None:
    before = clock.now
    with TestApp(app, absurd_database_url) as test:
        test.clock.set(START)
        assert clock.now() == START
    assert clock.now is before


def test_sleep_ends_when_the_clock_has_come_that_far(t: TestApp) -> None:
    task = app.spawn(sleeper, 3600)
    t.drain()
    t.clock.advance(seconds=3599)
    assert t.drain() == 0
    t.clock.advance(seconds=1)
    t.drain()
    t.assert_completed(task, 3600.0)


def test_sleep_of_an_async_task_too(t: TestApp, absurd_test: AppFactory) -> None:
    import asyncio

    async def use() -> None:
        test = absurd_test(async_app)
        task = await async_app.spawn(async_sleeper, 86_400 * 365)
        await test.run_until_idle()
        test.assert_completed(task, 86_400.0 * 365)

    asyncio.run(use())


def test_wait_times_out_at_its_moment_and_not_before(t: TestApp) -> None:
    task = app.spawn(waiter, 60)
    t.drain()
    t.assert_waiting("go", task=task, until=START + timedelta(seconds=60))
    t.run_for(seconds=59)
    assert task.state() == "sleeping"
    t.run_for(seconds=1)
    t.assert_completed(task, "late")


def test_event_before_its_timeout_is_no_timeout(t: TestApp) -> None:
    task = app.spawn(waiter, 60)
    t.run_for(seconds=59)
    app.emit_event("go", 1)
    t.run_until_idle()
    t.assert_completed(task, 1)
    assert t.clock.now() == START + timedelta(seconds=59)


def test_delay_holds_a_task_back(t: TestApp) -> None:
    task = app.spawn(noop, delay=120)
    assert t.drain() == 0
    t.run_until_idle()
    t.assert_completed(task, (START + timedelta(seconds=120)).isoformat())


def test_back_off_takes_virtual_time(t: TestApp) -> None:
    task = app.spawn(flaky)
    t.run_until_idle(raise_failures=False)
    t.assert_completed(task, 4)
    assert t.clock.now() == START + timedelta(seconds=60 + 120 + 240)


def test_task_that_nobody_started_in_time_is_cancelled(t: TestApp) -> None:
    task = app.spawn(noop, cancellation={"max_delay": 30})
    t.clock.advance(seconds=31)
    t.drain()
    t.assert_cancelled(task)


def test_token_expires(t: TestApp) -> None:
    task = app.spawn(asks)
    t.drain()
    secret = app._run(_states(task.task_id))["secret"]
    assert app.read_token(secret).status == "open"
    t.clock.advance(seconds=3601)
    with pytest.raises(TokenError):
        app.complete_token(secret)


def _states(task_id: Any) -> Any:
    query = checkpoints(task_id)
    return Query(query.sql, query.args, lambda rows: {name: state for name, _, state in rows})


def test_lease_of_a_worker_that_is_gone_runs_out(t: TestApp) -> None:
    task = app.spawn(noop)
    with connect(t.database_url) as conn:
        conn.execute("select absurd.claim_runs('shop', 'one that dies', 30, 1)")
    assert t.drain() == 0
    assert task.state() == "running"
    t.run_until_idle()
    t.assert_completed(task)
    assert t.clock.now() == START + timedelta(seconds=30)
    assert t.task(task).attempt == 2


def test_schedule_fires_each_of_its_slots_while_time_passes(t: TestApp) -> None:
    app.create_schedule("daily", task=noop, cron="0 8 * * *", timezone="Europe/Vienna")
    assert t.drain() == 0
    t.run_for(days=4)
    results = [task.result for task in t.tasks(noop)]
    # Vienna puts its clocks forward on the 30th.
    assert results == [f"2025-03-{day}T{hour}:00:00+00:00" for day, hour in ((29, "07"), (30, "06"), (31, "06"))] + [
        "2025-04-01T06:00:00+00:00"
    ]


def test_schedule_catches_up_by_its_policy_when_the_clock_jumps(t: TestApp) -> None:
    app.create_schedule("hourly", task=noop, cron="0 * * * *", catchup="all", catchup_limit=3)
    t.drain()
    t.clock.advance(hours=10)
    assert t.drain() == 3


def test_declared_schedules_are_known_to_the_test(absurd_test: AppFactory) -> None:
    own = Absurd(None, "shop")

    @own.schedule(every=600)
    @own.register_task("ticks")
    def ticks(params: Any, ctx: Context) -> None: ...

    t = absurd_test(own)
    t.run_for(hours=1)
    t.assert_spawned("ticks", count=7)  # at once, and then every ten minutes


def test_schedule_alone_is_no_reason_to_go_on(t: TestApp) -> None:
    app.create_schedule("hourly", task=noop, cron="0 * * * *")
    app.spawn(sleeper, 3 * 3600)
    t.run_until_idle()
    assert t.clock.now() == START + timedelta(hours=3)
    t.assert_spawned(noop, count=3)


def test_what_never_ends_is_given_up_with_the_tasks_that_are_left(t: TestApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing_app, "MAX_JUMPS", 5)
    app.create_schedule("every", task=sleeper, params=7200, cron="0 * * * *")
    app.spawn(sleeper, 7200)
    with pytest.raises(AssertionError, match=r"time was moved 5 times, to 2025-03-28T.*still due(?s:.*)sleeping +sleeper"):
        t.run_until_idle()


def test_paused_schedule_does_not_fire(t: TestApp) -> None:
    app.create_schedule("hourly", task=noop, cron="0 * * * *")
    app.pause_schedule("hourly")
    t.run_for(days=1)
    t.assert_not_spawned(noop)


def test_tasks_spawned_at_one_moment_run_in_their_order(absurd_test: AppFactory) -> None:
    own, ran = Absurd("postgresql://nobody@127.0.0.1:1/production", "shop"), list[int]()

    @own.register_task("numbered")
    def numbered(params: int, ctx: Context) -> None:
        ran.append(params)

    t = absurd_test(own)
    for number in range(50):
        own.spawn(numbered, number)
    t.drain()
    assert ran == list(range(50))
    assert [task.params for task in t.tasks(numbered)] == list(range(50))


def test_clock_may_be_put_back(t: TestApp) -> None:
    t.clock.set(START - timedelta(days=365))
    task = app.spawn(sleeper, 5)
    t.run_until_idle()
    t.assert_completed(task, 5.0)


def test_real_time_runs_again_when_the_clock_is_started(t: TestApp) -> None:
    t.clock.start()
    assert abs(t.clock.now() - datetime.now(UTC)) < timedelta(minutes=1)
    first = t.clock.now()
    assert t.clock.now() > first


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.advance(days=-1), "cannot be advanced by -1 day"),
        (lambda c: c.advance(fortnights=1), "not fortnights=1: "),
        (lambda c: c.set(datetime(2025, 1, 1)), "no time zone"),  # noqa: DTZ001 - that is the point
        (lambda c: c.set("2025-01-01"), "must be a datetime"),
    ],
)
def test_times_that_are_none_are_refused(t: TestApp, call: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        call(t.clock)
    assert t.clock.now() == START


def test_database_that_is_no_tests_is_never_touched(conn: Any) -> None:
    with pytest.raises(ConfigurationError, match="has no clock that can be moved"):
        VirtualClock(conn).stop()
    assert conn.execute("select to_regclass('absurd_testing.clock')").fetchone() == (None,)


def test_roles_of_the_library_see_the_virtual_time_too(t: TestApp) -> None:
    with psycopg.connect(t.database_url) as conn:
        conn.execute("create role nobody_special nologin")
        conn.execute("grant usage on schema absurd to nobody_special")
        conn.execute("grant execute on function absurd.current_time() to nobody_special")
        conn.execute("set local role nobody_special")
        assert conn.execute("select absurd.current_time()").fetchone() == (START,)
        conn.rollback()


def test_a_time_beyond_the_calendar_is_refused(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    for move in (t.clock.advance, t.run_for):
        with pytest.raises(InvalidOptionError, match="is beyond the year 9999"):
            move(days=365 * 9000)
    with pytest.raises(InvalidOptionError, match="; not day=1: "):
        t.run_for(day=1)
