"""The library as its users run it with the roles: a worker, a producer and a reader that are nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from absurd import Absurd, Context, DatabaseError, Skip, schema
from absurd.db.translate import OWNERS_FUNCTIONS
from tests.cli import invoke, refused, working, write_app
from tests.support import wait_until
from tests.support_roles import Connection, login_role, logins, url_of

BASELINE = Path(__file__).parents[1] / "baselines" / "1.sql"
# What the documentation of release 0.1.0 had people grant.
OLD_GRANTS = """
    grant usage on schema absurd to {role};
    grant select, insert, update, delete on all tables in schema absurd to {role};
    grant usage on all sequences in schema absurd to {role};
    grant execute on all functions in schema absurd to {role}"""


@pytest.fixture
def urls(conn: Connection) -> Iterator[dict[str, str]]:
    """Connection strings of the three."""
    with logins(conn) as made:
        yield made


def order_app(url: str) -> Absurd:
    """Uses whatever a task can use."""
    app = Absurd(url)

    @app.register_task("order")
    def order(params: Any, ctx: Context) -> dict[str, Any]:
        total = ctx.step("total", lambda: sum(params["prices"]))
        ctx.transaction("book", lambda c: c.execute("insert into bookings values (%s)", (total,)) and total)
        token = ctx.create_token("approve")
        children = ctx.spawn_many("pack", params["prices"])
        ctx.emit_event("ordered", {"token": token.secret})
        answer = ctx.await_token(token, timeout=30)
        ctx.sleep_for(0.05)
        return {"packed": ctx.gather(*children), "answer": answer, "paid": ctx.await_event("paid", timeout=30)}

    @app.register_task("pack")
    def pack(params: Any, ctx: Context) -> int:
        return int(params)

    @app.register_task("noted")
    def noted(params: Any, ctx: Context) -> int:
        return 1

    return app


def answers(conn: Connection, statement: str) -> Any:
    row = conn.execute(statement.encode()).fetchone()
    return None if row is None else row[0]


def test_an_order_runs_with_a_producer_and_a_worker_that_have_no_table(conn: Connection, urls: dict[str, str]) -> None:
    conn.execute("create table bookings (total int)")
    conn.execute("grant insert on bookings to absurd_worker")
    worker, producer = order_app(urls["worker"]), Absurd(urls["producer"])
    worker.subscribe("ordered", "noted")

    @worker.trigger("never", poll_interval=0.1, task="noted")
    def never() -> Any:
        return Skip

    worker.create_schedule("often", task="noted", every=1)
    with worker.worker(poll_interval=0.1):
        handle = producer.spawn("order", {"prices": [1, 2]})
        wait_until(lambda: answers(conn, "select 1 from absurd.events where event_name = 'ordered'"), what="the order's event")
        secret = answers(conn, "select payload ->> 'token' from absurd.events where event_name = 'ordered'")
        producer.complete_token(secret, "yes")
        producer.emit_event("paid", 3)
        assert handle.result(timeout=60) == {"packed": [1, 2], "answer": "yes", "paid": 3}
        wait_until(lambda: answers(conn, "select count(*) from absurd.tasks where task_name = 'noted'") >= 2, what="schedule")
        wait_until(lambda: answers(conn, "select last_poll_at from absurd.triggers"), what="a poll of the trigger")
        assert worker.delete_schedule("often")
    assert answers(conn, "select total from bookings") == 3
    for refusal in (
        lambda: producer.cancel_task(handle.task_id),
        lambda: producer.retry_task(handle.task_id),
        lambda: producer.create_queue("mine"),
        lambda: producer.subscribe("x", "y"),
    ):
        with pytest.raises(
            DatabaseError, match=r"permission denied.*Grant the role one of absurd_producer.*the schema owner's alone"
        ):
            refusal()
    for refusal in (lambda: worker.drop_queue("default"), lambda: producer.pause_queue("default")):
        with pytest.raises(
            DatabaseError, match=r"permission denied.*the schema owner's alone.*connect as the role that owns"
        ) as told:
            refusal()
        assert "Grant" not in str(told.value)
    worker.close()
    producer.close()


def test_a_worker_process_that_has_one_role_and_no_table_works(conn: Connection, urls: dict[str, str], tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, conn.info.dsn, "-d", urls["worker"], "--app", "shop:app"):
        done = invoke("spawn-task", "relay", "--wait", "--timeout", "60s", "--json", database=urls["producer"])
        assert done.json()["state"] == "completed"
        wait_until(
            lambda: answers(conn, "select count(*) from absurd.tasks where outcome = 'completed'") == 2, what="the relayed task"
        )
    assert answers(conn, "select count(*) from absurd.workers") == 0


def test_a_reader_sees_everything_and_changes_nothing(conn: Connection, urls: dict[str, str]) -> None:
    app = Absurd(conn.info.dsn)
    task_id = str(app.spawn("add", {"a": 1}).task_id)
    app.emit_event("paid", 1)
    app.subscribe("paid", "add")
    app.create_schedule("often", task="add", every=3600)
    app.close()
    for command in ("list-tasks", "list-events", "list-waits", "list-workers", "list-queues", "list-schedules", "list-triggers",
                    "list-subscriptions", "list-listeners", f"show-task {task_id}", "schema-version"):  # fmt: skip
        assert invoke(*command.split(), "--json", database=urls["reader"]).json() is not None
    with Absurd(urls["reader"]) as reader:
        assert reader.task(task_id).state() == "pending"
    for command in (
        f"cancel-task {task_id}",
        f"retry-task {task_id} --spawn-new",
        "spawn-task add",
        "emit-event paid",
        "pause-queue default",
        "drop-queue default --yes",
        "cleanup",
        "delete-schedule often",
        "migrate",
    ):
        done = invoke(*command.split(), database=urls["reader"], code=1)
        assert "permission denied" in done.err or "must be owner" in done.err, command


def test_init_with_roles_may_be_repeated_and_says_what_it_made(empty_database_url: str) -> None:
    invoke("init", database=empty_database_url)
    first = invoke("init", "--roles", database=empty_database_url)
    assert "absurd_producer, absurd_worker, absurd_reader" in first.out
    assert "belongs to the superuser" in first.err
    assert invoke("migrate", "--roles", "--json", database=empty_database_url).json()["roles"] == list(schema.ROLES)


def test_a_schema_can_belong_to_a_role_that_nobody_logs_in_as(empty_conn: Connection) -> None:
    with login_role(empty_conn) as owner:
        empty_conn.execute(f"alter role {owner} nologin createrole".encode())
        empty_conn.execute(f"grant create on database {empty_conn.info.dbname} to {owner}".encode())
        with login_role(empty_conn, owner) as person:
            done = invoke("init", "--roles", database=make_conninfo(url_of(empty_conn, person), options=f"-crole={owner}"))
        assert "superuser" not in done.err
        assert answers(empty_conn, "select relowner::regrole::text from pg_class where oid = 'absurd.runs'::regclass") == owner


def test_release_0_1_0_knows_no_roles_and_is_told_to_migrate(empty_conn: Connection) -> None:
    empty_conn.execute(BASELINE.read_text(encoding="utf-8").encode())
    assert "absurdctl migrate" in refused("init", "--roles", database=empty_conn.info.dsn)
    invoke("migrate", "--roles", database=empty_conn.info.dsn)
    with login_role(empty_conn, "absurd_producer") as name, Absurd(url_of(empty_conn, name)) as app:
        assert app.spawn("add").state() == "pending"


@pytest.mark.parametrize("grants", [OLD_GRANTS, OLD_GRANTS.rpartition(";")[0]], ids=["as documented", "without execute"])
def test_roles_of_release_0_1_0_with_its_grants_work_on_after_the_upgrade(empty_conn: Connection, grants: str) -> None:
    empty_conn.execute(BASELINE.read_text(encoding="utf-8").encode())
    empty_conn.execute("create table bookings (total int)")
    with login_role(empty_conn) as name, login_role(empty_conn) as watcher:
        empty_conn.execute((grants.format(role=name) + f"; grant insert on bookings to {name}").encode())
        empty_conn.execute(
            f"grant usage on schema absurd to {watcher}; grant select on all tables in schema absurd to {watcher}".encode()
        )
        schema.migrate(empty_conn)
        with order_app(url_of(empty_conn, name)) as app, app.worker(poll_interval=0.1):
            app.create_queue("mine")
            handle = app.spawn("noted", {})
            assert handle.result(timeout=60) == 1
            other = app.spawn("noted", {}, delay=3600)
            other.cancel()
            app.drop_queue("mine")
        listed = invoke("list-tasks", "--json", database=url_of(empty_conn, watcher)).json()
        assert sorted(task["state"] for task in listed) == ["cancelled", "completed"]
        with psycopg.connect(url_of(empty_conn, watcher), autocommit=True) as watching:
            assert next(watching.execute("select count(*) from absurd.tasks"))[0] == 2
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                watching.execute("select absurd.drop_queue('default')")


def test_who_had_rights_by_being_in_public_is_told_after_the_upgrade_which_roles_there_are(empty_conn: Connection) -> None:
    empty_conn.execute(BASELINE.read_text(encoding="utf-8").encode())
    empty_conn.execute(OLD_GRANTS.format(role="public").encode())
    with login_role(empty_conn) as name, Absurd(url_of(empty_conn, name)) as app:
        app.register_task("noted")(lambda params, ctx: 1)
        with psycopg.connect(url_of(empty_conn, name)) as former:
            former.execute("select absurd.spawn_task('default', 'noted', '{}', '{}')")
        schema.migrate(empty_conn)
        hint = "Grant the role one of absurd_producer, absurd_worker and absurd_reader; `absurdctl init --roles` makes them"
        with pytest.raises(DatabaseError, match=hint):
            app.spawn("noted")
        with pytest.raises(DatabaseError, match=hint), app.worker():
            pass


@pytest.mark.parametrize(
    ("grants", "allowed", "refused_calls"),
    [
        # As a reader who was given the functions too: they did nothing for him, for they ran with his rights.
        (
            "grant select on all tables in schema absurd to {role}; grant execute on all functions in schema absurd to {role}",
            ["list_tasks()", "list_queues()"],
            ["drop_queue('default')", "spawn_task('default', 'noted', '{}', '{}')", "claim_task('default', 'me', 30, 1)"],
        ),
        # Who watches the depth of the queue.
        ("grant select on absurd.runs, absurd.queues to {role}", [], ["list_tasks()", "queue_stats()", "list_events()"]),
        # A producer by what spawn_task() touched.
        (
            "grant select on absurd.queues to {role}; grant select, insert on absurd.tasks, absurd.runs to {role}",
            ["spawn_task('default', 'noted', '{}', '{}')"],
            ["drop_queue('default')", "claim_task('default', 'me', 30, 1)", "list_events()"],
        ),
        # All but deletes.
        (
            "grant select, insert, update on all tables in schema absurd to {role}",
            ["spawn_task('default', 'noted', '{}', '{}')", "list_tasks()"],
            ["drop_queue('default')", "cleanup_all_queues()"],
        ),
    ],
    ids=["reader", "depth", "producer", "no delete"],
)
def test_no_role_of_release_0_1_0_may_do_more_after_the_upgrade_than_its_tables_let_it(
    empty_conn: Connection, grants: str, allowed: list[str], refused_calls: list[str]
) -> None:
    empty_conn.execute(BASELINE.read_text(encoding="utf-8").encode())
    with login_role(empty_conn) as name:
        empty_conn.execute(f"grant usage on schema absurd to {name}; {grants.format(role=name)}".encode())
        schema.migrate(empty_conn)
        with psycopg.connect(url_of(empty_conn, name), autocommit=True) as login:
            for call in allowed:
                login.execute(f"select * from absurd.{call}".encode())
            for call in refused_calls:
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for function"):
                    login.execute(f"select * from absurd.{call}".encode())


def test_what_only_the_owner_may_call_is_known_to_the_errors(conn: Connection) -> None:
    listed = conn.execute("select unnest(function_names) from absurd.function_roles() where 'owner' = any(role_names)").fetchall()
    assert {name for (name,) in listed} == OWNERS_FUNCTIONS


@pytest.mark.parametrize("words", [("set-queue", "default", "--keep-count", "5"), ("pause-queue", "default"), ("migrate",)])
def test_the_command_line_names_the_owner_where_only_he_may(
    conn: Connection, urls: dict[str, str], words: tuple[str, ...]
) -> None:
    told = invoke(*words, database=urls["worker"], code=1).err
    assert f'Here it is "{conn.info.user}"' in told
    assert "Grant the role one of" not in told
