"""A row that was changed by hand, in any column, to anything that it takes, stops no batch that healthy rows are part of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.faults.report import record

Connection = psycopg.Connection[Any]

TABLES = (
    *("attempts", "checkpoints", "event_tasks", "events", "idempotency_keys", "listeners", "queues", "retention", "runs"),
    *("schedules", "subscriptions", "tasks", "tokens", "trigger_executions", "triggers", "waits", "workers"),
)
QUICK = ("runs", "waits")  # what claims and sweeps read
# Documents that jsonb does not take are refused by the column, and count for json alone.
DOCUMENTS = (
    '"\\u0000\\ud800"',
    "1e400000",
    "[" * 600 + "]" * 600,
    "null",
    "[1]",
    '"text"',
    '{"kind": [], "base_seconds": "no", "factor": 1e9000, "max_attempts": [], "priority": {}, "headers": 7, "step": 7}',
    '{"kind": "exponential", "base_seconds": -1e9000, "factor": 1e9000, "max_seconds": -1, "jitter": 1e-9000}',
)
VALUES: dict[str, tuple[str | None, ...]] = {
    "json": DOCUMENTS,
    "jsonb": DOCUMENTS,
    "double precision": ("NaN", "Infinity", "-Infinity", "1e308", "-1e308", "-1", "5e-324"),
    "integer": ("2147483647", "-2147483648", "-1", "0"),
    "bigint": ("9223372036854775807", "-9223372036854775808", "-1"),
    "timestamp with time zone": ("infinity", "-infinity", "294276-12-31 23:59:59+00", "4714-12-01 00:00:00+00 BC"),
    "interval": ("178000000 years", "-178000000 years", "infinity", "-1 day"),
    "text": ("", "\x1b[31m\n", "x" * 2000, "pending", "running", "sleeping", "timeout", "step", "token"),
    "uuid": ("00000000-0000-0000-0000-000000000000",),
    "boolean": ("true", "false"),
    "text[]": ("{}", "{NULL}", '{{"a"},{"b"}}'),
    "uuid[]": ("{}", "{NULL}"),
    "bytea": ("",),
}
LISTS = (
    "list_queues()", "queue_stats()", "list_tasks('good')", "list_events('good')", "list_waits('good')", "list_workers()",
    "list_listeners()", "list_subscriptions()", "list_schedules()", "list_triggers()", "find_unclaimable()", "task_names('good')",
    "get_queue_policy('good')", "queue_options()", "doctor_queues()", "count_ready('good', 10)", "queue_limits(array['good'])",
    "find_tasks('good')", "find_tasks(p_text => 'a')", "find_tasks(p_state => 'sleeping')", "find_tasks(p_state => 'failed')",
    "find_tasks(p_spawned_from => '2000-01-01')",
)  # fmt: skip


@pytest.mark.parametrize("table", [table if table in QUICK else pytest.param(table, marks=pytest.mark.full) for table in TABLES])
def test_no_stored_value_of_a_column_stops_the_others(conn: Connection, table: str) -> None:
    rounds, poisoned, problems = 0, 0, []
    for column, kind in _columns(conn, table):
        for value in (*VALUES[kind], None):
            try:
                with conn.transaction(force_rollback=True):
                    ill = _fill(conn)
                    taken = _poison(conn, table, column, value)
                    poisoned += taken
                    if taken:
                        rounds += 1
                        _live(conn, ill)
            except (psycopg.Error, AssertionError) as error:
                problems.append(f"{column} = {value!r:.60}: {error!r:.300}")
    assert not problems, "\n".join(problems)
    assert poisoned > 5
    record(
        "columns with values that nobody could have set",
        ["one end", "open queue"],
        runs=rounds,
        injected=poisoned,
        tasks=3 * rounds,
    )


def _columns(conn: Connection, table: str) -> Iterator[tuple[str, str]]:
    found = conn.execute(
        "select a.attname, format_type(a.atttypid, null) from pg_attribute a"
        " where a.attrelid = format('absurd.%%I', %s::text)::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum",
        (table,),
    ).fetchall()
    assert found
    yield from found


def _poison(conn: Connection, table: str, column: str, value: str | None) -> int:
    """Writes the value into the column of each row of the queue that is not healthy; how many took it."""
    count = 0
    # Further queues have a policy too; the queue in which the work goes on keeps its own.
    rows = conn.execute(f"select ctid::text from absurd.{table} r where not r::text like '%healthy%'".encode()).fetchall()
    for (place,) in rows:
        try:
            with conn.transaction():
                conn.execute(f"update absurd.{table} set {column} = %s where ctid = %s::tid".encode(), (value, place))
            count += 1
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.OperationalError, psycopg.errors.GeneratedAlways):
            pass  # the column does not take it, or an index
    return count


def _value(conn: Connection, statement: str, *arguments: Any) -> Any:
    row = conn.execute(statement.encode(), arguments or None).fetchone()
    assert row is not None
    return row[0]


def _fill(conn: Connection) -> list[UUID]:
    """One of everything, and tasks at each point of their lives; the ids of those tasks."""
    run = conn.execute
    run("select absurd.create_queue('good'), absurd.create_queue('other')")
    run("update absurd.queues set created_at = created_at + interval '1 microsecond' where queue_name = 'other'")
    options = '{"retry_strategy": {"kind": "exponential"}, "cancellation": {"max_delay": 600, "max_duration": 600}}'
    ids: list[UUID] = []
    for name in ("ready", "held", "expired", "waiting", "failed", "done", "cancelled", "again"):
        ids.append(_value(conn, "select task_id from absurd.spawn_task('good', %s, '{}', %s::text::jsonb)", name, options))
    claimed = {
        row[0]: row[1:] for row in run("select task_name, task_id, run_id, epoch from absurd.claim_runs('good', 'w', 60, 50)")
    }
    _release(conn, claimed["ready"])
    _release(conn, claimed["again"])
    waits = '[{"step": "e", "queue": "good", "event": "never"}]'
    run(
        "select absurd.suspend_runs(array[%s::uuid], array[%s::uuid], array[%s::int], array[1], array[1], array[%s::json],"
        " array[null::timestamptz], array[600.0::float8], array['t'], array['timeout'])",
        (*claimed["waiting"], waits),
    )
    run("select absurd.fail_run('good', %s, '{\"name\": \"x\"}')", (claimed["failed"][1],))
    run(
        "select absurd.record_checkpoints(array[%s::uuid], array[%s::uuid], array[%s::int], array['s'], array[1],"
        " array['1'::json])",
        claimed["held"],
    )
    run("select absurd.create_token(%s, %s, %s, 'token', 2, 'ask', 60, null, null, '{}')", claimed["held"])
    run("select absurd.complete_runs(array[%s::uuid], array[%s::uuid], array[%s::int], array['1'::json])", claimed["done"])
    run("select absurd.cancel_task('good', %s)", (claimed["cancelled"][0],))
    run("update absurd.runs set lease_expires_at = now() - interval '1 minute' where run_id = %s", (claimed["expired"][1],))
    run("select absurd.spawn_task('good', 'keyed', '{}', '{\"idempotency_key\": \"key\"}')")
    run("select absurd.watch_task(%s, 'a_channel', 60)", (ids[0],))
    run("select absurd.subscribe('good', 'evt*', 'ready', '{\"config\": 1}')")
    run("select absurd.append_event('good', 'evt', '{}', 'key', '{\"kind\": \"test\"}')")
    run('select absurd.create_schedule(\'sched\', \'good\', \'{"task": "ready", "every": 3600, "params": {}}\')')
    run("select absurd.create_schedule('tick', 'good', '{\"event\": \"evt\", \"every\": 3600}')")
    run("update absurd.schedules set next_slot = date_trunc('hour', now()), due_at = date_trunc('hour', now())")
    run("select absurd.register_trigger('trig', 'good', 'ready', 60, 60, true, '{}')")
    run(
        "insert into absurd.trigger_executions (trigger_name, context_hash, task_id, started_at) values ('trig', 'h', %s, now())",
        (ids[0],),
    )
    run("select absurd.register_worker('w', array['good'], 'host', 1, '0', 1, 60, 42)")
    run('select absurd.set_queue_options(\'good\', \'{"keep_completed": 60, "keep_events": 60, "keep_count": 1000}\')')
    run("select absurd.heartbeat_listener('l', 'files', 'good', 'host', 1, 'listening', 1, 0, null)")
    return ids


def _release(conn: Connection, holder: tuple[UUID, UUID, int]) -> None:
    conn.execute("select absurd.release_runs(array[%s::uuid], array[%s::int], array[0.0::float8], array[null::text])", holder[1:])


def _live(conn: Connection, ill: list[UUID]) -> None:
    """What workers, schedulers, people and time do to a queue; healthy and poisoned rows are in the same batches."""
    run = conn.execute
    # The queue itself may have been poisoned: paused, or renamed.
    run("select absurd.create_queue('good'), absurd.resume_queue('good')")
    healthy = [
        _value(conn, "select task_id from absurd.spawn_task('good', 'healthy', '{}', '{\"priority\": 7}')") for _ in range(3)
    ]
    place = None
    for end in ("release", "fail", "suspend", "sweep", "complete"):
        run("select * from absurd.promote_due('good')")
        held = run(
            "select task_id, run_id, epoch, next_after from absurd.claim_runs('good', 'w', 60, 50, %s::absurd.claim_place[])",
            (place,),
        ).fetchall()
        place = next((row[3] for row in held if row[3]), place)
        # Nobody knows what became of the poisoned ones; the healthy ones must be there, in every round but the last.
        if end == "release":
            assert {row[0] for row in held} >= set(healthy)
        _end(conn, end, [row[:3] for row in held])
        run("select * from absurd.sweep()")
        for name in ("expire_leases", "expire_deadlines", "reap_workers", "deliver_late"):
            run(f"select absurd.{name}(50)".encode())
        run(
            "update absurd.runs set available_at = now(), state = 'pending' where task_id = any (%s) and state <> 'running'",
            (healthy,),
        )
    ended = run("select count(*) from absurd.tasks where task_id = any (%s) and outcome = 'completed'", (healthy,)).fetchone()
    assert ended == (3,)
    for statement in (
        "select absurd.append_event('good', 'evt', '{}', 'key2')",
        "select absurd.append_event('good', 'never', '{}')",
        "select absurd.heartbeat_worker('w', 1)",
        "select absurd.release_forgotten('w', '{}', '{}')",
        "select * from absurd.cleanup_all_queues()",
        *(f"select * from absurd.{call}" for call in LISTS),
        "select s.*, absurd.schedule_status(s) from absurd.list_schedules() s",
    ):
        run(statement.encode())
    for task in ill:
        run("select absurd.show_task(%s), absurd.read_task(%s), absurd.read_checkpoints(%s, -1, '')", (task, task, task))
    _fire(conn)
    _retain(conn)


def _retain(conn: Connection) -> None:
    """Queues that keep little are cleaned up, whatever stands in the rows of others."""
    conn.execute("select absurd.create_queue('healthy'), absurd.set_queue_options('healthy', '{\"keep_completed\": 60}')")
    task = _value(conn, "select task_id from absurd.spawn_task('healthy', 'healthy', '{}')")
    (held,) = conn.execute("select task_id, run_id, epoch from absurd.claim_runs('healthy', 'w', 60, 1)").fetchall()
    conn.execute("select absurd.complete_runs(array[%s::uuid], array[%s::uuid], array[%s::int], array['1'::json])", held)
    conn.execute("update absurd.tasks set finished_at = now() - interval '2 minutes' where task_id = %s", (task,))
    for _ in range(2):  # and where a walk has paused
        assert _value(conn, "select next_in from absurd.apply_retention(1000)") is not None
    assert conn.execute("select from absurd.tasks where task_id = %s", (task,)).fetchall() == []


def _fire(conn: Connection) -> None:
    """Schedules and triggers go on: what cannot be started is said, in the row or the answer."""
    for name, revision, slot in conn.execute("select schedule_name, revision, next_slot::text from absurd.schedules").fetchall():
        conn.execute(
            "select * from absurd.fire_schedule(%s, %s, %s, array[now() - interval '1 hour'], null, null)", (name, revision, slot)
        )
    for name, poll in conn.execute("select trigger_name, poll_id from absurd.claim_trigger_polls('p', array['trig'])").fetchall():
        conn.execute(
            "select * from absurd.settle_trigger_poll(%s, %s, array['{}'::json], array['h2'], array[%s::uuid],"
            " array[%s::uuid], '{}')",
            (name, poll, uuid4(), uuid4()),
        )


def _end(conn: Connection, how: str, held: list[Any]) -> None:
    """What a worker's batch does with what it holds."""
    if not held:
        return
    tasks, runs, epochs = map(list, zip(*held, strict=True))
    n = len(held)
    conn.execute("select absurd.extend_leases(%s, %s, 60)", (runs, epochs))
    if how == "fail":
        conn.execute("select absurd.fail_runs(%s, %s, %s::json[], null, null)", (runs, epochs, ["{}"] * n))
    elif how == "release":
        conn.execute("select absurd.release_runs(%s, %s, %s::float8[], %s)", (runs, epochs, [0.001] * n, ["nobody knows it"] * n))
    elif how == "suspend":
        conn.execute(
            "select absurd.suspend_runs(%s, %s, %s, %s, %s, array_fill(null::json, array[%s]),"
            " %s::timestamptz[], %s::float8[], %s, %s)",
            (tasks, runs, epochs, [1] * n, [0] * n, n, [None] * n, [0.001] * n, [f"sleep-{i}" for i in range(n)], ["sleep"] * n),
        )
    elif how == "sweep":
        conn.execute("update absurd.runs set lease_expires_at = now() - interval '1 second' where run_id = any (%s)", (runs,))
    else:
        conn.execute("select absurd.complete_runs(%s, %s, %s, %s::json[])", (tasks, runs, epochs, ["{}"] * n))
