"""The roles, each logged in as: what it may call and what it is refused, table by table and function by function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from absurd import schema
from absurd.errors import SchemaError
from tests.conftest import MakeServer
from tests.support_roles import WORDS, Connection, login_role, logins, url_of

CLASSIFIED = """
    select u.name, f.role_names, f.as_owner
    from absurd.function_roles() f cross join lateral unnest(f.function_names) as u(name)"""
# Every function with a call that gives it nulls.
CALLS = """
    select p.proname, p.oid, p.prosecdef, p.proconfig,
      format('select * from %s(%s)', p.oid::regproc, (
        select string_agg(format('null::%s', t.oid::regtype), ', ' order by a.ord)
        from unnest(p.proargtypes) with ordinality as a(oid, ord) join pg_type t on t.oid = a.oid)) as call
    from pg_proc p where p.pronamespace = 'absurd'::regnamespace and p.proname <> 'create_queue'
    order by p.proname"""


@pytest.fixture
def urls(conn: Connection) -> Iterator[dict[str, str]]:
    """Connection strings of the three."""
    with logins(conn) as made:
        yield made


def classified(conn: Connection) -> dict[str, tuple[list[str], bool]]:
    return {name: (roles, as_owner) for name, roles, as_owner in conn.execute(CLASSIFIED.encode())}


def test_every_function_is_classified_once(conn: Connection) -> None:
    names = [row[0] for row in conn.execute(CLASSIFIED.encode())]
    assert len(names) == len(set(names))
    installed = conn.execute("select distinct proname from pg_proc where pronamespace = 'absurd'::regnamespace")
    assert set(names) == {row[0] for row in installed}
    for roles, as_owner in classified(conn).values():
        assert set(roles) <= set(WORDS) or (len(roles) == 1 and roles[0] in ("owner", "helper"))
        assert not (as_owner and roles == ["helper"])


def test_public_may_call_and_read_nothing(conn: Connection) -> None:
    conn.execute("create role nobody_in_particular login")
    try:
        for may in (
            "select proname from pg_proc p where pronamespace = 'absurd'::regnamespace"
            " and has_function_privilege('nobody_in_particular', p.oid, 'execute')",
            "select relname from pg_class c where relnamespace = 'absurd'::regnamespace and relkind in ('r', 'v', 'S')"
            " and has_table_privilege('nobody_in_particular', c.oid, 'select, insert, update, delete, truncate, trigger')",
            "select 'usage' where has_schema_privilege('nobody_in_particular', 'absurd', 'usage, create')",
        ):
            assert conn.execute(may.encode()).fetchall() == []
        with psycopg.connect(url_of(conn, "nobody_in_particular")) as stranger, pytest.raises(errors.InsufficientPrivilege):
            stranger.execute("select absurd.get_schema_version()")
    finally:
        conn.execute("drop role nobody_in_particular")


def test_functions_run_as_their_owner_with_a_fixed_search_path_if_and_only_if_they_are_the_interface(conn: Connection) -> None:
    wanted = classified(conn)
    for name, _, definer, config, _ in conn.execute(CALLS.encode()):
        assert definer == wanted[name][1], name
        paths = [setting for setting in config or () if setting.startswith("search_path")]
        assert paths == (["search_path=pg_catalog, pg_temp"] if definer else []), name


def test_what_callers_read_often_keeps_its_plan(conn: Connection) -> None:
    """One in SQL that runs as its owner is not inlined: before PostgreSQL 18 each call plans it anew, at five times the cost."""
    names = ["read_result", "get_task_result", "get_task_checkpoint_state", "unwatch_task"]
    found = conn.execute(
        "select p.proname, l.lanname from pg_proc p join pg_language l on l.oid = p.prolang"
        " where p.pronamespace = 'absurd'::regnamespace and p.proname = any (%s)", (names,)
    ).fetchall()  # fmt: skip
    assert sorted(found) == [(name, "plpgsql") for name in sorted(names)]


@pytest.mark.parametrize("word", WORDS)
def test_each_function_is_allowed_or_refused_as_classified(conn: Connection, urls: dict[str, str], word: str) -> None:
    wanted = classified(conn)
    sqlstates: dict[str, str] = {}
    with psycopg.connect(urls[word], autocommit=True) as login:
        login.execute("set statement_timeout = '20s'")
        for name, _, _, _, call in conn.execute(CALLS.encode()).fetchall():
            try:
                with login.transaction(force_rollback=True):
                    login.execute(call.encode())
                sqlstates[name] = "00000"
            except psycopg.Error as error:
                sqlstates[name] = error.sqlstate or ""
    assert {name for name, state in sqlstates.items() if state != "42501"} == {
        name for name, (roles, _) in wanted.items() if word in roles and name not in ("create_queue", "fake_time")
    }
    # fake_time() has a say of its own, see below. Those that were called took the nulls, or refused them as arguments.
    assert {state[:2] for state in sqlstates.values()} <= {"00", "42", "AB", "22", "23"}
    assert set(sqlstates.values()) & {"42501", "00000"} == {"42501", "00000"}
    assert conn.execute(
        "select bool_or(has_function_privilege(%s, p.oid, 'execute')) = %s from pg_proc p"
        " where p.pronamespace = 'absurd'::regnamespace and p.proname = 'create_queue'",
        (f"absurd_{word}", word == "worker"),
    ).fetchone() == (True,)


@pytest.mark.parametrize("word", WORDS)
def test_no_role_touches_a_table_or_sequence(conn: Connection, urls: dict[str, str], word: str) -> None:
    relations = conn.execute(
        "select c.oid::regclass::text, c.relkind from pg_class c where c.relnamespace = 'absurd'::regnamespace"
        " and c.relkind in ('r', 'v', 'S')"
    ).fetchall()
    assert len(relations) > 18
    with psycopg.connect(urls[word], autocommit=True) as login:
        for name, kind in relations:
            attempts = ["select * from {}"]
            if kind == "r":
                attempts += [
                    "insert into {} default values",
                    "delete from {}",
                    "truncate {}",
                    "comment on table {} is 'mine'",
                    "alter table {} add x int",
                ]
                column = conn.execute("select attname from pg_attribute where attrelid = %s::regclass and attnum = 1", (name,))
                attempts.append("update {} set " + str(next(column)[0]) + " = default")
            else:
                attempts.append("select nextval('{}')")
            for attempt in attempts:
                with pytest.raises(errors.InsufficientPrivilege):
                    login.execute(attempt.format(name).encode())
        for attempt in ("create table absurd.mine (x int)",  "create function absurd.m() returns int language sql as 'select 1'",
                        "create role mine", "drop function absurd.current_time()"):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege):
                login.execute(attempt.encode())


def test_a_producer_spawns_emits_and_reads_the_result_and_can_do_nothing_to_tasks(conn: Connection, urls: dict[str, str]) -> None:
    with (
        psycopg.connect(urls["producer"], autocommit=True) as producer,
        psycopg.connect(urls["worker"], autocommit=True) as worker,
    ):
        spawned = producer.execute("select task_id, run_id from absurd.spawn_task('default', 'ship', '{}')").fetchone()
        assert spawned is not None
        producer.execute("select absurd.emit_event('default', 'paid', '{}')")
        for refused in (
            "select * from absurd.claim_task('default', 'me')",
            f"select absurd.complete_run('default', '{spawned[1]}')",
            f"select absurd.cancel_task('default', '{spawned[0]}')",
            f"select absurd.retry_task('default', '{spawned[0]}')",
            f"select absurd.show_task('{spawned[0]}')",
            "select absurd.cleanup_tasks('default', 0)",
            "select absurd.drop_queue('default')",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                producer.execute(refused.encode())
        claimed = worker.execute("select run_id from absurd.claim_task('default', 'me')").fetchone()
        assert claimed == (spawned[1],)
        worker.execute("select absurd.complete_run('default', %s, '42')", (spawned[1],))
        answer = producer.execute("select state, result from absurd.get_task_result('default', %s)", (spawned[0],)).fetchone()
        assert answer == ("completed", 42)


def test_names_of_a_callers_own_are_not_found_by_the_functions(conn: Connection, urls: dict[str, str]) -> None:
    conn.execute("create schema trap")
    conn.execute("grant all on schema trap to public")
    with psycopg.connect(urls["worker"], autocommit=True) as attacker:
        body = "language plpgsql as $$ begin raise exception 'trapped as %', current_user; end $$"
        attacker.execute(f"create function trap.octet_length(text) returns int {body}".encode())
        attacker.execute(f"create function trap.pg_advisory_xact_lock_shared(bigint) returns void {body}".encode())
        attacker.execute(f"create function trap.gen_random_uuid() returns uuid {body}".encode())
        attacker.execute(f"create function trap.same(text, text) returns boolean {body}".encode())
        attacker.execute("create operator trap.= (leftarg = text, rightarg = text, function = trap.same)")
        for table in ("pg_locks", "pg_database", "pg_class", "queues", "tasks", "runs"):
            attacker.execute(f"create temporary table {table} (oid int, queue_name text)".encode())
        attacker.execute("set search_path = pg_temp, trap, absurd, pg_catalog")
        with pytest.raises(errors.RaiseException, match="trapped"):
            attacker.execute("select octet_length('x'::text)")  # the trap works
        spawned = attacker.execute(
            "select task_id from absurd.spawn_task('default', 'ship', '{}', '{\"idempotency_key\": \"k\"}')"
        )
        task_id = next(spawned)[0]
        attacker.execute("select absurd.emit_event('default', 'paid', '{}')")
        attacker.execute("select absurd.register_worker('w', array['default'], 'h', 1, '1', 1, 30, 17)")
        attacker.execute("select * from absurd.sweep()")
        run_id = next(attacker.execute("select run_id from absurd.claim_task('default', 'w')"))[0]
        attacker.execute("select absurd.complete_run('default', %s, '1')", (run_id,))
        assert next(attacker.execute("select state from absurd.read_result(%s)", (task_id,))) == ("completed",)


def test_the_clock_is_moved_by_the_owner_alone(conn: Connection, urls: dict[str, str]) -> None:
    conn.execute("set absurd.fake_now = '2024-02-29 12:00:00+00'")
    assert next(conn.execute("select absurd.current_time() = '2024-02-29 12:00:00+00'")) == (True,)
    for word in WORDS:
        with psycopg.connect(urls[word], autocommit=True) as login:
            assert next(login.execute("select absurd.current_time() > now() - interval '1 minute'")) == (True,)
            login.execute("set absurd.fake_now = '2099-01-01 00:00:00+00'")
            with pytest.raises(errors.InsufficientPrivilege, match="moved by the owner"):
                login.execute("select absurd.current_time()")
    with psycopg.connect(urls["worker"], autocommit=True) as worker:
        worker.execute("set absurd.fake_now = '2099-01-01 00:00:00+00'")
        with pytest.raises(errors.InsufficientPrivilege, match="moved by the owner"):
            worker.execute("select * from absurd.sweep()")


def test_roles_that_another_database_has_made_have_no_rights_here(
    conn: Connection, urls: dict[str, str], empty_conn: Connection
) -> None:
    schema.install(empty_conn)
    schema.migrate(empty_conn)
    elsewhere = {**psycopg.conninfo.conninfo_to_dict(urls["worker"]), "dbname": empty_conn.info.dbname}
    with psycopg.connect(**elsewhere) as login, pytest.raises(errors.InsufficientPrivilege):
        login.execute("select absurd.get_schema_version()")


def test_an_upgrade_keeps_the_roles_rights_and_takes_away_what_they_have_beyond_them(
    conn: Connection, urls: dict[str, str]
) -> None:
    conn.execute("grant execute on function absurd.drop_queue(text), absurd.fence_runs(uuid[], int[]) to absurd_reader")
    conn.execute("revoke execute on function absurd.list_tasks from absurd_reader")
    with login_role(conn) as auditor:
        conn.execute(f"grant usage on schema absurd to {auditor}".encode())
        conn.execute(f"grant execute on function absurd.list_workers() to {auditor}".encode())
        schema.migrate(conn)
        with psycopg.connect(url_of(conn, auditor), autocommit=True) as login:
            login.execute("select * from absurd.list_workers()")  # what people have granted stays
            with pytest.raises(errors.InsufficientPrivilege):
                login.execute("select * from absurd.list_queues()")
    with psycopg.connect(urls["reader"], autocommit=True) as reader:
        reader.execute("select * from absurd.list_tasks()")
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute("select absurd.drop_queue('default')")


def test_what_a_superusers_upgrade_brings_belongs_to_the_owner_of_the_rest(empty_conn: Connection) -> None:
    with login_role(empty_conn) as owner:
        empty_conn.execute(f"grant create on database {empty_conn.info.dbname} to {owner}".encode())
        with psycopg.connect(url_of(empty_conn, owner), autocommit=True) as own:
            schema.install(own)
            own.execute("drop function absurd.read_task(uuid)")
        schema.migrate(empty_conn)
        owners: Any = empty_conn.execute(
            "select distinct pg_get_userbyid(proowner) from pg_proc where pronamespace = 'absurd'::regnamespace"
        ).fetchall()
        assert owners == [(owner,)]


def test_a_role_with_createrole_alone_sets_up_everything_as_on_a_managed_server(make_server: MakeServer) -> None:
    server = make_server()
    with psycopg.connect(server.url(), autocommit=True) as root:
        root.execute("create role boss login createrole")
        root.execute("create role plain login")
        root.execute(f"grant create on database {root.info.dbname} to boss, plain".encode())
        with psycopg.connect(url_of(root, "plain"), autocommit=True) as plain:
            schema.install(plain)
            with pytest.raises(SchemaError, match="CREATEROLE say: create role absurd_producer nologin"):
                schema.create_roles(plain)
            plain.execute("drop schema absurd cascade")
        with psycopg.connect(url_of(root, "boss"), autocommit=True) as boss:
            schema.install(boss)
            assert schema.create_roles(boss) is None
            boss.execute("create role app login in role absurd_producer")
            assert schema.create_roles(boss) is None
        with psycopg.connect(url_of(root, "app"), autocommit=True) as app:
            app.execute("select absurd.spawn_task('default', 'hello', '{}')")
        assert schema.create_roles(root) is None
        root.execute("alter role boss superuser")
        assert schema.create_roles(root) == "boss"
