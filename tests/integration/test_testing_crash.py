"""crash_everywhere: tasks that are killed at every moment between two commits, good ones and careless ones."""

from __future__ import annotations

import asyncio
import runpy
import sys
from typing import Any

import psycopg
import pytest

from absurd import Absurd, AsyncAbsurd, AsyncContext, Context, RetryStrategy, TimeoutError  # noqa: A004
from absurd.errors import ConfigurationError
from absurd.testing.crash import CrashTest, crash_everywhere
from tests.cli import ROOT


class Bank:
    """A service that is not ours: it knows a repetition by its key, if it is given one."""

    def __init__(self) -> None:
        self.charges: list[int] = []
        self.keys: set[str] = set()

    def clear(self) -> None:
        self.charges.clear()
        self.keys.clear()

    def charge(self, amount: int, key: str | None = None) -> int:
        if key is None or key not in self.keys:
            self.charges.append(amount)
        if key is not None:
            self.keys.add(key)
        return amount


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def app() -> Absurd:
    return Absurd("postgresql://nobody@127.0.0.1:1/production", "crashes")


def test_a_careful_order_survives_a_crash_at_every_point(app: Absurd, bank: Bank, server_url: str) -> None:
    @app.register_task("ship")
    def ship(params: Any, ctx: Context) -> str:
        return ctx.step("label", lambda: f"label {params['id']}")

    @app.register_task("order", max_attempts=1)
    def order(params: Any, ctx: Context) -> Any:
        when = ctx.now()
        ctx.step("charge", lambda: bank.charge(params["amount"], f"{ctx.task_id}:charge"))
        ctx.transaction("book", book, params["amount"])
        ctx.sleep_for("3d")
        child = ctx.spawn("ship", {"id": params["id"]})
        label = ctx.await_task(child)
        with pytest.raises(TimeoutError):
            ctx.await_event("never", timeout="1h")
        paid = ctx.await_event("paid", timeout="7d")
        ctx.emit_event("shipped", label)
        return [label, paid, (ctx.now() - when).days, str(child.task_id), str(ctx.task_id)]

    def book(conn: psycopg.Connection[Any], amount: int) -> None:
        conn.execute("insert into ledger values (%s)", [amount])

    def setup() -> None:
        bank.clear()
        with psycopg.connect(app.database_url, autocommit=True) as conn:
            conn.execute("create table ledger (amount integer)")

    def effects() -> Any:
        with psycopg.connect(app.database_url) as conn:
            ledger = conn.execute("select amount from ledger").fetchall()
            events = conn.execute("select payload from absurd.events where event_name = 'shipped'").fetchall()
            children = conn.execute("select count(*) from absurd.tasks where task_name = 'ship'").fetchone()
        assert len(bank.keys) == 1
        return [bank.charges.copy(), ledger, events, children]

    def drive(t: Any) -> None:
        t.app.emit_event("paid", {"by": "card"})

    report = crash_everywhere(app, "order", {"id": 7, "amount": 5}, drive=drive, effects=effects, setup=setup, server=server_url)
    assert report.ok
    assert report.expected.state == "completed"
    assert report.expected.result[:3] == ["label 7", {"by": "card"}, 3]
    assert report.expected.effects == [[5], [(5,)], [("label 7",)], (1,)]
    assert [(crash.point.step_name, crash.point.failpoint.partition(".")[2]) for crash in report.crashes[:6]] == [
        ("$now", "sent"),
        ("charge", "called"),
        ("charge", "sent"),
        ("book", "recorded-in-transaction"),
        ("book", "transacted"),
        ("$sleep", "settled"),
    ]
    assert {crash.point.step_name for crash in report.crashes} >= {"$spawn:ship", "$await:paid", "$emit:shipped", "$now#2"}
    assert app.database_url == "postgresql://nobody@127.0.0.1:1/production"


def test_a_step_without_a_key_is_found_and_named_with_what_to_do(app: Absurd, bank: Bank, server_url: str) -> None:
    @app.register_task("order")
    def order(params: Any, ctx: Context) -> int:
        ctx.step("reserve", lambda: 1)
        return ctx.step("charge", bank.charge, 5)

    with pytest.raises(AssertionError) as raised:
        crash_everywhere(app, order, setup=bank.clear, effects=bank.charges.copy, server=server_url)
    message = str(raised.value)
    assert 'task "order" was killed at 4 points, with another outcome at 1:' in message
    assert (
        'step "charge", after its function, before its checkpoint:\n  effects: expected [5]\n           got      [5, 5]'
        in message
    )
    assert 'f"{ctx.task_id}:charge"' in message


def test_an_effect_outside_of_steps_and_of_the_connection_is_found(app: Absurd, bank: Bank, server_url: str) -> None:
    @app.register_task("order")
    def order(params: Any, ctx: Context) -> None:
        bank.charge(1)
        ctx.transaction("book", lambda conn: bank.charge(2))

    with CrashTest(app, order, setup=bank.clear, effects=bank.charges.copy, server=server_url) as test:
        found = {crash.point.failpoint: crash for crash in map(test.crash_at, test.points())}
    assert found["context.recorded-in-transaction"].outcome.effects == [1, 2, 1, 2]
    assert "rolled back and run again" in str(found["context.recorded-in-transaction"])
    assert found["context.transacted"].outcome.effects == [1, 2, 1]
    assert "the code between the steps did" in str(found["context.transacted"])


