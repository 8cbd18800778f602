"""What a trigger may say, what it is refused for, and which fires are the same."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest

from absurd import Absurd, AsyncAbsurd, ConfigurationError, Fire, HealthCheckTrigger, QueueDepthTrigger, Skip, Trigger
from absurd.errors import InvalidOptionError, SerializationError
from absurd.triggers.declared import declared_triggers, definition
from absurd.triggers.files import FileTrigger
from absurd.triggers.fires import context_hash, prepare, read_fires

URL = "postgresql://localhost/nowhere"


class Ready(Trigger):
    task = "work"

    def poll(self) -> bool:
        return True


def app(queue: str = "default") -> Absurd:
    made = Absurd(URL, queue)
    made.register_task("work", max_attempts=2)(lambda params, ctx: None)
    return made


def test_l1_trigger_has_the_name_of_its_class_unless_it_says_another() -> None:
    made = app()
    assert made.add_trigger(Ready()).name == "Ready"
    named = Ready()
    named.name = "other"
    made.add_trigger(named)
    assert list(declared_triggers(made.registry)) == ["Ready", "other"]


def test_l2_name_of_a_trigger_is_unique_in_an_application() -> None:
    made = app()
    made.add_trigger(Ready())
    with pytest.raises(ConfigurationError, match='trigger "Ready" is declared twice'):
        made.add_trigger(Ready())


@pytest.mark.parametrize(
    ("interval", "seconds"), [("2s", 2), ("1h30m", 5400), (0.1, 0.1), (7, 7), (timedelta(minutes=1), 60), ("100ms", 0.1)]
)
def test_l3_poll_interval_is_seconds_a_timedelta_or_a_text(interval: Any, seconds: float) -> None:
    made, trigger = app(), Ready()
    trigger.poll_interval = interval
    made.add_trigger(trigger)
    assert declared_triggers(made.registry)["Ready"].poll_interval == pytest.approx(seconds)


@pytest.mark.parametrize("interval", ["soon", 0, -1, 0.05, float("nan"), "", None, True, "99999999999w"])
def test_l3_unusable_poll_interval_is_refused_when_the_trigger_is_declared(interval: Any) -> None:
    trigger = Ready()
    trigger.poll_interval = interval
    with pytest.raises(InvalidOptionError, match="poll_interval"):
        app().add_trigger(trigger)


def test_l4_allow_concurrent_is_false_unless_said_and_a_bool() -> None:
    made, trigger = app(), Ready()
    made.add_trigger(trigger)
    assert declared_triggers(made.registry)["Ready"].allow_concurrent is False
    trigger = Ready()
    trigger.name, trigger.allow_concurrent = "b", "yes"  # type: ignore[assignment]
    with pytest.raises(InvalidOptionError, match="allow_concurrent must be True or False"):
        made.add_trigger(trigger)


def test_l5_poll_must_be_written() -> None:
    with pytest.raises(NotImplementedError, match="Bare must say in poll"):
        type("Bare", (Trigger,), {})().poll()


@pytest.mark.parametrize(
    ("polled", "contexts"),
    [
        (Skip, []),
        (Skip(), []),
        (None, []),
        (False, []),
        (True, [None]),
        (Fire, [None]),
        (Fire(), [None]),
        (Fire({"a": 1}), [{"a": 1}]),
        ([Fire({"a": 1}), Fire()], [{"a": 1}, None]),
        ([], []),
    ],
)
def test_l6_poll_returns_skip_or_fire_or_a_bool(polled: Any, contexts: list[Any]) -> None:
    assert [fire.context for fire in read_fires("t", polled)] == contexts


@pytest.mark.parametrize("polled", [1, "yes", {"a": 1}, [1], 0, object(), "Fire", ""])
def test_l6_anything_else_is_refused_by_name(polled: Any) -> None:
    with pytest.raises(TypeError, match='the poll of trigger "t" must return'):
        read_fires("t", polled)


def test_l7_decorator_declares_a_function_as_trigger_and_returns_it() -> None:
    made = app()

    @made.trigger(task="work", poll_interval="5s", allow_concurrent=True, poll_timeout=1, priority=3)
    def waiting() -> bool:
        return True

    found = declared_triggers(made.registry)["waiting"]
    assert waiting() is True
    assert (found.poll_interval, found.allow_concurrent, found.poll_timeout, found.options.priority) == (5, True, 1, 3)


@pytest.mark.parametrize("client", [Absurd, AsyncAbsurd])
def test_l8_both_clients_declare_triggers_in_plain_calls(client: type[Any]) -> None:
    made = client(URL)

    @made.trigger("first", task="elsewhere")
    async def poll(state: dict[str, Any]) -> Fire:
        return Fire(state)

    made.add_trigger(Ready())
    assert list(declared_triggers(made.registry)) == ["first", "Ready"]


def test_l9_task_is_a_function_a_name_or_a_function_in_the_class_body() -> None:
    made = app()

    @made.register_task("by function")
    def handler(params: Any, ctx: Any) -> None: ...

    class InBody(Ready):
        task = handler

    class InBodyStatic(Ready):
        task = staticmethod(handler)

    names = [declared_triggers(made.registry)[made.add_trigger(kind()).name].task for kind in (InBody, InBodyStatic, Ready)]
    assert names == ["by function", "by function", "work"]


@pytest.mark.parametrize(
    ("trigger", "problem"),
    [
        (Ready, "give an instance of it"),
        ("Ready", "a trigger is an instance"),
        (type("NoTask", (Ready,), {"task": None})(), "does not say which task"),
        (type("NoPoll", (Trigger,), {"task": "work"})(), r"NoPoll has no poll\(\)"),
        (type("Foreign", (Ready,), {"task": print})(), "is no task of this app"),
        (type("LongName", (Ready,), {"name": "x" * 1001})(), "trigger name"),
        (type("Slow", (Ready,), {"poll_timeout": "2d"})(), "poll_timeout must be at most"),
    ],
)
def test_l9_unusable_triggers_are_refused_when_they_are_declared(trigger: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        app().add_trigger(trigger)


def test_l9_file_trigger_refuses_what_is_no_directory() -> None:
    with pytest.raises(InvalidOptionError, match="directory must be a path, not None"):
        FileTrigger(None, task="work")  # type: ignore[arg-type]


def test_l9_unusable_options_are_refused_when_the_trigger_is_declared() -> None:
    for options in ({"max_attempts": 0}, {"queue": "x" * 58}, {"delay": 3}, {"idempotency_key": "k"}, {"headers": 3}):
        with pytest.raises(InvalidOptionError):
            app().add_trigger(Ready(), **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no argument, or one"):
        app().trigger(task="work")(lambda a, b: True)


def test_l9_options_of_the_trigger_win_over_those_of_its_task() -> None:
    made = app("orders")
    made.register_task("later", max_attempts=4, queue="mail", headers={"a": 1})(lambda params, ctx: None)
    made.add_trigger(Ready(), max_attempts=7)
    made.trigger("second", task="later", headers={"b": 2})(lambda: True)
    first, second = (definition(made.registry, one) for one in declared_triggers(made.registry).values())
    assert (first.queue_name, second.queue_name) == ("orders", "mail")
    assert '"max_attempts":7' in str(first.options)
    assert '"max_attempts":4' in str(second.options)
    assert second.headers == '{"a":1,"b":2}'


def test_l10_hash_is_over_canonical_json() -> None:
    assert context_hash({"b": [1.0, {"y": 2, "x": None}], "a": "é"}) == context_hash({"a": "é", "b": [1, {"x": None, "y": 2.0}]})
    text = '{"a":"é","b":1}'
    assert context_hash({"b": 1.0, "a": "é"}) == hashlib.sha256(text.encode()).hexdigest()
    different = [{}, None, {"a": 1}, {"a": "1"}, {"a": True}, {"a": 1.5}, {"a": None}, {"a": [1]}, {"a": {}}, {"a": 10**30}]
    assert len({context_hash(one) for one in different}) == len(different)


def test_l11_fires_without_context_have_one_constant_hash() -> None:
    hashes = {prepare("t", Fire()).context_hash, prepare("t", Fire(None)).context_hash, context_hash(None)}
    assert hashes == {hashlib.sha256(b"null").hexdigest()}


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ([1], "must be an object"),
        ({"trigger_name": 1}, "holds 'trigger_name', which is added to it"),
        ({"triggered_at": 1}, "use another key"),
        ({"a": object()}, 'context of trigger "t" holds a value of type object'),
        ({"a": "\x00"}, "NUL"),
        ({1: 2}, "JSON keys are strings"),
    ],
)
def test_l10_unusable_context_is_refused(context: Any, problem: str) -> None:
    with pytest.raises(SerializationError, match=problem):
        prepare("t", Fire(context))


def test_l14_file_trigger_refuses_patterns_of_paths() -> None:
    with pytest.raises(InvalidOptionError, match="pattern"):
        FileTrigger("/tmp", pattern="a/*.csv", task="work")


@pytest.mark.parametrize("number", [0, -1, True, "3", 2.5])
def test_l22_l23_thresholds_are_whole_numbers_from_one_on(number: Any) -> None:
    with pytest.raises(InvalidOptionError, match="threshold"):
        QueueDepthTrigger("default", number, task="work")
    with pytest.raises(InvalidOptionError, match="failures"):
        HealthCheckTrigger(lambda: True, failures=number, task="work")


def test_l23_health_check_counts_failures_in_a_row_and_begins_anew_after_a_success_and_after_a_fire() -> None:
    answers: list[Any] = [False, OSError("no route"), True, None, 0, ValueError("x"), 1, False]

    def check() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    trigger = HealthCheckTrigger(check, failures=3, task="work")
    fired, counts = [], []
    for _ in range(8):
        polled: Any = trigger.poll()
        fired.append(polled is not Skip)
        counts.append(trigger.state.get("failures", 0))
    assert fired == [False, False, False, False, False, True, False, False]
    assert counts == [1, 2, 0, 1, 2, 0, 0, 1]
    assert trigger.name == "health-check:check"


async def test_l23_check_may_be_async() -> None:
    async def check() -> bool:
        raise ConnectionError("refused")

    trigger = HealthCheckTrigger(check, failures=2, task="work")
    polls: list[Any] = [trigger.poll(), trigger.poll()]
    assert [await polls[0], await polls[1]] == [Skip, Fire({"failures": 2})]
    assert trigger.state["last_failure"] == "ConnectionError: refused"
