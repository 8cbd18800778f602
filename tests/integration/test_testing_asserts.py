"""Asserts of tests: they hold when it is so, and otherwise show what there was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import pytest

from absurd import Absurd, AsyncAbsurd, Context, InvalidOptionError
from absurd.testing import TestApp
from absurd.testing.plugin import AppFactory
from tests.support_testing import absurd_databases  # noqa: F401

app = Absurd("postgresql://nobody@127.0.0.1:1/production", "shop")


@dataclass
class Letter:
    to: str
    copies: int = 1


@app.register_task("order")
def order(params: Any, ctx: Context) -> Any:
    ctx.step("reserve", lambda: 1)
    ctx.step("charge", lambda: 2)
    ctx.emit_event("charged", {"order": params["id"]})
    ctx.spawn("letter", {"to": "Ada"}, headers={"order": params["id"]})
    return ctx.await_event("paid", timeout=3600)


@app.register_task("letter")
def letter(params: Letter, ctx: Context) -> Letter:
    return Letter(params.to.upper(), params.copies)


@app.register_task("broken", max_attempts=1)
def broken(params: Any, ctx: Context) -> None:
    raise ValueError("out of paper")


@pytest.fixture
def t(absurd_test: AppFactory) -> TestApp:
    """One order that waits for its payment, and one letter that has been sent."""
    test = absurd_test(app)
    app.spawn(order, {"id": 1, "items": ["widget"]})
    test.drain()
    return test


HOLDING: dict[str, Callable[[TestApp], Any]] = {
    "spawned by name": lambda t: t.assert_spawned("order"),
    "spawned by handler": lambda t: t.assert_spawned(order, count=1, queue="shop"),
    "spawned with params": lambda t: t.assert_spawned("order", {"id": 1, "items": ["widget"]}),
    "spawned with anything within": lambda t: t.assert_spawned("order", {"id": 1, "items": ANY}),
    "spawned with params that a function accepts": lambda t: t.assert_spawned("order", lambda params: params["id"] == 1),
    "spawned with a declared type": lambda t: t.assert_spawned(letter, Letter("Ada"), headers={"order": 1}),
    "spawned never": lambda t: t.assert_spawned("refund", count=0),
    "not spawned": lambda t: t.assert_not_spawned("order", {"id": 2}),
    "emitted": lambda t: t.assert_emitted("charged", {"order": 1}, count=1, queue="shop"),
    "not emitted": lambda t: t.assert_not_emitted("charged", {"order": 2}),
    "waiting for an event": lambda t: t.assert_waiting("paid"),
    "waiting for it, one task": lambda t: t.assert_waiting("paid", task="order", until=t.clock.now() + timedelta(hours=1)),
    "waiting for anything": lambda t: t.assert_waiting(task=order),
    "steps": lambda t: t.assert_steps("order", ["reserve", "charge"]),
    "completed": lambda t: t.assert_completed("letter"),
    "completed with JSON": lambda t: t.assert_completed(letter, {"to": "ADA", "copies": 1}),
    "completed with a value": lambda t: t.assert_completed(letter, Letter("ADA")),
}


@pytest.mark.parametrize("what", HOLDING)
def test_assert_holds(what: str, t: TestApp) -> None:
    HOLDING[what](t)


BROKEN: list[tuple[Callable[[TestApp], Any], str]] = [
    (lambda t: t.assert_spawned("ordr"), r'expected a task "ordr", found none\.\nThese tasks were spawned:\n +sleeping +order '),
    (lambda t: t.assert_spawned("order", {"id": 2, "items": ["widget"]}), r"It differs.*\n +- .'id': 2, .*\n +\+ .'id': 1, "),
    (lambda t: t.assert_spawned("order", count=2), r'expected 2 of a task "order", found 1\.'),
    (lambda t: t.assert_spawned("order", queue="mails"), r'"order" with queue \'mails\', found none'),
    (lambda t: t.assert_not_spawned("order"), r'expected no task "order", found 1\.\n.*\n +sleeping +order +\{\'id\': 1'),
    (lambda t: t.assert_emitted("paid"), r'expected an event "paid", found none\.\n.*\n +charged +\{\'order\': 1\}'),
    (lambda t: t.assert_emitted("charged", {"order": 7}), r"- \{'order': 7\}\n +\+ \{'order': 1\}"),
    (lambda t: t.assert_not_emitted("charged"), r'expected no event "charged", found 1'),
    (
        lambda t: t.assert_waiting("payed"),
        r'expected a task to wait for event "payed"\.\n.*\n.*"order" .* waits for event "paid"',
    ),
    (lambda t: t.assert_waiting(task=letter), r'to wait for something\.\n(?s:.*)"letter" .* is completed'),
    (
        lambda t: t.assert_steps("order", ["charge", "reserve", "ship"]),
        r"steps of task \"order\"(?s:.*)\+ reserve\n(?s:.*)- ship",
    ),
    (lambda t: t.assert_completed("order"), r'"order" .* to be completed\.\n.*is sleeping(?s:.*)recorded: reserve, charge,'),
    (lambda t: t.assert_completed(letter, {"to": "Ada", "copies": 1}), r"- .*'Ada'.*\n +\+ .*'ADA'"),
    (lambda t: t.assert_failed("letter"), r'"letter" .* to be failed'),
    (lambda t: t.assert_cancelled("order"), r'"order" .* to be cancelled'),
    (lambda t: t.task("orders"), r'expected one task "orders", found none'),
    (lambda t: t.task("0190163d-8694-739b-aea5-966c26f8ad91"), r"expected task 0190163d-8694-739b-aea5-966c26f8ad91, found none"),
]


@pytest.mark.parametrize(("call", "message"), BROKEN)
def test_message_shows_what_there_was_instead(call: Callable[[TestApp], Any], message: str, t: TestApp) -> None:
    with pytest.raises(AssertionError, match=message):
        call(t)


def test_failure_is_told_with_its_traceback(t: TestApp) -> None:
    app.spawn(broken)
    t.drain(raise_failures=False)
    t.assert_failed("broken")
    t.assert_failed("broken", ValueError, match="paper$")
    t.assert_failed("broken", "ValueError")
    with pytest.raises(AssertionError, match="to fail with KeyError, but it was ValueError: out of paper"):
        t.assert_failed("broken", KeyError)
    with pytest.raises(AssertionError, match="to match 'ink', but it was ValueError: out of paper"):
        t.assert_failed("broken", match="ink")
    with pytest.raises(AssertionError, match=r'(?s)last failure: ValueError: out of paper.*raise ValueError\("out of paper"\)'):
        t.assert_completed("broken")


def test_task_of_a_name_that_several_have_has_to_be_said_exactly(t: TestApp) -> None:
    second = app.spawn(order, {"id": 2})
    with pytest.raises(AssertionError, match='expected one task "order", found 2'):
        t.task("order")
    assert t.task(second).params == {"id": 2}
    assert t.task(str(second.task_id)) == t.task(second.task_id) == t.task(t.tasks("order")[1])


def test_long_lists_are_cut(t: TestApp) -> None:
    app.spawn_many(letter, [Letter("Bob", number) for number in range(60)])
    with pytest.raises(AssertionError, match="… and 42 more") as caught:
        t.assert_spawned("nothing")
    assert len(str(caught.value).splitlines()) < 25


def test_a_wait_with_a_timeout_is_shown_once(absurd_test: AppFactory) -> None:
    t = absurd_test(app)
    task = app.spawn(order, {"id": 1})
    t.drain(raise_failures=False)
    with pytest.raises(AssertionError) as one:
        t.assert_completed(task)
    with pytest.raises(AssertionError) as every:
        t.assert_waiting("payed")
    until = (t.clock.now() + timedelta(hours=1)).isoformat()
    for shown in (one, every):
        assert str(shown.value).count(until) == 1
        assert f'waits for event "paid" of queue shop until {until}' in str(shown.value)


async def test_a_forgotten_await_is_told_so(absurd_test: AppFactory) -> None:
    asynchronous = AsyncAbsurd("postgresql://nobody@127.0.0.1:1/production")
    t = absurd_test(asynchronous)
    spawned = asynchronous.spawn("order")
    with pytest.raises(InvalidOptionError, match="a coroutine is no task: await"):
        t.assert_completed(spawned)  # type: ignore[arg-type]
    spawned.close()
