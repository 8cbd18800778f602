"""Every function of the catalogue with hostile values: it works, or refuses in its own words, and the queue goes on."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import with_database
from tests.faults import hostile, report

Connection = psycopg.Connection[Any]

ROOT = Path(__file__).parents[2]

PUBLISHED = frozenset(re.findall(r"`(\w+)\(", (ROOT / "docs" / "sql.md").read_text()))
"""The functions of docs/sql.md: whatever they are given they work or raise a code of its table, with a message of ours."""

FOR_PEOPLE = frozenset(
    {
        *(
            "list_tasks",
            "list_events",
            "list_waits",
            "list_workers",
            "list_listeners",
            "list_triggers",
            "list_trigger_executions",
        ),
        *("show_task", "queue_stats", "task_names", "find_unclaimable", "read_result", "watch_task", "unwatch_task"),
        *("delete_trigger", "set_trigger_enabled", "backfill_schedule", "store_subscription", "reconcile_schedules"),
        *("register_trigger", "require_queue", "cron_error", "schedule_status", "list_schedules", "count_ready", "sweep"),
    }
)
"""What the client and the command line call with values of people: the same."""

POLITE = PUBLISHED | FOR_PEOPLE
CODES = re.compile(r"AB0\d\d|0A000")

SPARED = frozenset({"create_roles", "apply_roles", "adopt_objects", "granted_roles", "grant_functions", "fake_time"})
"""What an installation calls, as the owner, and the clock of tests: they change roles, or mean nothing without a setting."""

# The others are called by the library and by one another, with values that have been checked. They may refuse in PostgreSQL's
# words: data that does not fit, a constraint, a value too large for an index; never with an internal error, out of memory, or
# without end.
ROUGH_CODES = re.compile(r"AB0\d\d|0A000|22...|23...|54000|55P03")

STATEMENT_TIMEOUT = 60  # seconds; what waits for ever, not what a loaded machine is slow at
SHORT = {True: 6, False: 3}
LONG = {True: 30, False: 12}
"""Examples, by whether a function is called with values of people."""


@dataclass(frozen=True)
class Function:
    """One function of the schema, and its arguments with their types."""

    name: str
    signature: str
    arguments: tuple[tuple[str, str], ...]
    may_write: bool
    """PostgreSQL lets no function write that is declared stable or immutable."""

    def __str__(self) -> str:
        return f"{self.name}/{len(self.arguments)}"


class World:
    """A queue with one of everything in it, which the functions are called in."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.known: dict[str, str] = {}

    def clear(self) -> None:
        """Empties all tables but that of the version."""
        tables = self.value(
            "select string_agg(c.oid::regclass::text, ',') from pg_class c"
            " where c.relnamespace = 'absurd'::regnamespace and c.relkind = 'r' and c.relname <> 'schema_version'"
        )
        self.conn.execute(f"truncate {tables}".encode())

    def prepare(self) -> None:
        """Names the living: a running task, a token, an event, a subscription, a schedule, a trigger, a worker."""
        value = self.value
        value(
            "select absurd.create_queue('fuzz'), absurd.resume_queue('fuzz'),"
            " absurd.set_queue_policy('fuzz', '{\"max_payload_bytes\": 100000}')"
        )
        task, run, epoch = uuid.uuid4(), uuid.uuid4(), 1
        self.conn.execute(
            "select absurd.spawn_one('fuzz', %s, %s, 'work', '{}', null, '{\"priority\": 32767}', null)", (task, run)
        )
        self.conn.execute(
            "update absurd.runs set state = 'running', epoch = 1, worker_id = 'worker-1',"
            " lease_expires_at = now() + interval '1 hour',"
            " started_at = now() where run_id = %s",
            (run,),
        )
        token = value(
            "select state from absurd.create_token(%s, %s, 1, 'token', 1, 'approval', 60) where status = 'ok'", task, run
        )
        self.conn.execute("select absurd.register_worker('worker-1', array['fuzz'], 'host', 1, '0', 1, 60)")
        self.conn.execute("select absurd.subscribe('fuzz', 'evt*', 'work')")
        self.conn.execute(
            "select absurd.create_schedule('sched', 'fuzz', '{\"task\": \"work\", \"every\": 3600}', p_replace => true)"
            " where not exists (select from absurd.schedules where schedule_name = 'sched')"
        )
        self.conn.execute("select absurd.register_trigger('trig', 'fuzz', 'work', 60, 60, true, null)")
        self.known = {
            "@task": str(task),
            "@run": str(run),
            "@epoch": str(epoch),
            "@token": token["id"],
            "@secret": token["secret"],
        }

    def value(self, statement: str, *arguments: Any) -> Any:
        found = self.conn.execute(statement, arguments or None).fetchone()
        assert found is not None
        return found[0]

    def call(self, function: Function, arguments: Sequence[Any]) -> psycopg.Error | None:
        """Calls a function in a transaction of its own; the error with which it was refused, if it was."""
        places = ", ".join(_place(kind, given) for (_, kind), given in zip(function.arguments, arguments, strict=True))
        values = [self._text(given) for (_, kind), given in zip(function.arguments, arguments, strict=True) if not _is_row(kind)]
        try:
            self.conn.execute(f"select * from absurd.{function.name}({places})".encode(), values)
        except psycopg.Error as error:
            return error
        return None

    def _text(self, given: Any) -> str | None:
        if isinstance(given, list):
            return _array(given, self.known)
        return self._known(given)

    def _known(self, given: str | None) -> str | None:
        return given if given is None else self.known.get(given, given)

    def check(self, *, exact: bool) -> None:
        """The queue works: what is ready can be claimed and completed, new work too, and lists can be read.

        ``exact``: and nothing is left that no state of a task allows.
        """
        self.conn.execute("select absurd.create_queue('fuzz'), absurd.resume_queue('fuzz')")
        self.conn.execute("select * from absurd.sweep()")
        mine = self.value("select task_id from absurd.spawn_task('fuzz', 'probe', '{}', '{\"priority\": 32767}')")
        done: set[Any] = set()
        while claimed := self.conn.execute(
            "select task_id, run_id, epoch from absurd.claim_runs('fuzz', 'probe', 60, 1000)"
        ).fetchall():
            tasks, runs, epochs = map(list, zip(*claimed, strict=True))
            self.conn.execute("select absurd.complete_runs(%s, %s, %s, %s::json[])", (tasks, runs, epochs, ["{}"] * len(tasks)))
            done |= set(tasks)
        assert mine in done
        assert self.value("select state from absurd.get_task_result('fuzz', %s)", mine) == "completed"
        self.conn.execute(LISTINGS)
        broken = self.conn.execute(INVARIANTS).fetchall()
        assert broken == [] or not exact


