# ruff: noqa: E501  (SQL and tables are read better in long lines)
"""The state that every order begins with, brought back in milliseconds, and what has become of it in words that can be compared.

Tasks of the scene (queue "default", if nothing else is said):

    T  running, held by worker w1 with epoch 1; its lease ends at 12:00:30, its time at 12:00:50; two attempts; has an open token
    P  sleeps until T ends
    W  sleeps until event "go" or, at the latest, 12:00:10
    B  sleeps until both events "go" and "came" have come
    V  sleeps until its token is answered or, at the latest, 12:00:10
    O  of queue "other": sleeps until event "go" of queue "default"
    R  is ready
    F  has failed an hour ago, D is completed since then; event "old" was emitted and taken then

Task "sub" is subscribed to "go". Schedule "s" starts task "ticked" each minute, from noon on.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from tests.faults.orders.scheduler import Actor
from tests.sql.calls import Connection, rows, value

# A parent is older than its child, mostly: its run comes first in the order of ids, and second in that of locks.
NAMES = "PTWBVORFD"
EACH_MINUTE = '{"task": "ticked", "every": 60}'
LONG_AGO, NOON = "2025-06-01 11:00:00+00", "2025-06-01 12:00:00+00"


def task_id(name: str) -> UUID:
    """The id of a task of the scene."""
    return UUID(int=0xA << 96 | (NAMES.index(name) + 1))


def run_id(name: str) -> UUID:
    """The id of its first run."""
    return UUID(int=0xB << 96 | (NAMES.index(name) + 1))


def token_id(name: str) -> UUID:
    """The id of its token, whose secret is the task's name."""
    return UUID(int=0xE0 << 96 | (NAMES.index(name) + 1))


def at(seconds: float) -> str:
    """So many seconds after noon, when the scene is."""
    return f"2025-06-01 12:{int(seconds // 60):02}:{seconds % 60:06.3f}+00"


TABLES = (
    "queues", "tasks", "runs", "attempts", "checkpoints", "events", "event_keys", "event_tasks", "waits", "tokens",
    "idempotency_keys", "subscriptions", "schedules", "workers",
)  # fmt: skip


