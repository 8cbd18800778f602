"""What holds for events, whatever the order in which things happen."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import absurd
from absurd import Absurd, AbsurdError, Context, QueueNotFoundError
from tests.acceptance.programs import output, run
from tests.support import wait_until

Conn = psycopg.Connection[Any]
NAMES = ("one", "two", "three")


@pytest.fixture
def collect(app: Absurd) -> Callable[..., Any]:
    """A registered task that awaits three events in turn and returns their payloads."""

    @app.register_task("collect")
    def collect(params: Any, ctx: Context) -> Any:
        return [ctx.await_event(name) for name in NAMES]

    return collect


def state(conn: Conn) -> str | None:
    row = conn.execute("select state from absurd.runs").fetchone()
    return None if row is None else str(row[0])


def test_a23_event_emitted_before_the_wait_is_kept_for_it(app: Absurd, collect: Callable[..., Any]) -> None:
    for number, name in enumerate(NAMES):
        app.emit_event(name, number)
    task = app.spawn(collect)
    assert app.run_worker_once() == 1
    assert task.result(timeout=10) == [0, 1, 2]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a24_events_may_arrive_in_any_order(app: Absurd, collect: Callable[..., Any], order: tuple[int, ...]) -> None:
    task = app.spawn(collect)
    app.run_worker_once()
    for number in order:
        app.emit_event(NAMES[number], number)
        app.run_worker_once()
    assert task.result(timeout=10) == [0, 1, 2]


def test_a25_emit_and_wait_at_the_same_moment_never_miss_each_other(app: Absurd, conn: Conn, database_url: str) -> None:
    @app.register_task
    def waiting(params: Any, ctx: Context) -> Any:
        return ctx.await_event(params["name"])

    emitter = psycopg.connect(database_url)
    with app.worker():
        # The emit is under way, neither committed nor visible, while the task decides whether to wait.
        app.emit_event("open", "committed late", conn=emitter)
        task = app.spawn(waiting, {"name": "open"})
        wait_until(lambda: state(conn) in ("running", "sleeping"))
        emitter.commit()
        assert task.result(timeout=20) == "committed late"
        # And many emits race with as many waits.
        tasks = app.spawn_many(waiting, [{"name": f"race-{number}"} for number in range(50)])
        for number in range(50):
            app.emit_event(f"race-{number}", number)
        assert [one.result(timeout=20) for one in tasks] == list(range(50))
    emitter.close()


def test_a26_clean_up_spares_events_that_nobody_has_claimed(env: dict[str, str], app: Absurd, conn: Conn) -> None:
    @app.register_task
    def claims(params: Any, ctx: Context) -> Any:
        return ctx.await_event("claimed")

    app.emit_event("claimed", 1)
    app.emit_event("unclaimed", 2)
    app.spawn(claims)
    app.run_worker_once()
    output("-m", "absurd", "cleanup", "--older-than", "0s", env=env)
    assert conn.execute("select event_name from absurd.events").fetchall() == [("unclaimed",)]


def test_a27_payload_is_optional_and_none_then(env: dict[str, str], app: Absurd, collect: Callable[..., Any]) -> None:
    task = app.spawn(collect)
    app.emit_event("one")
    app.emit_event("two", None)
    output("send_event.py", "three", env=env)
    app.run_worker_once()
    assert task.result(timeout=10) == [None, None, None]


def test_a28_event_names_match_exactly_also_in_case(app: Absurd, conn: Conn) -> None:
    @app.register_task
    def waiting(params: Any, ctx: Context) -> Any:
        return ctx.await_event("Payment.Confirmed:1")

    task = app.spawn(waiting)
    app.run_worker_once()
    for near in ("payment.confirmed:1", "Payment.Confirmed:1 ", "Payment.Confirmed:", "Payment.Confirmed:10", "%"):
        app.emit_event(near, "wrong")
    assert app.run_worker_once() == 0
    assert state(conn) == "sleeping"
    app.emit_event("Payment.Confirmed:1", "right")
    app.run_worker_once()
    assert task.result(timeout=10) == "right"


@pytest.mark.parametrize("timeout", [1, 0.05])
def test_a30_timeout_is_in_seconds_and_caught_without_an_import(app: Absurd, timeout: float) -> None:
    @app.register_task
    def waiting(params: Any, ctx: Context) -> str:
        try:
            ctx.await_event("never", timeout=timeout)
        except TimeoutError as error:
            return type(error).__module__
        return "no timeout"

    assert issubclass(absurd.TimeoutError, builtins.TimeoutError)
    with app.worker(poll_interval=0.05):
        assert app.spawn(waiting).result(timeout=20) == "absurd.errors"


def test_a31_timeout_holds_on_every_replay_whatever_comes_later(app: Absurd, conn: Conn) -> None:
    seen: list[str] = []

    @app.register_task
    def waiting(params: Any, ctx: Context) -> str:
        try:
            first = ctx.await_event("payment", timeout=0.05)
        except TimeoutError:
            first = "timeout"
        seen.append(first)
        return f"{first}, then {ctx.await_event('go on')}"

    with app.worker(poll_interval=0.05):
        task = app.spawn(waiting)
        wait_until(lambda: seen == ["timeout"])
        wait_until(lambda: state(conn) == "sleeping")
        app.emit_event("payment", "late")
        app.emit_event("go on", "done")
        assert task.result(timeout=20) == "timeout, then done"
    assert set(seen) == {"timeout"}
    assert len(seen) >= 2


def test_a33_task_emits_once_also_when_it_is_replayed(app: Absurd, conn: Conn) -> None:
    @app.register_task
    def emitting(params: Any, ctx: Context) -> Any:
        ctx.emit_event("announced", {"by": "task"})
        return ctx.await_event("go")

    task = app.spawn(emitting)
    app.run_worker_once()
    app.emit_event("go", 1)
    app.run_worker_once()
    assert task.result(timeout=10) == 1
    found = conn.execute("select payload from absurd.events where event_name = 'announced'").fetchall()
    assert found == [({"by": "task"},)]


def test_a34_application_takes_a_url_or_a_connection_of_the_callers(database_url: str, app: Absurd, conn: Conn) -> None:
    assert Absurd(conn_or_url=database_url, queue_name="examples").queue_name == "examples"
    with psycopg.connect(database_url) as own:
        on_own = Absurd(conn_or_url=own, queue_name="examples")
        on_own.spawn("kept", {})
        own.commit()
        on_own.spawn("dropped", {})
        on_own.emit_event("dropped")
        own.rollback()
    assert conn.execute("select task_name from absurd.tasks").fetchall() == [("kept",)]
    assert conn.execute("select count(*) from absurd.events").fetchone() == (0,)


def test_a35_application_emits_from_outside_of_a_task(app: Absurd, conn: Conn) -> None:
    seq = app.emit_event("outside", {"a": 1})
    assert conn.execute("select seq, payload from absurd.events").fetchall() == [(seq, {"a": 1})]


def test_a37_one_event_reaches_every_task_that_waits_for_it(app: Absurd) -> None:
    @app.register_task
    def waiting(params: Any, ctx: Context) -> Any:
        return [params, ctx.await_event("broadcast")]

    tasks = app.spawn_many(waiting, list(range(20)))
    app.run_worker_once()
    app.emit_event("broadcast", {"to": "all"})
    late = app.spawn(waiting, 20)
    app.run_worker_once()
    assert [task.result(timeout=10) for task in [*tasks, late]] == [[number, {"to": "all"}] for number in range(21)]


def test_a38_waits_and_steps_follow_each_other_in_chains(app: Absurd) -> None:
    @app.register_task
    def chain(params: Any, ctx: Context) -> list[Any]:
        found: list[Any] = []
        for number in range(10):
            payload = ctx.await_event(f"event-{number}")
            found.append(ctx.step(f"step-{number}", lambda value: value * 2, payload))
        return found

    task = app.spawn(chain)
    for number in range(10):
        app.emit_event(f"event-{number}", number)
        app.run_worker_once()
    assert task.result(timeout=10) == [number * 2 for number in range(10)]


def test_a40_state_of_a_waiting_task_is_sleeping(app: Absurd, collect: Callable[..., Any], env: dict[str, str]) -> None:
    task = app.spawn(collect)
    app.run_worker_once()
    assert task.state() == "sleeping"
    (row,) = json.loads("\n".join(output("-m", "absurd", "list-tasks", "--state", "sleeping", "--json", env=env)))
    assert (row["task_id"], row["state"]) == (str(task.task_id), "sleeping")


def test_a41_names_of_tasks_and_queues_match_exactly(app: Absurd) -> None:
    @app.register_task("Report")
    def report(params: Any, ctx: Context) -> str:
        return "done"

    task = app.spawn("report", {})
    exact = app.spawn("Report", {})
    app.run_worker_once()
    assert exact.result(timeout=10) == "done"
    assert task.state() != "completed"
    with pytest.raises(QueueNotFoundError):
        app.emit_event("x", queue="Examples")


def test_a42_events_belong_to_a_queue_and_an_unknown_queue_is_a_clear_error(
    env: dict[str, str], app: Absurd, collect: Callable[..., Any], conn: Conn
) -> None:
    app.spawn(collect)
    app.run_worker_once()
    app.emit_event("one", queue="default")
    assert app.run_worker_once() == 0
    assert state(conn) == "sleeping"
    with pytest.raises(AbsurdError, match='queue "nowhere" does not exist'):
        app.emit_event("one", queue="nowhere")
    program = run("send_event.py", "one", "--queue", "nowhere", env=env)
    assert program.process.returncode == 1
    assert len(program.error_lines) == 1
    assert program.error_lines[0].startswith('Error: queue "nowhere" does not exist')


def test_a46_service_emits_by_sql_within_its_own_transaction(app: Absurd, collect: Callable[..., Any], database_url: str) -> None:
    task = app.spawn(collect)
    app.run_worker_once()
    with psycopg.connect(database_url) as service:
        service.execute("select absurd.emit_event('examples', 'one', '{}')")
        service.rollback()
        assert app.run_worker_once() == 0
        for name in NAMES:
            service.execute("select absurd.emit_event('examples', %s, '{\"from\": \"sql\"}')", [name])
        service.commit()
    app.run_worker_once()
    assert task.result(timeout=10) == [{"from": "sql"}] * 3
