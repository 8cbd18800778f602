"""What a caller could make without bound is refused, or cut where nobody may be refused."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest

from absurd import Absurd, AsyncContext, Context, Fire
from absurd.context.arguments import MAX_EVENTS
from absurd.context.children import MAX_CHILDREN
from absurd.errors import AbsurdError, InvalidOptionError
from absurd.listeners import NotifyListener
from absurd.triggers.fires import MAX_FIRES, read_fires
from absurd.worker.batch import MAX_BATCH, MAX_WAITS, take_batch
from absurd.worker.options import WorkerOptions
from absurd.worker.writer import Item
from absurd.writes import CheckWaits, Holder, RecordCheckpoint, Wait, Write
from tests.sql import calls
from tests.support import wait_until

BIG = "x" * 70_000


def test_large_headers_are_refused_by_the_client(database_url: str) -> None:
    with Absurd(database_url) as app:
        app.spawn("work", {}, headers={"h": "x" * 65_000})
        with pytest.raises(InvalidOptionError, match=r"headers have 70008 bytes; 65536 are allowed"):
            app.spawn("work", {}, headers={"h": BIG})


@pytest.mark.parametrize("key", [None, "key"])
def test_large_headers_are_refused_in_sql_however_they_come(conn: psycopg.Connection[Any], key: str | None) -> None:
    calls.rows(conn, "select absurd.create_queue('default')")
    code, message = calls.sqlstate(conn, "select absurd.spawn_task('default', 'work', '{}', %s)", {"headers": {"h": BIG}})
    assert (code, "65536 are allowed" in message) == ("AB012", True)
    headers = json.dumps({"h": BIG})
    one = calls.row(
        conn,
        "select * from absurd.spawn_one('default', gen_random_uuid(), gen_random_uuid(), 'work', '{}', %s::json, '{}', %s)",
        headers, key,
    )  # fmt: skip
    many = calls.row(
        conn,
        "select * from absurd.spawn_tasks(array['default'], array[gen_random_uuid()], array[gen_random_uuid()], array['work'],"
        " array['{}'::json], array[%s::json], array['{}'::jsonb], array[%s::text])",
        headers, key,
    )  # fmt: skip
    for answer in (one, many):
        assert (answer["status"], "65536 are allowed" in answer["message"]) == ("invalid", True)
    assert calls.value(conn, "select count(*) from absurd.tasks") == 0
    assert calls.value(conn, "select count(*) from absurd.idempotency_keys") == 0


def test_a_reason_of_64_kb_is_kept_whole_whatever_the_queue_allows(conn: psycopg.Connection[Any]) -> None:
    calls.rows(conn, "select absurd.create_queue('default'), absurd.set_queue_policy('default', '{\"max_payload_bytes\": 1024}')")
    run = calls.spawn_and_claim(conn, {"max_attempts": 1})
    reason = {"name": "Boom", "traceback": "x" * 60_000}
    calls.fail(conn, run, reason)
    assert calls.result(conn, run["task_id"])["failure_reason"] == reason


@pytest.mark.parametrize("reason", [{"name": "Boom", "message": BIG, "traceback": BIG}, BIG, [BIG], {"name": BIG, "other": BIG}])
def test_an_endless_reason_is_cut_and_the_failure_is_not_lost(conn: psycopg.Connection[Any], reason: Any) -> None:
    calls.rows(conn, "select absurd.create_queue('default'), absurd.set_queue_policy('default', '{\"max_payload_bytes\": 1024}')")
    run = calls.spawn_and_claim(conn, {"max_attempts": 1})
    calls.fail(conn, run, reason)
    kept = calls.result(conn, run["task_id"])["failure_reason"]
    assert kept["name"] == ("Boom" if isinstance(reason, dict) and reason["name"] == "Boom" else kept["name"][:500])
    assert "characters left out" in kept["message"]
    assert kept["bytes"] > 65536 > len(json.dumps(kept))


def test_an_endless_message_of_an_exception_is_cut(database_url: str) -> None:
    with Absurd(database_url) as app:

        @app.register_task("boom", max_attempts=1)
        def boom(params: Any, ctx: Any) -> None:
            raise ValueError("x" * 50_000_000)

        with app.worker():
            task = app.spawn(boom, {})
            with pytest.raises(AbsurdError):
                task.result(timeout=60)
            failure = app.get_result(task.task_id).failure
    assert len(json.dumps(failure)) < 100_000
    assert "characters left out" in failure["message"]


# What a task may ask of its context. Each refusal names the argument and costs the task nothing but this call.


@pytest.mark.parametrize("name", ["n" * 1000, "😀" * 250])
def test_the_longest_names_that_are_taken_work_everywhere(database_url: str, name: str) -> None:
    with Absurd(database_url) as app:

        @app.register_task("uses", max_attempts=1)
        def uses(params: Any, ctx: Context) -> list[Any]:
            done = [ctx.step(name, lambda: 1), ctx.step(name, lambda: 2)]  # the second is called name#2
            for _ in range(2):
                ctx.emit_event(name, "payload")
            done += [ctx.await_event(name), ctx.next_event(name).payload, ctx.await_any([name])[1], ctx.await_all([name])[name]]
            for _ in range(2):
                ctx.sleep_for(0.01, name=f"{name[:-1]}z")
            return [*done, ctx.await_task(ctx.spawn(name)), ctx.gather(*ctx.spawn_many(name, [1, 2]))]

        @app.register_task(name)
        def child(params: Any, ctx: Context) -> Any:
            return params

        with app.worker():
            assert app.spawn(uses).result(timeout=60) == [1, 2, "payload", "payload", "payload", "payload", None, [1, 2]]
            app.subscribe(f"{name[:-1]}*", name)
            assert app.dispatch_event(name).tasks[0].task_id is not None


def test_a_token_name_leaves_room_for_the_name_of_its_step(database_url: str) -> None:
    with Absurd(database_url) as app:
        seen: list[Any] = []

        @app.register_task("asks", max_attempts=1)
        def asks(params: Any, ctx: Context) -> None:
            for length in (950, 951):
                try:
                    seen.append(ctx.create_token("t" * length).name)
                except InvalidOptionError as error:
                    seen.append(str(error))

        app.spawn(asks)
        app.run_worker_once()
    assert seen[0] == "t" * 950
    assert seen[1].startswith("token name 't")
    assert "has 951 bytes; the limit is 950" in seen[1]


def test_a_context_refuses_more_than_one_statement_can_do(database_url: str) -> None:
    with Absurd(database_url) as app:
        seen: dict[str, str] = {}

        @app.register_task("asks", max_attempts=1)
        def asks(params: Any, ctx: Context) -> str:
            names = [f"e{number}" for number in range(MAX_EVENTS + 1)]
            for what, call in {
                "any": lambda: ctx.await_any(names),
                "all": lambda: ctx.await_all(names),
                "tasks": lambda: ctx.spawn_many("child", [None] * (MAX_CHILDREN + 1)),
                "key": lambda: ctx.spawn_many("child", [1, 2], idempotency_key="k"),
            }.items():
                try:
                    call()
                except InvalidOptionError as error:
                    seen[what] = str(error)
            return "done"

        task = app.spawn(asks)
        app.run_worker_once()
        assert task.result(timeout=0) == "done"
    assert seen == {
        "any": "names must hold 1 to 1000 event names, not 1001",
        "all": "names must hold 1 to 1000 event names, not 1001",
        "tasks": "all_params hold the params of 100001 tasks; one step spawns 100000 at most",
        "key": "idempotency_key 'k' would make one task of 2",
    }


def test_a_batch_ends_before_its_waits_fill_the_table_of_locks() -> None:
    holder = Holder("default", uuid.uuid4(), uuid.uuid4(), 1)

    def waiting(events: int) -> CheckWaits:
        return CheckWaits(holder, 0, 1, [Wait(f"s{n}", "default", f"e{n}") for n in range(events)])

    def taken(*writes: Write) -> int:
        return len(take_batch(deque(Item(write, Future()) for write in writes)))

    assert taken() == 0
    assert taken(*[waiting(1)] * 501) == MAX_BATCH
    assert taken(waiting(MAX_WAITS + 1), waiting(1)) == 1
    assert taken(*[waiting(900)] * 5) == 2
    assert taken(*[RecordCheckpoint(holder, "a", 0, "1")] * 10, waiting(MAX_WAITS), waiting(1)) == 11


def test_a_batch_is_taken_while_threads_of_sync_handlers_write() -> None:
    queue: deque[Any] = deque()

    class Raced:
        """At each look at one item another one comes, as from a thread that gets its turn just then."""

        @property
        def write(self) -> Write:
            queue.append(Raced())
            return RecordCheckpoint(Holder("default", uuid.uuid4(), uuid.uuid4(), 1), "a", 0, "1")

    queue.extend(Raced() for _ in range(3))
    assert len(take_batch(queue)) == MAX_BATCH
    assert len(queue) == 3


@pytest.mark.full
def test_many_tasks_that_wait_for_many_events_leave_room_for_the_others(database_url: str, conn: psycopg.Connection[Any]) -> None:
    tasks = 40  # at once: 40,000 events, more than the server has locks
    most = 0

    def asleep() -> bool:
        nonlocal most
        most = max(most, calls.value(conn, "select count(*) from pg_locks where locktype = 'advisory'"))
        return {handle.state() for handle in handles} == {"sleeping"}

    with Absurd(database_url) as app:
        arrived: set[int] = set()
        together = asyncio.Event()

        @app.register_task("waits", max_attempts=1)
        async def waits(params: int, ctx: AsyncContext) -> str:
            arrived.add(params)
            if len(arrived) == tasks:
                together.set()
            await together.wait()
            return (await ctx.await_any([f"e{params}/{n}" for n in range(MAX_EVENTS)]))[0]

        @app.register_task("other")
        def other(params: Any, ctx: Context) -> int:
            return 1

        with app.worker(concurrency=tasks + 1):
            handles = app.spawn_many(waits, range(tasks))
            assert app.spawn(other).result(timeout=120) == 1
            wait_until(asleep, 120, "40 sleeping tasks")
            app.emit_event("e7/999")
            assert handles[7].result(timeout=120) == "e7/999"
    assert most < 6400  # what a server has room for by default


# Workers, triggers, listeners


@pytest.mark.parametrize("worker_id", ["", "w" * 256, "é" * 128, "nul\x00", "\ud800", 7, None])
def test_a_worker_id_that_cannot_be_stored_is_refused(worker_id: Any) -> None:
    with pytest.raises(InvalidOptionError, match="worker_id"):
        WorkerOptions(worker_id=worker_id)


def test_the_longest_worker_id_works(database_url: str) -> None:
    with Absurd(database_url) as app:

        @app.register_task("work")
        def work(params: Any, ctx: Context) -> int:
            return 1

        with app.worker(worker_id="w" * 255):
            assert app.spawn(work).result(timeout=60) == 1


def test_other_clients_are_refused_an_endless_worker_id(conn: psycopg.Connection[Any]) -> None:
    calls.rows(conn, "select absurd.create_queue('default')")
    code, message = calls.sqlstate(conn, "select absurd.claim_task('default', %s)", "w" * 1001)
    assert (code, message.startswith("worker_id"), "the limit is 1000" in message) == ("AB012", True, True)


def test_a_trigger_whose_state_is_too_large_fires_nothing_and_keeps_what_it_had(database_url: str) -> None:
    with Absurd(database_url) as app:
        size, polls = 10, 0

        @app.register_task("work")
        def work(params: Any, ctx: Context) -> int:
            return 1

        @app.trigger("hoarder", task="work", poll_interval=0.1)
        def hoarder(state: dict[str, Any]) -> Any:
            nonlocal polls
            polls += 1
            state["kept"] = "x" * size
            return Fire({"poll": polls})

        app.create_queue()
        app.set_queue_limits(max_payload_bytes=1024)
        with app.worker():
            wait_until(lambda: app.list_triggers() and app.trigger_executions("hoarder"), 60, "a fire")
            size = 2000
            wait_until(lambda: app.list_triggers()[0].failures >= 2, 60, "refusals")
            fired = len(app.trigger_executions("hoarder"))
            assert 'the state of trigger "hoarder" has' in str(app.list_triggers()[0].last_error)
            size = 20
            wait_until(lambda: len(app.trigger_executions("hoarder")) > fired, 60, "a fire after the refusals")


def test_a_poll_that_returns_too_many_fires_is_refused() -> None:
    assert len(read_fires("many", [Fire()] * MAX_FIRES)) == MAX_FIRES
    with pytest.raises(ValueError, match=r'a poll of trigger "many" may return 10000 fires, not 10001'):
        read_fires("many", [Fire()] * (MAX_FIRES + 1))


def test_a_listener_with_an_endless_name_starts_tasks(database_url: str, conn: psycopg.Connection[Any]) -> None:
    with Absurd(database_url) as app:
        app.create_queue()
        listener = NotifyListener(app=app, name="l" * 100_000)
        assert listener.run_workflow("work", {}).success
    assert calls.value(conn, "select length(headers -> 'absurd-source' ->> 'name') from absurd.tasks") == 200