class Scene:
    """The scene in one database."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._build()
        self._save()

    def reset(self) -> None:
        """Brings it back."""
        self._conn.execute("select absurd_orders.reset()")

    def state(self) -> dict[str, Any]:
        """What is there now, without the ids and moments that differ from execution to execution."""
        found: dict[str, Any] = value(self._conn, "select absurd_orders.state()")
        return found

    def broken_rules(self) -> list[str]:
        """The rules of the schema that the present rows break: none, always."""
        return [f"{found['rule']}: {found['what']}" for found in rows(self._conn, "select * from absurd_orders.broken_rules()")]

    def settle(self) -> None:
        """Has the sweep deliver what an emit in REPEATABLE READ left to it."""
        self._conn.execute(f"set absurd.fake_now = '{at(5)}'")
        self._conn.execute("select absurd.deliver_late()")
        self._conn.execute("reset absurd.fake_now")

    def _build(self) -> None:
        conn = self._conn
        conn.execute("set absurd.fake_now = '2025-06-01 11:00:00+00'")
        conn.execute("select absurd.create_queue('default'), absurd.create_queue('other')")
        self._spawn("D", {}, key="D")
        self._claim("D")
        conn.execute(
            f"select absurd.complete_runs(array['{task_id('D')}']::uuid[], array['{run_id('D')}']::uuid[], '{{1}}', '{{1}}')"
        )
        self._spawn("F", {"max_attempts": 1})
        self._claim("F")
        conn.execute(
            f"""select absurd.fail_runs(array['{run_id("F")}']::uuid[], '{{1}}', '{{"{{\\"name\\": \\"E\\"}}"}}', '{{true}}')"""
        )
        conn.execute("select absurd.append_event('default', 'old', '1')")
        conn.execute("update absurd.events set claimed_at = emitted_at")
        conn.execute(f"set absurd.fake_now = '{NOON}'")
        conn.execute("select absurd.register_worker('w1', '{default}', 'host', 1, '1', 8, 30)")
        self._spawn("T", {"max_attempts": 2, "retry_strategy": {"kind": "none"}, "cancellation": {"max_duration": 50}}, key="T")
        self._claim("T")
        self._make_token("T")
        for name, waits, needed, timeout in (
            ("P", [{"step": "t", "task": str(task_id("T"))}], 1, None),
            ("W", [{"step": "go", "queue": "default", "event": "go"}], 1, 10),
            ("B", [{"step": f"both/{e}", "queue": "default", "event": e} for e in ("go", "came")], 2, None),
            ("V", [], 1, 10),
            ("O", [{"step": "go", "queue": "default", "event": "go"}], 1, None),
        ):
            self._spawn(name, {}, queue="other" if name == "O" else "default")
            self._claim(name, queue="other" if name == "O" else "default")
            waits = waits or [{"step": f"$await_token:{token_id(name)}:ask", "token": self._make_token(name)}]
            conn.execute(suspend(name, waits, needed, timeout, step="both" if name == "B" else waits[0]["step"]))
        conn.execute("select absurd.subscribe('default', 'go', 'sub')")
        conn.execute(f"select absurd.create_schedule('s', 'default', '{EACH_MINUTE}')")
        self._spawn("R", {})
        conn.execute("reset absurd.fake_now")

    def _spawn(self, name: str, options: dict[str, Any], key: str | None = None, queue: str = "default") -> None:
        self._conn.execute(
            "select absurd.spawn_one(%s, %s, %s, %s, 'null', null, %s, %s)",
            (queue, task_id(name), run_id(name), name, json.dumps(options), key),
        )

    def _claim(self, name: str, queue: str = "default") -> None:
        claimed = value(self._conn, "select task_id from absurd.claim_runs(%s, 'w1', 30, 1)", queue)
        assert claimed == task_id(name)

    def _make_token(self, name: str) -> str:
        made = value(
            self._conn,
            "select state ->> 'id' from absurd.create_token(%s, %s, 1, '$token', 0, 'ask', 10)",
            task_id(name),
            run_id(name),
        )
        self._conn.execute(
            "update absurd.tokens set secret_hash = absurd.token_hash(%s), token_id = %s where token_id = %s",
            (name, token_id(name), made),
        )
        return str(token_id(name))

    def _save(self) -> None:
        deletes = "\n".join(f"  delete from absurd.{table};" for table in TABLES)
        inserts = "\n".join(
            f"  insert into absurd.{table} overriding system value select * from absurd_orders.saved_{table};" for table in TABLES
        )
        for table in TABLES:
            # Those that wait stand before those they wait for: who walks the table meets them against the order of their locks.
            order = " order by run_id desc" if table == "runs" else ""
            rows(self._conn, f"create table absurd_orders.saved_{table} as select * from absurd.{table}{order}")
        body = f"begin\n{deletes}\n{inserts}\nend"
        rows(self._conn, f"create function absurd_orders.reset() returns void language plpgsql as $$\n{body}\n$$")
        rows(self._conn, _STATE)
        rows(self._conn, _RULES)


def suspend(
    name: str, waits: list[dict[str, Any]], needed: int, timeout: float | None, epoch: int = 1, step: str = "wait"
) -> str:
    """The call that puts a task of the scene to sleep."""
    seconds, timer, kind = ("null", "null", "null") if timeout is None else (str(timeout), f"'{step}'", "'timeout'")
    return (
        f"select (absurd.suspend_runs(array['{task_id(name)}']::uuid[], array['{run_id(name)}']::uuid[], '{{{epoch}}}', '{{1}}',"
        f" array[{needed}], array['{json.dumps(waits)}'::json], array[null]::timestamptz[], array[{seconds}]::float8[],"
        f" array[{timer}]::text[], array[{kind}]::text[]))[1]"
    )


def actor(name: str, *calls: str, seconds: float = 5, begin: str = "begin", end: str = "commit") -> Actor:
    """An actor whose clock stands so many seconds after noon."""
    return Actor(name, calls, at(seconds), begin, end)


# What can be compared: tasks by name, events by name and payload. Ids and places in the log differ from execution to execution.
_STATE = r"""
create function absurd_orders.state() returns jsonb language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan as $$
begin return (
  with event as (
    select e.seq, e.event_name || coalesce(':' || e.payload::text, '') as label from absurd.events e
  ), task as (
    select t.task_id, jsonb_strip_nulls(jsonb_build_object(
      'name', t.task_name, 'queue', t.queue_name, 'params', t.params ->> 'event_payload', 'key', t.idempotency_key,
      'outcome', t.outcome, 'result', t.result, 'attempt', t.attempt, 'epoch', t.epoch, 'finished', t.finished_at,
      'max_attempts', t.max_attempts,
      'run', (select jsonb_build_object('state', r.state, 'attempt', r.attempt, 'epoch', r.epoch, 'at', r.available_at,
          'worker', r.worker_id, 'lease', r.lease_expires_at, 'deadline', r.deadline_at, 'allowance', r.allowance,
          'waits_left', r.waits_left, 'wake_event', r.wake_event)
        from absurd.runs r where r.task_id = t.task_id),
      'attempts', (select jsonb_agg(jsonb_build_array(a.attempt, a.epoch, a.cause, a.final, a.ended_at) order by a.attempt)
        from absurd.attempts a where a.task_id = t.task_id),
      'steps', (select jsonb_object_agg(c.step_name, jsonb_build_array(c.kind,
          case when c.step_name like '$token%' then null when c.step_name like 'child%' then jsonb_array_length(c.state::jsonb)::text
            else c.state::text end,
          (select label from event where seq = c.event_seq), c.completed_at))
        from absurd.checkpoints c where c.task_id = t.task_id),
      'waits', (select jsonb_agg(jsonb_build_array(w.kind, w.step_name, w.event_name, w.detail is not null)
          order by w.kind, w.step_name, w.event_name) from absurd.waits w where w.task_id = t.task_id),
      'watched', exists (select from absurd.waits w where w.awaited_task_id = t.task_id and w.kind = 'client'),
      'tokens', (select jsonb_agg(jsonb_build_array(k.token_name, k.used_at, k.payload) order by k.token_name, k.used_at)
        from absurd.tokens k where k.task_id = t.task_id))) as it
    from absurd.tasks t
  )
  select jsonb_build_object(
    'tasks', (select jsonb_agg(it order by it) from task),
    'queues', (select jsonb_agg(jsonb_build_array(q.queue_name, q.paused_at is not null) order by q.queue_name) from absurd.queues q),
    'events', (select jsonb_agg(jsonb_build_array(e.event_name, e.payload, e.claimed_at is not null, e.delivered,
        (select count(*) from absurd.event_tasks t where t.seq = e.seq and t.status = 'ok')) order by e.event_name, e.payload::text) from absurd.events e),
    'event keys', (select jsonb_agg(jsonb_build_array(k.idempotency_key, (select label from event where seq = k.seq))
        order by k.idempotency_key) from absurd.event_keys k),
    'keys', (select jsonb_agg(jsonb_build_array(k.idempotency_key, t.task_name) order by k.idempotency_key)
        from absurd.idempotency_keys k left join absurd.tasks t on t.task_id = k.task_id),
    'subscriptions', (select jsonb_agg(jsonb_build_array(s.pattern, s.task_name) order by s.pattern, s.task_name)
        from absurd.subscriptions s),
    'schedules', (select jsonb_agg(jsonb_build_array(s.schedule_name, s.interval_seconds, s.next_slot, s.due_at, s.last_slot, s.last_fired_at,
        s.fired_count, s.revision, s.last_error)) from absurd.schedules s),
    'rows', jsonb_build_array((select count(*) from absurd.runs), (select count(*) from absurd.waits w where w.kind <> 'client'),
        (select count(*) from absurd.checkpoints), (select count(*) from absurd.attempts), (select count(*) from absurd.tokens))));
