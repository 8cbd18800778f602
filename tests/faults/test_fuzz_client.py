"""Every public method of the clients with hostile values: it works, or refuses by name, and the queue goes on.

The methods and their parameters are read from the classes, so that a new one is attacked from its first day.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd import Absurd, AsyncAbsurd
from tests.faults import report
from tests.faults.support_fuzz import QUEUE, Call, calls, database, few, good_call, judge, methods, prepare
from tests.faults.test_fuzz_sql import INVARIANTS

SHORT = 4
LONG = 15
PATIENCE = 60  # seconds; reached only by a test that fails

DECLARING = frozenset(
    {"register_task", "before_spawn", "around_execution", "schedule", "trigger", "add_trigger", "worker", "worker_options"}
)
"""They ask no database: each call gets an application of its own, whose worker nobody starts."""


@dataclass
class World:
    """A database with one of everything, and both clients of it."""

    url: str
    conn: psycopg.Connection[Any]
    app: Absurd
    asynchronous: AsyncAbsurd
    loop: asyncio.AbstractEventLoop


@pytest.fixture(scope="module")
def world(server_url: str, template: str) -> Iterator[World]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with database(server_url, template) as url, psycopg.connect(url, autocommit=True) as conn:
        app, asynchronous = Absurd(url, QUEUE), AsyncAbsurd(url, QUEUE)
        yield World(url, conn, app, asynchronous, loop)
        asyncio.run_coroutine_threadsafe(asynchronous.close(), loop).result(PATIENCE)
        app.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.short
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("method", methods(Absurd))
def test_a_client_works_or_refuses_by_name(world: World, method: str, kind: str) -> None:
    _attack_client(world, method, kind, SHORT)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("method", methods(Absurd))
def test_a_client_works_or_refuses_many_values_by_name(world: World, method: str, kind: str) -> None:
    _attack_client(world, method, kind, LONG)


def test_both_clients_have_the_same_methods() -> None:
    assert methods(Absurd) == methods(AsyncAbsurd)


@pytest.mark.parametrize("method", methods(Absurd))
def test_what_stands_beside_hostile_values_is_taken(world: World, method: str) -> None:
    """A refusal of it would be taken for that of the hostile value."""
    client: Any = Absurd(world.url, QUEUE) if method in DECLARING else world.app
    call = good_call(method, getattr(Absurd, method), prepare(world.app, world.conn))
    found = _made(world, client, call)
    if method in DECLARING and callable(found):
        found(lambda params=None, ctx=None: None)


def _attack_client(world: World, method: str, kind: str, examples: int) -> None:
    made = 0

    @few(examples)
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal made
        made += 1
        client: Any = world.app if kind == "sync" else world.asynchronous
        if method in DECLARING:
            client = (Absurd if kind == "sync" else AsyncAbsurd)(world.url, QUEUE)
        call = data.draw(calls(method, getattr(type(client), method), prepare(world.app, world.conn)))
        try:
            found = _made(world, client, call)
            if method in DECLARING and callable(found):
                found(lambda params=None, ctx=None: None)
        except Exception as error:
            judge(call, error)
        _check(world)

    attack()
    assert world.conn.execute(INVARIANTS).fetchall() == []
    report.record("hostile values for clients", ["open queue"], runs=made, injected=made, tasks=made)


def _made(world: World, client: Any, call: Call) -> Any:
    found = getattr(client, call.method)(*call.args, **call.kwargs)
    if not inspect.isawaitable(found):
        return found

    async def awaited() -> Any:
        return await found

    return asyncio.run_coroutine_threadsafe(awaited(), world.loop).result(PATIENCE)


def _check(world: World) -> None:
    """The queue works: what is ready can be claimed and completed, new work too."""
    world.app.create_queue(QUEUE)
    world.app.resume_queue(QUEUE)
    mine = world.app.spawn("probe", {}, priority=32767).task_id
    claimed = world.conn.execute(
        "select task_id, run_id, epoch from absurd.claim_runs(%s, 'probe', 60, 1000)", (QUEUE,)
    ).fetchall()
    tasks, runs, epochs = map(list, zip(*claimed, strict=True))
    world.conn.execute("select absurd.complete_runs(%s, %s, %s, %s::json[])", (tasks, runs, epochs, ["{}"] * len(tasks)))
    assert mine in tasks
    for look in (world.app.list_schedules, world.app.list_triggers, world.app.list_subscriptions, world.app.list_queues):
        look()  # type: ignore[operator]
