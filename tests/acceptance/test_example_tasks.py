"""The tasks of the examples, tested as users test their own: the module as it is, on a clean database, without waiting."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from absurd.testing.plugin import AppFactory
from tests.acceptance.programs import EXAMPLES
from tests.support_testing import absurd_databases  # noqa: F401


@pytest.fixture
def load() -> Iterator[Any]:
    """Imports an example, anew for each test."""
    loaded: list[str] = []

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


def test_order_that_is_paid_keeps_its_inventory(absurd_test: AppFactory, load: Any) -> None:
    example = load("order_cancellation")
    t = absurd_test(example.app)
    task = example.app.spawn(example.cancellable_order, {"order_id": 1})
    t.drain()
    t.assert_waiting("payment.confirmed:1", task=task)
    t.assert_waiting("order.cancelled:1", task=task)
    example.app.emit_event("payment.confirmed:1", {"amount": 99.99})
    t.drain()
    t.assert_completed(task, {"status": "paid", "items": ["widget-A", "gadget-B"]})
    t.assert_steps(task, ["reserve-inventory"])


def test_order_that_is_cancelled_releases_it(absurd_test: AppFactory, load: Any) -> None:
    example = load("order_cancellation")
    t = absurd_test(example.app)
    task = example.app.spawn(example.cancellable_order, {"order_id": 1})
    example.app.emit_event("order.cancelled:1", {"reason": "too late"})
    t.drain()
    t.assert_steps(task, ["reserve-inventory", "release-inventory"])
    t.assert_completed(task, {"status": "cancelled", "released": ["widget-A", "gadget-B"]})


@pytest.mark.parametrize(
    ("customer", "result", "days"), [("Ada", {"status": "paid", "amount": 99.99}, 3), ("Bob", {"status": "cancelled"}, 6)]
)
def test_order_waits_for_days_and_is_reminded_once(
    customer: str, result: Any, days: int, absurd_test: AppFactory, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("event_timeout")
    monkeypatch.setattr(example, "WAIT_SECONDS", 3 * 86_400)
    t = absurd_test(example.app)
    began = t.clock.now()
    task = example.app.spawn(example.order_with_deadline, {"order_id": 1, "customer": customer})
    t.run_until_idle()
    t.assert_completed(task, result)
    t.assert_steps(task, ["send-reminder"])
    assert t.clock.now() - began == timedelta(days=days)


def test_report_is_fired_in_each_second_that_passes(absurd_test: AppFactory, load: Any) -> None:
    example = load("cron_report")
    t = absurd_test(example.app)
    t.clock.set(datetime(2025, 3, 28, 9, 30, tzinfo=UTC))
    t.run_for(seconds=3)
    t.assert_spawned("cron-report", {"title": "Sales"}, count=3)
    assert example.slots == [datetime(2025, 3, 28, 9, 30, second, tzinfo=UTC) for second in (1, 2, 3)]


def test_missed_reports_are_run_when_one_says_so(absurd_test: AppFactory, load: Any) -> None:
    example = load("cron_report")
    t = absurd_test(example.app)
    t.clock.set(datetime(2025, 3, 28, 9, 30, tzinfo=UTC))
    t.drain()
    t.clock.advance(seconds=5)
    assert example.app.backfill_schedule("cron-report", t.clock.now() - timedelta(seconds=5), t.clock.now()) == 5
    t.drain()
    assert len(example.slots) >= 5
