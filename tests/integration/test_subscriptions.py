"""Subscriptions from Python and the command line, run by workers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from absurd import (
    Absurd,
    AsyncAbsurd,
    AsyncEventDispatcher,
    Context,
    EventDispatcher,
    InvalidOptionError,
    PayloadTooLargeError,
    QueueNotFoundError,
    SerializationError,
)
from tests.cli import environment, invoke
from tests.support import wait_until
from tests.support_proxy import LossyProxy

Conn = psycopg.Connection[Any]


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:
        yield made


def test_g11_a_worker_runs_the_subscriber_with_what_the_event_said(app: Absurd) -> None:
    seen: list[Any] = []

    @app.register_task("invoice")
    def invoice(params: Any, ctx: Context) -> None:
        seen.append((list(params), params["event_type"], params["event_payload"], params["event_config"]))

    app.subscribe("order.*", invoice, config={"copies": 2, "at": None})
    app.emit_event("order.placed", {"z": 1, "a": 2})
    app.run_worker_once()
    keys = ["event_type", "event_payload", "event_config", "event_time"]
    assert seen == [(keys, "order.placed", {"z": 1, "a": 2}, {"copies": 2, "at": None})]
    assert [list(seen[0][2]), list(seen[0][3])] == [["z", "a"], ["copies", "at"]]


def test_a46_an_emit_in_plain_sql_starts_the_task_while_no_worker_runs(app: Absurd, conn: Conn) -> None:
    ran: list[Any] = []

    @app.register_task("ship")
    def ship(params: Any, ctx: Context) -> None:
        ran.append(params["event_payload"])

    app.subscribe("paid", ship)
    conn.execute("create table payments (id int, amount int)")
    conn.execute("""
        create function announce() returns trigger language plpgsql as $$
        begin
          perform absurd.emit_event('default', 'paid', to_jsonb(new));
          return null;
        end $$""")
    conn.execute("create trigger announce after insert on payments for each row execute function announce()")
    with conn.transaction(force_rollback=True):
        conn.execute("insert into payments values (1, 10)")
    conn.execute("insert into payments values (2, 20)")
    assert conn.execute("select count(*) from absurd.tasks").fetchone() == (1,)
    app.run_worker_once()
    assert ran == [{"id": 2, "amount": 20}]


def test_k1_an_emit_of_a_task_starts_its_subscribers_once_however_often_it_is_replayed(app: Absurd) -> None:
    started: list[int] = []
    sources: list[Any] = []

    @app.register_task("first", max_attempts=3, retry="fixed")
    def first(params: Any, ctx: Context) -> None:
        ctx.emit_event("done", {"n": 1})
        ctx.await_event("go on")

    @app.register_task("second")
    def second(params: Any, ctx: Context) -> None:
        started.append(params["event_payload"]["n"])
        sources.append(ctx.headers["absurd-source"]["event_source"])

    app.subscribe("done", second)
    task = app.spawn(first)
    app.run_worker_once()
    app.emit_event("go on")
    app.run_worker_once()
    assert started == [1]
    assert sources == [{"kind": "task", "name": str(task.task_id)}]


def test_g6_a_worker_that_idles_is_woken_by_an_event_for_a_subscriber(app: Absurd) -> None:
    @app.register_task("quick")
    def quick(params: Any, ctx: Context) -> str:
        return "ran"

    app.subscribe("e", quick)
    with app.worker(poll_interval=60):
        [task] = app.dispatch_event("e").tasks
        assert task.task_id is not None
        assert app.task(task.task_id).result(timeout=20) == "ran"


def test_g12_options_come_from_the_call_then_the_task_then_the_app(app: Absurd) -> None:
    app.create_queue("mail")

    @app.register_task("send", queue="mail", max_attempts=2, headers={"a": 1, "b": 1})
    def send(params: Any, ctx: Context) -> None: ...

    made = app.subscribe("e", send, headers={"b": 2}, priority=4, retry="fixed", delay=5)
    assert (made.target_queue, made.queue_name, made.task_name) == ("mail", "default", "send")
    assert made.options == {
        "headers": {"a": 1, "b": 2}, "priority": 4, "max_attempts": 2, "delay": 5, "retry_strategy": {"kind": "fixed"}
    }  # fmt: skip
    assert app.subscribe("e", send, target_queue="default").target_queue == "default"
    assert app.subscribe("e", "foreign").options["max_attempts"] == 5


def test_g1_what_is_stored_is_returned_and_listed(app: Absurd) -> None:
    made = app.subscribe("e", "a", config=[1, {"k": None}])
    assert (made.config, made.last_error) == ([1, {"k": None}], None)
    assert app.list_subscriptions() == [made] == app.list_subscriptions("e")
    assert app.list_subscriptions("e*") == []
    assert [app.unsubscribe("e", "a"), app.unsubscribe("e", "a")] == [True, False]
    assert app.list_subscriptions() == []


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda app: app.subscribe("a*b", "t"), InvalidOptionError, 'before its end'),
        (lambda app: app.subscribe("", "t"), InvalidOptionError, "pattern must be a non-empty string"),
        (lambda app: app.subscribe("e", ""), InvalidOptionError, "task name"),
        (lambda app: app.subscribe("e", lambda p, c: None), InvalidOptionError, "is no task of this app"),
        (lambda app: app.subscribe("e", "t", idempotency_key="k"), InvalidOptionError, "subscribe has no option"),
        (lambda app: app.subscribe("e", "t", max_attempts=0), InvalidOptionError, "max_attempts"),
        (lambda app: app.subscribe("e", "t", config={1, 2}), SerializationError, 'config of subscription "e"'),
        (lambda app: app.subscribe("e", "t", config="a\0b"), SerializationError, "NUL"),
        (lambda app: app.subscribe("e", "t", config="x" * 2000), PayloadTooLargeError, "allows 1024"),
        (lambda app: app.subscribe("e", "t", queue="nosuch"), QueueNotFoundError, "nosuch"),
        (lambda app: app.subscribe("e", "t", target_queue="nosuch"), QueueNotFoundError, "nosuch"),
        (lambda app: app.unsubscribe("e", "t", queue="nosuch"), QueueNotFoundError, "nosuch"),
        (lambda app: app.emit_event("e", idempotency_key=""), InvalidOptionError, "idempotency_key"),
        (lambda app: app.dispatch_event("e", object()), SerializationError, 'payload of event "e"'),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(app: Absurd, call: Any, error: type[Exception], said: str) -> None:
    app.set_queue_limits(max_payload_bytes=1024)
    with pytest.raises(error, match=said.replace("*", r"\*")):
        call(app)
    assert app.list_subscriptions() == []


def test_k9_emissions_with_a_key_are_one_and_dispatch_says_so(app: Absurd) -> None:
    app.subscribe("e", "a")
    first = app.dispatch_event("e", 1, idempotency_key="k")
    again = app.dispatch_event("e", 2, idempotency_key="k")
    assert (first.created, again.created, again.seq, again.tasks) == (True, False, first.seq, first.tasks)
    assert app.emit_event("e", idempotency_key="k") == first.seq
    assert app.dispatch_event("nobody").tasks == []


@pytest.mark.parametrize("loss", ["statement", "answer"])
@pytest.mark.parametrize("call", ["append_event", "dispatch_event"])
def test_k9_an_emission_with_a_key_is_repeated_after_a_lost_answer_and_is_one(
    database_url: str, conn: Conn, call: str, loss: Any
) -> None:
    with LossyProxy(database_url) as proxy, Absurd(proxy.url) as app:
        app.subscribe("e", "a")
        rule = proxy.lose(f"absurd.{call}", loss, "absurd")
        if call == "append_event":
            app.emit_event("e", idempotency_key="k")
        else:
            assert [task.status for task in app.dispatch_event("e", idempotency_key="k").tasks] == ["ok"]
        assert rule.applied == 1
    counts = "select (select count(*) from absurd.events), (select count(*) from absurd.tasks)"
    assert conn.execute(counts).fetchone() == (1, 1)


@pytest.mark.parametrize("loss", ["statement", "answer"])
def test_k1_an_emit_of_a_task_whose_answer_is_lost_starts_its_subscriber_once(database_url: str, conn: Conn, loss: Any) -> None:
    with LossyProxy(database_url) as proxy, Absurd(proxy.url) as app:

        @app.register_task("first")
        def first(params: Any, ctx: Context) -> None:
            ctx.emit_event("e")

        app.subscribe("e", "a")
        rule = proxy.lose("absurd.emit_events", loss, "absurd worker: writer")
        with app.worker():
            app.spawn(first).result(timeout=30)
        assert rule.applied == 1
    assert conn.execute("select count(*) from absurd.tasks where task_name = 'a'").fetchone() == (1,)


def test_dispatch_in_the_callers_transaction_is_dropped_with_it(app: Absurd, conn: Conn, database_url: str) -> None:
    app.subscribe("e", "a")
    with psycopg.connect(database_url) as mine:
        assert len(app.dispatch_event("e", conn=mine).tasks) == 1
        mine.rollback()
    assert conn.execute("select count(*) from absurd.tasks").fetchone() == (0,)


async def test_async_clients_have_the_same_methods(database_url: str) -> None:
    async with AsyncAbsurd(database_url) as app:
        made = await app.subscribe("e*", "a", config=1)
        assert await app.list_subscriptions("e*") == [made]
        dispatch = await app.dispatch_event("event", {"n": 1}, idempotency_key="k")
        assert [(task.task_name, task.status) for task in dispatch.tasks] == [("a", "ok")]
        assert await app.emit_event("event", idempotency_key="k") == dispatch.seq
        assert await app.unsubscribe("e*", "a")


def test_g1_to_g8_the_dispatcher_keeps_records_by_event_type(app: Absurd) -> None:
    dispatcher = EventDispatcher(app)
    assert dispatcher.get_subscriptions() == {}
    record = dispatcher.subscribe("order.placed", "invoice", {"copies": 2})
    assert set(record) == {"workflow_id", "config", "created_at"}
    assert (record["workflow_id"], record["config"]) == ("invoice", {"copies": 2})
    other = dispatcher.subscribe("order.placed", "mail")
    third = dispatcher.subscribe("order.*", "log")
    assert dispatcher.get_subscriptions("order.placed") == [record, other]
    assert dispatcher.get_subscriptions() == {"order.placed": [record, other], "order.*": [third]}
    assert dispatcher.get_subscriptions("nosuch") == []
    assert [dispatcher.unsubscribe("order.placed", "mail") for _ in range(2)] == [True, False]


def test_g9_the_dispatcher_answers_in_subscription_order_and_pending(app: Absurd, conn: Conn) -> None:
    dispatcher = EventDispatcher(app)
    assert dispatcher.dispatch("e") == []
    for workflow in ("z", "a", "m"):
        dispatcher.subscribe("e", workflow)
    answers = dispatcher.dispatch("e", {"n": 1})
    assert [(a["workflow_id"], a["status"], set(a)) for a in answers] == [
        (name, "PENDING", {"workflow_id", "run_id", "status"}) for name in ("z", "a", "m")
    ]
    durable = {str(run) for (run,) in conn.execute("select run_id from absurd.runs where state = 'pending'")}
    assert durable == {a["run_id"] for a in answers}


def test_k19_the_dispatcher_says_who_could_not_be_started(app: Absurd) -> None:
    app.create_queue("gone")
    app.subscribe("e", "lost", target_queue="gone")
    app.subscribe("e", "well")
    app.drop_queue("gone")
    lost, well = EventDispatcher(app).dispatch("e")
    assert (lost["status"], lost["run_id"], well["status"]) == ("FAILED", None, "PENDING")
    assert 'queue "gone" does not exist' in lost["error"]
    assert app.list_subscriptions()[0].last_error == lost["error"]


def test_g8_subscriptions_survive_the_process_that_made_them(database_url: str) -> None:
    code = "from absurd import EventDispatcher; EventDispatcher().subscribe('e', 'a', {'n': 1}); import os; os._exit(9)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(database_url), timeout=60)
    assert done.returncode == 9
    with Absurd(database_url) as app:
        dispatcher = EventDispatcher(app, queue="default")
        assert [found["config"] for found in dispatcher.get_subscriptions("e")] == [{"n": 1}]
        assert [a["workflow_id"] for a in dispatcher.dispatch("e")] == ["a"]


async def test_g1_to_g13_the_async_dispatcher_does_the_same(database_url: str) -> None:
    async with AsyncAbsurd(database_url) as app:
        dispatcher = AsyncEventDispatcher(app)
        record = await dispatcher.subscribe("e", "a", {"n": 1})
        assert await dispatcher.get_subscriptions() == {"e": [record]}
        assert [a["status"] for a in await dispatcher.dispatch("e")] == ["PENDING"]
        assert await dispatcher.unsubscribe("e", "a")
        assert await dispatcher.get_subscriptions("e") == []


def test_many_that_emit_at_once_start_each_subscriber_once_for_each(app: Absurd, conn: Conn, database_url: str) -> None:
    app.subscribe("n:*", "a")
    code = "from absurd import Absurd\nwith Absurd() as app:\n for i in range(50): app.emit_event(f'n:{i}', i)"
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment(database_url)) for _ in range(3)]
    wait_until(lambda: all(one.poll() is not None for one in running), timeout=60, what="the end of three emitters")
    assert [one.returncode for one in running] == [0, 0, 0]
    counts = conn.execute("select params ->> 'event_payload', count(*) from absurd.tasks group by 1").fetchall()
    assert sorted(counts, key=lambda c: int(c[0])) == [(str(i), 3) for i in range(50)]


def test_the_commands_subscribe_list_emit_and_unsubscribe(database_url: str, conn: Conn) -> None:
    invoke("create-queue", "books", database=database_url)
    made = invoke("subscribe", "pay.*", "book", "-c", '{"z":1,"a":2}', "-H", "t=x", "--target-queue", "books",
                  "--max-attempts", "2", "--json", database=database_url).json()  # fmt: skip
    assert (made["pattern"], made["task_name"], made["target_queue"], list(made["config"])) == (
        "pay.*",
        "book",
        "books",
        ["z", "a"],
    )
    assert (made["options"]["headers"], made["options"]["max_attempts"]) == ({"t": "x"}, 2)
    listed = invoke("list-subscriptions", "--pattern", "pay.*", database=database_url).out
    assert listed.splitlines()[0].split()[:3] == ["QUEUE", "PATTERN", "TASK"]
    assert '{"z":1,"a":2}' in listed
    emitted = invoke("emit-event", "pay.1", "--idempotency-key", "k", database=database_url).out
    assert '"book" Task ID: ' in emitted
    again = invoke("emit-event", "pay.1", "--idempotency-key", "k", "--json", database=database_url).json()
    assert (again["created"], len(again["tasks"])) == (False, 1)
    assert "no longer start" in invoke("unsubscribe", "pay.*", "book", database=database_url).out
    assert "is not subscribed" in invoke("unsubscribe", "pay.*", "book", database=database_url, code=1).err
    assert "No subscriptions." in invoke("list-subscriptions", database=database_url).out
    assert "before its end" in invoke("subscribe", "a*b", "t", database=database_url, code=1).err
    conn.execute("select absurd.subscribe('default', %s, 't', %s)", ("\x1b[31m*", Jsonb({"config": "\x9b31m"})))
    assert not set("\x1b\x9b") & set(invoke("list-subscriptions", database=database_url).out)
