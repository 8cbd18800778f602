"""Calls of methods with hostile arguments, made from the methods' own signatures; and what their errors have to say."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from absurd import Absurd
from absurd.client.keywords import SpawnKeywords, SubscriptionKeywords, TaskDefaults
from absurd.client.workers import WorkerSettings
from absurd.errors import AbsurdError, DatabaseError, SchemaError
from absurd.triggers import FunctionTrigger
from tests.conftest import with_database
from tests.faults import hostile

QUEUE = "fuzz"
STEP = "a step"

NOT_REFUSED = (DatabaseError, SchemaError)
"""AbsurdErrors that speak of the database, not of what was given."""


def _one(*args: Any) -> int:
    return 1


class _Polled(FunctionTrigger):
    task = "work"


def prepare(app: Absurd, conn: psycopg.Connection[Any]) -> dict[str, Any]:
    """What a call may have deleted is there again; good values by the names of parameters."""
    app.create_queue(QUEUE)
    app.resume_queue(QUEUE)
    conn.execute("select absurd.set_queue_policy(%s, '{\"max_payload_bytes\": 100000}')", (QUEUE,))
    conn.execute("select absurd.register_trigger('trig', %s, 'work', 60, 60, true, null)", (QUEUE,))
    app.create_schedule("sched", task="work", every=3600, replace=True)
    task_id = app.spawn("never", {}).task_id
    conn.execute(
        "insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)"
        " select task_id, %s, 1, '1', run_id, now() from absurd.runs where task_id = %s",
        (STEP, task_id),
    )
    later = app.spawn("never", {}, delay=3600).task_id
    return {
        "task_id": task_id, "await_task task": task_id, "run_task_now task_id": later, "token": make_token(conn), **NAMED
    }  # fmt: skip


def make_token(conn: psycopg.Connection[Any]) -> str:
    """The secret of a token that may be answered, of a task that somebody holds."""
    held = "select task_id, run_id, epoch from absurd.runs where state = 'running' and queue_name = 'held'"
    holder = conn.execute(held.encode()).fetchone()
    if holder is None:  # in a queue that no worker serves
        conn.execute("select absurd.create_queue('held'), absurd.spawn_task('held', 'holding', '{}')")
        conn.execute("select absurd.claim_runs('held', 'holder', 86400, 1)")
        holder = conn.execute(held.encode()).fetchone()
        assert holder is not None
    step = str(uuid.uuid4())
    made = conn.execute("select state from absurd.create_token(%s, %s, %s, %s, 1, 'ask')", (*holder, step)).fetchone()
    assert made is not None
    return str(made[0]["secret"])


# What else must be given, or makes a call quick. Everything that is not here has a default.
NAMED: Mapping[str, Any] = {
    "task": "work",
    "params": {},
    "all_params": [{}],
    "name": "a name",
    "pattern": "evt*",
    "names": ["evt1", "evt2"],
    "timeout": 0,
    "seconds": 0,
    "moment": datetime(2020, 1, 1, tzinfo=UTC),
    "fn": _one,
    "every": 3600,
    "hook": _one,
    "start": datetime(2020, 1, 1, tzinfo=UTC),
    "end": datetime(2020, 1, 1, 1, tzinfo=UTC),
    "max_payload_bytes": 100_000,
}
GOOD: Mapping[tuple[str, str], Any] = {
    ("add_trigger", "trigger"): _Polled(_one),
    ("create_schedule", "task"): "work",
    ("create_schedule", "every"): 3600,
    ("create_schedule", "replace"): True,
    ("schedule", "every"): 60,
    ("drop_queue", "name"): "spare",
    ("create_queue", "name"): "spare",
    ("pause_queue", "name"): QUEUE,
    ("resume_queue", "name"): QUEUE,
    ("set_queue_limits", "name"): QUEUE,
    ("fork_task", "step_name"): STEP,
    ("list_listeners", "name"): None,
    **{(f"{verb}_schedule", "name"): "sched" for verb in ("get", "pause", "resume", "trigger", "backfill", "delete", "create")},
    **{(f"{verb}_trigger", "name"): "trig" for verb in ("enable", "disable", "delete")},
    ("trigger_executions", "name"): "trig",
    ("await_any", "timeout"): 0.01,
    ("await_all", "timeout"): 0.01,
    ("spawn_many", "params"): [{}],
    ("heartbeat", "seconds"): 60,
    ("retry_task", "spawn_new"): True,
}

KEYWORDS = sorted({*SpawnKeywords.__annotations__, *SubscriptionKeywords.__annotations__, *TaskDefaults.__annotations__,
                   *WorkerSettings.__annotations__, "unknown"})  # fmt: skip


# They end nothing by themselves, or everything.
SPARED = frozenset({"close", "start_worker", "run_worker_once"})


def methods(kind: type) -> list[str]:
    return sorted(
        name for name, found in inspect.getmembers(kind)
        if not name.startswith("_") and name not in SPARED and inspect.isfunction(found)
    )  # fmt: skip


@dataclass
class Call:
    """A method, its arguments, and which of them are hostile."""

    method: str
    args: list[Any]
    kwargs: dict[str, Any]
    hostile: list[str]


def good_call(method: str, function: Callable[..., Any], good: Mapping[str, Any]) -> Call:
    """A call with everything that must be given, and nothing hostile."""
    call = Call(method, [], {}, [])
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        given = parameter.default is parameter.empty or (method, parameter.name) in GOOD or parameter.name in ("fn", "timeout")
        value = GOOD.get((method, parameter.name), good.get(f"{method} {parameter.name}", good.get(parameter.name)))
        if given:
            call.kwargs[parameter.name] = value
    return call


@st.composite
def calls(draw: st.DrawFn, method: str, function: Callable[..., Any], good: Mapping[str, Any]) -> Call:
    """One call: everything that must be given, some of the rest; one or two of the values are hostile."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    candidates = [p.name for p in named]
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        candidates += KEYWORDS
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        candidates.append("*")
    chosen = draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=2, unique=True)) if candidates else []
    call = good_call(method, function, good)
    call.hostile = chosen
    for parameter in named:
        if parameter.name in chosen:
            call.kwargs[parameter.name] = draw(hostile.objects, label=parameter.name)
    if "*" in chosen:  # everything before it has to be given by place, too
        call.args = [call.kwargs.pop(p.name) for p in named if p.kind == p.POSITIONAL_OR_KEYWORD and p.name in call.kwargs]
        call.args += draw(st.lists(hostile.objects, min_size=1, max_size=2), label="*")
    for name in chosen:
        if name != "*" and name not in {p.name for p in named}:
            call.kwargs[name] = draw(hostile.objects, label=name)
    return call


