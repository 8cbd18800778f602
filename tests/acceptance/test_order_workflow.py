"""The order workflow from a person's chair: spawn, work, send events."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from absurd import Absurd, Context
from tests.acceptance.programs import (
    EXAMPLES,
    ROOT,
    WORKER_TITLE,
    environment,
    output,
    run,
    running,
    until_delivery,
    until_end,
    until_payment,
)
from tests.support import wait_until

PAYMENT = {"amount": 99.99, "transaction_id": "txn_abc123"}
DELIVERY = {"delivered_at": "2025-01-03T14:30:00Z", "signature": "J. Doe"}
WORKER = ("-m", "absurd", "worker", "--app", "event_demo:app", "--queue", "examples")
Env = dict[str, str]
Conn = psycopg.Connection[Any]


def spawn(env: Env, *order_id: str) -> list[str]:
    return output("event_demo.py", "spawn", *order_id, env=env)


def send(env: Env, name: str, payload: object) -> list[str]:
    return output("send_event.py", name, "--payload", json.dumps(payload), env=env)


def load_demo() -> Any:
    spec = importlib.util.spec_from_file_location("event_demo", EXAMPLES / "event_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state_of(conn: Conn) -> Any:
    row = conn.execute("select state, worker_id, lease_expires_at, available_at from absurd.runs").fetchone()
    assert row is not None
    return row


def test_a01_order_is_reserved_paid_shipped_delivered_and_finalized(env: Env, conn: Conn) -> None:
    spawn(env, "1")
    with running("event_demo.py", env=env) as worker:
        send(env, "payment.confirmed:1", PAYMENT)
        send(env, "shipment.delivered:1", DELIVERY)
        worker.wait_for("🎉 Order 1 completed successfully!")
        wait_until(lambda: conn.execute("select outcome from absurd.tasks").fetchone() == ("completed",))
    (name, result) = conn.execute("select task_name, result from absurd.tasks").fetchone() or ("", {})
    assert name == "order-fulfillment"
    assert result == {"order_id": "1", "status": "completed", "tracking_number": "1Z9991", "delivery": DELIVERY}
    steps = conn.execute("select step_name from absurd.checkpoints where kind = 'step' order by position").fetchall()
    assert steps == [("reserve-inventory",), ("ship-order",), ("finalize-order",)]


def test_a02_waiting_order_holds_no_worker_no_lease_and_no_connection(env: Env, conn: Conn) -> None:
    spawn(env)
    with running("event_demo.py", env=env) as worker:
        wait_until(lambda: state_of(conn)[0] == "sleeping")
        assert state_of(conn) == ("sleeping", None, None, None)
        assert worker.stop() == 0
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    wait_until(lambda: conn.execute(others).fetchone() == (0,))
    assert state_of(conn)[0] == "sleeping"
    send(env, "payment.confirmed:12345", PAYMENT)
    with running("event_demo.py", env=env) as worker:
        worker.wait_for(until_delivery("12345", PAYMENT)[-1])


def test_a03_decorated_function_is_unchanged_and_can_be_called_in_a_unit_test() -> None:
    app = Absurd("postgresql://nobody@localhost:1/none")

    def double(params: dict[str, int], ctx: Context) -> int:
        return params["n"] * 2

    assert app.register_task("double")(double) is double
    assert double({"n": 21}, None) == 42  # type: ignore[arg-type]


def test_a04_completed_step_never_runs_again_and_a_repeated_name_gets_a_number(app: Absurd, conn: Conn) -> None:
    calls: list[int] = []

    @app.register_task
    def counting(params: Any, ctx: Context) -> list[int]:
        def count() -> int:
            calls.append(1)
            return len(calls)

        found = [ctx.step("count", count), ctx.step("count", count)]
        ctx.await_event(f"go:{ctx.task_id}")
        return [*found, ctx.step("count", count)]

    task = app.spawn(counting)
    assert app.run_worker_once() == 1
    app.emit_event(f"go:{task.task_id}")
    assert app.run_worker_once() == 1
    assert task.result(timeout=10) == [1, 2, 3]
    assert len(calls) == 3
    names = conn.execute("select step_name from absurd.checkpoints where kind = 'step' order by position").fetchall()
    assert names == [("count",), ("count#2",), ("count#3",)]


@pytest.mark.parametrize("payload", [{"a": [1, 2.5, None, True]}, [], "text", 0, None, {"ключ": "🎉"}])
def test_a05_await_event_returns_the_json_payload(app: Absurd, payload: Any) -> None:
    @app.register_task
    def waiting(params: Any, ctx: Context) -> Any:
        return {"got": ctx.await_event("news")}

    task = app.spawn(waiting)
    app.run_worker_once()
    app.emit_event("news", payload)
    app.run_worker_once()
    assert task.result(timeout=10) == {"got": payload}


def test_a06_demo_spawns_or_works_and_the_default_order_is_12345(env: Env) -> None:
    assert "  Order ID: 12345" in spawn(env)
    assert "  Order ID: 77" in spawn(env, "77")
    with running("event_demo.py", env=env) as worker:
        worker.wait_for(until_payment("12345")[-1])
        worker.wait_for(until_payment("77")[-1])
    wrong = run("event_demo.py", "spwan", env=env)
    assert (wrong.process.returncode, wrong.error_lines) == (2, ["Usage: python event_demo.py [spawn [ORDER_ID]]"])


def test_a07_send_event_takes_payload_and_queue_and_refuses_what_is_no_json(env: Env, conn: Conn, app: Absurd) -> None:
    app.create_queue("other")
    output("send_event.py", "one", "--payload", '{"a": 1}', "--queue", "other", env=env)
    output("send_event.py", "two", "-p", "[2]", "-q", "other", env=env)
    output("send_event.py", "three", env=env)
    found = conn.execute("select queue_name, event_name, payload from absurd.events order by seq").fetchall()
    assert found == [("other", "one", {"a": 1}), ("other", "two", [2]), ("examples", "three", None)]
    wrong = run("send_event.py", "four", "--payload", "{amount: 1}", env=env)
    assert wrong.process.returncode == 1
    assert len(wrong.error_lines) == 1
    assert wrong.error_lines[0].startswith("Error: Invalid JSON payload: ")
    assert conn.execute("select count(*) from absurd.events").fetchone() == (3,)


def test_a08_compose_file_loads_the_schema_and_the_order_runs_on_what_it_makes(empty_conn: Conn, empty_database_url: str) -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for wanted in ("POSTGRES_USER: absurd", "POSTGRES_PASSWORD: absurd", "POSTGRES_DB: absurd", '"5432:5432"'):
        assert wanted in compose
    assert "./sql/absurd.sql:/docker-entrypoint-initdb.d/absurd.sql" in compose
    # Through libpq's simple protocol, as psql sends it at the first start of the container.
    for statement in psql_statements((ROOT / "sql/absurd.sql").read_text()):
        empty_conn.pgconn.exec_(statement.encode())
    assert empty_conn.execute("select absurd.get_schema_version() is not null").fetchone() == (True,)
    env = environment(ABSURD_DATABASE_URL=empty_database_url)
    spawn(env)
    send(env, "payment.confirmed:12345", PAYMENT)
    send(env, "shipment.delivered:12345", DELIVERY)
    with running("event_demo.py", env=env) as worker:
        worker.wait_for(until_end("12345", DELIVERY)[-1])


def psql_statements(text: str) -> list[str]:
    """The file without the commands that only psql knows."""
    return ["\n".join(line for line in text.splitlines() if not line.startswith("\\"))]


def test_a09_examples_are_a_project_that_depends_on_the_library_beside_it(env: Env) -> None:
    import tomllib

    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == ["absurd[embedded,files,rabbitmq,web]"]
    assert project["tool"]["uv"]["sources"]["absurd"]["path"] == ".."
    assert (EXAMPLES / project["tool"]["uv"]["sources"]["absurd"]["path"] / "pyproject.toml").exists()
    spawn(env)
    # [tool.absurd] names the application, so that the worker needs no --app here.
    with running("-m", "absurd", "worker", "--queue", "examples", env=env) as worker:
        worker.wait_for(until_payment("12345")[-1])


def test_a10_database_is_the_argument_then_the_variable_then_pgdatabase(
    env: Env, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    wrong = {**env, "ABSURD_DATABASE_URL": nowhere}
    assert output("-m", "absurd", "schema-version", "--database", database_url, env=wrong)
    assert run("-m", "absurd", "schema-version", env=wrong).process.returncode == 1
    assert output("-m", "absurd", "schema-version", env={**env, "PGDATABASE": nowhere})
    by_pgdatabase = {name: value for name, value in env.items() if name != "ABSURD_DATABASE_URL"}
    assert output("-m", "absurd", "schema-version", env={**by_pgdatabase, "PGDATABASE": database_url})
    monkeypatch.setenv("ABSURD_DATABASE_URL", nowhere)
    assert Absurd(database_url).list_queues() == ["default"]
    assert Absurd().database_url == nowhere


def test_a11_spawn_prints_title_ids_and_next_steps(env: Env) -> None:
    lines = spawn(env)
    ids = [line.rpartition(" ")[2] for line in lines if line.startswith(("  Task ID: ", "  Run ID: "))]
    assert lines == [
        "Absurd Event-Driven Workflow Demo",
        "=" * 70,
        "✓ Queue 'examples' ready",
        "✓ Spawned order fulfillment task:",
        "  Order ID: 12345",
        f"  Task ID: {ids[0]}",
        f"  Run ID: {ids[1]}",
        "",
        "Next steps:",
        "  1. Start the worker in another terminal:",
        "     python event_demo.py",
        "  2. Send the payment event:",
        """     python send_event.py payment.confirmed:12345 --payload '{"amount": 99.99, "transaction_id": "txn_abc123"}'""",
        "  3. Send the delivery event:",
        "     python send_event.py shipment.delivered:12345 --payload "
        """'{"delivered_at": "2025-01-03T14:30:00Z", "signature": "J. Doe"}'""",
    ]


def test_a12_create_queue_is_idempotent(app: Absurd) -> None:
    app.create_queue()
    app.create_queue("examples")
    assert app.list_queues() == ["default", "examples"]


def test_a13_task_and_run_have_two_distinct_uuid7(app: Absurd) -> None:
    task = app.spawn("order-fulfillment", {"order_id": "1"})
    assert isinstance(task.run_id, UUID)
    assert task.task_id != task.run_id
    assert (task.task_id.version, task.run_id.version) == (7, 7)


def test_a14_task_may_be_spawned_before_any_worker_exists(env: Env, conn: Conn) -> None:
    spawn(env)
    assert conn.execute("select count(*) from absurd.workers").fetchone() == (0,)
    assert state_of(conn)[0] == "pending"
    with running("event_demo.py", env=env) as worker:
        worker.wait_for(until_payment("12345")[-1])


@pytest.mark.parametrize("command", [("event_demo.py",), WORKER], ids=["event_demo", "absurd worker"])
def test_a15_worker_prints_each_line_of_the_order_once_and_in_order(env: Env, command: tuple[str, ...]) -> None:
    spawn(env, "ORD-7")
    with running(*command, env=env) as worker:
        worker.wait_for(until_payment("ORD-7")[-1])
        send(env, "payment.confirmed:ORD-7", PAYMENT)
        worker.wait_for(until_delivery("ORD-7", PAYMENT)[-1])
        send(env, "shipment.delivered:ORD-7", DELIVERY)
        worker.wait_for(until_end("ORD-7", DELIVERY)[-1])
        assert worker.stop(signal.SIGINT) == 0
    title = [WORKER_TITLE] if command == ("event_demo.py",) else []
    expected = [*title, *until_payment("ORD-7"), *until_delivery("ORD-7", PAYMENT), *until_end("ORD-7", DELIVERY)]
    assert worker.lines == expected


def test_a16_worker_runs_other_tasks_while_one_waits(env: Env) -> None:
    spawn(env, "first")
    with running(*WORKER, "--concurrency", "1", env=env) as worker:
        worker.wait_for(until_payment("first")[-1])
        spawn(env, "second")
        send(env, "payment.confirmed:second", PAYMENT)
        send(env, "shipment.delivered:second", None)
        worker.wait_for("🎉 Order second completed successfully!")
    assert not [line for line in worker.lines if "Order first" in line]


def test_a17_send_event_prints_what_it_did(env: Env, app: Absurd) -> None:
    assert send(env, "payment.confirmed:12345", {"amount": 99.99, "note": "dźwięk"}) == [
        "Emitting event to queue 'examples':",
        "  Event name: payment.confirmed:12345",
        "  Payload: {",
        '  "amount": 99.99,',
        '  "note": "dźwięk"',
        "}",
        "✓ Event emitted successfully!",
        "",
        "If a task was waiting for this event, it will now resume.",
    ]


def test_a18_worker_resumes_at_the_emit_and_not_at_its_next_poll(env: Env) -> None:
    spawn(env)
    with running(*WORKER, "--poll-interval", "60s", env=env) as worker:
        worker.wait_for(until_payment("12345")[-1])
        send(env, "payment.confirmed:12345", PAYMENT)
        wait_until(lambda: until_delivery("12345", PAYMENT)[-1] in worker.lines, timeout=15)


def test_a19_after_a_resume_by_another_process_only_new_lines_appear(env: Env, conn: Conn) -> None:
    spawn(env)
    with running("event_demo.py", env=env) as first:
        wait_until(lambda: state_of(conn)[0] == "sleeping")
        assert first.stop() == 0
    assert first.lines == [WORKER_TITLE, *until_payment("12345")]
    send(env, "payment.confirmed:12345", PAYMENT)
    with running("event_demo.py", env=env) as second:
        second.wait_for(until_delivery("12345", PAYMENT)[-1])
        wait_until(lambda: state_of(conn)[0] == "sleeping")
        assert second.stop() == 0
    assert second.lines == [WORKER_TITLE, *until_delivery("12345", PAYMENT)]


def test_a20_payload_keys_keep_their_order(env: Env, conn: Conn) -> None:
    payload = {"zebra": 1, "apple": {"y": 1, "b": 2}, "mango": 3}
    spawn(env)
    send(env, "payment.confirmed:12345", payload)
    with running("event_demo.py", env=env) as worker:
        worker.wait_for("✓ Payment confirmed: {'zebra': 1, 'apple': {'y': 1, 'b': 2}, 'mango': 3}")
    (text,) = conn.execute("select payload::text from absurd.events").fetchone() or ("",)
    assert re.findall(r'"(\w+)":', text) == ["zebra", "apple", "y", "b", "mango"]


def test_a21_results_of_steps_and_tasks_keep_their_key_order_also_on_replay(app: Absurd) -> None:
    @app.register_task
    def ordered(params: Any, ctx: Context) -> Any:
        found = ctx.step("make", lambda: {"zebra": 1, "apple": 2, "mango": 3})
        ctx.await_event(f"go:{ctx.task_id}")
        return {"second": list(found), "first": list(params)}

    task = app.spawn(ordered, {"y": 1, "x": 2})
    app.emit_event(f"go:{task.task_id}")
    app.run_worker_once()
    result = task.result(timeout=10)
    assert list(result) == ["second", "first"]
    assert result == {"second": ["zebra", "apple", "mango"], "first": ["y", "x"]}


def test_order_function_can_be_unit_tested_without_a_database() -> None:
    demo = load_demo()
    assert demo.ship_order("9") == {"tracking_number": "1Z9999", "carrier": "UPS", "shipped_at": "2025-01-01T12:00:00Z"}
    assert callable(demo.order_fulfillment)
    assert Path(demo.__file__).parent == EXAMPLES
