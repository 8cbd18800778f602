"""`absurdctl doctor` on a database that is well, and on databases that were made sick."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer.main

import absurd
from absurd import Absurd, devdb, schema
from absurd.cli.app import app as program
from absurd.doctor import Finding, Level, examine, tables, work
from tests.cli import PROGRAM, ROOT, environment, invoke, write_app
from tests.conftest import MakeServer
from tests.support import wait_until
from tests.support_roles import logins
from tests.support_tasks import Play, count

Conn = psycopg.Connection[Any]
VERSION = "0.2.0.dev0"
BASELINE = Path(__file__).parents[1] / "baselines" / "1.sql"
# What the server of the tests is told, to be quick: the doctor is right to complain.
OF_THE_TEST_SERVER = ("fsync is off", "full_page_writes is off", "autovacuum is off")


def findings(url: str) -> list[Finding]:
    """What is not well, but for the test server itself."""
    found = examine(url, VERSION)
    return [f for f in found if f.level is not Level.OK and not f.what.startswith(OF_THE_TEST_SERVER) and f.check != "roles"]


def only(url: str, level: Level, check: str, *words: str) -> Finding:
    """The finding of one check, which has these words in it and says what to do; the one that the test has made."""
    found = [finding for finding in findings(url) if finding.check == check]
    assert len(found) == 1, found
    assert found[0].level is level, found
    assert found[0].why
    assert found[0].todo
    for word in words:
        assert word in f"{found[0].what} {found[0].todo}", found
    return found[0]


@pytest.fixture
def well(make_server: MakeServer) -> str:
    """A server as it should be, whose schema belongs to an ordinary role."""
    server = make_server()
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("create role keeper login createrole")
        conn.execute("create database app owner keeper")
    url = psycopg.conninfo.make_conninfo(server.url(), user="keeper", dbname="app")
    with psycopg.connect(url, autocommit=True) as conn:
        schema.install(conn)
        schema.create_roles(conn)
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("grant pg_read_all_stats to keeper")
    return url


def test_a_database_that_is_well(well: str) -> None:
    with Absurd(well) as app:
        app.register_task("add")(lambda params, ctx: params)
        with app.worker():
            assert app.spawn("add", 1).result(20) == 1
            done = invoke("doctor", "--json", database=well)
            found = done.json()
            assert found["level"] == "ok", found
            checks = {finding["check"] for finding in found["findings"]}
            assert checks >= {"connection", "settings", "clock", "pooler", "schema", "roles", "transactions", "tables", "workers",
                              "queues", "late"}  # fmt: skip
            text = invoke("doctor", database=well).out.splitlines()
            assert text[0].startswith("✓ connection: PostgreSQL")
            assert text[-1] == f"0 error(s), 0 warning(s), {len(found['findings'])} check(s) well"
            assert invoke("doctor", "--quiet", database=well).out.splitlines() == ["", text[-1]]


def test_exit_status_and_words_of_what_is_not_well(database_url: str) -> None:
    done = invoke("doctor", database=database_url, code=2)
    assert "✗ settings: fsync is off" in done.out
    assert "  why: After a crash" in done.out
    assert "  do:  alter system set fsync = on" in done.out
    quiet = invoke("doctor", "--quiet", "--json", database=database_url, code=2).json()
    assert {finding["level"] for finding in quiet["findings"]} <= {"warning", "error"}


def test_a_warning_alone_is_exit_status_one(well: str) -> None:
    with psycopg.connect(well, autocommit=True) as conn:
        conn.execute("alter role keeper set synchronous_commit = off")
    done = invoke("doctor", "--quiet", database=well, code=1)
    assert "synchronous_commit is off" in done.out


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("statement_timeout = '2s'", "statement_timeout is 2 s"),
        ("lock_timeout = '100ms'", "lock_timeout is 0.1 s"),
        ("idle_in_transaction_session_timeout = '5s'", "ctx.transaction"),
        ("default_transaction_read_only = on", "default_transaction_read_only"),
    ],
)
def test_settings_that_get_in_the_way(conn: Conn, database_url: str, setting: str, words: str) -> None:
    name = conn.info.dbname
    conn.execute(f'alter database "{name}" set {setting}'.encode())
    assert [f for f in findings(database_url) if f.check == "settings" and words in f"{f.what} {f.why}"]


def test_no_server_and_no_schema_and_an_old_one(empty_database_url: str, empty_conn: Conn) -> None:
    [lost] = examine("postgresql://nobody@127.0.0.1:1/nowhere", VERSION)
    assert (lost.level, lost.check) == (Level.ERROR, "connection")
    assert only(empty_database_url, Level.ERROR, "schema").todo == "absurdctl init"
    empty_conn.execute(BASELINE.read_bytes())
    assert only(empty_database_url, Level.ERROR, "schema", "version 1").todo == "absurdctl migrate"


def test_roles_that_may_not_see_everything_are_told_so(conn: Conn, database_url: str) -> None:
    with logins(conn) as urls:
        reader = [f.check for f in findings(urls["reader"])]
        assert set(reader) == {"transactions"}
        producer = {f.check for f in findings(urls["producer"]) if "could not be looked at" in f.what}
        assert {"queues", "late", "workers"} <= producer


def test_a_transaction_that_is_stuck(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "OLD_SECONDS", 0.3)
    with psycopg.connect(database_url, application_name="a cron job") as stuck:
        stuck.execute("select absurd.spawn_task('default', 'a', '1')")
        stuck.execute("delete from absurd.runs")
        pid = stuck.info.backend_pid
        wait_until(lambda: [f for f in findings(database_url) if f.check == "transactions"])
        only(database_url, Level.WARNING, "transactions", "a cron job", "idle in transaction", f"pg_terminate_backend({pid})")
        monkeypatch.setattr(tables, "STUCK_SECONDS", 0.3)
        only(database_url, Level.ERROR, "transactions")
    assert not [f for f in findings(database_url) if f.check == "transactions"]


def test_a_prepared_transaction_that_was_forgotten(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "OLD_SECONDS", 0.1)
    url = make_server({"max_prepared_transactions": "2"}).url()
    with psycopg.connect(url, autocommit=True) as conn:
        schema.install(conn)
        conn.execute("begin; select absurd.create_queue('q'); prepare transaction 'left behind'")
        time.sleep(0.2)  # its age is what is tested
        only(url, Level.ERROR, "transactions", "left behind", "rollback prepared")
        conn.execute("rollback prepared 'left behind'")


def test_dead_rows_that_nobody_removes_and_a_bloated_queue(
    conn: Conn, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "QUEUE_LEAST_BYTES", 2**20)
    conn.execute("select absurd.spawn_task('default', 'a', '1') from generate_series(1, 12000)")
    conn.execute("delete from absurd.runs")
    conn.execute("select pg_stat_force_next_flush()")
    found = wait_until(lambda: [f for f in findings(database_url) if f.check == "tables"])
    assert any("12,000 dead rows" in f.what and "vacuum (verbose, analyze) absurd.runs" in f.todo for f in found)
    assert any("the queue itself" in f.what for f in found)
    conn.execute("alter table absurd.tasks set (autovacuum_enabled = off)")
    assert any("switched off for absurd.tasks" in f.what for f in findings(database_url))
    conn.execute("vacuum full absurd.runs; ")
    conn.execute("vacuum analyze absurd.runs")
    assert not any("the queue itself" in f.what for f in findings(database_url))


def test_a_queue_that_nobody_serves_and_one_that_is_paused(database_url: str) -> None:
    with Absurd(database_url, "orders") as app:
        app.create_queue()
        app.spawn("ship")
        only(
            database_url,
            Level.ERROR,
            "queues",
            'no worker serves queue "orders"',
            "absurdctl worker --app module:app --queue orders",
        )
        app.pause_queue()
        only(database_url, Level.WARNING, "queues", "paused", "absurdctl resume-queue orders")


def test_tasks_that_wait_though_workers_serve_their_queue(sync_play: Play, conn: Conn) -> None:
    sync_play.app.register_task("other")(lambda params, ctx: None)
    with sync_play.worker(queues=["default"]):
        sync_play.app.spawn("unheard of")
        found = wait_until(lambda: [f for f in findings(sync_play.url) if f.check == "tasks"])
        assert 'knows the task "unheard of"' in found[0].what
        assert (found[0].level, len(found)) == (Level.ERROR, 1)
        conn.execute("delete from absurd.runs")
        conn.execute("select absurd.spawn_task('default', 'a', '1', '{}')")
        conn.execute("update absurd.queues set paused_at = null")
    conn.execute("update absurd.runs set state = 'pending', available_at = now() - interval '10 minutes'")
    conn.execute("insert into absurd.workers select 'w', '{default}', 'h', 1, 'v', 1, 0, false, null, null, now(), now(), 30")
    only(sync_play.url, Level.WARNING, "queues", "ready for 10 minutes", "--concurrency")


def test_a_worker_that_was_killed(tmp_path: Path, database_url: str, conn: Conn) -> None:
    write_app(tmp_path)
    arguments = ["worker", "--app", "shop:app", "--lease", "1s"]
    process = subprocess.Popen([*PROGRAM, *arguments], cwd=tmp_path, env=environment(database_url))
    try:
        wait_until(lambda: conn.execute("select from absurd.workers").fetchone() is not None, 60)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: [f for f in findings(database_url) if f.check == "workers" and "not been heard of" in f.what], 30)


def test_workers_of_another_release(conn: Conn, database_url: str) -> None:
    conn.execute("insert into absurd.workers select 'w', '{default}', 'h', 1, '0.1.0', 1, 0, false, null, null, now(), now(), 30")
    only(database_url, Level.WARNING, "workers", "0.1.0", VERSION)


def test_what_should_have_happened_and_has_not(conn: Conn, database_url: str) -> None:
    with Absurd(database_url) as app:
        app.create_schedule("nightly", task="report", cron="0 2 * * *")
        app.create_schedule("broken", task="report", every="1h")
        app.spawn("a")
    conn.execute(
        "update absurd.schedules set due_at = now() - interval '2 hours', next_slot = now() where schedule_name = 'nightly'"
    )
    conn.execute("update absurd.schedules set problem = 'no such zone' where schedule_name = 'broken'")
    conn.execute("select * from absurd.claim_task('default', 'w', 30)")
    conn.execute("update absurd.runs set lease_expires_at = now() - interval '3 minutes'")
    with psycopg.connect(database_url) as other:
        other.execute("set transaction isolation level repeatable read")
        other.execute("select absurd.emit_event('default', 'e')")
    conn.execute("update absurd.events set emitted_at = now() - interval '5 minutes'")
    only(database_url, Level.ERROR, "leases", "1 run(s) are past their lease", "3 minutes")
    only(database_url, Level.ERROR, "events", "1 event(s) have not been delivered", "5 minutes")
    schedules = {f.what.partition('"')[2].partition('"')[0]: f for f in findings(database_url) if f.check == "schedules"}
    assert "should have fired 2 hours ago" in schedules["nightly"].what
    assert "no such zone" in schedules["broken"].what


def test_a_trigger_that_fails_and_one_that_nobody_polls(sync_play: Play, conn: Conn) -> None:
    @sync_play.app.trigger("watch", task="task", poll_interval=0.1)
    def watch(state: Any) -> Any:
        raise ValueError("the disk is gone")

    @sync_play.task("task")
    async def task(params: Any, ctx: Any) -> None:
        pass

    with sync_play.worker():
        wait_until(lambda: count(conn, "select coalesce(max(failures), 0) from absurd.triggers") >= 3)
        only(sync_play.url, Level.WARNING, "triggers", "the disk is gone")
    conn.execute("update absurd.triggers set failures = 0, next_poll_at = now() - interval '10 minutes'")
    only(sync_play.url, Level.WARNING, "triggers", "should have been polled 10 minutes ago", "delete-trigger watch")


def test_a_queue_that_grows_without_end(conn: Conn, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MANY_ENDED", 10)
    monkeypatch.setattr(work, "MANY_UNTAKEN", 10)
    conn.execute(
        "insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, finished_at)"
        " select absurd.make_id(), 'default', 't', '1', now(), 'completed', now() from generate_series(1, 20)"
    )
    only(database_url, Level.WARNING, "retention", "absurdctl set-queue default --keep-completed")
    conn.execute("select absurd.cleanup_tasks('default', 86400)")
    assert findings(database_url) == []
    conn.execute("update absurd.retention set cleaned_at = null, keep_completed = 86400")
    assert findings(database_url) == []
    conn.execute(
        "insert into absurd.events (queue_name, event_name, emitted_at)"
        " select 'default', 'e', now() - interval '40 days' from generate_series(1, 20)"
    )
    only(database_url, Level.WARNING, "retention", "nobody took", "purge_events")


def test_connections_that_run_out(make_server: MakeServer) -> None:
    server: devdb.Server = make_server({"max_connections": "20", "superuser_reserved_connections": "3", "max_wal_senders": "0"})
    with psycopg.connect(server.url(), autocommit=True) as conn:
        schema.install(conn)
        extra = [psycopg.connect(server.url()) for _ in range(14)]
        found = {f.check: f for f in findings(server.url())}
        assert found["connections"].level in (Level.WARNING, Level.ERROR)
        for other in extra:
            other.close()


def test_what_was_stored_cannot_drive_the_terminal(database_url: str) -> None:
    with Absurd(database_url, "red\x1b[31m") as app:
        app.create_queue()
        app.spawn("ship")
    done = invoke("doctor", database=database_url, code=2)
    assert "\x1b" not in done.out
    assert "\\x1b[31m" in done.out


def test_every_command_that_the_doctor_names_exists() -> None:
    sources = "".join(path.read_text() for path in (Path(absurd.__file__).parent / "doctor").glob("*.py"))
    named = set(re.findall(r"absurdctl ([a-z-]+)", sources))
    assert len(named) > 8
    assert named <= set(typer.main.get_command(program).commands)  # type: ignore[attr-defined]


def roles_finding(url: str) -> Finding:
    [found] = [finding for finding in examine(url, VERSION) if finding.check == "roles"]
    return found


def test_a_schema_of_a_superuser_gets_another_owner_by_what_the_doctor_says(make_server: MakeServer) -> None:
    server = make_server()
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("create role boss superuser login")
        conn.execute("create role keeper login")
    boss = psycopg.conninfo.make_conninfo(server.url(), user="boss")
    with psycopg.connect(boss, autocommit=True) as conn:
        schema.install(conn)
        schema.create_roles(conn)
        found = roles_finding(boss)
        assert (found.level, "the superuser boss" in found.what) == (Level.WARNING, True)
        statements = [statement.strip() for statement in found.todo.partition("--")[0].split(";")[:-1]]
        in_docs = (ROOT / "docs" / "security.md").read_text()
        assert all(f"{statement};".replace('"postgres"', "app") in in_docs for statement in statements), statements
        for statement in statements[:-1]:
            conn.execute(statement.encode())
        conn.execute("alter table absurd.schema_version owner to absurd_owner")
        assert "the superuser boss" in roles_finding(boss).what
        conn.execute(statements[-1].encode())
        conn.execute("grant absurd_owner to keeper")
        rights = "select has_function_privilege('absurd_' || r, 'absurd.list_queues()', 'execute') from unnest(%s::text[]) r"
        assert conn.execute(rights, (["producer", "worker", "reader"],)).fetchall() == [(True,)] * 3
    assert roles_finding(boss).level is Level.OK
    owner = psycopg.conninfo.make_conninfo(server.url(), user="keeper", options="-crole=absurd_owner")
    invoke("migrate", database=owner)
    with psycopg.connect(owner, autocommit=True) as conn:
        conn.execute("alter type absurd.arrival rename attribute kind to sort")
        conn.execute("alter type absurd.arrival rename attribute sort to kind")
    with Absurd(owner) as app:
        app.register_task("add")(lambda params, ctx: params)
        with app.worker():
            assert app.spawn("add", 1).result(20) == 1


def test_what_belongs_to_another_role_than_the_schema_is_told(well: str) -> None:
    with psycopg.connect(well, autocommit=True) as conn:
        conn.execute("create role other")
        conn.execute("grant other to keeper")
        conn.execute("grant create on schema absurd to other")
        conn.execute("alter function absurd.list_queues() owner to other")
        found = roles_finding(well)
        assert (found.level, "keeper, other" in found.what) == (Level.WARNING, True)
        conn.execute(found.todo.partition("--")[0].encode())
    assert roles_finding(well).level is Level.OK


def test_an_embedded_server_of_one_user_is_well_without_another_owner(database_url: str) -> None:
    found = roles_finding(database_url)
    assert (found.level, "embedded" in found.what) == (Level.OK, True)