LISTINGS = b"""
    select * from absurd.list_tasks('fuzz');
    select * from absurd.list_events('fuzz');
    select * from absurd.list_waits('fuzz');
    select * from absurd.queue_stats();
    select s.*, absurd.schedule_status(s) from absurd.list_schedules() s;
    select * from absurd.list_triggers();
    select * from absurd.list_subscriptions();
    select * from absurd.list_workers();
    select * from absurd.list_listeners();
    select * from absurd.claim_trigger_polls('probe', null);"""

# What no call may leave behind: a live task without a run or a run without a live task, more rows than readers can take.
INVARIANTS = b"""
select 'ended task with a run', t.task_id::text from absurd.tasks t join absurd.runs r using (task_id) where t.outcome is not null
union all
select 'live task without a run', t.task_id::text from absurd.tasks t
where t.outcome is null and not exists (select from absurd.runs r where r.task_id = t.task_id)
union all
select 'run without a task', r.run_id::text from absurd.runs r
where not exists (select from absurd.tasks t where t.task_id = r.task_id)
union all
select 'wait without a run', w.run_id::text from absurd.waits w
where w.run_id is not null and not exists (select from absurd.runs r where r.run_id = w.run_id)
union all
select 'task of no queue', t.task_id::text from absurd.tasks t
where not exists (select from absurd.queues q where q.queue_name = t.queue_name)"""

