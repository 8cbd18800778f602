"""An application in a test: bound to a clean database, drained, inline, sync and async."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import psycopg
import pytest

from absurd import Absurd, AsyncAbsurd, AsyncContext, ConfigurationError, Context, testing
from absurd.client.base import BaseClient
from absurd.testing import TaskErrors
from absurd.testing import waiting as patience
from absurd.testing.plugin import AppFactory
from tests.support_testing import absurd_databases  # noqa: F401

# As in a module of an application: made before any test, for a database that is not there.
app = Absurd("postgresql://nobody@127.0.0.1:1/production", "shop")
async_app = AsyncAbsurd("postgresql://nobody@127.0.0.1:1/production", "shop")


@app.register_task("order")
def order(params: Any, ctx: Context) -> Any:
    ctx.step("reserve", lambda: None)
    payment = ctx.await_event(f"paid:{params['id']}", timeout=86_400)
    mail = ctx.spawn("send-mail", {"amount": payment["amount"]}, queue="mails")
    return {"sent": ctx.await_task(mail)}


@app.register_task("send-mail", queue="mails")
def send_mail(params: Any, ctx: Context) -> Any:
    return f"mail about {params['amount']}"


@app.register_task("fragile", max_attempts=3)
def fragile(params: Any, ctx: Context) -> Any:
    if ctx.attempt <= params:
        raise ValueError(f"attempt {ctx.attempt} of a fragile task")
    return ctx.attempt


@app.register_task("counts", queue="mails")
def counts(params: Any, ctx: Context) -> None:
    raise KeyError("never")


@async_app.register_task("async-order")
async def async_order(params: Any, ctx: AsyncContext) -> Any:
    payment = await ctx.await_event(f"paid:{params['id']}")
    return {"paid": payment["amount"], "loop": id(asyncio.get_running_loop())}


@async_app.register_task("async-fragile")
async def async_fragile(params: Any, ctx: AsyncContext) -> None:
    raise ValueError("an async handler")


def test_drain_runs_what_is_ready_and_leaves_sleepers_asleep(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    task = app.spawn(order, {"id": 1})
    assert t.drain() == 1
    assert task.state() == "sleeping"
    app.emit_event("paid:1", {"amount": 20})
    t.drain()
    assert task.result() == {"sent": "mail about 20"}
    assert t.drain() == 0


def test_application_goes_back_to_its_own_database_and_settings(absurd_database_url: str) -> None:
    before, environment = dict(vars(app)), dict(os.environ)
    with testing.bind(app, absurd_database_url):
        app.create_queue()
        app.spawn(send_mail, {"amount": 1}, queue="shop")
        assert Absurd().database_url == absurd_database_url
        assert app.list_queues() == ["default", "shop"]
        pool = app._pool()
    assert vars(app) == before
    assert dict(os.environ) == environment
    assert pool._idle == []


def test_hooks_of_the_application_are_its_own_again_after_the_test(absurd_database_url: str) -> None:
    with testing.TestApp(app, absurd_database_url) as t:
        assert len(app.registry.around_execution) == 1
        t.drain()
    assert app.registry.around_execution == []
    assert "spawn" not in vars(app)
    assert "_await_end" not in vars(app)


def test_application_on_a_connection_is_bound_too(absurd_database_url: str, conn: Any) -> None:
    own = Absurd(conn)
    own.register_task("noop")(lambda params, ctx: 1)
    with testing.TestApp(own, absurd_database_url) as t:
        task = own.spawn("noop")
        t.drain()
        t.assert_completed(task, 1)
    assert own._conn is conn


def test_error_of_a_handler_is_raised_by_drain_with_the_handlers_own_traceback(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    app.spawn(fragile, 1)
    app.spawn(counts)
    with pytest.raises(TaskErrors, match=r"fragile \(attempt 1, it is to be tried again\): ValueError: attempt 1 of") as caught:
        t.drain()
    assert [type(error) for error in caught.value.errors] == [ValueError, KeyError]
    cause = caught.value.__cause__
    assert cause is caught.value.errors[0]
    frames = []
    trace = cause.__traceback__ if cause else None
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames[-1] == "fragile"


def test_error_is_raised_once_and_not_by_the_next_drain(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    task = app.spawn(fragile, 1)
    with pytest.raises(TaskErrors):
        t.drain()
    t.run_until_idle()
    t.assert_completed(task, 2)


def test_errors_that_are_expected_can_be_left_to_the_task(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    task = app.spawn(fragile, 2)
    assert t.run_until_idle(raise_failures=False) == 3
    assert task.result() == 3


def test_task_that_takes_other_steps_than_recorded_fails_the_test(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    changing = Absurd(None, "shop")
    names = iter(["first", "second"])

    @changing.register_task("changes")
    def changes(params: Any, ctx: Context) -> None:
        ctx.step(next(names), lambda: None)
        ctx.sleep_for(60)

    other = absurd_test(changing)
    changing.spawn(changes)
    with pytest.raises(TaskErrors, match="ReplayMismatchError"):
        other.run_until_idle()
    assert t.tasks("changes")[0].state != "completed"


def test_inline_mode_has_code_find_its_task_done(absurd_test: AppFactory) -> None:
    absurd_test(app, inline=True)
    assert app.spawn(send_mail, {"amount": 3}).result() == "mail about 3"
    task = app.spawn(order, {"id": 2})
    assert task.state() == "sleeping"
    app.emit_event("paid:2", {"amount": 4})
    assert task.result() == {"sent": "mail about 4"}


def test_inline_mode_leaves_a_failure_to_the_handle(absurd_test: AppFactory) -> None:
    t = absurd_test(app, inline=True)
    task = app.spawn(counts, max_attempts=1)
    t.assert_failed(task, KeyError, match="never")


def test_inline_mode_works_below_a_running_event_loop(absurd_test: AppFactory) -> None:
    absurd_test(app, inline=True)

    async def route() -> Any:
        return app.spawn(send_mail, {"amount": 5}).snapshot().result

    assert asyncio.run(route()) == "mail about 5"


def test_inline_mode_does_not_begin_within_a_handler(absurd_test: AppFactory) -> None:
    nested = Absurd(None, "shop")
    seen: list[str] = []

    @nested.register_task("inner")
    def inner(params: Any, ctx: Context) -> None:
        seen.append("inner")

    @nested.register_task("outer")
    def outer(params: Any, ctx: Context) -> None:
        ctx.step("spawn", lambda: str(nested.spawn(inner).task_id))
        seen.append("outer")

    absurd_test(nested, inline=True)
    nested.spawn(outer)
    assert sorted(seen) == ["inner", "outer"]


def test_result_gives_up_soon_and_says_what_the_task_waits_for(absurd_test: AppFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    t = absurd_test(app)
    monkeypatch.setattr(patience, "RESULT_SECONDS", 0.05)
    task = app.spawn(order, {"id": 7})
    with pytest.raises(TimeoutError, match="nothing runs in a test unless drain"):
        task.result()
    t.drain()
    with pytest.raises(TimeoutError, match='waits for event "paid:7" of queue shop'):
        task.result()


def test_the_same_application_twice_is_the_same_test(absurd_test: AppFactory) -> None:
    t = absurd_test(app, inline=True)
    assert absurd_test(app, inline=True) is t
    with pytest.raises(ConfigurationError, match=r"inline=False\): the application is in this test already, with inline=True"):
        absurd_test(app)


def test_a_test_within_a_test_gives_the_outer_one_its_database_back(absurd_test: AppFactory) -> None:
    t = absurd_test(app, inline=True)
    with testing.run(app, server=t.database_url, inline=True) as inner:
        app.spawn(send_mail, {"amount": 1})
        inner.assert_spawned("send-mail", count=1)
        t.assert_not_spawned("send-mail")
    task = app.spawn(send_mail, {"amount": 2})
    assert task.result() == "mail about 2"
    t.assert_completed(task)


def test_what_is_no_application_is_refused(absurd_test: AppFactory) -> None:
    with pytest.raises(ConfigurationError, match="can be tested, not 'shop:app'"):
        absurd_test("shop:app")  # type: ignore[call-overload]


async def test_async_application_is_drained_on_the_tests_own_loop(absurd_test: AppFactory) -> None:
    t = absurd_test(async_app)
    task = await async_app.spawn(async_order, {"id": 1})
    await t.drain()
    t.assert_waiting("paid:1", task=task)
    await async_app.emit_event("paid:1", {"amount": 9})
    await t.run_until_idle()
    assert await task.result() == {"paid": 9, "loop": id(asyncio.get_running_loop())}


async def test_async_application_is_bound_anew_on_the_next_tests_loop(absurd_test: AppFactory) -> None:
    t = absurd_test(async_app)
    task = await async_app.spawn(async_order, {"id": 1})
    await async_app.emit_event("paid:1", {"amount": 9})
    await t.drain()
    assert (await task.result())["paid"] == 9


async def test_error_of_an_async_handler_is_raised_by_drain(absurd_test: AppFactory) -> None:
    t = absurd_test(async_app)
    await async_app.spawn(async_fragile, max_attempts=1)
    with pytest.raises(TaskErrors) as caught:
        await t.drain()
    assert isinstance(caught.value.__cause__, ValueError)


async def test_inline_mode_of_an_async_application(absurd_test: AppFactory) -> None:
    t = absurd_test(async_app, inline=True)
    await async_app.emit_event("paid:3", {"amount": 1})
    tasks = await asyncio.gather(*(async_app.spawn(async_order, {"id": 3}) for _ in range(3)))
    for task in tasks:
        t.assert_completed(task)


async def test_sync_application_can_be_drained_in_an_async_test(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    task = app.spawn(send_mail, {"amount": 8})
    assert t.drain() == 1
    t.assert_completed(task, "mail about 8")


async def test_waits_of_an_async_client_end_with_its_test(absurd_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RESULT_SECONDS", 0.05)
    async with testing.AsyncTestApp(async_app, absurd_database_url):
        task = await async_app.spawn(async_order, {"id": 1})
        with pytest.raises(TimeoutError):
            await task.result()
        listener = async_app._listener_made
        assert listener is not None
    assert not listener[0].running
    assert isinstance(async_app, BaseClient)
    assert async_app._listener_made is None


def test_run_is_a_whole_test_without_pytest(server_url: str) -> None:
    with testing.run(app, server=server_url) as t:
        task = app.spawn(send_mail, {"amount": 2})
        t.drain()
        assert task.result() == "mail about 2"


def test_a_run_that_fails_leaves_no_database(server_url: str) -> None:
    urls = []

    def fails() -> None:
        with testing.run(app, server=server_url) as t:
            urls.append(t.database_url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with psycopg.connect(server_url) as conn:
        names = [psycopg.conninfo.conninfo_to_dict(url)["dbname"] for url in urls]
        assert conn.execute("select from pg_database where datname = any(%s)", (names,)).fetchone() is None
