"""What was decided about emits, reading, printing and order of keys, seen from outside."""

from __future__ import annotations

from typing import Any

import psycopg

from absurd import Absurd, Context
from tests.acceptance.programs import WORKER_TITLE, output, running, until_delivery, until_end, until_payment

Conn = psycopg.Connection[Any]


def test_k01_one_emit_appends_to_the_log_and_wakes_the_waiters_in_one_transaction(
    app: Absurd, database_url: str, conn: Conn
) -> None:
    @app.register_task
    def waiting(params: Any, ctx: Context) -> Any:
        return ctx.await_event("news")

    app.spawn(waiting)
    app.run_worker_once()
    with psycopg.connect(database_url) as emitter:
        app.emit_event("news", 1, conn=emitter)
        inside = "select (select count(*) from absurd.events), (select count(*) from absurd.waits), state from absurd.runs"
        assert emitter.execute(inside).fetchone() == (1, 0, "pending")
        assert conn.execute(inside).fetchone() == (0, 1, "sleeping")
        emitter.commit()
    assert conn.execute(inside).fetchone() == (1, 0, "pending")


def test_k02_wait_gets_the_first_emission_for_ever_and_since_asks_for_later_ones(app: Absurd) -> None:
    @app.register_task
    def reading(params: Any, ctx: Context) -> Any:
        first = ctx.await_event("tick")
        again = ctx.await_event("tick")
        one = ctx.next_event("tick")
        two = ctx.next_event("tick", since=one)
        three = ctx.next_event("tick", since=two.seq)
        return [first, again, one.payload, two.payload, three.payload]

    for number in (1, 2, 3):
        app.emit_event("tick", number)
    task = app.spawn(reading)
    app.run_worker_once()
    assert task.result(timeout=10) == [1, 1, 1, 2, 3]


def test_k03_reading_an_event_does_not_consume_it(app: Absurd, conn: Conn) -> None:
    @app.register_task
    def reading(params: Any, ctx: Context) -> Any:
        return ctx.await_event("shared")

    app.emit_event("shared", "here")
    for _ in range(3):
        task = app.spawn(reading)
        app.run_worker_once()
        assert task.result(timeout=10) == "here"
    assert conn.execute("select count(*) from absurd.events").fetchone() == (1,)


def test_k15_replay_never_prints_or_logs_twice(env: dict[str, str]) -> None:
    output("event_demo.py", "spawn", "9", env=env)
    lines: list[str] = []
    for event in ("payment.confirmed:9", "shipment.delivered:9"):
        # Each part of the order is run by another process, which replays all that went before.
        with running("-m", "absurd", "worker", "--app", "event_demo:app", "--queue", "examples", env=env) as worker:
            waiting = "⏳ Waiting for payment confirmation" if event.startswith("payment") else "⏳ Waiting for delivery"
            worker.wait_for(f"{waiting}: {event}")
            assert worker.stop() == 0
        lines += worker.lines
        output("send_event.py", event, env=env)
    with running("event_demo.py", env=env) as worker:
        worker.wait_for(until_end("9", None)[-1])
        assert worker.stop() == 0
    assert worker.lines[0] == WORKER_TITLE
    assert [*lines, *worker.lines[1:]] == [*until_payment("9"), *until_delivery("9", None), *until_end("9", None)]


def test_k16_keys_keep_their_order_everywhere(app: Absurd, conn: Conn) -> None:
    keys = ["z", "a", "m", "B", "1", "ä"]
    given = dict.fromkeys(keys, 0)

    @app.register_task
    def keeping(params: Any, ctx: Context) -> Any:
        step = ctx.step("step", lambda: given)
        event = ctx.await_event(f"event:{ctx.task_id}")
        return {"orders": [list(params), list(step), list(event), list(ctx.headers)], **given}

    task = app.spawn(keeping, given, headers=given)
    app.run_worker_once()
    app.emit_event(f"event:{task.task_id}", given)
    app.run_worker_once()
    result = task.result(timeout=10)
    assert result.pop("orders") == [keys] * 4
    assert list(result) == keys
