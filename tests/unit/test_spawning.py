"""From what a caller says to what is sent: defaults filled in, options checked, params encoded."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import RFC_4122, uuid4

import pytest

from absurd.errors import ConfigurationError, InvalidOptionError, SerializationError, ValidationError
from absurd.registry import Registry
from absurd.spawning import check_queue_name, make_ids, make_request, options_json, retry_json
from absurd.types import NO_OPTIONS, Cancellation, RetryStrategy, SpawnOptions


@dataclass
class Order:
    amount: int


def handler(params: Any, ctx: Any) -> None: ...


def typed(params: Order, ctx: Any) -> None: ...


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(handler, "plain", SpawnOptions(queue="own", priority=3, max_attempts=7, headers={"a": 1, "b": 1}))
    made.register(typed, "typed", SpawnOptions())
    return made


def _options(registry: Registry, task: Any, **options: Any) -> dict[str, Any]:
    request = make_request(registry, task, None, SpawnOptions(**options), queue="default")
    found: dict[str, Any] = json.loads(request.options or "{}")
    return found


def test_a_spawn_wins_over_its_task_and_its_task_over_the_application(registry: Registry) -> None:
    registry.defaults = SpawnOptions(max_attempts=2, retry=RetryStrategy.fixed(5))
    assert _options(registry, handler)["max_attempts"] == 7
    assert _options(registry, handler, max_attempts=9)["max_attempts"] == 9
    assert _options(registry, "unknown")["max_attempts"] == 2
    assert _options(registry, "unknown")["retry_strategy"] == {"kind": "fixed", "base_seconds": 5}
    assert _options(registry, handler)["priority"] == 3
    assert make_request(registry, handler, 1, SpawnOptions(), queue="default").queue_name == "own"
    assert make_request(registry, handler, 1, SpawnOptions(queue="other"), queue="default").queue_name == "other"
    assert make_request(registry, "unknown", 1, SpawnOptions(), queue="default").queue_name == "default"


def test_headers_are_joined(registry: Registry) -> None:
    request = make_request(registry, handler, 1, SpawnOptions(headers={"b": 2, "c": 3}), queue="q")
    assert json.loads(request.headers or "") == {"a": 1, "b": 2, "c": 3}


def test_each_request_has_ids_of_its_own(registry: Registry) -> None:
    requests = [make_request(registry, handler, 1, SpawnOptions(), queue="q") for _ in range(100)]
    ids = {r.task_id for r in requests} | {r.run_id for r in requests}
    assert len(ids) == 200
    assert all(made.version == 7 for made in ids)


def test_params_go_through_the_declared_type(registry: Registry) -> None:
    assert make_request(registry, typed, Order(5), SpawnOptions(), queue="q").params == '{"amount":5}'
    assert make_request(registry, typed, {"amount": 5}, SpawnOptions(), queue="q").params == '{"amount":5}'
    with pytest.raises(ValidationError, match='params of task "typed" does not fit Order'):
        make_request(registry, typed, {"amount": "many"}, SpawnOptions(), queue="q")
    with pytest.raises(SerializationError, match='params of task "plain"'):
        make_request(registry, handler, {1}, SpawnOptions(), queue="q")


def test_a_task_without_retries_has_one_attempt(registry: Registry) -> None:
    assert _options(registry, handler, retry="none")["max_attempts"] == 1
    with pytest.raises(InvalidOptionError, match="retry='none' means a single attempt"):
        _options(registry, handler, retry="none", max_attempts=3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("max_attempts", value) for value in (0, -1, 1.5, "3", True, 10**7)),
        *(("priority", value) for value in (40000, -40000, 0.5, "high")),
        *(("delay", value) for value in (-1, math.nan, math.inf, "soon", 1e15, True)),
        *(("available_at", value) for value in ("tomorrow", datetime(2030, 1, 1), 5)),  # noqa: DTZ001
        *(
            ("cancellation", value)
            for value in (5, {"max_delay": -1}, {"max_duration": "1"}, {"other": 1}, Cancellation(math.nan))
        ),
        *(
            ("retry", value)
            for value in (5, "sometimes", {}, {"kind": "fixed", "other": 1}, {"kind": "fixed", "base_seconds": -1})
        ),
        ("retry", {"kind": "exponential", "factor": 0.5}),
        ("retry", {"kind": "exponential", "base_seconds": 1e15}),
        ("retry", {"kind": "fixed", "jitter": 2}),
    ],
)
def test_a_bad_option_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=option):
        options_json(SpawnOptions(**{option: value}))


def test_fractions_and_zero_are_honoured() -> None:
    found = options_json(
        SpawnOptions(delay=0.25, cancellation={"max_delay": 0.5, "max_duration": 0}, retry=RetryStrategy.fixed(0))
    )
    assert found["delay"] == 0.25
    assert found["cancellation"] == {"max_delay": 0.5, "max_duration": 0}
    assert found["retry_strategy"] == {"kind": "fixed", "base_seconds": 0}


def test_delay_and_moment_exclude_each_other_and_the_last_word_counts(registry: Registry) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidOptionError, match="delay and available_at"):
        options_json(SpawnOptions(delay=1, available_at=moment))
    registry.defaults = SpawnOptions(delay=10)
    assert "delay" not in _options(registry, "unknown", available_at=moment)


def test_the_parent_is_passed_on(registry: Registry) -> None:
    parent = uuid4()
    assert _options(registry, "unknown", parent_task_id=parent)["parent_task_id"] == str(parent)


@pytest.mark.parametrize("name", ["q", "a b", "ü" * 28 + "x", 'quote"', "dots.", "-"])
def test_queue_names_of_up_to_57_bytes_are_taken(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 58, "ü" * 29, None, 5, "a\x00b", "\ud800"])
def test_other_queue_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="queue name"):
        check_queue_name(name)


def test_a_function_that_is_not_registered_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidOptionError, match="not registered with this app"):
        make_request(registry, lambda params, ctx: None, None, SpawnOptions(), queue="q")


def test_no_strategy_is_the_default_one() -> None:
    assert retry_json(None) == {"kind": "exponential", "base_seconds": 1, "factor": 2, "max_seconds": 300, "jitter": 0.2}


def test_ids_are_of_version_7_and_in_the_order_in_which_they_were_made() -> None:
    before = time.time_ns() // 1_000_000
    ids = [*make_ids(3000), *make_ids(1), *make_ids(3000)]
    after = time.time_ns() // 1_000_000
    assert all(made.version == 7 and made.variant == RFC_4122 for made in ids)
    assert sorted(set(ids)) == ids
    # A batch is never dated more than its own 6,001 ticks ahead, which are 1.5 ms.
    assert before <= ids[0].int >> 80 <= ids[-1].int >> 80 <= after + 2


def test_ids_go_on_upwards_when_the_clock_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = make_ids(1)
    monkeypatch.setattr(time, "time_ns", lambda: 1_600_000_000_000_000_000)
    assert before < make_ids(1)[0] < make_ids(1)[0]


def test_ids_made_by_threads_side_by_side_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [made for ids in pool.map(lambda _: make_ids(50), range(200)) for made in ids]
    assert len(set(made)) == 10_000


def test_spawns_without_options_follow_every_change_of_the_defaults(registry: Registry) -> None:
    def spawn(task: str) -> tuple[str, Any, Any]:
        request = make_request(registry, task, {"amount": 1}, NO_OPTIONS, queue="default")
        return request.queue_name, json.loads(request.options or "")["max_attempts"], json.loads(request.headers or "null")

    assert spawn("typed") == spawn("typed") == spawn("foreign") == ("default", 5, None)
    assert make_request(registry, "typed", {"amount": 1}, NO_OPTIONS, queue="other").queue_name == "other"
    registry.defaults = SpawnOptions(max_attempts=2)
    assert spawn("typed") == spawn("foreign") == ("default", 2, None)
    registry.register(typed, "typed", SpawnOptions(queue="own"))
    assert spawn("typed") == ("own", 2, None)
    headers = {"a": 1}
    registry.register(typed, "typed", SpawnOptions(headers=headers))
    assert spawn("typed") == ("default", 2, {"a": 1})
    headers["a"] = 2
    assert spawn("typed") == ("default", 2, {"a": 2})