CATALOGUE = b"""
select 'relation', c.relname, c.relkind::text, (select string_agg(a.attname || ' ' || a.atttypid::regtype, ',' order by a.attnum)
  from pg_attribute a where a.attrelid = c.oid and a.attnum > 0) from pg_class c
  where c.relnamespace::regnamespace::text not like 'pg_%'
  and c.relnamespace::regnamespace::text <> 'information_schema'
union all
select 'function', p.proname, pg_get_function_identity_arguments(p.oid), md5(p.prosrc) from pg_proc p
  where p.pronamespace::regnamespace::text not like 'pg_%' and p.pronamespace::regnamespace::text <> 'information_schema'
union all select 'role', rolname, rolsuper::text, '' from pg_roles
union all select 'setting', name, setting, '' from pg_settings
  where source = 'session' and name not in ('client_encoding', 'DateStyle')
order by 1, 2, 3"""


def _is_row(kind: str) -> bool:
    return kind.startswith("absurd.") and not kind.endswith("[]")


def _place(kind: str, given: Any) -> str:
    if _is_row(kind):
        return f"(select r from {kind} r limit 1)" if given else f"null::{kind}"
    return f"%s::text::{kind}"


def _array(items: list[Any], known: dict[str, str]) -> str:
    """An array literal; psycopg's own would look for the type of each item."""
    parts = []
    for item in items:
        if item is None:
            parts.append("NULL")
        elif isinstance(item, list):
            parts.append(_array(item, known))
        else:
            text = known.get(item, item).replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{text}"')
    return "{" + ",".join(parts) + "}"


# Of arguments by what they are called; "@" names what World.prepare() has made.
GOOD: dict[str, Sequence[str]] = {
    "p_queue_name": ("fuzz",),
    "p_queue_names": ("fuzz",),
    "p_task_id": ("@task",),
    "p_task_ids": ("@task",),
    "p_owner_task_id": ("@task",),
    "p_run_id": ("@run",),
    "p_run_ids": ("@run",),
    "p_owner_run": ("@run",),
    "p_owner_run_id": ("@run",),
    "p_epoch": ("@epoch",),
    "p_epochs": ("@epoch",),
    "p_owner_epoch": ("@epoch",),
    "p_token_id": ("@token",),
    "p_secret": ("@secret",),
    "p_event_name": ("evt", "evt:1"),
    "p_event_names": ("evt",),
    "p_pattern": ("evt*", "evt"),
    "p_task_name": ("work",),
    "p_schedule_name": ("sched",),
    "p_trigger_name": ("trig",),
    "p_worker_id": ("worker-1",),
    "p_owner": ("worker-1",),
    "p_step_name": ("step", "token"),
    "p_channel": ("channel",),
    "p_limit": ("1", "100"),
    "p_qty": ("1",),
    "p_waits": ('{"step": "w", "queue": "fuzz", "event": "never"}', '{"step": "w", "task": "@task"}'),
    "p_needed": ("1",),
    "p_timer_kinds": ("timeout", "sleep"),
    "p_timer_kind": ("timeout", "sleep"),
    "p_state": ("{}",),
    "p_kind": ("event", "task", "token"),
    "p_storage_mode": ("partitioned",),
}


def scalar(name: str, kind: str) -> st.SearchStrategy[Any]:
    """Values for one argument, or one place of an array: good ones as often as hostile ones."""
    wild = HOSTILE[kind]
    if name not in GOOD:
        return st.none() | wild if kind != "boolean" else wild
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from(GOOD[name]) if n < 6 else st.none() if n == 6 else wild)


HOSTILE: dict[str, st.SearchStrategy[Any]] = {
    "text": hostile.texts,
    "json": hostile.raw_documents,
    "jsonb": hostile.documents,
    "integer": st.sampled_from(hostile.INTEGERS).map(str),
    "bigint": st.sampled_from(hostile.BIGINTS).map(str),
    "double precision": st.sampled_from(hostile.FLOATS),
    "numeric": st.sampled_from(hostile.NUMERICS),
    "boolean": st.sampled_from(hostile.BOOLEANS),
    "uuid": st.sampled_from((*hostile.UUIDS, "@task", "@run")),
    "timestamp with time zone": st.sampled_from(hostile.MOMENTS),
    "interval": st.sampled_from(hostile.INTERVALS),
    "absurd.claim_place": st.just("(0,2020-01-01,00000000-0000-0000-0000-000000000000)"),
    "absurd.arrival": st.just('(step,event,"{}",1)'),
}


