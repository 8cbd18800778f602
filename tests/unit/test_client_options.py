"""What a caller may say to a spawn, and what is refused before anything is sent."""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from absurd import Absurd, AsyncAbsurd, RetryStrategy, SpawnOptions
from absurd.client.base import SPAWN_BATCH, batches, many_options, many_params
from absurd.errors import ConfigurationError, InvalidOptionError, SerializationError
from absurd.spawning import MAX_ATTEMPTS, MAX_SECONDS, options_json

# Nothing listens there: a test that gets as far as the database fails by another error.
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"

NUMBERS: list[tuple[str, list[Any]]] = [
    ("delay", [-1, -0.001, "5", True, math.nan, math.inf, 1e300, MAX_SECONDS + 1, [1]]),
    ("priority", [-32769, 32768, "1", True, 1.5, math.nan, 10**30]),
    ("max_attempts", [0, -1, "3", True, 2.0, math.nan, MAX_ATTEMPTS + 1, 10**30]),
]
STRUCTURES: list[tuple[str, Any, str]] = [
    ("retry", "sometimes", "sometimes"),
    ("retry", 3, "3"),
    ("retry", {"kind": "fixed", "base_seconds": -1}, "base_seconds"),
    ("retry", {"kind": "fixed", "base_seconds": 1e15}, "base_seconds"),
    ("retry", {"kind": "exponential", "factor": 0.5}, "factor"),
    ("retry", {"kind": "exponential", "max_seconds": math.nan}, "max_seconds"),
    ("retry", {"kind": "fixed", "jitter": 2}, "jitter"),
    ("retry", {"kind": "fixed", "seconds": 1}, "seconds"),
    ("retry", RetryStrategy.fixed(-1), "base_seconds"),
    ("retry", RetryStrategy.exponential(factor=1e9), "factor"),
    ("cancellation", 5, "5"),
    ("cancellation", {"max_delay": "soon"}, "max_delay"),
    ("cancellation", {"max_duration": -1}, "max_duration"),
    ("cancellation", {"deadline": 1}, "deadline"),
    ("headers", "x", "headers"),
    ("headers", ["x"], "headers"),
    ("available_at", "tomorrow", "tomorrow"),
    ("available_at", datetime(2030, 1, 1), "time zone"),  # noqa: DTZ001
    ("queue", "", "queue name"),
    ("queue", "q" * 58, "57"),
    ("queue", "ä" * 29, "57"),
    ("queue", "a\x00b", "NUL"),
    ("idempotency_key", "", "idempotency_key"),
    ("idempotency_key", 5, "5"),
    ("idempotency_key", "k" * 1001, "1001"),
    ("idempotency_key", "\ud800", "surrogate"),
]


@pytest.fixture
def app() -> Absurd:
    return Absurd(NOWHERE)


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in NUMBERS for value in values])
def test_a_number_out_of_range_is_refused_by_name_and_value(app: Absurd, option: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=option) as caught:
        app.spawn("task", **{option: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("option", "value", "said"), STRUCTURES)
def test_an_option_of_the_wrong_form_is_refused_with_what_is_wrong(app: Absurd, option: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        app.spawn("task", **{option: value})


def test_delay_and_available_at_exclude_each_other(app: Absurd) -> None:
    with pytest.raises(InvalidOptionError, match="delay and available_at"):
        app.spawn("task", delay=1, available_at=datetime.now().astimezone())


def test_an_unknown_option_is_refused_with_the_known_ones(app: Absurd) -> None:
    with pytest.raises(InvalidOptionError, match=r"no option 'prioritty'; known are .*priority"):
        app.spawn("task", prioritty=1)  # type: ignore[call-overload]


def test_params_that_are_no_json_are_refused_by_the_place_where_they_stand(app: Absurd) -> None:
    with pytest.raises(SerializationError, match=r"params of task \"task\".*\$\.a\[1\]"):
        app.spawn("task", {"a": [1, object()]})


def test_an_event_payload_that_is_no_json_is_refused_by_the_event(app: Absurd) -> None:
    with pytest.raises(SerializationError, match='payload of event "paid"'):
        app.emit_event("paid", {"amount": math.nan})


def test_a_single_attempt_allows_no_other_number(app: Absurd) -> None:
    with pytest.raises(InvalidOptionError, match=r"RetryStrategy\.fixed\(0\)"):
        app.spawn("task", retry="none", max_attempts=3)


def test_the_wish_for_a_single_attempt_overrules_inherited_numbers() -> None:
    app = Absurd(NOWHERE, default_max_attempts=7)

    @app.register_task(max_attempts=9)
    def work(params: Any, ctx: Any) -> None: ...

    def attempts(task: Any, **options: Any) -> Any:
        return app._request(task, None, SpawnOptions(**options)).options

    assert '"max_attempts":9' in attempts(work)
    assert '"max_attempts":7' in attempts("elsewhere")
    assert '"max_attempts":1' in attempts(work, retry="none")
    assert '"max_attempts":1' in attempts("elsewhere", retry=RetryStrategy.none())


def test_the_ranges_are_those_of_the_database() -> None:
    sql = (Path(__file__).parents[2] / "sql/functions/options.sql").read_text()
    assert f"'max_attempts', p_options -> 'max_attempts', 1, {MAX_ATTEMPTS}, true" in sql
    assert f"'delay', p_options -> 'delay', 0, {MAX_SECONDS}" in sql
    assert "'priority', p_options -> 'priority', -32768, 32767, true" in sql
    assert options_json(SpawnOptions(priority=-32768, max_attempts=MAX_ATTEMPTS, delay=MAX_SECONDS))["priority"] == -32768


def test_a_function_that_was_not_registered_cannot_be_spawned(app: Absurd) -> None:
    with pytest.raises(InvalidOptionError, match=r"no task of this app.*register_task"):
        app.spawn(lambda params, ctx: None)


def test_register_task_returns_the_function_and_names_it(app: Absurd) -> None:
    def plain(params: Any, ctx: Any) -> str:
        return "called"

    assert app.register_task(plain) is plain
    assert app.register_task("other name")(plain)(None, None) == "called"
    assert [definition.name for definition in app.registry] == ["plain", "other name"]


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"retry": "often"}, {"queue": "q" * 58}, {"delay": 5}, {"no_retry_on": [5]}, {"headers": "x"}],
)
def test_bad_defaults_are_refused_at_the_registration(app: Absurd, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        app.register_task("task", **options)


def test_what_is_refused_at_the_registration_is_named(app: Absurd) -> None:
    with pytest.raises(InvalidOptionError, match=r"no option 'retries'; known are .*no_retry_on"):
        app.register_task("task", retries=3)  # type: ignore[call-overload]
    with pytest.raises(InvalidOptionError, match="not 'ValueError'"):
        app.register_task("task", no_retry_on="ValueError")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not 5"):
        app.register_task("task")(5)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"conn_or_url": ""}, "database"),
        ({"conn_or_url": "mysql+x://u:secret@h/d"}, "database URL"),
        ({"conn_or_url": 5}, "builtins.int"),
        ({"queue_name": ""}, "queue name"),
        ({"pool_size": 0}, "pool_size"),
        ({"pool_size": True}, "pool_size"),
        ({"default_max_attempts": 0}, "max_attempts"),
        ({"default_retry": "never"}, "never"),
    ],
)
def test_bad_settings_of_an_app_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        Absurd(**arguments)
    assert "secret" not in str(caught.value)