# What a message calls an argument that it does not call by its name.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "params": ("params", "payload", "list"),
    "all_params": ("params",),
    "event": ("event",),
    "name": ("name", "queue", "there is no", "pattern", "token"),
    "queue": ("queue",),
    "target_queue": ("queue",),
    "queues": ("queue",),
    "task": ("task", "@app"),
    "task_id": ("task",),
    "conn": ("connection",),
    "token": ("token",),
    "fn": ("function", "step", "transaction"),
    "result_type": ("type", "step", "transaction"),
    "type": ("type", "token"),
    "url": ("URL",),
    "function": ("function", "trigger"),
    "trigger": ("trigger",),
    "hook": ("hook", "callable", "function"),
    "names": ("names", "event name"),
    "every": ("every",),
    "cron": ("cron",),
    "timezone": ("time zone", "timezone"),
    "start": ("start", "slot", "moment"),
    "end": ("end", "slot", "moment"),
    "seconds": ("seconds",),
    "moment": ("moment",),
    "step_name": ("step name",),
    "no_retry_on": ("no_retry_on",),
    "*": ("task", "step", "transaction", "argument"),
    "unknown": ("unknown",),
    "cancellation": ("cancellation", "max_delay", "max_duration"),
}


def judge(call: Call, error: Exception) -> None:
    """It is one of those that say what was wrong, and it says it."""
    assert isinstance(error, (TypeError, ValueError, AbsurdError)), (call, error)
    assert not isinstance(error, NOT_REFUSED), (call, error)
    text = str(error)
    words = {word for name in call.hostile for word in (name, *ALIASES.get(name, ()))}
    assert any(word in text for word in words), (call, f"{type(error).__name__}: {error}")


def few(examples: int) -> settings:
    """The settings of an attack with so many examples."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )  # fmt: skip


@contextmanager
def database(server_url: str, template: str) -> Iterator[str]:
    """A database for all methods: what one leaves behind the next ones meet."""
    name = f"absurd_fuzz_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}".encode())
        try:
            yield with_database(server_url, name)
        finally:
            admin.execute(f"drop database {name} with (force)".encode())