def test_another_result_after_a_crash_is_found(app: Absurd, server_url: str) -> None:
    @app.register_task("order")
    def order(params: Any, ctx: Context) -> int:
        ctx.step("reserve", lambda: 1)
        return ctx.attempt

    with pytest.raises(AssertionError, match=r"result: expected 1\n.*got      2"):
        crash_everywhere(app, order, server=server_url)


def test_attempts_that_fail_and_steps_that_are_retried_are_points_too(app: Absurd, server_url: str) -> None:
    @app.register_task("order", max_attempts=2, retry=RetryStrategy.fixed(3600))
    def order(params: Any, ctx: Context) -> str:
        ctx.step("a", lambda: 1)
        if ctx.step("fail", lambda: True):
            raise ValueError("as ever")
        return "never"

    report = crash_everywhere(app, order, server=server_url)
    assert report.expected.state == "failed"
    assert report.expected.failure == {"name": "ValueError", "message": "as ever"}
    assert len(report.crashes) == 4
    assert "without a difference; it is failed in each run: " in str(report)


def test_an_async_app_with_steps_side_by_side_is_killed_at_the_same_points(bank: Bank, server_url: str) -> None:
    app = AsyncAbsurd("postgresql://nobody@127.0.0.1:1/production", "crashes")

    @app.register_task("order")
    async def order(params: Any, ctx: AsyncContext) -> Any:
        async def charge(n: int) -> int:
            await asyncio.sleep(0)
            return bank.charge(n, f"{ctx.task_id}:{n}")

        both = await asyncio.gather(*(ctx.step(f"charge {n}", charge, n) for n in (1, 2)))

        async def book(conn: Any) -> int:
            return (await (await conn.execute("select 3")).fetchone())[0]

        both.append(await ctx.transaction("book", book))
        return [*both, await ctx.await_event("paid")]

    async def drive(t: Any) -> None:
        await app.emit_event("paid", "yes")

    def effects() -> list[int]:
        return sorted(bank.charges)

    report = crash_everywhere(app, order, setup=bank.clear, effects=effects, drive=drive, server=server_url)
    assert report.expected.result == [1, 2, 3, "yes"]
    assert [str(crash.point) for crash in report.crashes if "charge" in crash.point.step_name].count(
        'step "charge 1", after its function, before its checkpoint'
    ) == 1
    assert len(report.crashes) == 7


def test_a_handler_that_catches_everything_still_dies(app: Absurd, bank: Bank, server_url: str) -> None:
    @app.register_task("order")
    def order(params: Any, ctx: Context) -> str:
        try:
            ctx.step("a", lambda: 1)
        except BaseException:
            ctx.step("swallowed", lambda: bank.charge(1))
        return "done"

    report = crash_everywhere(app, order, setup=bank.clear, effects=bank.charges.copy, server=server_url)
    assert report.expected.effects == []
    assert len(report.crashes) == 2


def test_a_task_that_fails_before_its_first_effect_tests_nothing_and_is_told_so(app: Absurd, server_url: str) -> None:
    @app.register_task("order", max_attempts=1)
    def order(params: Any, ctx: Context) -> None:
        ctx.transaction("book", lambda conn: conn.execute("insert into bookings values (1)") and None)

    with pytest.raises(AssertionError, match=r'failed even without a crash.*"bookings\\" does not exist.*Does setup= make'):
        crash_everywhere(app, order, server=server_url)
    with pytest.raises(ConfigurationError, match="can be tested, not <module 'tests"):
        crash_everywhere(sys.modules[__name__], order, server=server_url)  # type: ignore[arg-type]


def test_a_task_that_does_not_end_is_told_so(app: Absurd, server_url: str) -> None:
    @app.register_task("order")
    def order(params: Any, ctx: Context) -> None:
        ctx.await_event("paid")

    with pytest.raises(AssertionError, match=r"even without a crash; it is sleeping.*let drive= emit it"):
        crash_everywhere(app, order, server=server_url)
    with pytest.raises(ConfigurationError, match="is no task of this app"):
        crash_everywhere(app, "unknown", server=server_url)


def test_the_order_of_the_examples_survives_a_crash_at_every_point(server_url: str) -> None:
    order = runpy.run_path(str(ROOT / "examples" / "event_demo.py"))
    app = order["app"]

    def drive(t: Any) -> None:
        app.emit_event("payment.confirmed:1", {"amount": 99.99})
        app.emit_event("shipment.delivered:1", {"signed": True})

    report = crash_everywhere(app, "order-fulfillment", {"order_id": "1"}, drive=drive, server=server_url)
    assert report.expected.result["status"] == "completed"
    assert {crash.point.step_name for crash in report.crashes} >= {"reserve-inventory", "ship-order", "finalize-order"}
