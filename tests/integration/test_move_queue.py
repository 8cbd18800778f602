"""absurdctl move-queue: everything of a queue arrives, there is one owner at every moment, and a move that died is repeated."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from absurd import Absurd, QueueNotFoundError, schema
from absurd.moving import Move, move_queues, tables
from tests.cli import ROOT, absurdctl, environment, invoke, refused
from tests.conftest import with_database
from tests.support import wait_until
from tests.support_tasks import count

Conn = psycopg.Connection[Any]

# Dies as if killed when the move has come to a step.
MOVER = """
import os, signal, sys
from absurd.moving import Move, move_queues
step, source, target, *queues = sys.argv[1:]
move_queues(Move(queues, source, target), lambda done: os.kill(os.getpid(), signal.SIGKILL) if done == step else None)
"""


@pytest.fixture
def target_url(server_url: str, template: str) -> Iterator[str]:
    """A second database with the schema."""
    name = f"absurd_target_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template)))
        yield with_database(server_url, name)
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def target(target_url: str) -> Iterator[Conn]:
    with psycopg.connect(target_url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    app = shop(database_url)
    app.create_queue("orders")
    yield app
    app.close()


def shop(url: str) -> Absurd:
    """An application, the same at both ends."""
    app = Absurd(url, "orders")

    @app.register_task("order")
    def order(params: Any, ctx: Any) -> Any:
        first = ctx.step("first", lambda: params)
        return [first, ctx.await_event(f"go {params}", timeout=3600)]

    @app.register_task("fails", max_attempts=1)
    def fails(params: Any, ctx: Any) -> Any:
        raise ValueError(params)

    @app.register_task("asks")
    def asks(params: Any, ctx: Any) -> Any:
        token = ctx.create_token("answer")
        return ctx.await_token(token)

    @app.register_task("second")
    def second(params: Any, ctx: Any) -> Any:
        first = ctx.next_event("tick")
        return [first.payload, ctx.next_event("tick", since=first).payload]

    return app


def kill_at(step: str, source: str, target: str, *queues: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MOVER, step, source, target, *queues],
        cwd=ROOT,
        env=environment(None),
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_every_table_is_moved_or_stays(conn: Conn) -> None:
    names = conn.execute("select relname from pg_class where relnamespace = 'absurd'::regnamespace and relkind = 'r'").fetchall()
    assert sorted(name for (name,) in names) == sorted([*(table.name for table in tables.MOVED), *tables.STAY])


def test_everything_of_a_queue_goes_on_at_the_target(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str
) -> None:
    app.create_queue("other")
    app.set_queue_options("orders", keep_completed=1000)
    app.subscribe("paid:*", "order")
    app.create_schedule("nightly", task="order", cron="0 3 * * *")
    waiting = app.spawn("order", 1, idempotency_key="one")
    failed, asking, second = app.spawn("fails"), app.spawn("asks"), app.spawn("second")
    kept = app.spawn("order", 5, queue="other")
    with app.worker():
        app.emit_event("tick", "first")
        wait_until(lambda: app.get_result(failed.task_id).state == "failed")
        wait_until(lambda: count(conn, "select count(*) from absurd.runs where state = 'sleeping'") == 3)
    later = app.spawn("order", 2, delay=60)
    app.emit_event("go 2", "before", idempotency_key="early")
    sent = {table.name: tables.count_rows(conn, table, ["orders"]) for table in tables.MOVED}
    secret = conn.execute("select state ->> 'secret' from absurd.checkpoints where task_id = %s", (asking.task_id,)).fetchone()

    said = absurdctl("move-queue", "orders", "--to", target_url, "--json", database=database_url).json()
    assert (said["moved"], said["rows"], said["paused"]) == (True, sum(sent.values()), [])
    assert {table.name: tables.count_rows(target, table, ["orders"]) for table in tables.MOVED} == sent
    assert all(sent[name] for name in ("tokens", "waits", "event_keys", "schedules", "retention", "attempts")), sent
    assert sum(tables.count_rows(conn, table, ["orders"]) for table in tables.MOVED) == 0
    assert app.get_result(kept.task_id).state == "pending"
    with pytest.raises(QueueNotFoundError):
        app.spawn("order", 3)

    there = shop(target_url)
    assert secret is not None
    with there.worker():
        for event, payload in (("go 1", "now"), ("tick", "second"), ("paid:7", 7)):
            there.emit_event(event, payload)
        assert target.execute("select absurd.use_token(%s, '\"yes\"')", secret).fetchone() == ("ok",)
        assert there.spawn("order", 1, idempotency_key="one").task_id == waiting.task_id
        target.execute("select absurd.run_task_now('orders', %s)", (later.task_id,))
        for task, result in ((waiting, [1, "now"]), (asking, "yes"), (second, ["first", "second"]), (later, [2, "before"])):
            wait_until(lambda task=task: there.get_result(task.task_id).state == "completed", what=str(result))  # type: ignore[misc]
            assert there.get_result(task.task_id).result == result
    there.retry_task(failed.task_id)
    seqs = target.execute("select count(*), count(distinct seq), max(seq) from absurd.events").fetchone()
    assert seqs is not None
    assert (seqs[0], seqs[1]) == (5, 5)
    again = invoke("move-queue", "orders", "--to", target_url, database=database_url).out
    assert "nothing had to be copied" in again
    there.close()


@pytest.mark.parametrize("step", ["paused", "copied", "dropped", "resumed"])
def test_a_move_that_dies_is_repeated(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str, step: str
) -> None:
    ids = [app.spawn("order", n).task_id for n in range(5)]
    kill_at(step, database_url, target_url, "orders")
    # One owner: until the source has deleted it, calls go there, and nobody claims from the copy.
    owner = database_url if step in ("paused", "copied") else target_url
    client = Absurd(owner, "orders")
    ids += [client.spawn("order", 5).task_id]
    client.emit_event("go 0", "meanwhile")
    client.close()
    paused = {"paused": (True, None), "copied": (True, True), "dropped": (None, True), "resumed": (None, False)}
    asked = "select paused_at is not null from absurd.queues where queue_name = 'orders'"
    assert tuple(None if (row := c.execute(asked).fetchone()) is None else row[0] for c in (conn, target)) == paused[step]

    move_queues(Move(["orders"], database_url, target_url))
    assert (conn.execute(asked).fetchone(), target.execute(asked).fetchone()) == (None, (False,))
    assert sorted(row[0] for row in target.execute("select task_id from absurd.tasks").fetchall()) == sorted(ids)
    assert count(target, "select count(*) from absurd_moves.arrivals") == 0
    there = shop(target_url)
    with there.worker():
        for n in range(1, 6):
            there.emit_event(f"go {n}", n)
        wait_until(lambda: all(there.get_result(task).state == "completed" for task in ids))
    assert there.get_result(ids[0]).result == [0, "meanwhile"]
    there.close()


@pytest.mark.parametrize("paused", [False, True])
def test_a_queue_that_was_made_in_the_place_of_a_copy_is_not_touched(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str, paused: bool
) -> None:
    kill_at("copied", database_url, target_url, "orders")
    conn.execute("select absurd.resume_queue('orders')")
    target.execute("select absurd.drop_queue('orders'), absurd.create_queue('orders')")
    if paused:
        target.execute("select absurd.pause_queue('orders')")
    precious = target.execute("select task_id from absurd.spawn_task('orders', 'precious', '{}')").fetchone()
    said = refused("move-queue", "orders", "--to", target_url, database=database_url)
    assert 'the target has a queue "orders" of its own' in said
    assert target.execute("select task_id from absurd.tasks").fetchall() == [precious]
    assert count(conn, "select count(*) from absurd.queues where queue_name = 'orders' and paused_at is null") == 1


def test_a_copy_that_is_on_its_way_from_elsewhere_is_not_finished(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str, empty_database_url: str, empty_conn: Conn
) -> None:
    schema.install(empty_conn)
    kill_at("copied", database_url, target_url, "orders")
    for more in ([], ["--give-up"]):
        said = refused("move-queue", "orders", "--to", target_url, *more, database=empty_database_url)
        assert '"orders" is on its way to the target from another database' in said
    assert count(target, "select count(*) from absurd.queues where queue_name = 'orders' and paused_at is not null") == 1
    assert count(target, "select count(*) from absurd_moves.arrivals") == 1
    assert "Moved" in invoke("move-queue", "orders", "--to", target_url, database=database_url).out


def test_a_move_that_died_is_given_up_unless_it_is_done(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str
) -> None:
    give_up = ("move-queue", "orders", "--to", target_url, "--give-up")
    task = app.spawn("order", 1)
    assert "no move of" in refused(*give_up, database=database_url)
    kill_at("copied", database_url, target_url, "orders")
    assert "go on where they were" in invoke(*give_up, database=database_url).out
    assert count(target, "select count(*) from absurd.queues where queue_name = 'orders'") == 0
    assert count(target, "select count(*) from absurd_moves.arrivals") == 0
    app.run_worker_once()
    assert app.get_result(task.task_id).state == "sleeping"
    kill_at("dropped", database_url, target_url, "orders")
    assert "is at the target already" in refused(*give_up, database=database_url)
    assert 'Finished the move of "orders"' in invoke("move-queue", "orders", "--to", target_url, database=database_url).out
    assert target.execute("select task_id from absurd.tasks").fetchall() == [(task.task_id,)]


def test_running_tasks_end_before_and_a_pause_by_people_stays(
    app: Absurd, conn: Conn, database_url: str, target_url: str
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @app.register_task("long")
    def long(params: Any, ctx: Any) -> Any:
        begun.set()
        assert may_end.wait(20)
        return 1

    task = app.spawn(long)
    with app.worker():
        assert begun.wait(20)
        error = invoke("move-queue", "orders", "--to", target_url, "--wait", "0.1s", database=database_url, code=1).err
        assert "1 tasks still run" in error
        assert conn.execute("select paused_at from absurd.queues where queue_name = 'orders'").fetchone() == (None,)
        app.pause_queue("orders")
        steps: list[str] = []
        mover = threading.Thread(target=lambda: move_queues(Move(["orders"], database_url, target_url), steps.append))
        mover.start()
        wait_until(lambda: steps == ["paused"])
        may_end.set()
        mover.join(30)
        assert steps[1] == "drained"
    with Absurd(target_url) as there:
        assert there.get_result(task.task_id).result == 1
        stats = invoke("list-queues", "--json", database=target_url).json()
        assert [row["queue_name"] for row in stats if row["paused_at"]] == ["orders"]


def test_what_is_tied_together_moves_together(app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str) -> None:
    app.create_queue("mail")
    app.subscribe("paid", "order", target_queue="mail")

    @app.register_task("parent")
    def parent(params: Any, ctx: Any) -> Any:
        return ctx.await_task(ctx.spawn("order", 1, queue="mail"))

    app.spawn(parent)
    with app.worker():
        wait_until(lambda: count(conn, "select count(*) from absurd.waits where kind = 'task'"))
    error = said(target_url, database_url)
    for what in (
        "a subscription connects",
        "a living parent of a task connects",
        "a wait for a task connects",
        'move "mail" in the same',
    ):
        assert what in error
    assert conn.execute("select paused_at from absurd.queues where queue_name = 'orders'").fetchone() == (None,)
    assert move_queues(Move(["orders", "mail"], database_url, target_url)).moved
    assert count(target, "select count(*) from absurd.waits where kind = 'task'") == 1


def said(target: str, source: str, queue: str = "orders") -> str:
    """The error of a move that must be refused."""
    return invoke("move-queue", queue, "--to", target, database=source, code=1).err


def test_names_and_numbers_that_are_taken_are_refused(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str
) -> None:
    here = [conn.execute("select absurd.append_event('orders', %s)", (name,)).fetchone() for name in "ab"]
    with Absurd(target_url) as there:
        there.emit_event("theirs", queue="default")
        error = said(target_url, database_url)
        assert "--renumber" in error
        assert conn.execute("select paused_at from absurd.queues where queue_name = 'orders'").fetchone() == (None,)
        app.create_schedule("nightly", task="order", cron="0 3 * * *")
        there.create_schedule("nightly", task="order", cron="0 3 * * *", queue="default")
        assert 'schedules named "nightly"' in said(target_url, database_url)
        there.delete_schedule("nightly")
        move_queues(Move(["orders"], database_url, target_url, renumber=True))
        last = there.emit_event("c", queue="orders")
    seqs = [seq for (seq,) in target.execute("select seq from absurd.events where queue_name = 'orders' order by seq").fetchall()]
    assert len(here) == 2
    assert (len(seqs), seqs[-1]) == (3, last)
    with Absurd(database_url) as fresh:
        fresh.create_queue("orders")
    assert "of its own" in said(target_url, database_url)
    assert "same database" in said(database_url, database_url)
    assert "neither database" in said(target_url, database_url, "none")


def test_what_changes_during_the_copy_is_copied_too(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str
) -> None:
    """The deletion fails when a row has changed since the snapshot, and all begins anew."""
    task = app.spawn("order", 1)
    copies = 0

    def change(step: str) -> None:
        nonlocal copies
        if step == "copied":
            copies += 1
            if copies == 1:
                conn.execute("update absurd.tasks set headers = '{\"changed\": true}' where task_id = %s", (task.task_id,))

    move_queues(Move(["orders"], database_url, target_url), change)
    assert copies == 2
    assert target.execute("select headers ->> 'changed' from absurd.tasks").fetchone() == ("true",)


def test_spawns_wait_for_the_copy_and_are_not_lost(
    app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str
) -> None:
    """An open transaction that has spawned holds the copy up; what it commits goes along."""
    app.spawn("order", 1)
    with psycopg.connect(database_url) as mine:
        app.spawn("order", 2, conn=mine)
        steps: list[str] = []
        mover = threading.Thread(target=lambda: move_queues(Move(["orders"], database_url, target_url), steps.append))
        mover.start()
        wait_until(lambda: steps == ["paused", "drained"])
        wait_until(lambda: count(conn, "select count(*) from pg_locks where locktype = 'advisory' and not granted"))
        mine.commit()
    mover.join(30)
    assert count(target, "select count(*) from absurd.tasks") == 2


def test_a_late_claim_is_waited_for(app: Absurd, conn: Conn, target: Conn, database_url: str, target_url: str) -> None:
    """It has seen the queue before the pause, and nobody sees it before its commit."""
    app.spawn("order", 1)
    steps: list[str] = []
    mover = threading.Thread(target=lambda: move_queues(Move(["orders"], database_url, target_url), steps.append))
    with psycopg.connect(database_url) as claimer:
        claimed = claimer.execute("select run_id from absurd.claim_task('orders', 'me')").fetchone()
        assert claimed is not None
        mover.start()
        wait_until(lambda: steps == ["paused", "drained"])
        wait_until(lambda: count(conn, "select count(*) from pg_locks where locktype = 'transactionid' and not granted"))
        claimer.commit()
        wait_until(lambda: "disturbed" in steps or not mover.is_alive())
        claimer.execute("select absurd.complete_run('orders', %s)", claimed)
    mover.join(30)
    assert target.execute("select outcome from absurd.tasks").fetchone() == ("completed",)