@st.composite
def calls(draw: st.DrawFn, function: Function) -> list[Any]:
    """The arguments of one call: arrays of one length, unless somebody got that wrong."""
    length = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return [draw(_argument(name, kind, length)) for name, kind in function.arguments]


def _argument(name: str, kind: str, length: int) -> st.SearchStrategy[Any]:
    if _is_row(kind):
        return st.booleans()
    if not kind.endswith("[]"):
        return scalar(name, kind)
    one = scalar(name, kind.removesuffix("[]"))
    fitting = st.lists(one, min_size=length, max_size=length)
    odd = st.one_of(
        st.none(), st.just([]), st.lists(one, max_size=5), st.lists(st.lists(one, min_size=2, max_size=2), min_size=2, max_size=2)
    )
    return st.integers(0, 7).flatmap(lambda n: odd if n == 0 else fitting)


def _functions(conn: Connection) -> list[Function]:
    rows = conn.execute(
        "select p.proname, pg_get_function_identity_arguments(p.oid), p.proargnames, p.proargtypes::regtype[]::text[],"
        " p.provolatile = 'v' from pg_proc p"
        " where p.pronamespace = 'absurd'::regnamespace and p.prorettype <> 'trigger'::regtype order by 1, 2"
    )
    return [
        Function(name, signature, tuple(zip((names or [])[: len(kinds)], kinds, strict=True)), may_write)
        for name, signature, names, kinds, may_write in rows
    ]


def _names() -> list[str]:
    text = (ROOT / "sql" / "absurd.sql").read_text()
    return sorted(set(re.findall(r"^create or replace function absurd\.(\w+)\(", text, re.MULTILINE)) - SPARED)


@pytest.fixture(scope="module")
def world(server_url: str, template: str) -> Iterator[World]:
    """One database for all functions: what one leaves behind the next ones meet."""
    name = f"absurd_fuzz_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}".encode())
    with psycopg.connect(with_database(server_url, name), autocommit=True) as conn:
        conn.execute(f"set statement_timeout = '{STATEMENT_TIMEOUT}s'".encode())
        yield World(conn)
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"drop database {name} with (force)".encode())


def test_no_function_of_the_catalogue_is_left_out(world: World) -> None:
    assert {function.name for function in _functions(world.conn)} == set(_names()) | SPARED
    assert not POLITE - set(_names()) - SPARED


@pytest.mark.short
@pytest.mark.parametrize("name", [name for place, name in enumerate(_names()) if name in POLITE or place % 3 == 0])
def test_a_function_refuses_hostile_values_in_its_own_words(world: World, name: str) -> None:
    _attack(world, name, SHORT[name in POLITE])


@pytest.mark.full
@pytest.mark.parametrize("name", _names())
def test_a_function_refuses_many_hostile_values_in_its_own_words(world: World, name: str) -> None:
    _attack(world, name, LONG[name in POLITE])


def _attack(world: World, name: str, examples: int) -> None:
    functions = [function for function in _functions(world.conn) if function.name == name]
    assert functions
    world.clear()
    world.prepare()
    before = world.conn.execute(CATALOGUE).fetchall()
    made, may_write = 0, any(function.may_write for function in functions)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal made
        made += 1
        function = data.draw(st.sampled_from(functions))
        arguments = data.draw(calls(function))
        if may_write:
            world.prepare()
        error = world.call(function, arguments)
        if error is not None:
            allowed = CODES if name in POLITE else ROUGH_CODES
            assert allowed.fullmatch(error.sqlstate or ""), f"{error.sqlstate}: {error}"
            assert (error.diag.message_primary or "").strip()
        if may_write:
            world.check(exact=name in POLITE)

    attack()
    world.check(exact=name in POLITE)
    assert world.conn.execute(CATALOGUE).fetchall() == before
    report.record("hostile values for SQL functions", ["open queue"], runs=made, injected=made, tasks=2 * made)
