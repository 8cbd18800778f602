"""Spawning, emitting and managing queues through the clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from absurd import Absurd, AsyncAbsurd, Cancellation, RetryStrategy, errors
from absurd.db import pool
from absurd.queries.query import Query, scalar
from tests.ending import claim, complete, count, cut_others
from tests.support import wait_until

Conn = psycopg.Connection[Any]


@dataclass
class Order:
    number: int
    due: datetime


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as client:
        yield client


def stored(conn: Conn, columns: str, task_id: Any) -> Any:
    statement = f"select {columns} from absurd.tasks t join absurd.runs r using (task_id) where task_id = %s"
    return conn.execute(statement.encode(), [task_id]).fetchone()


def test_a_spawn_stores_every_option(app: Absurd, conn: Conn) -> None:
    handle = app.spawn(
        "work",
        {"z": 1, "a": [True, None, "ü"]},
        priority=-5,
        max_attempts=3,
        retry=RetryStrategy.exponential(2, factor=3, max_seconds=60, jitter=0.5),
        cancellation=Cancellation(max_delay=10.5, max_duration=20),
        headers={"trace": "x", "a": 1},
        idempotency_key="once",
    )
    assert (handle.created, handle.attempt, handle.queue_name) == (True, 1, "default")
    assert handle.task_id.version == 7
    assert handle.run_id is not None
    assert handle.run_id.version == 7
    assert handle.run_id != handle.task_id
    columns = "params::text, r.priority, max_attempts, retry_strategy, max_delay, max_duration, headers::text, idempotency_key"
    assert stored(conn, columns, handle.task_id) == (
        '{"z":1,"a":[true,null,"ü"]}',
        -5,
        3,
        {"kind": "exponential", "base_seconds": 2, "factor": 3, "max_seconds": 60, "jitter": 0.5},
        10.5,
        20,
        '{"trace":"x","a":1}',
        "once",
    )
    assert stored(conn, "r.run_id", handle.task_id) == (handle.run_id,)


def test_a_delayed_spawn_sleeps_until_its_time(app: Absurd, conn: Conn) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    for handle in (app.spawn("work", delay=3600), app.spawn("work", available_at=at)):
        state, available_at = stored(conn, "r.state, r.available_at", handle.task_id)
        assert state == "sleeping"
        assert abs(available_at - at) < timedelta(minutes=1)
        assert handle.state() == "sleeping"
    assert app.spawn("work", delay=0).state() == "pending"


def test_the_defaults_of_a_task_and_its_declared_type_are_used(app: Absurd, conn: Conn) -> None:
    app.create_queue("orders")

    @app.register_task("ship", queue="orders", max_attempts=2, retry="fixed", priority=4, headers={"a": 1, "b": 1})
    def ship(params: Order, ctx: Any) -> None: ...

    due = datetime(2030, 1, 2, tzinfo=UTC)
    handle = app.spawn(ship, Order(7, due), headers={"b": 2})
    assert handle.queue_name == "orders"
    columns = "params, r.priority, max_attempts, retry_strategy, headers, t.queue_name"
    found = stored(conn, columns, handle.task_id)
    assert found == ({"number": 7, "due": "2030-01-02T00:00:00Z"}, 4, 2, {"kind": "fixed"}, {"a": 1, "b": 2}, "orders")
    with pytest.raises(errors.ValidationError, match='params of task "ship"'):
        app.spawn(ship, {"number": "seven"})


def test_an_idempotency_key_returns_the_first_task(app: Absurd, conn: Conn) -> None:
    first = app.spawn("work", 1, idempotency_key="k")
    second = app.spawn("work", 2, idempotency_key="k")
    assert (second.task_id, second.run_id, second.created) == (first.task_id, first.run_id, False)
    assert count(conn, "tasks") == 1


def test_many_tasks_in_batches_with_keys(app: Absurd, conn: Conn) -> None:
    handles = app.spawn_many("work", range(2500), priority=2)
    assert len({handle.task_id for handle in handles}) == count(conn, "tasks") == 2500
    assert stored(conn, "params, r.priority", handles[2499].task_id) == (2499, 2)
    keyed = app.spawn_many("work", [1, 2, 3], idempotency_keys=["a", "b", "a"])
    assert [handle.created for handle in keyed] == [True, True, False]
    assert (keyed[0].task_id, keyed[0].run_id) == (keyed[2].task_id, keyed[2].run_id)
    assert app.spawn_many("work", []) == []


def test_a_refused_item_leaves_nothing_of_its_batch(app: Absurd, database_url: str, conn: Conn) -> None:
    app.set_queue_limits(max_payload_bytes=1024)
    with pytest.raises(errors.PayloadTooLargeError, match=r'params of task "work" have 2002 bytes; queue "default" allows 1024'):
        app.spawn_many("work", ["small", "x" * 2000])
    assert count(conn, "tasks") == 0
    with psycopg.connect(database_url) as mine:
        app.spawn("work", "kept", conn=mine)
        with pytest.raises(errors.PayloadTooLargeError):
            app.spawn_many("work", ["small", "x" * 2000], conn=mine)
        assert count(conn, "tasks") == 0
    assert count(conn, "tasks") == 1


def test_an_unknown_queue_is_named_with_what_to_do(app: Absurd) -> None:
    with pytest.raises(errors.QueueNotFoundError, match=r'queue "no.where" does not exist\. .*create-queue'):
        app.spawn("work", queue="no.where")
    with pytest.raises(errors.QueueNotFoundError, match=r'queue "no.where" does not exist\. .*create-queue'):
        app.emit_event("x", queue="no.where")
    for call in (app.pause_queue, app.resume_queue):
        with pytest.raises(errors.QueueNotFoundError):
            call("no.where")


@pytest.mark.parametrize("name", ['we "quote"; drop', "a.b c", "ünï-☃", "q" * 57])
def test_queue_names_are_values(app: Absurd, conn: Conn, name: str) -> None:
    app.create_queue(name)
    app.create_queue(name)
    assert app.list_queues() == sorted(["default", name], key=lambda n: n.encode()) or set(app.list_queues()) == {"default", name}
    handle = app.spawn("work", queue=name)
    app.pause_queue(name)
    assert claim(conn, name) == {}
    app.resume_queue(name)
    assert set(claim(conn, name)) == {handle.task_id}
    assert app.emit_event("x", queue=name) > 0
    app.drop_queue(name)
    assert app.list_queues() == ["default"]


def test_events_keep_the_order_of_their_keys(app: Absurd, conn: Conn) -> None:
    first = app.emit_event("paid", {"z": 1, "a": {"y": 2, "b": 3}})
    assert app.emit_event("paid") > first
    rows = conn.execute("select payload::text from absurd.events order by seq").fetchall()
    assert rows == [('{"z":1,"a":{"y":2,"b":3}}',), (None,)]


def test_a_rollback_drops_what_was_spawned_and_emitted(app: Absurd, database_url: str, conn: Conn) -> None:
    with psycopg.connect(database_url, row_factory=dict_row) as mine:
        handle = app.spawn("work", conn=mine)
        app.spawn_many("work", [1, 2], conn=mine)
        app.emit_event("paid", conn=mine)
        app.create_queue("other", conn=mine)
        assert handle.state() == "pending"
        assert (count(conn, "tasks"), count(conn, "events")) == (0, 0)
        mine.rollback()
        with pytest.raises(errors.TaskNotFoundError):
            handle.state()
    assert (count(conn, "tasks"), count(conn, "events")) == (0, 0)
    assert app.list_queues() == ["default"]


def test_a_commit_of_the_caller_keeps_it(app: Absurd, database_url: str, conn: Conn) -> None:
    with psycopg.connect(database_url) as mine:
        handle = app.spawn("work", conn=mine)
        app.emit_event("paid", conn=mine)
        mine.commit()
        assert (count(conn, "tasks"), count(conn, "events")) == (1, 1)
        assert handle.state() == "pending"


def test_a_block_of_an_autocommit_connection_is_the_callers_transaction(app: Absurd, conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        app.spawn("work", conn=conn)
        assert count(conn, "tasks") == 1
    assert count(conn, "tasks") == 0
    app.spawn("work", conn=conn)
    assert count(conn, "tasks") == 1


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_spawn_and_emit_work_in_stricter_isolation(app: Absurd, database_url: str, conn: Conn, level: IsolationLevel) -> None:
    with psycopg.connect(database_url) as mine:
        mine.isolation_level = level
        mine.execute("select 1")
        app.spawn("work", conn=mine)
        app.emit_event("paid", conn=mine)
    assert (count(conn, "tasks"), count(conn, "events")) == (1, 1)


def test_a_client_on_a_connection_commits_nothing_by_itself(database_url: str, conn: Conn) -> None:
    with psycopg.connect(database_url) as mine:
        app = Absurd(conn_or_url=mine, queue_name="orders")
        app.create_queue()
        handle = app.spawn("work")
        app.emit_event("paid")
        assert handle.state() == "pending"
        assert count(conn, "tasks") == 0
        app.close()
        assert not mine.closed
        mine.rollback()
        app.create_queue()
        app.spawn("work")
        mine.commit()
    assert (count(conn, "tasks"), count(conn, "events")) == (1, 0)


def test_the_wrong_kind_of_connection_is_refused_with_the_right_client(app: Absurd, conn: Conn) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"AsyncAbsurd takes a psycopg.AsyncConnection.*use Absurd"):
        AsyncAbsurd(conn)
    app.close()


def test_a_pipeline_is_refused_before_anything_is_sent(app: Absurd, database_url: str, conn: Conn) -> None:
    """Its answers come later: whether a spawn was refused, or made a task at all, could not be said."""
    with psycopg.connect(database_url) as mine, mine.pipeline():
        with pytest.raises(errors.InvalidOptionError, match="conn is in pipeline mode"):
            app.spawn("work", conn=mine)
        with pytest.raises(errors.InvalidOptionError, match="conn is in pipeline mode"):
            app.spawn_many("work", [1, 2], conn=mine)
        with pytest.raises(errors.InvalidOptionError, match="conn is in pipeline mode"):
            app.emit_event("paid", conn=mine)
        assert mine.info.transaction_status == TransactionStatus.IDLE
    assert (count(conn, "tasks"), count(conn, "events")) == (0, 0)


async def test_a_pipeline_is_refused_by_the_async_client_too(database_url: str, conn: Conn) -> None:
    async with (
        AsyncAbsurd(database_url) as app,
        await psycopg.AsyncConnection.connect(database_url) as mine,
        mine.pipeline(),
    ):
        with pytest.raises(errors.InvalidOptionError, match="conn is in pipeline mode"):
            await app.spawn("work", conn=mine)
        with pytest.raises(errors.InvalidOptionError, match="conn is in pipeline mode"):
            await app.spawn_many("work", [1, 2], conn=mine)
    assert count(conn, "tasks") == 0


def test_a_character_that_the_callers_encoding_lacks_is_named(app: Absurd, database_url: str, conn: Conn) -> None:
    with psycopg.connect(database_url, client_encoding="latin1") as mine:
        with pytest.raises(
            errors.SerializationError, match=r"'\\u20ac', which the connection's client_encoding iso8859-1 does not have"
        ):
            app.spawn("work", {"price": "€ 5"}, conn=mine)
        app.spawn("work", {"price": "£ 5"}, conn=mine)
    assert conn.execute("select params ->> 'price' from absurd.tasks").fetchall() == [("£ 5",)]


async def test_an_async_connection_is_refused_by_the_sync_client(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as mine:
        with pytest.raises(errors.ConfigurationError, match=r"Absurd takes a psycopg.Connection.*use AsyncAbsurd"):
            Absurd(database_url).spawn("work", conn=mine)  # type: ignore[call-overload]


def test_a_cut_connection_between_two_calls_goes_unnoticed(app: Absurd, conn: Conn) -> None:
    for _ in range(2):
        app.spawn("work")
        assert cut_others(conn) >= 1
        app.emit_event("paid")
        assert cut_others(conn) >= 1
    assert (count(conn, "tasks"), count(conn, "events")) == (2, 2)


@contextmanager
def locked_queue(conn: Conn) -> Iterator[Callable[[], object]]:
    """Keeps spawns and emits waiting; what it yields lets them go on, and so does its end."""
    conn.execute("select pg_advisory_lock(absurd.queue_lock_key('default'))")
    try:
        yield lambda: conn.execute("select pg_advisory_unlock_all()")
    finally:
        conn.execute("select pg_advisory_unlock_all()")


def blocked(conn: Conn) -> list[int]:
    rows = conn.execute(
        "select a.pid from pg_locks l join pg_stat_activity a using (pid)"
        " where l.locktype = 'advisory' and not l.granted and a.datname = current_database()"
    ).fetchall()
    return [pid for (pid,) in rows]


def test_a_spawn_that_is_cut_in_the_middle_is_sent_again_and_makes_one_task(app: Absurd, conn: Conn) -> None:
    with ThreadPoolExecutor() as executor, locked_queue(conn) as unlock:
        spawning = executor.submit(app.spawn, "work")
        (pid,) = wait_until(lambda: blocked(conn))
        conn.execute("select pg_terminate_backend(%s, 10000)", [pid])
        wait_until(lambda: blocked(conn) not in ([], [pid]))
        unlock()
        handle = spawning.result(20)
    assert handle.created
    assert stored(conn, "r.run_id", handle.task_id) == (handle.run_id,)
    assert count(conn, "tasks") == 1


def test_an_emit_that_is_cut_in_the_middle_says_that_nobody_knows(app: Absurd, conn: Conn) -> None:
    with ThreadPoolExecutor() as executor, locked_queue(conn):
        emitting = executor.submit(app.emit_event, "paid")
        (pid,) = wait_until(lambda: blocked(conn))
        conn.execute("select pg_terminate_backend(%s, 10000)", [pid])
        with pytest.raises(errors.DatabaseUnavailableError, match="unknown whether it took effect"):
            emitting.result(20)


def test_an_answer_that_was_lost_after_the_commit_makes_no_second_task(
    app: Absurd, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = pool.run, []

    def losing(connection: Conn, query: Query[Any]) -> Any:
        answer = real(connection, query)
        if not lost:
            lost.append(answer)
            connection.close()
            real(connection, Query("select 1", (), scalar))  # fails as a broken connection does
        return answer

    monkeypatch.setattr(pool, "run", losing)
    handle = app.spawn("work", idempotency_key="k")
    assert lost
    assert (handle.task_id, handle.created) == (lost[0].task_id, True)
    assert count(conn, "tasks") == count(conn, "runs") == 1


def test_a_server_that_cannot_be_reached_is_named_without_the_password() -> None:
    with pytest.raises(errors.DatabaseUnavailableError) as caught:
        Absurd("postgresql://ann:s3cret@127.0.0.1:1/orders").spawn("work")
    assert "ann:***@127.0.0.1:1/orders" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_missing_schema_names_the_command(empty_database_url: str) -> None:
    with Absurd(empty_database_url) as app, pytest.raises(errors.SchemaError, match="absurdctl init"):
        app.spawn("work")


def test_cancel_and_retry(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work", {"a": 1}, max_attempts=1)
    handle.cancel()
    handle.cancel()
    assert handle.state() == "cancelled"
    again = handle.retry()
    assert (again.task_id, again.attempt, again.created, again.state()) == (handle.task_id, 2, False, "pending")
    with pytest.raises(errors.InvalidOptionError, match="still live"):
        handle.retry()
    copy = handle.retry(spawn_new=True, max_attempts=4)
    assert copy.task_id != handle.task_id
    assert stored(conn, "params, max_attempts, r.attempt", copy.task_id) == ({"a": 1}, 4, 1)
    for bad in ({"spawn_new": "yes"}, {"max_attempts": 0}):
        with pytest.raises(errors.InvalidOptionError):
            handle.retry(**bad)  # type: ignore[arg-type]


def test_an_unknown_task_is_named(app: Absurd) -> None:
    task_id = "01890a5d-ac96-774b-bcce-b302099a8057"
    handle = app.task(task_id)
    for call in (lambda: app.get_result(task_id), handle.cancel, handle.retry, handle.result, handle.state):
        with pytest.raises(errors.TaskNotFoundError, match=task_id):
            call()


async def test_the_async_client_does_the_same(database_url: str, conn: Conn) -> None:
    async with AsyncAbsurd(database_url, "orders") as app:
        await app.create_queue()
        assert await app.list_queues() == ["default", "orders"]
        handle = await app.spawn("work", {"z": 1, "a": 2}, priority=3, idempotency_key="k")
        assert (await app.spawn("work", idempotency_key="k")).created is False
        assert stored(conn, "params::text, r.priority, t.queue_name", handle.task_id) == ('{"z":1,"a":2}', 3, "orders")
        assert len(await app.spawn_many("work", range(1001))) == 1001
        assert await app.emit_event("paid", 5) > 0
        await app.pause_queue()
        assert claim(conn, "orders") == {}
        await app.resume_queue()
        await app.set_queue_limits(max_payload_bytes=2048)
        with pytest.raises(errors.PayloadTooLargeError):
            await app.emit_event("paid", "x" * 3000)
        await handle.cancel()
        assert (await handle.state(), (await handle.snapshot()).state) == ("cancelled", "cancelled")
        assert (await handle.retry()).attempt == 2
        assert (await app.get_result(handle.task_id)).state == "pending"
        cut_others(conn)
        await app.drop_queue("orders")
    assert count(conn, "tasks") == 0


async def test_the_async_client_in_the_callers_transaction(database_url: str, conn: Conn) -> None:
    async with AsyncAbsurd(database_url) as app, await psycopg.AsyncConnection.connect(database_url) as mine:
        handle = await app.spawn("work", conn=mine)
        await app.spawn_many("work", [1, 2], conn=mine)
        await app.emit_event("paid", conn=mine)
        assert count(conn, "tasks") == 0
        await mine.rollback()
        with pytest.raises(errors.TaskNotFoundError):
            await handle.state()
        on_connection = AsyncAbsurd(mine)
        await on_connection.spawn("work")
        assert count(conn, "tasks") == 0
        await mine.commit()
        assert count(conn, "tasks") == 1


def test_a_completed_task_shows_its_result(app: Absurd, conn: Conn) -> None:
    handle = app.spawn("work")
    complete(conn, handle.task_id, {"z": 1, "a": 2})
    found = app.get_result(str(handle.task_id))
    assert (found.state, list(found.result)) == ("completed", ["z", "a"])
