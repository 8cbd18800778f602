"""A PL/Proxy router before three servers, each with its queues and workers: what services call goes where the queue is."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from absurd import Absurd, DatabaseError, QueueNotFoundError
from absurd.moving import Move, move_queues
from scripts import build_plproxy
from tests.cli import ROOT
from tests.conftest import fast_directory
from tests.support import wait_until
from tests.support_plproxy import NAMES, Routed, apply_again, routed_servers

Conn = psycopg.Connection[Any]
SURFACE = ROOT / "docs" / "sql.md"


@pytest.fixture(scope="module")
def routed() -> Iterator[Routed]:
    directory = Path(tempfile.mkdtemp(prefix="absurd-proxy-", dir=fast_directory()))
    directory.chmod(0o755)
    try:
        with routed_servers(directory) as routed:
            yield routed
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def router(routed: Routed) -> Iterator[Conn]:
    with psycopg.connect(routed.router, autocommit=True) as conn:
        yield conn


def put(router: Conn, queue: str, shard: str) -> str:
    """A new queue on that server. It is made there, and the router finds it."""
    conninfo = router.execute("select conninfo from absurd_router.shards where shard_name = %s", (shard,)).fetchone()
    assert conninfo is not None
    with psycopg.connect(conninfo[0], autocommit=True) as conn:
        conn.execute("select absurd.create_queue(%s)", (queue,))
    return queue


def value(conn: Conn, sql: str, *args: Any) -> Any:
    row = conn.execute(sql.encode(), args).fetchone()
    return None if row is None else row[0]


class Shop:
    """The application of one server, with a worker."""

    def __init__(self, url: str, queue: str) -> None:
        self.app = Absurd(url, queue)
        self.began: list[Any] = []

        @self.app.register_task("order")
        def order(params: Any, ctx: Any) -> Any:
            ctx.step("reserve", lambda: self.began.append(params))
            payment = ctx.await_event(f"paid:{params}")
            ctx.step("ship", lambda: self.began.append(f"shipped {params}"))
            return [params, payment]

        @self.app.register_task("add")
        def add(params: Any, ctx: Any) -> Any:
            return sum(params)

    def __enter__(self) -> Shop:
        self._worker = self.app.worker(concurrency=4)
        self._worker.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._worker.__exit__(None, None, None)
        self.app.close()


def test_functions_sql_is_what_the_schema_makes_of_it(conn: Conn) -> None:
    written = build_plproxy.PATH.read_text()
    assert written == build_plproxy.build(conn), "run scripts/build_plproxy.py"


def test_every_published_function_is_routed_or_said_to_be_not(conn: Conn) -> None:
    first_cells = re.findall(r"^\| (`[^|]*) \|", SURFACE.read_text(), re.M)
    published = {name for cell in first_cells for name in re.findall(r"`(\w+)\(", cell)}
    known = {
        name for (name,) in conn.execute("select proname from pg_proc where pronamespace = 'absurd'::regnamespace").fetchall()
    }
    assert len(published & known) > 40
    assert published & known <= {*build_plproxy.ROUTED, *build_plproxy.NOT_ROUTED}


def test_calls_go_to_the_server_that_has_the_queue(routed: Routed, router: Conn) -> None:
    queues = {shard: put(router, f"shop {shard}", shard) for shard in NAMES}
    with ExitStack() as stack:
        for shard, queue in queues.items():
            stack.enter_context(Shop(routed.shards[shard], queue))
        client = stack.enter_context(Absurd(router))
        tasks = {queue: client.spawn("order", 1, queue=queue, idempotency_key="one") for queue in queues.values()}
        sums = [task for queue in queues.values() for task in client.spawn_many("add", [[n, n] for n in range(5)], queue=queue)]
        for queue in queues.values():
            client.emit_event("paid:1", f"by {queue}", queue=queue)
            assert client.spawn("order", 1, queue=queue, idempotency_key="one").created is False
        for queue, task in tasks.items():
            assert task.result(20) == [1, f"by {queue}"]
        assert [task.result(20) for task in sums] == 3 * [0, 2, 4, 6, 8]

        listed = router.execute(
            "select queue_name, count(*) from absurd.list_tasks(p_limit => 100) group by 1 order by 1"
        ).fetchall()
        assert [row for row in listed if row[0] in queues.values()] == [(queue, 6) for queue in queues.values()]
        assert set(queues.values()) <= {name for (name,) in router.execute("select * from absurd.list_queues()").fetchall()}
        assert value(router, "select (absurd.show_task(%s)) ->> 'queue_name'", tasks["shop b"].task_id) == "shop b"

        waiting = client.spawn("order", 2, queue="shop b")
        client.cancel_task(waiting.task_id)
        assert client.get_result(waiting.task_id).state == "cancelled"
        assert client.retry_task(waiting.task_id).task_id == waiting.task_id
        client.create_schedule("of b", task="add", cron="0 3 * * *", params=[1], queue="shop b")
        router.execute("select absurd.pause_schedule('of b')")
        [schedule] = client.list_schedules()
        assert (schedule.schedule_name, schedule.queue_name, schedule.status) == ("of b", "shop b", "paused")
        assert value(router, "select (absurd.find_tasks('shop a', 'add')) ->> 'next'") is None


def test_a_new_queue_is_given_a_server_for_ever(routed: Routed, router: Conn) -> None:
    names = [f"new {n}" for n in range(30)]
    for name in names:
        router.execute("select absurd.create_queue(%s)", (name,))
    routes = "select queue_name, shard_no from absurd_router.routes where queue_name like 'new %' order by 1"
    before = router.execute(routes).fetchall()
    assert {shard for _, shard in before} == {0, 1, 2}
    apply_again(routed.router)
    router.execute("delete from absurd_router.routes")
    for name in names:
        router.execute("select absurd.spawn_task(%s, 'order', '1')", (name,))
    assert router.execute(routes).fetchall() == before


def test_errors_keep_their_codes(router: Conn) -> None:
    put(router, "here", "a")
    put(router, "there", "b")
    client = Absurd(router)
    with pytest.raises(QueueNotFoundError, match=r'queue "nowhere" does not exist'):
        client.spawn("order", queue="nowhere")
    for sql, code, words in (
        ("select absurd.spawn_task('here', '', '1')", "AB012", "task name must not be empty"),
        ("select absurd.cancel_task('here', gen_random_uuid())", "AB011", "has no task"),
        (
            "select absurd.subscribe('here', 'x', 'order', '{\"target_queue\": \"there\"}')",
            "AB012",
            "starts tasks on its own server",
        ),
        ("select absurd.find_tasks()", "AB012", "name a queue"),
    ):
        with pytest.raises(psycopg.Error, match=words) as raised:
            router.execute(sql.encode())
        assert raised.value.sqlstate == code, sql
    requests = "array['here', 'there'], null, null, null, null, null, null, null"
    with pytest.raises(psycopg.Error, match="several shards"):
        router.execute(f"select * from absurd.spawn_tasks({requests})".encode())


def test_a_spawn_through_the_router_is_no_part_of_the_callers_transaction(router: Conn) -> None:
    put(router, "kept", "a")
    with router.transaction(force_rollback=True):
        router.execute("select absurd.spawn_task('kept', 'order', '1')")
    assert value(router, "select count(*) from absurd.list_tasks('kept')") == 1


def test_a_child_on_another_server_is_refused_and_a_step_may_spawn_it(routed: Routed, router: Conn) -> None:
    put(router, "parents", "a")
    put(router, "children", "b")
    with Shop(routed.shards["a"], "parents") as parents, Shop(routed.shards["b"], "children") as children:

        @parents.app.register_task("refused", max_attempts=1)
        def refused(params: Any, ctx: Any) -> Any:
            return ctx.spawn("add", [1, 2], queue="children")

        @parents.app.register_task("allowed")
        def allowed(params: Any, ctx: Any) -> Any:
            return ctx.step("spawn", lambda: str(children.app.spawn("add", [1, 2], idempotency_key=f"{ctx.task_id}:add").task_id))

        task = parents.app.spawn(refused)
        wait_until(lambda: parents.app.get_result(task.task_id).state == "failed")
        failure = parents.app.get_result(task.task_id).failure
        assert failure["name"] == "absurd.errors.QueueNotFoundError"
        child = parents.app.spawn(allowed).result(20)
        wait_until(lambda: children.app.get_result(child).state == "completed")


def test_a_queue_moves_under_load(routed: Routed, router: Conn) -> None:
    """Spawns and emits go on through the router all the while; nothing is lost and nothing runs twice."""
    queue = put(router, "busy", "a")
    spawned: list[tuple[int, Any]] = []
    stopped = threading.Event()

    def produce() -> None:
        with psycopg.connect(routed.router, autocommit=True) as conn:
            client, n = Absurd(conn), 0
            while not stopped.is_set():
                spawned.append((n, client.spawn("order", n, queue=queue).task_id))
                if n % 3:  # the others wait over the move
                    client.emit_event(f"paid:{n}", n, queue=queue)
                n += 1

    with ExitStack() as stack:
        a = stack.enter_context(Shop(routed.shards["a"], queue))
        producer = threading.Thread(target=produce)
        producer.start()
        try:
            wait_until(lambda: len(a.began) > 60)
            moved = move_queues(Move([queue], routed.shards["a"], routed.shards["b"], routed.router))
            b = stack.enter_context(Shop(routed.shards["b"], queue))
            size = len(spawned)
            wait_until(lambda: len(spawned) > size + 20 and any(str(began).startswith("shipped") for began in b.began))
        finally:
            stopped.set()
            producer.join(20)
        with Absurd(router) as client:
            for n, _ in spawned:
                if n % 3 == 0:
                    client.emit_event(f"paid:{n}", n, queue=queue)
            for n, task in spawned:
                wait_until(lambda task=task: client.get_result(task).state == "completed", what=f"order {n}")  # type: ignore[misc]
                assert client.get_result(task).result == [n, n]
    began = [*a.began, *b.began]
    assert len(began) == len(set(began)) == 2 * len(spawned)
    assert moved.rows > 100
    with psycopg.connect(routed.shards["a"]) as conn:
        assert value(conn, "select count(*) from absurd.tasks where queue_name = %s", queue) == 0
    assert move_queues(Move([queue], routed.shards["b"], routed.shards["c"], routed.router)).moved, "events keep their numbers"
    assert value(router, "select count(*) from absurd.list_tasks(%s, p_limit => 100000)", queue) == len(spawned)


def test_a_server_that_is_down_harms_its_queues_only(routed: Routed, router: Conn) -> None:
    put(router, "up", "a")
    put(router, "down", "c")
    notices: list[str] = []
    router.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
    spawn = "select task_id from absurd.spawn_task(%s, 'order', '1')"
    kept = [value(router, spawn, queue) for queue in ("up", "down")]
    routed.servers["c"].stop("immediate")
    try:
        assert value(router, spawn, "up") is not None
        assert value(router, "select state from absurd.read_result(%s)", kept[0]) == "pending"
        assert ("up",) in router.execute("select * from absurd.list_queues()").fetchall()
        assert any('shard "c" does not answer and is left out' in notice for notice in notices)
        with pytest.raises(psycopg.Error):
            value(router, spawn, "down")
        with pytest.raises(psycopg.Error, match=r'on none of the shards that answer; "c" does not'):
            value(router, "select state from absurd.read_result(%s)", kept[1])
        with pytest.raises(DatabaseError):
            Absurd(router).spawn("order", queue="down")
    finally:
        routed.servers["c"].start()
    assert value(router, "select state from absurd.read_result(%s)", kept[1]) == "pending"
    assert value(router, spawn, "down") is not None


def test_roles_of_the_router_may_do_what_those_of_the_servers_may(routed: Routed, router: Conn) -> None:
    put(router, "guarded", "a")
    router.execute("create role watcher login in role absurd_reader; create role maker login in role absurd_producer")
    with psycopg.connect(routed.router, user="maker", autocommit=True) as conn:
        assert value(conn, "select task_id from absurd.spawn_task('guarded', 'order', '1')") is not None
        for sql in (
            "select conninfo from absurd_router.shards",
            "select plproxy.get_cluster_partitions('absurd')",
            "select absurd.drop_queue('guarded')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(sql.encode())
    with psycopg.connect(routed.router, user="watcher", autocommit=True) as conn:
        assert value(conn, "select count(*) from absurd.list_tasks('guarded')") == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select absurd.spawn_task('guarded', 'order', '1')")


def test_the_compose_file_starts_what_the_scripts_need() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "plproxy" / "docker-compose.yml").read_text())
    assert {"router", *(f"shard-{name}" for name in NAMES)} <= set(compose["services"])
    for service in compose["services"].values():
        if isinstance(service.get("build"), dict):
            context = (ROOT / "deploy" / "plproxy" / service["build"]["context"]).resolve()
            assert (context / service["build"].get("dockerfile", "Dockerfile")).exists()