def test_a_hook_changes_the_options_of_a_spawn(app: Absurd) -> None:
    seen: list[Any] = []

    @app.before_spawn
    def hook(name: str, params: Any, options: SpawnOptions) -> SpawnOptions:
        seen.append((name, params))
        return SpawnOptions(priority=9, headers={"trace": "1"})

    request = app._request_hooked("task", {"a": 1}, SpawnOptions(priority=1))
    assert seen == [("task", {"a": 1})]
    assert request.headers == '{"trace":"1"}'
    assert '"priority":9' in (request.options or "")


def test_a_hook_that_answers_nonsense_or_is_async_is_refused(app: Absurd) -> None:
    hooks: list[Any] = [lambda name, params, options: 5]

    async def is_async(name: str, params: Any, options: SpawnOptions) -> None: ...

    hooks.append(is_async)
    for hook in hooks:
        app.registry.before_spawn[:] = [hook]
        with pytest.raises(ConfigurationError, match="before_spawn hook"):
            app.spawn("task")


async def test_an_async_hook_works_for_async_code() -> None:
    app = AsyncAbsurd(NOWHERE)

    @app.before_spawn
    async def hook(name: str, params: Any, options: SpawnOptions) -> SpawnOptions:
        return SpawnOptions(queue="other")

    assert (await app._request_hooked("task", None, SpawnOptions())).queue_name == "other"


def test_many_items_go_in_batches_and_take_a_key_each(app: Absurd) -> None:
    assert [len(batch) for batch in batches([app._request("task", None, SpawnOptions())] * (2 * SPAWN_BATCH + 1))] == [
        1000,
        1000,
        1,
    ]
    keyed = many_options(SpawnOptions(priority=3), 2, ["a", None])
    assert [(options.priority, options.idempotency_key) for options in keyed] == [(3, "a"), (3, None)]
    for bad in (lambda: many_options(SpawnOptions(), 2, ["a"]), lambda: many_options(SpawnOptions(idempotency_key="a"), 2, None)):
        with pytest.raises(InvalidOptionError, match="idempotency_key"):
            bad()
    with pytest.raises(InvalidOptionError, match="list of params"):
        many_params({"a": 1})


@pytest.mark.parametrize("bad", [-1, "5", True, math.nan])
def test_a_bad_timeout_is_refused(app: Absurd, bad: Any) -> None:
    with pytest.raises(InvalidOptionError, match="timeout"):
        app.task("01890a5d-ac96-774b-bcce-b302099a8057").result(timeout=bad)


def test_a_bad_task_id_is_refused(app: Absurd) -> None:
    for call in (app.task, app.get_result, app.cancel_task, app.retry_task):
        with pytest.raises(InvalidOptionError, match="'12'"):
            call("12")


def test_the_wrong_kind_of_connection_is_refused_with_the_right_client(app: Absurd) -> None:
    class Other: ...

    with pytest.raises(ConfigurationError, match="psycopg 3"):
        app.spawn("task", conn=Other())  # type: ignore[call-overload]