end $$
"""

_RULES = r"""
create function absurd_orders.broken_rules() returns table (rule text, what text) language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan as $$
begin return query
  select 'a task has a run or an outcome, never both or neither', t.task_name
  from absurd.tasks t left join absurd.runs r on r.task_id = t.task_id where (t.outcome is null) <> (r.run_id is not null)
  union all
  select 'a run has a task', r.run_id::text from absurd.runs r where not exists (select from absurd.tasks t where t.task_id = r.task_id)
  union all
  select 'only a sleeping run waits', r.run_id::text || ' ' || r.state
  from absurd.runs r where r.state <> 'sleeping' and (r.waits_left <> 0 or exists (select from absurd.waits w where w.run_id = r.run_id))
  union all
  select 'a wait belongs to a run of its task', w.wait_id::text || ' ' || w.kind
  from absurd.waits w where w.kind <> 'client'
    and not exists (select from absurd.runs r where r.run_id = w.run_id and r.task_id = w.task_id)
  union all
  select 'as many waits as can still bring what is missing', r.run_id::text
  from absurd.runs r
  where r.waits_left > (select count(*) from absurd.waits w where w.run_id = r.run_id and w.kind in ('event', 'task', 'token'))
  union all
  select 'a sleeper has something that wakes it', r.run_id::text
  from absurd.runs r where r.state = 'sleeping' and r.waits_left = 0 and r.available_at is null
  union all
  select 'a running run has a holder, others have none', r.run_id::text || ' ' || r.state
  from absurd.runs r where (r.state = 'running') <> (r.worker_id is not null) or (r.state <> 'running' and r.lease_expires_at is not null)
    or (r.state = 'running' and r.epoch = 0)
  union all
  select 'no wait for an event that was delivered', w.step_name || ' ' || w.event_name
  from absurd.waits w join absurd.events e on e.queue_name = w.queue_name and e.event_name = w.event_name
  where w.kind = 'event' and e.delivered and e.seq > coalesce(w.since_seq, 0)
  union all
  select 'no wait for a task that has ended or is gone', w.kind || ' ' || w.awaited_task_id
  from absurd.waits w left join absurd.tasks t on t.task_id = w.awaited_task_id
  where w.awaited_task_id is not null and (t.outcome is not null or t.task_id is null)
  union all
  select 'no wait for a token that is used', w.detail
  from absurd.waits w join absurd.tokens k on k.token_id::text = w.detail where w.kind = 'token' and k.used_at is not null
  union all
  select 'a wait gets the first emission of a name, as it was', c.step_name
  from absurd.checkpoints c join absurd.events e on e.seq = c.event_seq and c.kind = 'event'
  where c.state::text <> coalesce(e.payload::text, 'null')
    or exists (select from absurd.events f where f.queue_name = e.queue_name and f.event_name = e.event_name and f.seq < e.seq)
  union all
  select 'an event that somebody got is claimed', e.event_name
  from absurd.events e where e.claimed_at is null and (exists (select from absurd.checkpoints c where c.event_seq = e.seq and c.kind = 'event')
    or exists (select from absurd.event_tasks t where t.seq = e.seq))
  union all
  select 'a timeout or an arrival, never both', c.step_name
  from absurd.checkpoints c where c.kind = 'timeout' and c.step_name = 'both'
    and 2 <= (select count(*) from absurd.checkpoints d where d.task_id = c.task_id and d.step_name like 'both/%')
  union all
  select 'a task that failed or was cancelled has one final attempt, others have none', t.task_name
  from absurd.tasks t
  where (select count(*) from absurd.attempts a where a.task_id = t.task_id and a.final)
    <> coalesce((t.outcome in ('failed', 'cancelled'))::integer, 0)
  union all
  select 'attempts are counted without a gap', t.task_name
  from absurd.tasks t left join absurd.runs r on r.task_id = t.task_id
  where coalesce(r.attempt, t.attempt) <> (select count(*) from absurd.attempts a where a.task_id = t.task_id)
    + (r.run_id is not null or t.outcome = 'completed')::integer
  union all
  select 'a key names the task that carries it', k.idempotency_key
  from absurd.idempotency_keys k
  where not exists (select from absurd.tasks t where t.task_id = k.task_id and t.idempotency_key = k.idempotency_key)
  union all
  select 'a key is carried by one task, and kept as long as it', t.idempotency_key
  from absurd.tasks t where t.idempotency_key is not null
    and not exists (select from absurd.idempotency_keys k where k.queue_name = t.queue_name and k.idempotency_key = t.idempotency_key and k.task_id = t.task_id)
  union all
  select 'an event key names an event', k.idempotency_key
  from absurd.event_keys k where not exists (select from absurd.events e where e.seq = k.seq)
  union all
  select 'an event starts each subscriber''s task once', e.event_name || ' ' || s.task_name
  from absurd.events e join absurd.subscriptions s on s.queue_name = e.queue_name and s.after_seq < e.seq
    and (s.pattern = e.event_name or (right(s.pattern, 1) = '*' and starts_with(e.event_name, left(s.pattern, -1))))
  where e.delivered and 1 <> (select count(*) from absurd.event_tasks t where t.seq = e.seq and t.subscription_id = s.subscription_id)
  union all
  select 'an event has started what it says, and only that', t.task_name
  from absurd.tasks t join absurd.events e on e.seq = (t.headers -> 'absurd-source' ->> 'event_seq')::bigint
  where not exists (select from absurd.event_tasks s where s.task_id = t.task_id)
  union all
  select 'a token that is used has an answer and no timeout', k.token_name
  from absurd.tokens k where (k.used_at is not null) <> (k.payload is not null)
    or (k.used_at is not null and exists (select from absurd.checkpoints c where c.task_id = k.task_id and c.kind = 'timeout' and c.step_name like '$await_token:' || k.token_id || '%'))
  union all
  select 'what belongs to a task goes with it', o.what
  from (
    select c.task_id, 'checkpoint ' || c.step_name as what from absurd.checkpoints c
    union all select a.task_id, 'attempt' from absurd.attempts a
    union all select k.task_id, 'token' from absurd.tokens k
    union all select w.task_id, 'wait' from absurd.waits w where w.kind <> 'client') o
  where not exists (select from absurd.tasks t where t.task_id = o.task_id)
  union all
  select 'what belongs to a queue goes with it', o.what
  from (
    select t.queue_name, 'task ' || t.task_name as what from absurd.tasks t
    union all select r.queue_name, 'run' from absurd.runs r
    union all select e.queue_name, 'event ' || e.event_name from absurd.events e
    union all select s.queue_name, 'subscription ' || s.pattern from absurd.subscriptions s
    union all select s.queue_name, 'schedule ' || s.schedule_name from absurd.schedules s
    union all select w.queue_name, 'wait ' || w.kind from absurd.waits w
    union all select k.queue_name, 'key ' || k.idempotency_key from absurd.idempotency_keys k
    union all select k.queue_name, 'event key ' || k.idempotency_key from absurd.event_keys k) o
  where not exists (select from absurd.queues q where q.queue_name = o.queue_name);
end $$
"""
