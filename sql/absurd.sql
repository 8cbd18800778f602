-- The schema of Absurd, version 2: durable tasks on PostgreSQL 15 or newer.
-- Generated from the files that sql/install.sql names, by `make sql`. Do not edit.
-- Load it into a database that has no schema `absurd`: psql -v ON_ERROR_STOP=1 -f absurd.sql

begin;

-- start.sql

-- One installation at a time in a database; the names of ours are found whatever the caller's settings are.
do $$ begin perform pg_advisory_xact_lock(hashtextextended('absurd schema', 0)); end $$;
set local search_path = pg_catalog;
set local client_min_messages = warning;
-- A function may call one that is created after it.
set local check_function_bodies = off;
create schema if not exists absurd;

-- tables/schema_version.sql

-- One row: the version of the installed schema, for clients that must know whether they fit.
create table absurd.schema_version (
  only_row boolean primary key default true check (only_row),
  version text not null,
  installed_at timestamptz not null default now()
);

-- tables/queues.sql

-- One row per queue: what people decided about it. Hot statements only read it by its key.
create table absurd.queues (
  queue_name text primary key check (octet_length(queue_name) between 1 and 57),
  created_at timestamptz not null default now(),
  paused_at timestamptz,
  max_payload_bytes integer not null default 10485760 check (max_payload_bytes between 1024 and 268435456),
  -- The policy of Absurd's published SQL surface. Storage is shared here, so partition settings are kept and reported only.
  storage_mode text not null default 'unpartitioned' check (storage_mode in ('unpartitioned', 'partitioned')),
  default_partition text not null default 'enabled' check (default_partition in ('enabled', 'disabled')),
  partition_lookahead interval not null default '28 days',
  partition_lookback interval not null default '1 day',
  cleanup_ttl interval not null default '30 days' check (cleanup_ttl >= interval '0'),
  cleanup_limit integer not null default 1000 check (cleanup_limit >= 1),
  detach_mode text not null default 'none' check (detach_mode in ('none', 'empty')),
  detach_min_age interval not null default '30 days'
);

-- tables/retention.sql

-- One row per queue that does not keep everything for ever, or was cleaned up by hand: what people decided, and how far the clean-up
-- has come. Not in `queues`: every spawn reads that, and an upgrade that changes it would wait for everybody's open transactions.
create table absurd.retention (
  queue_name text primary key,
  -- seconds that a task is kept after it ended so; null: for ever
  keep_completed double precision,
  keep_failed double precision,
  keep_cancelled double precision,
  -- ended tasks that are kept at most, the newest; null: any number
  keep_count integer,
  -- seconds that an event is kept after somebody took it first; null: for ever
  keep_events double precision,
  -- The walk over its tasks goes on behind this one, in order of name and id; null: at the beginning
  after_task_name text,
  after_task_id uuid,
  -- what keep_count says in this walk: ended tasks with a smaller id are too many
  beyond_task_id uuid,
  -- how that is found before the walk begins: so many ended tasks have ids from this one on; null: it is found
  counted integer,
  counted_down_to uuid,
  -- how wide a range of ids is counted at once, in 256ths of a millisecond
  count_span bigint,
  -- seconds that this walk has taken: a walk that finds little is followed by a long rest
  task_seconds double precision not null default 0,
  -- when the next walk begins; null: at once
  next_tasks_at timestamptz,
  -- the same of the walk over its events
  after_seq bigint,
  event_seconds double precision not null default 0,
  next_events_at timestamptz,
  visited_at timestamptz,
  -- when somebody cleaned up by hand, last
  cleaned_at timestamptz,
  tasks_deleted bigint not null default 0,
  events_deleted bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200);

-- tables/schedules.sql

-- One row per schedule: what it starts and when, and how far it has come. A slot is the moment a schedule names; due_at is when it fires.
create table absurd.schedules (
  schedule_name text primary key,
  queue_name text not null,
  -- it spawns a task or emits an event
  task_name text,
  event_name text,
  -- its slots: a cron expression in a zone, or anchor_at + k intervals
  cron text,
  interval_seconds double precision,
  timezone text not null,
  params json not null,
  options jsonb not null,
  -- slots are not before starts_at and before ends_at
  starts_at timestamptz,
  ends_at timestamptz,
  jitter_seconds double precision not null,
  catchup text not null check (catchup in ('skip', 'one', 'all')),
  catchup_limit integer not null,
  overlap text not null check (overlap in ('allow', 'skip')),
  run_immediately boolean not null,
  -- the app whose code declares it, null when it was made by hand; since when that code no longer does
  declared_by text,
  undeclared_at timestamptz,
  paused_at timestamptz,
  anchor_at timestamptz not null,
  -- while next_slot is null and it has not ended: a scheduler has still to compute the first slot after this
  plan_after timestamptz not null,
  next_slot timestamptz,
  due_at timestamptz,
  ended_at timestamptz,
  -- why no scheduler can compute its slots
  problem text,
  last_slot timestamptz,
  last_fired_at timestamptz,
  last_task_id uuid,
  -- for overlap = skip: tasks that may still live
  active_task_ids uuid[] not null default '{}',
  last_error text,
  last_error_at timestamptz,
  fired_count bigint not null default 0,
  -- grows with each change by people: what was decided for an older one is void
  revision integer not null default 1,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  check ((task_name is null) <> (event_name is null)),
  check ((cron is null) <> (interval_seconds is null))
) with (fillfactor = 60);

-- tables/types.sql

-- What read_spawn_options() makes of the options of a spawn.
create type absurd.spawn_options as (
  error text,
  headers json,
  retry_strategy jsonb,
  max_attempts integer,
  max_delay double precision,
  max_duration double precision,
  priority integer,
  available_at timestamptz,
  idempotency_key text,
  parent_task_id uuid
);

-- What a wait found, on its way to a checkpoint. No json around it: reading a value out of json reads its neighbours too, and a stored
-- value may hold what text cannot (a NUL character).
create type absurd.arrival as (
  step_name text,
  kind text,
  state json,
  event_seq bigint
);

-- The beginning of a task's history: how many checkpoints there are in all, and the first of them as JSON text.
create type absurd.history_head as (
  total integer,
  checkpoints text
);

-- A place in the order of claims: see claim_runs().
create type absurd.claim_place as (
  priority integer,
  available_at timestamptz,
  run_id uuid
);

-- tables/tasks.sql

-- One row per task: inserted whole at spawn, updated once at its end.
-- No index covers a column that the final update changes, so that update stays HOT; fillfactor leaves it room in the page.
create table absurd.tasks (
  task_id uuid primary key,
  queue_name text not null,
  task_name text not null,
  params json not null,
  headers json,
  retry_strategy jsonb,
  max_attempts integer,
  max_delay double precision,
  max_duration double precision,
  priority integer not null default 0,
  idempotency_key text,
  parent_task_id uuid,
  spawned_at timestamptz not null,
  -- null while the task lives: its state is then that of its row in runs
  outcome text check (outcome in ('completed', 'failed', 'cancelled')),
  result json,
  run_id uuid,
  epoch integer,
  attempt integer,
  worker_id text,
  started_at timestamptz,
  finished_at timestamptz
) with (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

create index tasks_by_name on absurd.tasks (queue_name, task_name, task_id);
create index tasks_by_parent on absurd.tasks (parent_task_id, task_id) where parent_task_id is not null;

-- tables/runs.sql

-- One row per LIVE attempt: this table is the queue. Narrow, inserted, updated at each claim, deleted at the end.
create table absurd.runs (
  run_id uuid primary key,
  task_id uuid not null,
  queue_name text not null,
  -- pending: may be claimed now; running: held by a worker; sleeping: waits for available_at, for events or for tasks
  state text not null check (state in ('pending', 'running', 'sleeping')),
  attempt integer not null,
  priority integer not null default 0,
  -- when it became or becomes ready; null while it sleeps without a time
  available_at timestamptz,
  -- grows with each claim: the fence against workers that held the run before
  epoch integer not null default 0,
  worker_id text,
  lease_expires_at timestamptz,
  started_at timestamptz,
  -- past this moment the task is cancelled: before its first start by max_delay, while running by what is left of max_duration
  deadline_at timestamptz,
  -- seconds of max_duration that are left, kept while nobody runs it
  allowance double precision,
  -- arrivals that are still missing until the run wakes
  waits_left integer not null default 0,
  -- the event whose arrival or timeout woke the run last
  wake_event text,
  -- why it could not be run, for people
  note text
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0);

create unique index runs_by_task on absurd.runs (task_id);
-- Ready rows in claim order. Sleepers have their own index: one over both would walk past every sleeper of a higher priority.
create index runs_ready on absurd.runs (queue_name, priority desc, available_at, run_id) where state = 'pending';
create index runs_due on absurd.runs (queue_name, available_at) where state = 'sleeping' and available_at is not null;
create index runs_leased on absurd.runs (lease_expires_at) where state = 'running' and lease_expires_at is not null;
create index runs_deadline on absurd.runs (deadline_at) where deadline_at is not null;
-- Runs that nobody could run. Free for the others: a note changes only together with the state.
create index runs_noted on absurd.runs (run_id) where note is not null;

-- tables/attempts.sql

-- One row per attempt that ended without completing its task.
create table absurd.attempts (
  run_id uuid primary key,
  task_id uuid not null,
  queue_name text not null,
  attempt integer not null,
  epoch integer not null,
  worker_id text,
  started_at timestamptz,
  ended_at timestamptz not null,
  -- error: the handler raised; lease, worker: its holder vanished; cancel: by hand; delay, duration: a limit of the task
  cause text not null check (cause in ('error', 'lease', 'worker', 'cancel', 'delay', 'duration')),
  failure json not null,
  retry_at timestamptz,
  -- true when it ended the task (until the task is retried by hand)
  final boolean not null
);

create index attempts_by_task on absurd.attempts (task_id, attempt);
create index attempts_final on absurd.attempts (queue_name, ended_at) where final;

-- tables/idempotency_keys.sql

-- One row per idempotency key in use; it goes when its task is cleaned up.
create table absurd.idempotency_keys (
  queue_name text not null,
  idempotency_key text not null,
  task_id uuid not null,
  primary key (queue_name, idempotency_key)
);

-- tables/checkpoints.sql

-- One row per completed effect of a task, by the name that replay asks for.
create table absurd.checkpoints (
  task_id uuid not null,
  step_name text not null,
  -- the place of the effect in the handler's order, to notice code that changed under a task
  position integer not null default 0,
  -- step: a value the handler made; event, task, token: an arrival; timeout, sleep: a moment that passed
  kind text not null default 'step' check (kind in ('step', 'event', 'task', 'token', 'timeout', 'sleep')),
  state json not null,
  event_seq bigint,
  owner_run_id uuid,
  completed_at timestamptz not null,
  primary key (task_id, step_name)
);

-- tables/events.sql

-- One row per emission. A wait gets the first emission of a name, for ever the same.
create table absurd.events (
  seq bigint generated always as identity primary key,
  queue_name text not null,
  event_name text not null,
  payload json,
  -- what emitted it, {"kind", "name", …}: a webhook, a schedule, a task; the tasks that it starts tell it on
  source jsonb,
  emitted_at timestamptz not null,
  -- when a wait or subscriber took it first; clean-up spares what nobody has claimed
  claimed_at timestamptz,
  -- false until the waits have been looked at (an emit in REPEATABLE READ cannot see them and leaves it to a worker)
  delivered boolean not null default true
);

create index events_by_name on absurd.events (queue_name, event_name, seq);
create index events_undelivered on absurd.events (seq) where not delivered;

-- tables/event_keys.sql

-- One row per idempotency key of an emission; it goes with its event.
create table absurd.event_keys (
  queue_name text not null,
  idempotency_key text not null,
  -- null for a moment only, inside of the transaction that takes the key
  seq bigint,
  created_at timestamptz not null,
  primary key (queue_name, idempotency_key)
);

create index event_keys_by_event on absurd.event_keys (seq);

-- tables/subscriptions.sql

-- One row per task that events of a queue start. The order of subscription_id is the order in which they are started.
create table absurd.subscriptions (
  subscription_id bigint generated always as identity primary key,
  -- the queue whose events are meant
  queue_name text not null,
  -- the name of an event, or the beginning of names and a "*"; in "C", for its many probes need no language's order
  pattern text collate "C" not null,
  task_name text not null,
  -- where the task goes; null: the queue of the event
  target_queue text,
  config json,
  -- of the spawn: read_spawn_options() has accepted them
  options jsonb not null,
  -- the last event that was there when it was made: those up to it are not its own
  after_seq bigint not null,
  created_at timestamptz not null,
  last_error text,
  last_error_at timestamptz,
  unique (queue_name, pattern, task_name)
);

-- tables/event_tasks.sql

-- One row per event and subscriber: the task that was started, or why none could be. It goes with its event.
create table absurd.event_tasks (
  seq bigint not null,
  subscription_id bigint not null,
  task_name text not null,
  task_id uuid,
  run_id uuid,
  -- ok, or what spawn_tasks() said: no_queue, invalid, too_large
  status text not null,
  message text,
  primary key (seq, subscription_id)
);

-- tables/waits.sql

-- One row per thing that a sleeping run, or a client, waits for. Inserted at the suspension, deleted when it is over.
create table absurd.waits (
  wait_id bigint generated always as identity primary key,
  -- event, task, token: an arrival that counts; timer: what to record when runs.available_at passes; client: somebody waits for a result
  kind text not null check (kind in ('event', 'task', 'token', 'timer', 'client')),
  run_id uuid,
  task_id uuid,
  step_name text,
  position integer not null default 0,
  queue_name text not null,
  event_name text,
  since_seq bigint,
  awaited_task_id uuid,
  -- for kind token: its id; for kind timer: the checkpoint kind to write, sleep or timeout; for kind client: the channel to notify
  detail text,
  created_at timestamptz not null,
  expires_at timestamptz
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

create index waits_by_run on absurd.waits (run_id) where run_id is not null;
create index waits_by_event on absurd.waits (queue_name, event_name) where event_name is not null;
create index waits_by_task on absurd.waits (awaited_task_id) where awaited_task_id is not null;
create index waits_expiring on absurd.waits (expires_at) where kind = 'client';

-- tables/tokens.sql

-- One row per resume token: what a person or another service may answer once, by its secret, to a task that waits for it.
create table absurd.tokens (
  token_id uuid primary key,
  -- SHA-256 of the secret; the secret itself stands in the checkpoint of the task alone, which hands it out again on replay
  secret_hash bytea not null unique,
  task_id uuid not null,
  token_name text not null,
  title text,
  description text,
  -- what an answer has to be, for those who take it; null: anything
  json_schema json,
  created_at timestamptz not null,
  expires_at timestamptz,
  used_at timestamptz,
  payload json
);

create index tokens_by_task on absurd.tokens (task_id);

-- tables/workers.sql

-- One row per living worker process.
create table absurd.workers (
  worker_id text primary key,
  queue_names text[] not null,
  hostname text not null,
  pid integer not null,
  version text not null,
  concurrency integer not null,
  running integer not null default 0,
  -- true while it has free slots and waits for work: only then is a notification worth its price
  idle boolean not null default false,
  -- the advisory lock that its session holds; null when it cannot hold one (a transaction pooler)
  session_key bigint,
  -- since when the others miss that lock
  missing_since timestamptz,
  started_at timestamptz not null,
  heartbeat_at timestamptz not null,
  -- without a heartbeat for longer than this the row is stale
  lease_seconds double precision not null
) with (fillfactor = 50);

-- tables/listeners.sql

-- One row per listener process.
create table absurd.listeners (
  listener_id text primary key,
  name text not null,
  -- where its tasks go; null: wherever their definition says
  queue_name text,
  hostname text not null,
  pid integer not null,
  -- listening; waiting: to be started again after an error; stopping
  status text not null,
  started_at timestamptz not null,
  heartbeat_at timestamptz not null,
  -- how often it was started: more than once after errors
  started_count integer not null,
  failures integer not null,
  last_error text,
  last_error_at timestamptz
) with (fillfactor = 50);

-- tables/triggers.sql

-- One row per polled trigger: what it starts, how often it is asked, who asks it, and what it remembers between polls.
create table absurd.triggers (
  trigger_name text primary key,
  -- where its tasks go
  queue_name text not null,
  task_name text not null,
  -- the app whose code declares it, by its queue
  declared_by text,
  headers json,
  -- of the spawn: retry_strategy, max_attempts, cancellation, priority
  options jsonb not null default '{}',
  -- seconds
  poll_interval double precision not null check (poll_interval >= 0.1),
  poll_timeout double precision not null check (poll_timeout >= 0.1),
  -- false: a fire is skipped while an execution with the same context is active
  allow_concurrent boolean not null default false,
  -- people's; a registration leaves it alone
  enabled boolean not null default true,
  -- what the trigger remembers, an object
  state json not null default '{}',
  -- the process that polls it, also between polls, until the lease runs out
  owner text,
  lease_expires_at timestamptz,
  -- the poll in flight: the fence against a process that polled before
  poll_id uuid,
  next_poll_at timestamptz not null,
  last_poll_at timestamptz,
  last_fire_at timestamptz,
  -- of the last poll that failed; null after one that did not
  last_error text,
  last_error_at timestamptz,
  -- failed polls in a row
  failures integer not null default 0,
  created_at timestamptz not null,
  updated_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200);

-- tables/trigger_executions.sql

-- One row per fire of a trigger that became a task. It is active while that task has no outcome.
create table absurd.trigger_executions (
  execution_id bigint generated always as identity primary key,
  trigger_name text not null,
  -- sha256 of the context as canonical JSON
  context_hash text not null,
  task_id uuid not null,
  started_at timestamptz not null,
  -- written when somebody looks for active executions, or when the task is cleaned up; until then tasks.finished_at says it
  completed_at timestamptz
);

create index trigger_executions_by_trigger on absurd.trigger_executions (trigger_name, execution_id);
create index trigger_executions_by_task on absurd.trigger_executions (task_id);
create index trigger_executions_open on absurd.trigger_executions (trigger_name, context_hash) where completed_at is null;

-- functions/clock.sql

-- The database's clock; tests move it with the setting absurd.fake_now. Never the worker's clock.
-- Volatile, like the clock in it, for only so is it inlined: as a call it costs a spawn up to 40 µs. So an index is asked for a time
-- that was read into a variable before.
create or replace function absurd.current_time() returns timestamptz
language sql volatile parallel safe as $$
  select coalesce(case when current_setting('absurd.fake_now', true) <> '' then absurd.fake_time() end, clock_timestamp())
$$;

-- The moved clock, for sessions of the owner of the schema alone: anybody may set the setting, and by it others' leases would run out.
create or replace function absurd.fake_time() returns timestamptz
language plpgsql volatile parallel safe as $$
begin
  if not pg_has_role(session_user, (select c.relowner from pg_class c where c.oid = 'absurd.schema_version'::regclass), 'member') then
    raise exception 'role "%" may not set absurd.fake_now: the clock is moved by the owner of the schema absurd', session_user
      using errcode = 'insufficient_privilege';
  end if;
  return current_setting('absurd.fake_now')::timestamptz;
end $$;

-- Seconds that a row holds, as an interval to compute a moment with: whatever is stored, between none and ten years, so that no row makes
-- the statement fail that it shares with others. Null stays null. Inlined where it is called.
create or replace function absurd.stored_seconds(p_seconds double precision) returns interval
language sql immutable parallel safe as $$
  select make_interval(secs => case when p_seconds between 0 and 315360000 then p_seconds
    when p_seconds > 0 then 315360000 when p_seconds < 0 then 0 end)
$$;

-- The version of the installed schema.
create or replace function absurd.get_schema_version() returns text
language sql stable as $$
  select version from absurd.schema_version
$$;

-- The oldest version for which a program may have been written that this schema serves: 1 until a migration takes away or changes
-- what such a program reads, writes or calls. Programs of a former release ask, so that they may start beside newer ones.
create or replace function absurd.get_oldest_served_version() returns text
language sql immutable parallel safe as $$ select '1' $$;

-- functions/ids.sql

-- A UUIDv7 (RFC 9562, section 5.7) for SQL callers: 48 bits of milliseconds, 12 bits of their fraction (section 6.2, method 3), then
-- random bits. Ids that one server makes one after another are in that order, also within a millisecond.
-- It takes the real clock and not absurd.current_time(): an id must stay unique while the clock is moved.
create or replace function absurd.make_id() returns uuid
language sql volatile parallel safe as $$
  select encode(
    overlay(
      uuid_send(gen_random_uuid())
      placing int8send((micros / 1000) << 16 | x'7000'::bigint | (micros % 1000) * 4096 / 1000)
      from 1 for 8),
    'hex')::uuid
  from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as micros) as clock
$$;

-- functions/names.sql

-- What is wrong with a name or key that becomes part of an index, or null. PostgreSQL's B-trees take about 2,700 bytes an entry.
create or replace function absurd.name_error(p_what text, p_name text) returns text
language sql immutable parallel safe as $$
  select case
    when p_name is null or p_name = '' then format('%s must not be empty', p_what)
    when octet_length(p_name) > 1000 then format('%s "%s…" has %s bytes; the limit is 1000', p_what, left(p_name, 40), octet_length(p_name))
  end
$$;

-- Refuses a queue that does not exist, with the list of what to do.
create or replace function absurd.require_queue(p_queue_name text) returns void
language plpgsql stable as $$
begin
  if not exists (select from absurd.queues q where q.queue_name = p_queue_name) then
    raise exception 'queue "%" does not exist', p_queue_name
      using errcode = 'AB010', hint = 'Create it with absurdctl create-queue or select absurd.create_queue(…).';
  end if;
end $$;

-- For a transaction that sees the database as it was when it began (REPEATABLE READ and above): raises a serialization failure if the
-- queue was dropped since. It would seem to be there, and what is put into it would belong to nothing. The caller has its advisory lock.
create or replace function absurd.confirm_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    perform from absurd.queues q where q.queue_name = p_queue_name for key share;
  end if;
end $$;

-- Refuses a payload that is larger than its queue allows.
create or replace function absurd.require_size(p_queue_name text, p_what text, p_value json) returns void
language plpgsql stable as $$
declare
  v_limit integer := (select q.max_payload_bytes from absurd.queues q where q.queue_name = p_queue_name);
begin
  if octet_length(p_value::text) > v_limit then
    raise exception '% has % bytes; queue "%" allows %', p_what, octet_length(p_value::text), p_queue_name, v_limit
      using errcode = 'AB013', hint = 'Store large data elsewhere and pass a reference, or raise max_payload_bytes of the queue.';
  end if;
end $$;

-- What of a JSON value clients cannot read, or null: PostgreSQL takes longer numbers and deeper nesting than Python and others do.
-- E'…' wherever there is a backslash: what '…' means is up to the caller's standard_conforming_strings.
create or replace function absurd.json_error(p_what text, p_value json) returns text
language plpgsql immutable parallel safe as $$
declare
  v_rest text := regexp_replace(p_value::text, E'"(\\\\.|[^"\\\\])*"', '', 'g');
begin
  if v_rest ~ '([0-9]{43}){100}[0-9]' then
    return format('%s hold a number of more than 4300 digits', p_what);
  end if;
  v_rest := regexp_replace(translate(v_rest, '{}', '[]'), '[^][]', '', 'g');
  for i in 1 .. 500 loop
    exit when v_rest = '';
    v_rest := replace(v_rest, '[]', '');
  end loop;
  return case when v_rest <> '' then format('%s are nested more than 500 deep', p_what) end;
end $$;

-- Refuses a call that must see what others commit meanwhile, when the caller's isolation level hides it.
create or replace function absurd.require_read_committed(p_what text) returns void
language plpgsql stable as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception '% needs READ COMMITTED, not %', p_what, upper(current_setting('transaction_isolation'))
      using errcode = 'feature_not_supported', hint = 'Call it in a transaction of its own.';
  end if;
end $$;

-- Keys of the advisory locks: one per queue (spawn and emit share it, drop_queue takes it alone) and one per event name.
create or replace function absurd.queue_lock_key(p_queue_name text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd queue ' || p_queue_name, 0)
$$;

-- The key of one event name of a queue.
create or replace function absurd.event_lock_key(p_queue_name text, p_event_name text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd event ' || octet_length(p_queue_name) || ' ' || p_queue_name || ' ' || p_event_name, 0)
$$;

-- functions/notify.sql

-- The channel on which workers of a queue hear that a run became ready. Hashed: channel names are identifiers of at most 63 bytes.
create or replace function absurd.queue_channel(p_queue_name text) returns text
language sql immutable parallel safe as $$
  select 'absurd_' || md5(p_queue_name)
$$;

-- Tells idle workers of these queues that there is work. NOTIFY serialises commits, so busy workers are not told.
create or replace function absurd.notify_queues(p_queue_names text[]) returns void
language plpgsql volatile as $$
begin
  perform pg_notify(absurd.queue_channel(q.queue_name), '')
  from (select distinct u.queue_name from unnest(p_queue_names) as u(queue_name)) q
  where exists (select from absurd.workers w where w.idle and q.queue_name = any (w.queue_names));
end $$;

-- functions/fence.sql

-- Locks the runs that the caller believes to hold and says for each, in the order given: ok, lost or cancelled.
-- Every write for a run passes here first. Rows are locked in order of run_id, so that no two batches deadlock.
-- A null epoch (clients that know none) is fenced by the run id and its state alone.
create or replace function absurd.fence_runs(p_run_ids uuid[], p_epochs integer[]) returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  perform from absurd.runs r where r.run_id = any (p_run_ids) order by r.run_id for update;
  return array(
    select case
      when r.state = 'running' and (i.epoch is null or r.epoch = i.epoch) then 'ok'
      else absurd.lost_status(i.run_id)
    end
    from unnest(p_run_ids, p_epochs) with ordinality as i(run_id, epoch, ord)
    left join absurd.runs r on r.run_id = i.run_id
    order by i.ord);
end $$;

-- Why a run is no longer the caller's: cancelled, if its task was cancelled; lost otherwise.
create or replace function absurd.lost_status(p_run_id uuid) returns text
language sql stable as $$
  select case when exists (
    select from absurd.attempts a where a.run_id = p_run_id and a.cause in ('cancel', 'delay', 'duration')
  ) then 'cancelled' else 'lost' end
$$;

-- Raises what a client of the single-item functions expects for a run that is no longer its own.
create or replace function absurd.raise_lost(p_run_id uuid, p_status text) returns void
language plpgsql stable as $$
begin
  if p_status = 'cancelled' then
    raise exception 'the task of run % has been cancelled', p_run_id using errcode = 'AB001';
  end if;
  raise exception 'run % has ended or lost its lease', p_run_id using errcode = 'AB002';
end $$;

-- functions/sources.sql

-- Headers of a task with what started it: {"absurd-source": {"kind": …, "name": …, …}}. The same header is written by every source.
create or replace function absurd.with_source(p_headers json, p_kind text, p_name text, p_details jsonb default '{}') returns json
language sql immutable parallel safe as $$
  select (jsonb_build_object('absurd-source', jsonb_build_object('kind', p_kind, 'name', p_name) || coalesce(p_details, '{}'))
    || case when json_typeof(p_headers) = 'object' then p_headers::jsonb else '{}' end)::json
$$;

-- What emitted these events, for the traces of those whom they woke. Events that have been cleaned up are missing; a thousand at most.
create or replace function absurd.event_sources(p_seqs bigint[]) returns table (seq bigint, event_name text, source jsonb)
language sql stable
set jit = off
as $$
  select e.seq, e.event_name, e.source
  from absurd.events e
  where e.seq = any (p_seqs[:1000])
  order by e.seq
$$;

-- functions/queues.sql

-- Creates a queue; one that exists stays as it is. The storage mode is kept and reported: all queues share their tables here.
create or replace function absurd.create_queue(p_queue_name text, p_storage_mode text) returns void
language plpgsql volatile as $$
begin
  if p_queue_name is null or octet_length(p_queue_name) not between 1 and 57 then
    raise exception 'a queue name has 1 to 57 bytes of UTF-8; "%" has %', left(p_queue_name, 80), coalesce(octet_length(p_queue_name), 0)
      using errcode = 'AB012';
  elsif p_storage_mode is null or p_storage_mode not in ('unpartitioned', 'partitioned') then
    raise exception 'storage mode must be unpartitioned or partitioned, not "%"', p_storage_mode using errcode = 'AB012';
  end if;
  insert into absurd.queues (queue_name, storage_mode) values (p_queue_name, p_storage_mode) on conflict (queue_name) do nothing;
end $$;

-- The same with the usual storage mode.
create or replace function absurd.create_queue(p_queue_name text) returns void
language sql volatile as $$
  select absurd.create_queue(p_queue_name, 'unpartitioned')
$$;

-- Drops a queue with everything in it; nothing happens if it is absent. Its advisory lock keeps new tasks, events and waits out meanwhile.
-- Runs of other queues that wait for something in it wake, ask again, and learn that it is gone.
create or replace function absurd.drop_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock(absurd.queue_lock_key(p_queue_name));
  delete from absurd.queues q where q.queue_name = p_queue_name;
  if not found then
    return;
  end if;
  perform absurd.drop_triggers(p_queue_name);
  perform absurd.drop_runs(p_queue_name);
  delete from absurd.waits w where w.queue_name = p_queue_name
    or w.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.checkpoints c where c.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.attempts a where a.queue_name = p_queue_name
    or a.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  -- of triggers that have moved to another queue since: their history stays, and nothing in it is active for ever
  update absurd.trigger_executions e set completed_at = absurd.current_time()
  where e.completed_at is null and e.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.tokens k where k.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.schedules s where s.queue_name = p_queue_name;
  delete from absurd.retention r where r.queue_name = p_queue_name;
  delete from absurd.idempotency_keys k where k.queue_name = p_queue_name;
  delete from absurd.subscriptions s where s.queue_name = p_queue_name;
  delete from absurd.event_keys k where k.queue_name = p_queue_name;
  delete from absurd.event_tasks t where t.seq in (select e.seq from absurd.events e where e.queue_name = p_queue_name);
  delete from absurd.events e where e.queue_name = p_queue_name;
  delete from absurd.tasks t where t.queue_name = p_queue_name;
  -- Again: whoever watches a task holds its row while he registers, so this one came in between.
  delete from absurd.waits w where w.queue_name = p_queue_name;
end $$;

-- Deletes the runs of a queue that is being dropped, and wakes those of other queues that wait for something in it.
-- Locks: whoever ends an attempt holds its run and then locks those that wait for the task. So they are taken in that direction here
-- too, round by round: first the runs that wait for none of the others, in order of run_id. Again until there is none, for whoever ends
-- an attempt while we wait for its row begins the next one in a row that we cannot see yet.
-- A plan of its own for each look at all of them, which knows how many are left: a general one walks all of them for each of them.
create or replace function absurd.drop_runs(p_queue_name text) returns void
language plpgsql volatile
set plan_cache_mode = force_custom_plan
as $$
declare
  v_run_ids uuid[];
  v_round uuid[];
begin
  loop
    v_run_ids := array(
      select r.run_id from absurd.runs r where r.queue_name = p_queue_name
      union
      select r.run_id from absurd.waits w
      left join absurd.tasks t on t.task_id = w.awaited_task_id
      join absurd.runs r on r.run_id = w.run_id and r.queue_name <> p_queue_name and r.state = 'sleeping'
      where (w.kind = 'event' and w.queue_name = p_queue_name) or (w.kind = 'task' and t.queue_name = p_queue_name));
    exit when cardinality(v_run_ids) = 0;
    v_round := array(
      select u.run_id from unnest(v_run_ids) as u(run_id)
      where not exists (
        select from absurd.waits w
        join absurd.runs r on r.task_id = w.awaited_task_id
        join unnest(v_run_ids) as m(run_id) on m.run_id = r.run_id
        where w.run_id = u.run_id and w.kind = 'task'));
    -- None: they wait for each other in a circle.
    v_round := case when cardinality(v_round) > 0 then v_round else v_run_ids end;
    -- A long chain has as many rounds as runs: as long as there are any, the next ones are those who waited for the last ones.
    while cardinality(v_round) > 0 loop
      v_round := absurd.find_followers(p_queue_name, absurd.drop_round(p_queue_name, v_round));
    end loop;
  end loop;
end $$;

-- One round of drop_runs(); the tasks of the runs that it has deleted.
create or replace function absurd.drop_round(p_queue_name text, p_run_ids uuid[]) returns uuid[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_task_ids uuid[];
begin
  perform from absurd.runs r join unnest(p_run_ids) as u(run_id) on u.run_id = r.run_id order by r.run_id for update of r;
  delete from absurd.waits w using unnest(p_run_ids) as u(run_id) where w.run_id = u.run_id;
  with gone as (
    delete from absurd.runs r using unnest(p_run_ids) as u(run_id) where r.run_id = u.run_id and r.queue_name = p_queue_name
    returning r.task_id)
  select array_agg(g.task_id) into v_task_ids from gone g;
  perform absurd.put_back(r.run_id, 'pending', absurd.current_time(), 0)
  from absurd.runs r join unnest(p_run_ids) as u(run_id) on u.run_id = r.run_id
  where r.state = 'sleeping';
  return v_task_ids;
end $$;

-- Runs that wait for one of these tasks, which have none any more, and for no task besides.
create or replace function absurd.find_followers(p_queue_name text, p_task_ids uuid[]) returns uuid[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  return array(
    select distinct w.run_id
    from unnest(p_task_ids) as e(task_id)
    join absurd.waits w on w.awaited_task_id = e.task_id and w.kind = 'task'
    join absurd.runs r on r.run_id = w.run_id and (r.queue_name = p_queue_name or r.state = 'sleeping')
    where not exists (
      select from absurd.waits o
      join absurd.runs l on l.task_id = o.awaited_task_id
      where o.run_id = w.run_id and o.kind = 'task'));
end $$;

-- The names of all queues.
create or replace function absurd.list_queues() returns table (queue_name text)
language sql stable as $$
  select q.queue_name from absurd.queues q order by q.queue_name
$$;

-- How large params, payloads, results and states may be, in bytes, for those of these queues that exist.
create or replace function absurd.queue_limits(p_queue_names text[]) returns table (queue_name text, max_payload_bytes integer)
language sql stable as $$
  select q.queue_name, q.max_payload_bytes from absurd.queues q where q.queue_name = any (p_queue_names)
$$;

-- Stops claims from a queue; what runs goes on. Tasks and events are still accepted.
create or replace function absurd.pause_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  perform absurd.require_queue(p_queue_name);
  update absurd.queues q set paused_at = coalesce(q.paused_at, absurd.current_time()) where q.queue_name = p_queue_name;
end $$;

-- Lets claims go on.
create or replace function absurd.resume_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  perform absurd.require_queue(p_queue_name);
  update absurd.queues q set paused_at = null where q.queue_name = p_queue_name;
  perform absurd.notify_queues(array[p_queue_name]);
end $$;

-- functions/options.sql

-- What is wrong with a number inside options, or null. Inlined where it is called, so that a good number costs no call.
create or replace function absurd.number_error(p_name text, p_value jsonb, p_min numeric, p_max numeric, p_whole boolean default false)
returns text
language sql immutable parallel safe as $$
  select case when
    case jsonb_typeof(p_value)
      when 'number' then p_value::numeric between p_min and p_max and (not p_whole or p_value::numeric % 1 = 0)
      when 'null' then true
      else p_value is null
    end
  then null else absurd.number_problem(p_name, p_value, p_min, p_max, p_whole) end
$$;

-- Puts into words why a number is refused.
create or replace function absurd.number_problem(p_name text, p_value jsonb, p_min numeric, p_max numeric, p_whole boolean)
returns text
language plpgsql immutable parallel safe as $$
begin
  if jsonb_typeof(p_value) <> 'number' then
    return format('%s must be a number, not %s', p_name, left(p_value::text, 100));
  elsif p_whole and p_value::numeric % 1 <> 0 then
    return format('%s must be a whole number, not %s', p_name, left(p_value::text, 100));
  end if;
  return format('%s must be between %s and %s, not %s', p_name, p_min, p_max, left(p_value::text, 100));
end $$;

-- A number inside options, to nine places: finer ones mean nothing here, and the finest are more than a double precision can hold.
-- Null for what is no number. Never raises.
create or replace function absurd.option_number(p_value jsonb) returns double precision
language sql immutable parallel safe as $$
  select case when jsonb_typeof(p_value) = 'number' then
    round(least(greatest((p_value #>> '{}')::numeric, -1e15), 1e15), 9)::double precision
  end
$$;

-- What is wrong with the keys of an object inside options, or null. Inlined like number_error().
create or replace function absurd.object_error(p_name text, p_value jsonb, p_known text[]) returns text
language sql immutable parallel safe as $$
  select case when
    case jsonb_typeof(p_value)
      when 'object' then p_value - p_known = '{}'
      when 'null' then true
      else p_value is null
    end
  then null else absurd.object_problem(p_name, p_value, p_known) end
$$;

-- Puts into words why an object is refused.
create or replace function absurd.object_problem(p_name text, p_value jsonb, p_known text[]) returns text
language plpgsql immutable parallel safe as $$
begin
  if jsonb_typeof(p_value) <> 'object' then
    return format('%s must be an object, not %s', p_name, left(p_value::text, 100));
  end if;
  return format('%s has no option "%s"; known are %s', p_name,
    left((select k from jsonb_object_keys(p_value - p_known) k limit 1), 100), array_to_string(p_known, ', '));
end $$;

-- What is wrong with headers, or null: they travel with every claim and every log line, so they are small.
create or replace function absurd.headers_error(p_headers json) returns text
language sql immutable parallel safe as $$
  select case when octet_length(p_headers::text) > 65536 then
    format('headers have %s bytes; 65536 are allowed', octet_length(p_headers::text)) end
$$;

-- The same for headers that a schedule, a trigger or a subscription gives to its tasks. What started a task comes to them, with the
-- source of an event inside: so these and that source have a quarter each, and no start is refused for what the library adds.
create or replace function absurd.kept_headers_error(p_headers json) returns text
language sql immutable parallel safe as $$
  select case when octet_length(p_headers::text) > 16384 then
    format('headers have %s bytes; 16384 are allowed', octet_length(p_headers::text)) end
$$;

-- What is wrong with a retry strategy, or null.
create or replace function absurd.retry_strategy_error(p_value jsonb) returns text
language plpgsql immutable parallel safe as $$
declare
  v_error text := absurd.object_error('retry_strategy', p_value, array['kind', 'base_seconds', 'factor', 'max_seconds', 'jitter']);
begin
  if v_error is not null or p_value is null or jsonb_typeof(p_value) = 'null' then
    return v_error;
  elsif jsonb_typeof(p_value -> 'kind') is distinct from 'string' or (p_value ->> 'kind') not in ('fixed', 'exponential', 'none') then
    return format('retry_strategy.kind must be fixed, exponential or none, not %s', coalesce(left((p_value -> 'kind')::text, 100), 'missing'));
  end if;
  return coalesce(
    absurd.number_error('retry_strategy.base_seconds', p_value -> 'base_seconds', 0, 315360000),
    absurd.number_error('retry_strategy.factor', p_value -> 'factor', 1, 1000),
    absurd.number_error('retry_strategy.max_seconds', p_value -> 'max_seconds', 0, 315360000),
    absurd.number_error('retry_strategy.jitter', p_value -> 'jitter', 0, 1));
end $$;

-- Whether options are what the library sends with most spawns: max_attempts and a retry strategy, all given and all good. One test instead
-- of the dozens of read_spawn_options(), for each expression of PL/pgSQL is prepared again in each transaction. Inlined where it is called.
create or replace function absurd.are_usual_options(p_options jsonb) returns boolean
language sql immutable parallel safe as $$
  select p_options @@ 'strict $.max_attempts >= 1 && $.max_attempts <= 1000000 && $.max_attempts % 1 == 0
      && ($.retry_strategy.kind == "exponential" || $.retry_strategy.kind == "fixed" || $.retry_strategy.kind == "none")
      && $.retry_strategy.base_seconds >= 0 && $.retry_strategy.base_seconds <= 315360000
      && $.retry_strategy.factor >= 1 && $.retry_strategy.factor <= 1000
      && $.retry_strategy.max_seconds >= 0 && $.retry_strategy.max_seconds <= 315360000
      && $.retry_strategy.jitter >= 0 && $.retry_strategy.jitter <= 1
      && !exists($.keyvalue() ? (@.key != "max_attempts" && @.key != "retry_strategy"))
      && !exists($.retry_strategy.keyvalue() ? (@.key != "kind" && @.key != "base_seconds" && @.key != "factor"
        && @.key != "max_seconds" && @.key != "jitter"))'
$$;

-- Reads the options of a spawn; error says what is wrong with them, so that no bad value is ever stored.
create or replace function absurd.read_spawn_options(p_options jsonb) returns absurd.spawn_options
language plpgsql stable as $$
declare
  v absurd.spawn_options;
  v_limits jsonb := p_options -> 'cancellation';
  v_option text := 'available_at';
begin
  if absurd.are_usual_options(p_options) then
    v.retry_strategy := p_options -> 'retry_strategy';
    v.max_attempts := (p_options -> 'max_attempts')::integer;
    return v;
  end if;
  v.error := absurd.object_error('options', p_options, array['headers', 'retry_strategy', 'max_attempts', 'cancellation',
    'idempotency_key', 'priority', 'delay', 'available_at', 'parent_task_id']);
  if v.error is not null or p_options is null or jsonb_typeof(p_options) = 'null' then
    return v;
  end if;
  v.error := coalesce(
    absurd.retry_strategy_error(p_options -> 'retry_strategy'),
    absurd.number_error('max_attempts', p_options -> 'max_attempts', 1, 1000000, true),
    absurd.object_error('cancellation', v_limits, array['max_delay', 'max_duration']),
    absurd.number_error('cancellation.max_delay', v_limits -> 'max_delay', 0, 315360000),
    absurd.number_error('cancellation.max_duration', v_limits -> 'max_duration', 0, 315360000),
    absurd.number_error('priority', p_options -> 'priority', -32768, 32767, true),
    absurd.number_error('delay', p_options -> 'delay', 0, 315360000));
  if v.error is not null then
    return v;
  end if;
  if jsonb_typeof(p_options -> 'headers') not in ('object', 'null') then
    v.error := format('headers must be an object, not %s', left((p_options -> 'headers')::text, 100));
    return v;
  end if;
  v.error := absurd.headers_error((p_options -> 'headers')::json);
  if v.error is not null then
    return v;
  end if;
  v.headers := nullif(p_options -> 'headers', 'null');
  v.retry_strategy := nullif(p_options -> 'retry_strategy', 'null');
  v.max_attempts := (p_options ->> 'max_attempts')::numeric;
  v.max_delay := absurd.option_number(v_limits -> 'max_delay');
  v.max_duration := absurd.option_number(v_limits -> 'max_duration');
  v.priority := (p_options ->> 'priority')::numeric;
  if jsonb_typeof(p_options -> 'idempotency_key') <> 'null' then
    if jsonb_typeof(p_options -> 'idempotency_key') <> 'string' then
      v.error := format('idempotency_key must be a string, not %s', left((p_options -> 'idempotency_key')::text, 100));
      return v;
    end if;
    v.idempotency_key := p_options ->> 'idempotency_key';
  end if;
  v.available_at := absurd.current_time() + make_interval(secs => nullif(absurd.option_number(p_options -> 'delay'), 0));
  -- The block that catches what cannot be read has its price, and few spawns need it.
  if p_options ?| array['available_at', 'parent_task_id'] then
    begin
      v.available_at := coalesce((p_options ->> 'available_at')::timestamptz, v.available_at);
      v_option := 'parent_task_id';
      v.parent_task_id := (p_options ->> 'parent_task_id')::uuid;
      if v.available_at not between '1970-01-01' and absurd.current_time() + interval '10 years' then
        v.error := format('available_at must lie within the next ten years, not %s', p_options ->> 'available_at');
      end if;
    exception when data_exception then
      v.error := format('%s cannot be read: %s', v_option, sqlerrm);
    end;
  end if;
  return v;
end $$;

-- Seconds until the attempt after p_attempt, by the strategy stored with the task. Never raises, whatever is stored.
-- No strategy: at once. fixed: base_seconds (60). exponential: base_seconds (30) * factor (2) ^ (attempt - 1), at most max_seconds.
-- jitter takes away a random part of the delay, up to that fraction. Everything is capped at ten years.
create or replace function absurd.retry_delay(p_strategy jsonb, p_attempt integer) returns double precision
language sql volatile as $$
  select case p_strategy ->> 'kind'
    when 'fixed' then least(greatest(coalesce(o.base_seconds, 60), 0), 315360000)
    when 'exponential' then
      case
        when coalesce(o.base_seconds, 30) <= 0 then 0
        else exp(least(
          ln(coalesce(o.base_seconds, 30)) + (greatest(p_attempt, 1) - 1) * ln(greatest(coalesce(o.factor, 2), 1)),
          ln(greatest(least(coalesce(o.max_seconds, 315360000), 315360000), 1e-6))))
      end
    else 0
  end * (1 - random() * least(greatest(coalesce(o.jitter, 0), 0), 1))
  from (
    select absurd.option_number(p_strategy -> 'base_seconds') as base_seconds, absurd.option_number(p_strategy -> 'factor') as factor,
      absurd.option_number(p_strategy -> 'max_seconds') as max_seconds, absurd.option_number(p_strategy -> 'jitter') as jitter
  ) o
$$;

-- functions/spawn.sql

-- What is wrong with an item of a spawn, or null. p_max_bytes is the queue's limit, null if there is no such queue.
create or replace function absurd.spawn_problem(
  p_queue_name text, p_max_bytes integer, p_task_name text, p_params json, p_idempotency_key text, p_option_error text)
returns text
language sql immutable parallel safe as $$
  select coalesce(
    case when p_max_bytes is null then format('queue "%s" does not exist', p_queue_name) end,
    absurd.name_error('task name', p_task_name),
    case when p_idempotency_key is not null then absurd.name_error('idempotency key', p_idempotency_key) end,
    p_option_error,
    case when octet_length(p_params::text) > p_max_bytes then format('params of task "%s" have %s bytes; queue "%s" allows %s',
      p_task_name, octet_length(p_params::text), p_queue_name, p_max_bytes) end)
$$;

-- Inserts tasks with their first runs. One answer per item, in the order given; a bad item says so and harms no other.
-- Ids come from the caller, so a call whose answer was lost can be repeated: a task that is there already is reported as before.
-- Locks: each queue's advisory lock, shared, in order of name (against drop_queue); idempotency keys in order of key.
create or replace function absurd.spawn_tasks(
  p_queue_names text[], p_task_ids uuid[], p_run_ids uuid[], p_task_names text[], p_params json[], p_headers json[],
  p_options jsonb[], p_idempotency_keys text[])
returns table (task_id uuid, run_id uuid, attempt integer, created boolean, status text, message text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_queues text[] := array(select distinct u.q from unnest(p_queue_names) as u(q) where u.q is not null order by 1);
  v_owners uuid[];
  v_owner_run_ids uuid[];
  v_owner_attempts integer[];
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(u.q)), absurd.confirm_queue(u.q) from unnest(v_queues) as u(q);
  if exists (select from unnest(p_idempotency_keys) as u(k) where u.k is not null) then
    select c.owners, c.run_ids, c.attempts into v_owners, v_owner_run_ids, v_owner_attempts
    from absurd.claim_idempotency_keys(p_queue_names, p_idempotency_keys, p_task_ids, p_run_ids, array(
      select absurd.spawn_problem(u.queue_name, q.max_payload_bytes, u.task_name, u.params, u.key,
        coalesce(opt.error, absurd.headers_error(u.headers))) is null
      from unnest(p_queue_names, p_task_names, p_params, p_headers, p_options, p_idempotency_keys)
        with ordinality as u(queue_name, task_name, params, headers, options, key, ord)
      left join absurd.queues q on q.queue_name = u.queue_name
      left join (
        select d.options, (absurd.read_spawn_options(d.options)).error from (select distinct o as options from unnest(p_options) as o) d
      ) opt on opt.options = u.options
      order by u.ord)) c;
  end if;
  return query
  with item as materialized (
    select u.ord, u.queue_name, u.task_id, u.run_id, u.task_name, u.params, u.headers, u.options, u.owner, u.owner_run_id, u.owner_attempt,
      u.idempotency_key
    from unnest(p_queue_names, p_task_ids, p_run_ids, p_task_names, p_params, p_headers, p_options, v_owners, v_owner_run_ids,
        v_owner_attempts, p_idempotency_keys) with ordinality
      as u(queue_name, task_id, run_id, task_name, params, headers, options, owner, owner_run_id, owner_attempt, idempotency_key, ord)
  ), opt as materialized (
    select d.options, absurd.read_spawn_options(d.options) as o from (select distinct i.options from item i where i.options is not null) d
  ), judged as materialized (
    select i.*, opt.o, q.queue_name is null as no_queue,
      coalesce((opt.o).available_at, v_now) as available_at,
      -- The cheap test first: the function call is for items that fail it.
      case
        when octet_length(i.task_name) between 1 and 1000 and octet_length(coalesce(i.idempotency_key, 'x')) between 1 and 1000
          and octet_length(i.params::text) <= q.max_payload_bytes and (opt.o).error is null
          and coalesce(octet_length(i.headers::text), 0) <= 65536 then null
        else absurd.spawn_problem(i.queue_name, q.max_payload_bytes, i.task_name, i.params, i.idempotency_key,
          coalesce((opt.o).error, absurd.headers_error(i.headers)))
      end as problem,
      octet_length(i.params::text) > q.max_payload_bytes as too_large
    from item i
    left join absurd.queues q on q.queue_name = i.queue_name
    left join opt on opt.options = i.options
  ), new_task as (
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
      priority, idempotency_key, parent_task_id, spawned_at)
    select j.task_id, j.queue_name, j.task_name, coalesce(j.params, 'null'), coalesce(j.headers, (j.o).headers), (j.o).retry_strategy,
      (j.o).max_attempts, (j.o).max_delay, (j.o).max_duration, coalesce((j.o).priority, 0), j.idempotency_key, (j.o).parent_task_id, v_now
    from judged j
    where j.problem is null and (j.owner is null or j.owner = j.task_id)
    order by j.ord
    on conflict (task_id) do nothing
    returning tasks.task_id
  ), new_run as (
    insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, deadline_at, allowance)
    select j.run_id, j.task_id, j.queue_name, case when j.available_at > v_now then 'sleeping' else 'pending' end, 1,
      coalesce((j.o).priority, 0), j.available_at, j.available_at + make_interval(secs => (j.o).max_delay), (j.o).max_duration
    from judged j
    where j.task_id in (select n.task_id from new_task n)
    order by j.ord
    returning runs.queue_name, runs.state
  ), told as (
    select absurd.notify_queues(array_agg(distinct n.queue_name)) from new_run n where n.state = 'pending' having count(*) > 0
  )
  select
    case when j.problem is null then coalesce(j.owner, j.task_id) end,
    case when j.problem is null then coalesce(j.owner_run_id, j.run_id) end,
    coalesce(j.owner_attempt, 1),
    j.problem is null and (j.owner is null or j.owner = j.task_id),
    case when j.problem is null then 'ok' when j.no_queue then 'no_queue' when j.too_large then 'too_large' else 'invalid' end,
    j.problem
  from judged j
  -- Used, for a CTE that nobody reads is not run and nobody would be told.
  cross join (select count(*) as n from told) t
  where t.n >= 0
  order by j.ord;
end $$;

-- The same for one task, which is what most calls bring.
create or replace function absurd.spawn_one(
  p_queue_name text, p_task_id uuid, p_run_id uuid, p_task_name text, p_params json, p_headers json, p_options jsonb, p_idempotency_key text,
  out task_id uuid, out run_id uuid, out attempt integer, out created boolean, out status text, out message text)
returns record
language plpgsql volatile
as $$
#variable_conflict use_column
declare
  v_tell boolean;
  v_now timestamptz;
  v_max_bytes integer;
  v_o absurd.spawn_options;
begin
  -- Before the look at the queue: drop_queue may have the lock.
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  v_now := absurd.current_time();
  select q.max_payload_bytes into v_max_bytes from absurd.queues q where q.queue_name = p_queue_name;
  perform absurd.confirm_queue(p_queue_name);
  if p_options is not null then
    v_o := absurd.read_spawn_options(p_options);
  end if;
  message := absurd.spawn_problem(p_queue_name, v_max_bytes, p_task_name, p_params, p_idempotency_key,
    coalesce(v_o.error, absurd.headers_error(p_headers)));
  attempt := 1;
  if message is not null then
    created := false;
    status := case when v_max_bytes is null then 'no_queue' when octet_length(p_params::text) > v_max_bytes then 'too_large' else 'invalid' end;
    return;
  end if;
  status := 'ok';
  if p_idempotency_key is not null then
    select c.owners[1], c.run_ids[1], c.attempts[1] into task_id, run_id, attempt
    from absurd.claim_idempotency_keys(array[p_queue_name], array[p_idempotency_key], array[p_task_id], array[p_run_id], array[true]) c;
    if task_id <> p_task_id then
      created := false;
      return;
    end if;
  end if;
  task_id := p_task_id;
  run_id := p_run_id;
  attempt := 1;
  created := true;
  with new_task as (
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
      priority, idempotency_key, parent_task_id, spawned_at)
    values (p_task_id, p_queue_name, p_task_name, coalesce(p_params, 'null'), coalesce(p_headers, v_o.headers), v_o.retry_strategy,
      v_o.max_attempts, v_o.max_delay, v_o.max_duration, coalesce(v_o.priority, 0), p_idempotency_key, v_o.parent_task_id, v_now)
    on conflict (task_id) do nothing
    returning priority
  )
  insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, deadline_at, allowance)
  select p_run_id, p_task_id, p_queue_name, case when v_o.available_at > v_now then 'sleeping' else 'pending' end, 1,
    n.priority, coalesce(v_o.available_at, v_now), coalesce(v_o.available_at, v_now) + make_interval(secs => v_o.max_delay), v_o.max_duration
  from new_task n
  returning state = 'pending' and exists (select from absurd.workers w where w.idle and p_queue_name = any (w.queue_names)) into v_tell;
  if v_tell then
    perform pg_notify(absurd.queue_channel(p_queue_name), '');
  end if;
end $$;

-- The same for a client that needs no answer where all is as it asked for: null, then; else the columns of spawn_one() as an array.
-- Most tasks have no key, and options that have to be looked at, not through. It inserts nothing where anything is not as usual, and
-- leaves it to spawn_one() to find out what that is. An application waits for it at each spawn, so it is made of as few parts as
-- there can be: a statement of two INSERTs, or an answer of several columns, would take as long as an INSERT more.
-- It sets nothing for its planner: it meets no large table but by insertion.
create or replace function absurd.spawn_quietly(
  p_queue_name text, p_task_id uuid, p_run_id uuid, p_task_name text, p_params json, p_headers json, p_options jsonb, p_idempotency_key text)
returns json
language plpgsql volatile
as $$
declare
  -- An assignment, for a PERFORM costs five times as much. Before the look at the queue: drop_queue may have the lock.
  v_locked text := pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  v_now timestamptz;
  v_tell boolean;
begin
  -- The options of an application that has chosen none are known to be good.
  if p_idempotency_key is null and (
      p_options = '{"max_attempts": 5,
        "retry_strategy": {"kind": "exponential", "base_seconds": 1, "factor": 2, "max_seconds": 300, "jitter": 0.2}}'
      or absurd.are_usual_options(p_options)) then
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, spawned_at)
    select p_task_id, p_queue_name, p_task_name, coalesce(p_params, 'null'), p_headers, p_options -> 'retry_strategy',
      (p_options -> 'max_attempts')::integer, absurd.current_time()
    from absurd.queues q
    where q.queue_name = p_queue_name
      and octet_length(p_task_name) between 1 and 1000 and coalesce(octet_length(p_params::text), 0) <= q.max_payload_bytes
      and coalesce(octet_length(p_headers::text), 0) <= 65536
      -- else the queue has to be confirmed
      and current_setting('transaction_isolation') = 'read committed'
    on conflict (task_id) do nothing
    returning spawned_at into v_now;
    if v_now is not null then
      insert into absurd.runs (run_id, task_id, queue_name, state, attempt, available_at)
      values (p_run_id, p_task_id, p_queue_name, 'pending', 1, v_now)
      -- notify_queues() without the call
      returning exists (select from absurd.workers w where w.idle and p_queue_name = any (w.queue_names)) into v_tell;
      if v_tell then
        perform pg_notify(absurd.queue_channel(p_queue_name), '');
      end if;
      return null;
    end if;
  end if;
  return (
    select json_build_array(s.task_id, s.run_id, s.attempt, s.created, s.status, s.message)
    from absurd.spawn_one(p_queue_name, p_task_id, p_run_id, p_task_name, p_params, p_headers, p_options, p_idempotency_key) s
    where not s.created);
end $$;

-- Takes the keys for these tasks, or finds who has them: per item the task that owns its key, the present or last run of that task and
-- its attempt; null without a key. Only acceptable items take a key: one that is refused leaves it to those that come after it.
create or replace function absurd.claim_idempotency_keys(
  p_queue_names text[], p_keys text[], p_task_ids uuid[], p_run_ids uuid[], p_acceptable boolean[],
  out owners uuid[], out run_ids uuid[], out attempts integer[])
returns record
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_missing boolean;
begin
  -- Again until each has an owner that is there: a clean-up may delete it between the insert that met its key and the look at it.
  -- One look tells key, task and run, so that none of them can be gone when the others are read.
  loop
    insert into absurd.idempotency_keys (queue_name, idempotency_key, task_id)
    select u.queue_name, u.key, u.task_id
    from unnest(p_queue_names, p_keys, p_task_ids, p_acceptable) with ordinality as u(queue_name, key, task_id, acceptable, ord)
    where u.key is not null and u.acceptable
    order by u.queue_name, u.key, u.ord
    on conflict (queue_name, idempotency_key) do nothing;
    select array_agg(o.task_id order by u.ord), array_agg(o.run_id order by u.ord), array_agg(o.attempt order by u.ord),
      bool_or(u.key is not null and u.acceptable and o.known is not true)
    into owners, run_ids, attempts, v_missing
    from unnest(p_queue_names, p_keys, p_task_ids, p_run_ids, p_acceptable) with ordinality
      as u(queue_name, key, task_id, run_id, acceptable, ord)
    left join lateral (
      select k.task_id, coalesce(r.attempt, t.attempt, 1) as attempt,
        case
          when k.task_id = u.task_id then u.run_id
          when t.task_id is not null then coalesce(r.run_id, t.run_id)
          -- another item of this call, which is inserted later
          else p_run_ids[array_position(p_task_ids, k.task_id)]
        end as run_id,
        t.task_id is not null or k.task_id = any (p_task_ids) as known
      from absurd.idempotency_keys k
      left join absurd.tasks t on t.task_id = k.task_id
      left join absurd.runs r on r.task_id = k.task_id
      where k.queue_name = u.queue_name and k.idempotency_key = u.key
      limit 1
    ) o on true;
    exit when v_missing is not true;
    -- A key goes with its task; one that has none belongs to nobody.
    delete from absurd.idempotency_keys k
    using unnest(p_queue_names, p_keys) as u(queue_name, key)
    where k.queue_name = u.queue_name and k.idempotency_key = u.key and k.task_id <> all (p_task_ids)
      and not exists (select from absurd.tasks t where t.task_id = k.task_id);
  end loop;
end $$;

-- Spawns children of a running task and records who they are as one checkpoint of it, in one transaction: exactly once.
-- status: ok, lost, cancelled; busy: a queue is being dropped, ask again; else the first item's problem, and then nothing was spawned.
-- state: [{"task_id", "run_id", "created"}, …] in the order given; when the step was done before, what it recorded then.
create or replace function absurd.spawn_children(
  p_owner_task_id uuid, p_owner_run_id uuid, p_owner_epoch integer, p_step_name text, p_position integer,
  p_queue_names text[], p_task_ids uuid[], p_run_ids uuid[], p_task_names text[], p_params json[], p_headers json[],
  p_options jsonb[], p_idempotency_keys text[])
returns table (status text, message text, state json)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_status text;
  v_message text;
  v_state json;
begin
  v_status := (absurd.fence_runs(array[p_owner_run_id], array[p_owner_epoch]))[1];
  if v_status <> 'ok' then
    return query select v_status, null::text, null::json;
    return;
  end if;
  select c.state into v_state from absurd.checkpoints c where c.task_id = p_owner_task_id and c.step_name = p_step_name;
  if found then
    return query select 'ok', null::text, v_state;
    return;
  end if;
  -- Everybody else takes the lock of a queue before that of a run, so it is not waited for here.
  if exists (
      select from unnest(p_queue_names) as u(q)
      where u.q is not null and not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(u.q))) then
    return query select 'busy', null::text, null::json;
    return;
  end if;
  -- All or none: the items go in inside a block, and a refused one rolls the block back.
  begin
    select min(s.status) filter (where s.status <> 'ok'), min(s.message) filter (where s.status <> 'ok'),
      json_agg(json_build_object('task_id', s.task_id, 'run_id', s.run_id, 'created', s.created) order by s.ord)
    into v_status, v_message, v_state
    from absurd.spawn_tasks(p_queue_names, p_task_ids, p_run_ids, p_task_names, p_params, p_headers, p_options, p_idempotency_keys)
      with ordinality as s(task_id, run_id, attempt, created, status, message, ord);
    if v_status is not null then
      raise exception using errcode = 'AB012';
    end if;
  exception when sqlstate 'AB012' then
    return query select v_status, v_message, null::json;
    return;
  end;
  insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)
  values (p_owner_task_id, p_step_name, p_position, v_state, p_owner_run_id, absurd.current_time());
  return query select 'ok', null::text, v_state;
end $$;

-- functions/claim.sql

-- Makes ready runs of a queue the caller's for the length of the lease, best priority first, then by the time they became ready.
-- Reads as many rows as it returns, whatever the backlog: the ready index is in claim order. Checkpoints come along;
-- a first claim has none and reads none. Large histories come in pieces: see read_checkpoints().
-- checkpoints: [[step_name, position, kind, state, event_seq], …] in handler order; checkpoint_count says how many there are in all.
-- next_after, in one of the rows: how far this claim got, for p_after of the next one. While somebody holds an old snapshot, claimed
-- rows stay in the index as dead entries at its head, and a claim without p_after walks past all of them. One with it does not see
-- rows that became ready long before its place (a long transaction spawned them, a worker handed them back), so a caller has
-- to look without it now and then. If it finds less than was asked for, it goes back a second by itself: rows are not
-- committed in the order of their times. waited_seconds: from the moment a run became ready to this claim.
create or replace function absurd.claim_runs(
  p_queue_name text, p_worker_id text, p_lease_seconds double precision, p_limit integer, p_after absurd.claim_place[] default null)
returns table (
  task_id uuid, run_id uuid, epoch integer, attempt integer, task_name text, params text, headers text, max_attempts integer,
  parent_task_id uuid, deadline_at timestamptz, checkpoint_count integer, checkpoints text,
  waited_seconds double precision, next_after text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_ready absurd.claim_place[];
  v_after text;
  v_last uuid;
begin
  if not exists (select from absurd.queues q where q.queue_name = p_queue_name and q.paused_at is null) then
    return;
  end if;
  v_ready := absurd.lock_ready(p_queue_name, p_limit, p_after, interval '0');
  if p_after is not null and cardinality(v_ready) < p_limit then
    v_ready := absurd.lock_ready(p_queue_name, p_limit, p_after, interval '1 second');
  end if;
  if cardinality(v_ready) = 0 then
    return;
  end if;
  v_after := absurd.claim_places(p_after, v_ready)::text;
  v_last := v_ready[cardinality(v_ready)].run_id;
  return query
  with taken as (
    update absurd.runs r
    set state = 'running', epoch = least(r.epoch, 2147483646) + 1, worker_id = p_worker_id,
      lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
      started_at = coalesce(r.started_at, v_now),
      deadline_at = v_now + absurd.stored_seconds(r.allowance), allowance = null, note = null
    from unnest(v_ready) as ready
    where r.run_id = ready.run_id
    returning r.task_id, r.run_id, r.epoch, r.attempt, r.deadline_at, r.available_at
  )
  select c.task_id, c.run_id, c.epoch, c.attempt, c.task_name, c.params, c.headers, c.max_attempts, c.parent_task_id, c.deadline_at,
    coalesce((c.head).total, 0), (c.head).checkpoints, (extract(epoch from v_now) - extract(epoch from c.available_at))::double precision,
    case when c.run_id = v_last then v_after end
  from (
    select k.*, t.task_name, t.params::text as params, t.headers::text as headers, t.max_attempts, t.parent_task_id,
      -- A case and no join: the condition of a lateral join is tested after the look, for every row.
      case when k.epoch > 1 or k.attempt > 1 then absurd.first_checkpoints(k.task_id) end as head
    from taken k
    join absurd.tasks t on t.task_id = k.task_id
    offset 0  -- keeps the head from being computed once per column
  ) c;
end $$;

-- Locks ready runs in claim order, those after the given places only, or up to p_back before them. Priorities without a place are
-- looked at from their beginning, so a new row of a better priority comes first, as it should. Rows that are locked are left out.
create or replace function absurd.lock_ready(p_queue_name text, p_limit integer, p_after absurd.claim_place[], p_back interval)
returns absurd.claim_place[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
  return array(
    select (l.priority, l.available_at, l.run_id)::absurd.claim_place
    from (
      -- The priorities above each place, then that of the place itself; a last place of nulls leaves all below.
      select g.low, g.high, g.available_at, g.run_id
      from (
        select p.*, lag(p.priority) over (order by p.ord) as above
        from unnest(p_after || null::absurd.claim_place) with ordinality as p(priority, available_at, run_id, ord)
      ) p
      cross join lateral (values
        (1, coalesce(p.priority + (p.priority < 2147483647)::integer, -2147483648),
          coalesce(p.above - (p.above > -2147483648)::integer, 2147483647),
          timestamptz '-infinity', uuid '00000000-0000-0000-0000-000000000000'),
        (2, p.priority, p.priority, p.available_at - p_back, p.run_id)
      ) as g(part, low, high, available_at, run_id)
      order by p.ord, g.part
    ) g
    -- One walk of the index for each, from its place on; it ends with the limit.
    cross join lateral (
      select r.priority, r.available_at, r.run_id
      from absurd.runs r
      where r.queue_name = p_queue_name and r.state = 'pending'
        and r.priority between g.low and g.high and (r.available_at, r.run_id) > (g.available_at, g.run_id)
      order by r.priority desc, r.available_at, r.run_id
      limit p_limit
      for update skip locked
    ) l
    limit p_limit);
end $$;

-- The places that claims have got to: the last row of each priority, best first. More priorities than sixteen are not worth their walks.
create or replace function absurd.claim_places(p_before absurd.claim_place[], p_ready absurd.claim_place[]) returns absurd.claim_place[]
language sql immutable as $$
  select array_agg((b.priority, b.available_at, b.run_id)::absurd.claim_place order by b.priority desc)
  from (
    select distinct on (p.priority) p.priority, p.available_at, p.run_id
    from (
      select u.priority, u.available_at, u.run_id, lead(u.priority) over (order by u.ord) as next_priority
      from unnest(p_ready) with ordinality as u(priority, available_at, run_id, ord)
      union all
      select u.priority, u.available_at, u.run_id, null from unnest(p_before) as u
    ) p
    where p.priority is distinct from p.next_priority
    order by p.priority desc, p.available_at desc, p.run_id desc
    limit 16
  ) b
$$;

-- The head of a task's history: at most 1,000 checkpoints and about 1 MB, and how many there are in all.
create or replace function absurd.first_checkpoints(p_task_id uuid) returns absurd.history_head
language sql stable as $$
  select max(c.total)::integer,
    json_agg(json_build_array(c.step_name, c.position, c.kind, c.state, c.event_seq) order by c.position, c.step_name)
      filter (where c.n <= 1000 and c.size_before < 1000000)::text
  from (
    select s.step_name, s.position, s.kind, s.state, s.event_seq,
      count(*) over () as total,
      row_number() over w as n,
      coalesce(sum(pg_column_size(s.state)) over (w rows between unbounded preceding and 1 preceding), 0) as size_before
    from absurd.checkpoints s
    where s.task_id = p_task_id
    window w as (order by s.position, s.step_name)
  ) c
$$;

-- The next piece of a long history: up to 1,000 checkpoints after a place in handler order, and about 4 MB but at least one of them,
-- in the form of claim_runs().
create or replace function absurd.read_checkpoints(p_task_id uuid, p_after_position integer, p_after_step text) returns text
language sql stable as $$
  select json_agg(json_build_array(c.step_name, c.position, c.kind, c.state, c.event_seq) order by c.position, c.step_name)::text
  from (
    select n.*, coalesce(sum(pg_column_size(n.state)) over (order by n.position, n.step_name rows between unbounded preceding and 1 preceding), 0)
      as size_before
    from (
      select s.* from absurd.checkpoints s
      where s.task_id = p_task_id and (s.position, s.step_name) > (p_after_position, p_after_step)
      order by s.position, s.step_name
      limit 1000
    ) n
  ) c
  where c.size_before < 4000000
$$;

-- Makes sleepers whose time has come ready, and records what that means for them: a sleep that is over, a wait that timed out.
-- Returns how many, and when the next one is due. Bounded; rows that somebody else is changing are left to him.
-- looked_until: nobody that was due before it is left, for p_after of the next call, which then begins a second before that place: sleepers
-- are not committed in the order of their times. While somebody holds an old snapshot, those that have woken stay in the index as dead
-- entries, and a call without p_after walks past all of them; a caller has to make one now and then.
create or replace function absurd.promote_due(p_queue_name text, p_limit integer default 500, p_after timestamptz default null)
returns table (promoted integer, next_due timestamptz, looked_until timestamptz)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_from timestamptz := coalesce(p_after - interval '1 second', '-infinity');
  v_run_ids uuid[];
  v_next_due timestamptz;
begin
  v_run_ids := array(
    select d.run_id from (
      select r.run_id from absurd.runs r
      where r.queue_name = p_queue_name and r.state = 'sleeping' and r.available_at <= v_now and r.available_at >= v_from
      order by r.available_at
      limit p_limit
      for update skip locked) d);
  if cardinality(v_run_ids) > 0 then
    perform absurd.end_waits(v_run_ids, v_now);
    perform absurd.notify_queues(array[p_queue_name]);
  end if;
  v_next_due := (
    select r.available_at from absurd.runs r
    where r.queue_name = p_queue_name and r.state = 'sleeping' and r.available_at >= v_from
    order by r.available_at limit 1);
  return query select cardinality(v_run_ids), v_next_due, least(v_next_due, v_now);
end $$;

-- Ends the waits of locked sleepers by time: writes what their timers say, drops the rest, makes them ready.
create or replace function absurd.end_waits(p_run_ids uuid[], p_now timestamptz) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  with gone as (
    delete from absurd.waits w where w.run_id = any (p_run_ids)
    returning w.run_id, w.task_id, w.kind, w.step_name, w.position, w.detail, w.event_name
  ), recorded as (
    insert into absurd.checkpoints (task_id, step_name, position, kind, state, owner_run_id, completed_at)
    select g.task_id, g.step_name, g.position, g.detail, 'null', g.run_id, p_now
    from gone g where g.kind = 'timer' and g.task_id is not null and g.step_name is not null
    on conflict (task_id, step_name) do nothing
  )
  update absurd.runs r
  set state = 'pending', waits_left = 0,
    wake_event = (select min(g.event_name) from gone g where g.run_id = r.run_id and g.kind = 'event')
  where r.run_id = any (p_run_ids);
end $$;

-- functions/leases.sql

-- Renews the leases of runs that a worker holds. One status per item: ok, lost, cancelled; busy: somebody is changing the run.
-- It never waits for a row: while one run is locked elsewhere, the leases of the others must not run out.
create or replace function absurd.extend_leases(p_run_ids uuid[], p_epochs integer[], p_lease_seconds double precision)
returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_free uuid[] := array(
    select f.run_id from (
      select r.run_id from absurd.runs r where r.run_id = any (p_run_ids) and r.state = 'running' for update skip locked) f);
begin
  update absurd.runs r
  -- never sooner than it would have: a heartbeat that asks for little must not cost the lease
  set lease_expires_at = greatest(r.lease_expires_at, absurd.current_time() + make_interval(secs => p_lease_seconds))
  from unnest(p_run_ids, p_epochs) as i(run_id, epoch)
  where r.run_id = i.run_id and r.epoch = i.epoch and r.run_id = any (v_free);
  return array(
    select case
      when r.state = 'running' and r.epoch = i.epoch then case when r.run_id = any (v_free) then 'ok' else 'busy' end
      else absurd.lost_status(i.run_id)
    end
    from unnest(p_run_ids, p_epochs) with ordinality as i(run_id, epoch, ord)
    left join absurd.runs r on r.run_id = i.run_id
    order by i.ord);
end $$;

-- Renews the leases of all runs of a worker of which less than three quarters are left, also of those that it does not know of yet: they
-- are claimed, and the answer waits for an event loop that user code blocks. Returns how many. It waits for no row.
create or replace function absurd.extend_worker_leases(p_worker_id text, p_lease_seconds double precision) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run_ids uuid[] := array(
    select f.run_id from (
      select r.run_id from absurd.runs r
      where r.worker_id = p_worker_id and r.state = 'running' and r.lease_expires_at < v_now + make_interval(secs => p_lease_seconds * 0.75)
      order by r.run_id
      for update skip locked) f);
begin
  update absurd.runs r set lease_expires_at = v_now + make_interval(secs => p_lease_seconds) where r.run_id = any (v_run_ids);
  return cardinality(v_run_ids);
end $$;

-- Hands runs back to their queue without charging an attempt: at once, or after a delay when nobody here can run them.
-- One status per item: ok, lost, cancelled. Repeated after a lost answer it says lost, which the caller may ignore.
create or replace function absurd.release_runs(p_run_ids uuid[], p_epochs integer[], p_delays double precision[], p_notes text[])
returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  perform absurd.put_back(i.run_id, case when i.delay > 0 then 'sleeping' else 'pending' end,
    v_now + make_interval(secs => coalesce(i.delay, 0)), 0, i.note)
  from unnest(p_run_ids, p_delays, p_notes, v_status) as i(run_id, delay, note, status)
  where i.status = 'ok';
  -- What nobody could run has not been started: its max_delay goes on, from the first time that somebody took it.
  update absurd.runs r
  set deadline_at = least(r.started_at, v_now) + absurd.stored_seconds(t.max_delay)
  from unnest(p_run_ids, p_delays, v_status) as i(run_id, delay, status), absurd.tasks t
  where i.status = 'ok' and i.delay > 0 and r.run_id = i.run_id and r.attempt = 1 and t.task_id = r.task_id and t.max_delay is not null
    and not exists (select from absurd.checkpoints c where c.task_id = r.task_id);
  return v_status;
end $$;

-- Hands back what a worker claimed without ever learning of it, because the answer of its claim was lost. Returns how many.
create or replace function absurd.release_forgotten(p_worker_id text, p_known_run_ids uuid[], p_known_epochs integer[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_run_ids uuid[] := array(
    select f.run_id from (
      select r.run_id from absurd.runs r
      -- Through the index of leases: it holds what runs at this moment, of all workers, and no more.
      where r.worker_id = p_worker_id and r.state = 'running' and r.lease_expires_at is not null
        -- Known by its epoch: the lost batch may have put a run to sleep and claimed it again.
        and not exists (
          select from unnest(p_known_run_ids, p_known_epochs) as k(run_id, epoch) where k.run_id = r.run_id and k.epoch = r.epoch)
      order by r.run_id
      for update skip locked) f);
begin
  perform absurd.put_back(u.run_id, 'pending', absurd.current_time(), 0) from unnest(v_run_ids) as u(run_id);
  return cardinality(v_run_ids);
end $$;

-- functions/checkpoints.sql

-- Records completed steps of running tasks. One status per item: ok, lost, cancelled. A repeated call changes nothing and says ok.
create or replace function absurd.record_checkpoints(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_step_names text[], p_positions integer[], p_states json[])
returns text[]
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)
  select i.task_id, i.step_name, i.position, i.state, i.run_id, v_now
  from unnest(p_task_ids, p_run_ids, p_step_names, p_positions, p_states, v_status)
    as i(task_id, run_id, step_name, position, state, status)
  where i.status = 'ok'
  on conflict (task_id, step_name) do nothing;
  return v_status;
end $$;

-- What a worker needs to know of a step whose commit was never answered: waits for the transaction that may still hold the run,
-- then says ok if the checkpoint is there and the run's status otherwise; missing if the run is still the caller's and nothing was recorded.
create or replace function absurd.verify_checkpoint(p_task_id uuid, p_run_id uuid, p_epoch integer, p_step_name text) returns text
language plpgsql volatile as $$
declare
  v_status text := (absurd.fence_runs(array[p_run_id], array[p_epoch]))[1];
begin
  if v_status = 'ok' and not exists (
      select from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name and c.owner_run_id = p_run_id) then
    return 'missing';
  end if;
  return v_status;
end $$;

-- functions/suspend.sql

-- Looks for what a wait asks for: {"step", "queue", "event", "since"}, {"step", "task"} or {"step", "token"}.
-- status: found, absent; busy: somebody is deciding on it at this moment, ask again; no_queue, no_task, no_token.
-- Of a token of its own task nobody else decides: the caller holds the run.
-- It never waits for a lock: an emit in a long transaction elsewhere holds up this wait alone.
create or replace function absurd.find_arrival(p_wait json)
returns table (status text, kind text, state json, event_seq bigint)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_event absurd.events;
  v_outcome text;
  v_queue text;
begin
  if p_wait ->> 'task' is not null then
    select t.outcome, t.queue_name into v_outcome, v_queue from absurd.tasks t where t.task_id = (p_wait ->> 'task')::uuid for share skip locked;
    if not found then
      return query select case when exists (select from absurd.tasks t where t.task_id = (p_wait ->> 'task')::uuid)
        then 'busy' else 'no_task' end, 'task', null::json, null::bigint;
    -- The lock of the queue: a drop_queue that has begun would not see this wait and never wake it.
    elsif not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(v_queue)) then
      return query select 'busy', 'task', null::json, null::bigint;
    elsif v_outcome is null then
      return query select 'absent', 'task', null::json, null::bigint;
    else
      return query select 'found', 'task', absurd.task_outcome((p_wait ->> 'task')::uuid), null::bigint;
    end if;
    return;
  end if;
  if p_wait ->> 'token' is not null then
    return query select case when k.used_at is null then 'absent' else 'found' end, 'token', k.payload, null::bigint
      from absurd.tokens k where k.token_id = (p_wait ->> 'token')::uuid;
    if not found then
      return query select 'no_token', 'token', null::json, null::bigint;
    end if;
    return;
  end if;
  if not exists (select from absurd.queues q where q.queue_name = p_wait ->> 'queue') then
    return query select 'no_queue', 'event', null::json, null::bigint;
    return;
  elsif not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(p_wait ->> 'queue'))
      or not pg_try_advisory_xact_lock_shared(absurd.event_lock_key(p_wait ->> 'queue', p_wait ->> 'event')) then
    return query select 'busy', 'event', null::json, null::bigint;
    return;
  end if;
  select * into v_event from absurd.events e
  where e.queue_name = p_wait ->> 'queue' and e.event_name = p_wait ->> 'event' and e.seq > coalesce((p_wait ->> 'since')::bigint, 0)
  order by e.seq limit 1;
  if not found then
    return query select 'absent', 'event', null::json, null::bigint;
    return;
  end if;
  if v_event.claimed_at is null then
    -- skip locked: whoever holds the row is marking it too
    update absurd.events e set claimed_at = absurd.current_time()
    where e.seq = (select f.seq from absurd.events f where f.seq = v_event.seq and f.claimed_at is null for update skip locked);
  end if;
  return query select 'found', 'event', coalesce(v_event.payload, 'null'), v_event.seq;
end $$;

-- Decides waits of running tasks that can be decided at once. needed: how many of the waits have to arrive (1 = any).
-- status: ok and arrivals [[step_name, position, kind, state, event_seq], …], now checkpoints of the task; waiting: nothing was written,
-- suspend the run; busy: ask again; lost, cancelled, no_queue, no_task, no_token.
create or replace function absurd.check_waits(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_positions integer[], p_needed integer[], p_waits json[])
returns table (status text, arrivals text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
  v_arrivals absurd.arrival[];
  v_decided text;
begin
  for i in 1 .. cardinality(p_run_ids) loop
    v_arrivals := null;
    if v_status[i] = 'ok' then
      select coalesce(min(f.problem), case when count(*) filter (where f.status = 'found') >= p_needed[i] then 'ok' else 'waiting' end),
        array_agg((f.step_name, f.kind, f.state, f.event_seq)::absurd.arrival order by f.ord)
          filter (where f.status = 'found' and f.found_before < p_needed[i])
      into v_decided, v_arrivals
      from (
        select w.ord, w.value ->> 'step' as step_name, a.status, a.kind, a.state, a.event_seq,
          case when a.status not in ('found', 'absent') then a.status end as problem,
          count(*) filter (where a.status = 'found') over (order by w.ord rows between unbounded preceding and 1 preceding) as found_before
        from json_array_elements(p_waits[i]) with ordinality as w(value, ord)
        cross join lateral absurd.find_arrival(w.value) a
      ) f;
      v_status[i] := v_decided;
    end if;
    if v_status[i] = 'ok' then
      perform absurd.record_arrivals(p_task_ids[i], p_run_ids[i], p_positions[i], v_arrivals);
      return query
        select 'ok', json_agg(json_build_array(a.step_name, p_positions[i], a.kind, a.state, a.event_seq) order by a.ord)::text
        from unnest(v_arrivals) with ordinality as a(step_name, kind, state, event_seq, ord);
    else
      return query select v_status[i], null::text;
    end if;
  end loop;
end $$;

-- Writes arrivals as checkpoints.
create or replace function absurd.record_arrivals(p_task_id uuid, p_run_id uuid, p_position integer, p_arrivals absurd.arrival[]) returns void
language sql volatile as $$
  insert into absurd.checkpoints (task_id, step_name, position, kind, state, event_seq, owner_run_id, completed_at)
  select p_task_id, a.step_name, p_position, a.kind, a.state, a.event_seq, p_run_id, absurd.current_time()
  from unnest(p_arrivals) as a
  on conflict (task_id, step_name) do nothing
$$;

-- Puts running tasks to sleep until their time or their arrivals, whichever is first; what arrived meanwhile counts, and a run with
-- nothing left to wait for is ready again at once. A sleep is a suspension with a time and no waits.
-- timer_steps, timer_kinds: the checkpoint to write when the time passes, and its kind: sleep or timeout.
-- One status per item: ok; busy: ask again; lost, cancelled, no_queue, no_task, no_token. Repeated after a lost answer it says ok again.
create or replace function absurd.suspend_runs(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_positions integer[], p_needed integer[], p_waits json[],
  p_wake_ats timestamptz[], p_timeouts double precision[], p_timer_steps text[], p_timer_kinds text[])
returns text[]
language plpgsql volatile as $$
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  for i in 1 .. cardinality(p_run_ids) loop
    if v_status[i] = 'ok' then
      v_status[i] := absurd.suspend_run(p_task_ids[i], p_run_ids[i], p_positions[i], p_needed[i], p_waits[i],
        -- the earlier of the two that are given
        least(p_wake_ats[i], absurd.current_time() + make_interval(secs => p_timeouts[i])), p_timer_steps[i], p_timer_kinds[i]);
    elsif v_status[i] = 'lost' and exists (
        select from absurd.runs r where r.run_id = p_run_ids[i] and r.epoch = p_epochs[i] and r.state <> 'running') then
      v_status[i] := 'ok';
    end if;
  end loop;
  return v_status;
end $$;

-- Puts one run, which the caller has locked, to sleep.
create or replace function absurd.suspend_run(
  p_task_id uuid, p_run_id uuid, p_position integer, p_needed integer, p_waits json, p_wake_at timestamptz, p_timer_step text, p_timer_kind text)
returns text
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_wait record;
  v_arrival record;
  v_arrivals absurd.arrival[] := '{}'::absurd.arrival[];
  v_absent json[] := '{}'::json[];
  v_missing integer := coalesce(p_needed, 0);
begin
  for v_wait in select w.value from json_array_elements(coalesce(p_waits, '[]')) as w(value) loop
    exit when v_missing = 0;
    select * into v_arrival from absurd.find_arrival(v_wait.value);
    if v_arrival.status = 'found' then
      v_missing := v_missing - 1;
      v_arrivals := v_arrivals || (v_wait.value ->> 'step', v_arrival.kind, v_arrival.state, v_arrival.event_seq)::absurd.arrival;
    elsif v_arrival.status = 'absent' then
      v_absent := v_absent || v_wait.value;
    else
      return v_arrival.status;
    end if;
  end loop;
  if cardinality(v_arrivals) > 0 then
    perform absurd.record_arrivals(p_task_id, p_run_id, p_position, v_arrivals);
  end if;
  if p_needed > 0 and v_missing = 0 then
    perform absurd.put_back(p_run_id, 'pending', v_now, 0);
    return 'ok';
  end if;
  insert into absurd.waits
    (kind, run_id, task_id, step_name, position, queue_name, event_name, since_seq, awaited_task_id, detail, created_at)
  select case when w.value ->> 'task' is not null then 'task' when w.value ->> 'token' is not null then 'token' else 'event' end,
    p_run_id, p_task_id, w.value ->> 'step', p_position, coalesce(w.value ->> 'queue', r.queue_name), w.value ->> 'event',
    (w.value ->> 'since')::bigint, (w.value ->> 'task')::uuid, w.value ->> 'token', v_now
  from unnest(v_absent) as w(value), absurd.runs r
  where r.run_id = p_run_id;
  insert into absurd.waits (kind, run_id, task_id, step_name, position, queue_name, detail, created_at)
  select 'timer', p_run_id, p_task_id, p_timer_step, p_position, r.queue_name, p_timer_kind, v_now
  from absurd.runs r
  where r.run_id = p_run_id and p_wake_at is not null and p_timer_step is not null;
  -- A time that is over counts from now: looks for sleepers, and claims, have got past the old one.
  perform absurd.put_back(p_run_id, 'sleeping', case when p_wake_at < v_now then v_now else p_wake_at end, v_missing);
  return 'ok';
end $$;

-- Takes a run, which the caller has locked, out of its worker's hands. What is left of max_duration is kept for the next claim.
create or replace function absurd.put_back(
  p_run_id uuid, p_state text, p_available_at timestamptz, p_waits_left integer, p_note text default null)
returns void
language sql volatile as $$
  with changed as (
    update absurd.runs r
    set state = p_state, available_at = p_available_at, waits_left = p_waits_left, worker_id = null, lease_expires_at = null,
      wake_event = null, note = p_note,
      allowance = case when r.deadline_at is not null
          then greatest(extract(epoch from r.deadline_at) - extract(epoch from absurd.current_time()), 0)::double precision
        else r.allowance end,
      deadline_at = null
    where r.run_id = p_run_id
    returning r.queue_name, r.state
  )
  select absurd.notify_queues(array[c.queue_name]) from changed c where c.state = 'pending'
$$;

-- functions/complete.sql

-- Ends runs with a result: the task is completed, the run row goes, whoever waits for the task is told.
-- One status per item: ok, lost, cancelled. Repeated after a lost answer it says ok again.
create or replace function absurd.complete_runs(p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_results json[]) returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  with item as materialized (
    select i.run_id, i.result
    from unnest(p_run_ids, p_results, v_status) as i(run_id, result, status)
    where i.status = 'ok'
  ), gone as (
    delete from absurd.runs r using item i where r.run_id = i.run_id
    returning r.run_id, r.task_id, r.epoch, r.attempt, r.worker_id, r.started_at, i.result
  )
  update absurd.tasks t
  set outcome = 'completed', result = coalesce(g.result, 'null'), run_id = g.run_id, epoch = g.epoch, attempt = g.attempt, worker_id = g.worker_id,
    started_at = g.started_at, finished_at = v_now
  from gone g
  where t.task_id = g.task_id;
  if exists (select from absurd.waits w where w.awaited_task_id = any (p_task_ids)) then
    perform absurd.wake_task_waiters(p_task_ids);
  end if;
  if 'lost' = any (v_status) then
    v_status := array(
      select case when i.status = 'lost' and t.outcome = 'completed' and t.run_id = i.run_id and t.epoch = i.epoch then 'ok' else i.status end
      from unnest(p_task_ids, p_run_ids, p_epochs, v_status) with ordinality as i(task_id, run_id, epoch, status, ord)
      left join absurd.tasks t on t.task_id = i.task_id
      order by i.ord);
  end if;
  return v_status;
end $$;

-- functions/fail.sql

-- Ends attempts with a failure: the next one follows the task's strategy, or the task has failed.
-- retry_ats overrules the strategy's time; retryable false means that no other attempt makes sense.
-- One status per item: ok, lost, cancelled. Repeated after a lost answer it says ok again.
create or replace function absurd.fail_runs(
  p_run_ids uuid[], p_epochs integer[], p_failures json[], p_retryable boolean[], p_retry_ats timestamptz[] default null)
returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  perform absurd.end_attempts(
    array_agg(i.run_id), array_agg('error'::text), array_agg(i.failure), array_agg(coalesce(i.retryable, true)), array_agg(i.retry_at))
  from unnest(p_run_ids, p_failures, p_retryable, p_retry_ats, v_status) as i(run_id, failure, retryable, retry_at, status)
  where i.status = 'ok'
  having count(*) > 0;
  if 'lost' = any (v_status) then
    v_status := array(
      select case when i.status = 'lost' and a.cause = 'error' and a.epoch = i.epoch then 'ok' else i.status end
      from unnest(p_run_ids, p_epochs, v_status) with ordinality as i(run_id, epoch, status, ord)
      left join absurd.attempts a on a.run_id = i.run_id
      order by i.ord);
  end if;
  return v_status;
end $$;

-- Ends the attempts of runs that the caller has locked, each for its cause. What follows is decided here and nowhere else:
-- cancel, delay, duration: the task is cancelled. error: another attempt after the strategy's delay. lease, worker: another attempt
-- at once, for its holder vanished and the task did nothing wrong. No attempt, or no allowance, left: the task has failed.
create or replace function absurd.end_attempts(
  p_run_ids uuid[], p_causes text[], p_failures json[], p_retryable boolean[] default null, p_retry_ats timestamptz[] default null)
returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_ended uuid[];
  v_ready text[];
begin
  with item as materialized (
    select * from unnest(p_run_ids, p_causes, p_failures, p_retryable, p_retry_ats) as i(run_id, cause, failure, retryable, retry_at)
  ), gone as materialized (
    delete from absurd.runs r using item i where r.run_id = i.run_id
    returning r.*, i.cause, i.failure, i.retryable, i.retry_at,
      case when r.state = 'running' and r.deadline_at is not null
          then greatest(extract(epoch from r.deadline_at) - extract(epoch from v_now), 0)::double precision
        else r.allowance end as left_over
  ), unawaited as (
    delete from absurd.waits w using gone g where w.run_id = g.run_id
  ), judged as materialized (
    -- A caller may have taken the id of an attempt that has ended for his run. That must not fail the statement for the others.
    select g.*, case when exists (select from absurd.attempts a where a.run_id = g.run_id) then absurd.make_id() else g.run_id end as attempt_id,
      g.cause in ('error', 'lease', 'worker') and coalesce(g.retryable, true)
        and (t.max_attempts is null or g.attempt < t.max_attempts) and (g.left_over is null or g.left_over > 0) as again,
      case
        when g.retry_at is not null then g.retry_at
        when g.cause = 'error' then v_now + make_interval(secs => absurd.retry_delay(t.retry_strategy, g.attempt))
        else v_now
      end as next_at
    from gone g
    join absurd.tasks t on t.task_id = g.task_id
  ), ended as (
    insert into absurd.attempts (run_id, task_id, queue_name, attempt, epoch, worker_id, started_at, ended_at, cause, failure, retry_at, final)
    select j.attempt_id, j.task_id, j.queue_name, j.attempt, j.epoch, j.worker_id, j.started_at, v_now, j.cause, coalesce(j.failure, 'null'),
      case when j.again then j.next_at end, not j.again
    from judged j
  ), followed as (
    insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, allowance)
    select absurd.make_id(), j.task_id, j.queue_name, case when j.next_at > v_now then 'sleeping' else 'pending' end,
      least(j.attempt, 2147483646) + 1, j.priority, j.next_at, j.left_over
    from judged j
    where j.again
    returning runs.queue_name, runs.state
  ), finished as (
    update absurd.tasks t
    set outcome = case when j.cause in ('error', 'lease', 'worker') then 'failed' else 'cancelled' end,
      run_id = j.attempt_id, epoch = j.epoch, attempt = j.attempt, worker_id = j.worker_id, started_at = j.started_at, finished_at = v_now
    from judged j
    where t.task_id = j.task_id and not j.again
    returning t.task_id
  )
  select (select array_agg(f.task_id) from finished f), (select array_agg(n.queue_name) from followed n where n.state = 'pending')
  into v_ended, v_ready;
  if v_ended is not null then
    perform absurd.wake_task_waiters(v_ended);
  end if;
  if v_ready is not null then
    perform absurd.notify_queues(v_ready);
  end if;
end $$;

-- functions/cancel.sql

-- Cancels a task, whatever it is doing; a task that has ended stays as it is. Its worker learns of it at its next call.
create or replace function absurd.cancel_task(p_queue_name text, p_task_id uuid) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_run_id uuid;
  v_looks integer := 0;
begin
  perform absurd.require_read_committed('cancel_task');
  -- Again until it holds: while we waited for the row, the attempt may have ended and another one begun.
  loop
    select r.run_id into v_run_id from absurd.runs r
    where r.task_id = p_task_id and r.queue_name = p_queue_name for update;
    exit when found;
    if not exists (select from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name) then
      raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
    elsif exists (select from absurd.tasks t where t.task_id = p_task_id and t.outcome is not null) then
      return;
    end if;
    v_looks := v_looks + 1;
    perform absurd.limit_looks(p_task_id, v_looks);
  end loop;
  perform absurd.end_attempts(array[v_run_id], array['cancel'],
    array[json_build_object('name', '$Cancelled', 'message', 'the task was cancelled')]);
end $$;

-- Ends the search for the run of a task that has none, nor an outcome. No function of ours leaves such a task behind.
create or replace function absurd.limit_looks(p_task_id uuid, p_looks integer) returns void
language plpgsql immutable as $$
begin
  if p_looks > 1000 then
    raise exception 'task % has neither a run nor an outcome: its rows were changed by hand', p_task_id using errcode = 'AB012';
  end if;
end $$;

-- functions/retry.sql

-- Gives a failed or cancelled task another attempt, from its last checkpoint and with a new allowance of max_duration; or, with
-- spawn_new, starts a copy of it from the beginning. Options: spawn_new; max_attempts (default: one more than were made);
-- idempotency_key of the copy: one that has been made with it is reported, and created is false.
create or replace function absurd.retry_task(p_queue_name text, p_task_id uuid, p_options jsonb default '{}')
returns table (task_id uuid, run_id uuid, attempt integer, created boolean)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_task absurd.tasks;
  v_new_task_id uuid;
  v_new_run_id uuid := absurd.make_id();
  v_max_attempts integer;
  v_key text := p_options ->> 'idempotency_key';
  v_owner record;
  v_problem text := coalesce(
    absurd.object_error('options', p_options, array['spawn_new', 'max_attempts', 'idempotency_key']),
    absurd.copy_key_error(p_options -> 'idempotency_key'),
    case when v_key is not null and p_options -> 'spawn_new' is distinct from 'true' then 'idempotency_key goes with spawn_new' end,
    case when jsonb_typeof(p_options -> 'spawn_new') not in ('boolean', 'null') then 'spawn_new must be true or false' end,
    absurd.number_error('max_attempts', p_options -> 'max_attempts', 1, 1000000, true));
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));  -- against drop_queue
  select * into v_task from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name for no key update;
  if not found then
    raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
  end if;
  v_max_attempts := (p_options ->> 'max_attempts')::numeric;
  if coalesce((p_options ->> 'spawn_new')::boolean, false) then
    v_new_task_id := absurd.make_id();
    if v_key is not null then
      select c.owners[1] as task_id, c.run_ids[1] as run_id, c.attempts[1] as attempt into v_owner
      from absurd.claim_idempotency_keys(array[p_queue_name], array[v_key], array[v_new_task_id], array[v_new_run_id], array[true]) c;
      if v_owner.task_id <> v_new_task_id then
        return query select v_owner.task_id, v_owner.run_id, v_owner.attempt, false;
        return;
      end if;
    end if;
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
      priority, idempotency_key, parent_task_id, spawned_at)
    values (v_new_task_id, v_task.queue_name, v_task.task_name, v_task.params, v_task.headers, v_task.retry_strategy,
      coalesce(v_max_attempts, v_task.max_attempts), v_task.max_delay, v_task.max_duration, v_task.priority, v_key, v_task.parent_task_id, v_now);
    insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, deadline_at, allowance)
    values (v_new_run_id, v_new_task_id, v_task.queue_name, 'pending', 1, v_task.priority, v_now,
      v_now + absurd.stored_seconds(v_task.max_delay), v_task.max_duration);
    perform absurd.notify_queues(array[p_queue_name]);
    return query select v_new_task_id, v_new_run_id, 1, true;
    return;
  end if;
  if coalesce(v_task.outcome, 'live') not in ('failed', 'cancelled') then
    raise exception 'task % is %; only failed and cancelled tasks can be retried', p_task_id, coalesce(v_task.outcome, 'still live')
      using errcode = 'AB012', hint = 'Use the option spawn_new to run a copy of it.';
  elsif v_max_attempts <= v_task.attempt then
    raise exception 'max_attempts is %, but task % has made % already', v_max_attempts, p_task_id, v_task.attempt using errcode = 'AB012';
  end if;
  update absurd.attempts a set final = false where a.run_id = v_task.run_id;
  update absurd.tasks t
  set outcome = null, run_id = null, epoch = null, attempt = null, worker_id = null, started_at = null, finished_at = null,
    -- without limit it stays so: greatest() would pass over the null
    max_attempts = coalesce(v_max_attempts, case when t.max_attempts is not null then greatest(t.max_attempts, v_task.attempt + 1) end)
  where t.task_id = p_task_id;
  perform absurd.reopen_trigger_execution(p_task_id);
  insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, allowance)
  values (v_new_run_id, p_task_id, p_queue_name, 'pending', v_task.attempt + 1, v_task.priority, v_now, v_task.max_duration);
  perform absurd.notify_queues(array[p_queue_name]);
  return query select p_task_id, v_new_run_id, v_task.attempt + 1, false;
end $$;

-- What is wrong with the idempotency key of a copy, or null.
create or replace function absurd.copy_key_error(p_key jsonb) returns text
language sql immutable as $$
  select case jsonb_typeof(p_key)
    when 'null' then null
    when 'string' then absurd.name_error('idempotency key', p_key #>> '{}')
    else case when p_key is not null then format('idempotency_key must be a string, not %s', left(p_key::text, 100)) end
  end
$$;

-- functions/fork.sql

-- Starts a copy of a task from one of its steps: a new task with the same params and with the checkpoints that stand before that step, in
-- one transaction. What the step and those after it do is done once more, by present code; the task itself stays as it is, whatever
-- its state. A step is named as show_task() shows it; a wait that the task sleeps in may be named too.
-- Options: max_attempts (default: the task's); task_id and run_id of the copy, for callers who may have to ask again because the answer
-- was lost: a copy that is there already is reported, and created is false; or idempotency_key of the copy, to the same end.
-- Locks: the queue, shared (against drop_queue); the row of the task, against its clean-up alone: it may go on meanwhile.
create or replace function absurd.fork_task(p_queue_name text, p_task_id uuid, p_step_name text, p_options jsonb default '{}')
returns table (task_id uuid, run_id uuid, attempt integer, created boolean)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_task absurd.tasks;
  v_step record;
  v_new_task_id uuid;
  v_new_run_id uuid;
  v_key text := p_options ->> 'idempotency_key';
  v_owner record;
  v_problem text := absurd.fork_options_error(p_options);
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));
  select * into v_task from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name for key share;
  if not found then
    raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
  end if;
  select s.place, s.since into v_step from absurd.find_step(p_task_id, p_step_name) s;
  if not found then
    raise exception 'task % has no step "%"', p_task_id, left(coalesce(p_step_name, ''), 200)
      using errcode = 'AB012', hint = 'Steps that it has taken: absurdctl show-task, or absurd.show_task(). A task that has failed '
        'goes on from its last step with retry_task().';
  end if;
  v_problem := absurd.open_token_error(p_task_id, v_step.place, v_step.since);
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012', hint = 'Fork from the step in which the token is made, or from one before it.';
  end if;
  v_new_task_id := coalesce((p_options ->> 'task_id')::uuid, absurd.make_id());
  v_new_run_id := coalesce((p_options ->> 'run_id')::uuid, absurd.make_id());
  if v_key is not null then
    select c.owners[1] as task_id, c.run_ids[1] as run_id, c.attempts[1] as attempt into v_owner
    from absurd.claim_idempotency_keys(array[p_queue_name], array[v_key], array[v_new_task_id], array[v_new_run_id], array[true]) c;
    if v_owner.task_id <> v_new_task_id then
      return query select v_owner.task_id, v_owner.run_id, v_owner.attempt, false;
      return;
    end if;
  end if;
  insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
    priority, idempotency_key, parent_task_id, spawned_at)
  values (v_new_task_id, v_task.queue_name, v_task.task_name, v_task.params, absurd.forked_headers(v_task.headers, v_task.task_name, p_task_id, p_step_name),
    v_task.retry_strategy, coalesce((p_options ->> 'max_attempts')::numeric::integer, v_task.max_attempts), v_task.max_delay,
    v_task.max_duration, v_task.priority, v_key, v_task.parent_task_id, v_now)
  on conflict (task_id) do nothing;
  if not found then
    return query select f.task_id, f.run_id, f.attempt, false from absurd.find_fork(v_new_task_id, p_task_id, p_step_name) f;
    return;
  end if;
  -- As they are: who recorded them and when is the task's, whose effects they are.
  insert into absurd.checkpoints (task_id, step_name, position, kind, state, event_seq, owner_run_id, completed_at)
  select v_new_task_id, c.step_name, c.position, c.kind, c.state, c.event_seq, c.owner_run_id, c.completed_at
  from absurd.checkpoints c
  where c.task_id = p_task_id and (c.position, c.completed_at) < (v_step.place, v_step.since);
  -- The epoch: a claim looks for checkpoints from the second one on only.
  insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, epoch, deadline_at, allowance)
  values (v_new_run_id, v_new_task_id, v_task.queue_name, 'pending', 1, v_task.priority, v_now, 1,
    v_now + absurd.stored_seconds(v_task.max_delay), v_task.max_duration);
  perform absurd.notify_queues(array[p_queue_name]);
  return query select v_new_task_id, v_new_run_id, 1, true;
end $$;

-- What is wrong with the options of a fork, or null.
create or replace function absurd.fork_options_error(p_options jsonb) returns text
language sql immutable as $$
  select coalesce(
    absurd.object_error('options', p_options, array['max_attempts', 'task_id', 'run_id', 'idempotency_key']),
    absurd.copy_key_error(p_options -> 'idempotency_key'),
    absurd.number_error('max_attempts', p_options -> 'max_attempts', 1, 1000000, true),
    (select format('%s must be a UUID, not %s', u.name, left((p_options -> u.name)::text, 100))
     from (values ('task_id'), ('run_id')) as u(name)
     where jsonb_typeof(p_options -> u.name) <> 'null'
       and coalesce(p_options ->> u.name, '') !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
     limit 1))
$$;

-- The place of a step in its task: one that is recorded, or one in which the task waits.
create or replace function absurd.find_step(p_task_id uuid, p_step_name text) returns table (place integer, since timestamptz)
language sql stable as $$
  select s.place, s.since
  from (
    select 1 as part, c.position as place, c.completed_at as since
    from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name
    union all
    select 2, w.position, w.created_at
    from absurd.runs r
    join absurd.waits w on w.run_id = r.run_id
    where r.task_id = p_task_id and w.step_name = p_step_name
  ) s
  order by s.part, s.place
  limit 1
$$;

-- Why a copy would wait for a token for ever, or null: only the task that made a token is told of its answer.
create or replace function absurd.open_token_error(p_task_id uuid, p_place integer, p_since timestamptz) returns text
language sql stable as $$
  select format('token "%s" was made in step "%s", before the one to fork from, and nobody has answered it: its answer goes to task %s alone',
    k.token_name, c.step_name, p_task_id)
  from absurd.tokens k
  join absurd.checkpoints c on c.task_id = k.task_id and starts_with(c.step_name, '$token:') and strpos(c.state::text, k.token_id::text) > 0
  where k.task_id = p_task_id and k.used_at is null and (k.expires_at is null or k.expires_at > absurd.current_time())
    and (c.position, c.completed_at) < (p_place, p_since)
    and not exists (
      select from absurd.checkpoints a
      where a.task_id = k.task_id and starts_with(a.step_name, '$await_token:' || k.token_id) and (a.position, a.completed_at) < (p_place, p_since))
  order by k.token_id
  limit 1
$$;

-- The headers of a copy: those of the task, whose handler reads them again, with the origin added to its source.
create or replace function absurd.forked_headers(p_headers json, p_task_name text, p_task_id uuid, p_step_name text) returns json
language sql stable as $$
  select case
    when jsonb_typeof(coalesce(h.headers, '{}')) <> 'object' or h.headers ? '$unreadable' then p_headers
    else (coalesce(h.headers, '{}') || jsonb_build_object('absurd-source',
      case when jsonb_typeof(h.headers -> 'absurd-source') = 'object' then h.headers -> 'absurd-source'
        else jsonb_build_object('kind', 'fork', 'name', p_task_name) end
      || jsonb_build_object('forked_from', jsonb_build_object('task_id', p_task_id, 'step', p_step_name))))::json
  end
  from (select case when json_typeof(p_headers) <> 'null' then absurd.readable_jsonb(p_headers) end as headers) h
$$;

-- A copy that an earlier call has made, whose answer was lost. Anything else that has its id is not the caller's.
create or replace function absurd.find_fork(p_new_task_id uuid, p_task_id uuid, p_step_name text)
returns table (task_id uuid, run_id uuid, attempt integer)
language plpgsql stable as $$
#variable_conflict use_column
begin
  return query
    select t.task_id, coalesce(r.run_id, t.run_id), coalesce(r.attempt, t.attempt)
    from absurd.tasks t
    left join absurd.runs r on r.task_id = t.task_id
    where t.task_id = p_new_task_id
      and absurd.readable_jsonb(t.headers) #> '{absurd-source,forked_from}' = jsonb_build_object('task_id', p_task_id, 'step', p_step_name);
  if not found then
    raise exception 'task_id % is that of another task', p_new_task_id using errcode = 'AB012';
  end if;
end $$;

-- functions/run_now.sql

-- Makes the time of a sleeping task now: a delay, a sleep or the pause before its next attempt is over, and a wait with a timeout has
-- timed out, for good, as if that moment had come. A task that sleeps without a time is refused: it has to get what it waits for.
create or replace function absurd.run_task_now(p_queue_name text, p_task_id uuid) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run absurd.runs;
  v_outcome text;
  v_looks integer := 0;
begin
  perform absurd.require_read_committed('run_task_now');
  -- Again until it holds: while we waited for the row, the attempt may have ended and another one begun.
  loop
    select * into v_run from absurd.runs r where r.task_id = p_task_id and r.queue_name = p_queue_name for update;
    exit when found;
    select t.outcome into v_outcome from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name;
    if not found then
      raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
    elsif v_outcome is not null then
      raise exception 'task % is %: only a sleeping task can be run now', p_task_id, v_outcome
        using errcode = 'AB012', hint = 'retry_task() gives a failed or cancelled task another attempt.';
    end if;
    v_looks := v_looks + 1;
    perform absurd.limit_looks(p_task_id, v_looks);
  end loop;
  if v_run.state = 'running' then
    raise exception 'task % is running already', p_task_id using errcode = 'AB012';
  elsif v_run.state = 'pending' then
    raise exception 'task % is ready already: it waits for a worker', p_task_id using errcode = 'AB012';
  elsif v_run.available_at is null then
    raise exception 'task % has no time to move: it waits for %', p_task_id, coalesce(absurd.awaited_words(v_run.run_id), 'nothing that is known')
      using errcode = 'AB012', hint = 'Emit the event, answer the token, or cancel the task.';
  end if;
  update absurd.runs r set available_at = least(r.available_at, v_now) where r.run_id = v_run.run_id;
  perform absurd.end_waits(array[v_run.run_id], v_now);
  perform absurd.notify_queues(array[p_queue_name]);
end $$;

-- What a sleeping run waits for, in words; null: for a time alone.
create or replace function absurd.awaited_words(p_run_id uuid) returns text
language sql stable as $$
  select string_agg(w.words, ', ' order by w.wait_id)
  from (
    select w.wait_id, case w.kind when 'event' then format('event "%s"', left(w.event_name, 200)) when 'task' then 'task ' || w.awaited_task_id
      else 'the answer to a token' end as words
    from absurd.waits w
    where w.run_id = p_run_id and w.kind in ('event', 'task', 'token')
    order by w.wait_id
    limit 5
  ) w
$$;

-- functions/triggers.sql

-- What is wrong with a trigger, or null: nothing is stored that a later poll would stumble over.
create or replace function absurd.trigger_problem(
  p_trigger_name text, p_task_name text, p_poll_interval double precision, p_poll_timeout double precision, p_headers json, p_options jsonb)
returns text
language sql stable as $$
  select coalesce(
    absurd.name_error('trigger name', p_trigger_name),
    absurd.name_error('task name', p_task_name),
    case when p_poll_interval is null or not p_poll_interval between 0.1 and 315360000 then
      format('poll_interval must be between 0.1 and 315360000 seconds, not %s', coalesce(p_poll_interval::text, 'null')) end,
    case when p_poll_timeout is null or not p_poll_timeout between 0.1 and 86400 then
      format('poll_timeout must be between 0.1 and 86400 seconds, not %s', coalesce(p_poll_timeout::text, 'null')) end,
    case when p_headers is not null and json_typeof(p_headers) <> 'object' then
      format('headers must be an object, not %s', left(p_headers::text, 100)) end,
    absurd.kept_headers_error(p_headers),
    absurd.object_error('options', p_options, array['retry_strategy', 'max_attempts', 'cancellation', 'priority']),
    (absurd.read_spawn_options(p_options)).error)
$$;

-- Makes a trigger known, or brings what is known of it up to date. What people decided (enabled), what it remembers and who polls it
-- stay. A name belongs to the app that declared it first: two that took turns at one row would start each other's tasks.
-- Locks: the queue's advisory lock, shared (against drop_queue), then the row.
create or replace function absurd.register_trigger(
  p_trigger_name text, p_queue_name text, p_task_name text, p_poll_interval double precision, p_poll_timeout double precision,
  p_allow_concurrent boolean, p_headers json default null, p_options jsonb default '{}', p_declared_by text default null)
returns void
language plpgsql volatile
set lock_timeout = '500ms'
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_problem text := absurd.trigger_problem(p_trigger_name, p_task_name, p_poll_interval, p_poll_timeout, p_headers, p_options);
  v_owner text;
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  perform absurd.require_queue(p_queue_name);
  insert into absurd.triggers as t (trigger_name, queue_name, task_name, declared_by, headers, options, poll_interval, poll_timeout,
    allow_concurrent, next_poll_at, created_at, updated_at)
  values (p_trigger_name, p_queue_name, p_task_name, p_declared_by, p_headers, coalesce(p_options, '{}'), p_poll_interval, p_poll_timeout,
    coalesce(p_allow_concurrent, false), v_now, v_now, v_now)
  on conflict (trigger_name) do update
  set queue_name = excluded.queue_name, task_name = excluded.task_name, headers = excluded.headers, options = excluded.options,
    poll_interval = excluded.poll_interval, poll_timeout = excluded.poll_timeout, allow_concurrent = excluded.allow_concurrent,
    -- a shorter interval counts at once
    next_poll_at = least(t.next_poll_at, v_now + make_interval(secs => excluded.poll_interval)),
    lease_expires_at = absurd.idle_lease(t, v_now + make_interval(secs => excluded.poll_interval)),
    updated_at = v_now
  where (t.queue_name, t.task_name, t.headers::text, t.options, t.poll_interval, t.poll_timeout, t.allow_concurrent)
    is distinct from (excluded.queue_name, excluded.task_name, excluded.headers::text, excluded.options, excluded.poll_interval,
      excluded.poll_timeout, excluded.allow_concurrent)
    and t.declared_by is not distinct from excluded.declared_by;
  select t.declared_by into v_owner from absurd.triggers t where t.trigger_name = p_trigger_name;
  if v_owner is distinct from p_declared_by then
    raise exception 'trigger "%" belongs to the app "%" on this database; give this one another name, or delete that one first',
      p_trigger_name, v_owner using errcode = 'AB012';
  end if;
end $$;

-- Which of these triggers have no row.
create or replace function absurd.missing_triggers(p_names text[]) returns setof text
language sql stable as $$
  select u.name from unnest(p_names) as u(name) where not exists (select from absurd.triggers t where t.trigger_name = u.name)
$$;

-- How long a process keeps a trigger without a sign of life: while it polls (it renews every second), and after a poll is due.
create or replace function absurd.trigger_lease() returns interval
language sql immutable parallel safe as $$
  select interval '5 seconds'
$$;

-- The lease of a trigger whose next poll is moved to p_next_poll_at, if that is sooner: a process that died would keep it until the
-- poll it had in mind. That of a poll in flight stays as it is.
create or replace function absurd.idle_lease(p_trigger absurd.triggers, p_next_poll_at timestamptz) returns timestamptz
language sql immutable as $$
  select case when p_trigger.poll_id is null then least(p_trigger.lease_expires_at, p_next_poll_at + absurd.trigger_lease())
    else p_trigger.lease_expires_at end
$$;

-- Renews the leases of the polls that a process has in flight, and gives it those of the named triggers that are due: enabled, and
-- free, its own, or left by a process that said nothing for the length of a lease. A trigger stays with its process between polls.
-- Rows that somebody has locked are passed over: nobody's open transaction holds up the other triggers.
create or replace function absurd.claim_trigger_polls(p_owner text, p_names text[], p_running uuid[] default '{}', p_limit integer default 100)
returns table (trigger_name text, poll_id uuid, state json, poll_timeout double precision)
language plpgsql volatile
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_names text[];
begin
  if cardinality(p_running) > 0 then
    v_names := array(select r.trigger_name from absurd.triggers r where r.poll_id = any (p_running) for update skip locked);
    update absurd.triggers t set lease_expires_at = v_now + absurd.trigger_lease() where t.trigger_name = any (v_names);
  end if;
  v_names := array(
    select d.trigger_name from absurd.triggers d
    where d.trigger_name = any (p_names) and d.enabled and d.next_poll_at <= v_now
      and (d.owner is null or d.owner = p_owner or d.lease_expires_at <= v_now)
    order by d.next_poll_at, d.trigger_name
    limit p_limit
    for update skip locked);
  return query
  update absurd.triggers t
  set owner = p_owner, poll_id = absurd.make_id(), lease_expires_at = v_now + absurd.trigger_lease(), last_poll_at = v_now
  where t.trigger_name = any (v_names)
  returning t.trigger_name, t.poll_id, t.state, t.poll_timeout;
end $$;

-- The params of a fired task: its context in the order given, and what fired when.
create or replace function absurd.trigger_params(p_context json, p_trigger_name text, p_at timestamptz) returns json
language sql stable as $$
  select json_object_agg(u.key, u.value order by u.ord) from (
    select e.key, e.value, e.ord from json_each(coalesce(p_context, '{}')) with ordinality as e(key, value, ord)
    union all
    values ('trigger_name', to_json(p_trigger_name), 1000000001),
      ('triggered_at', to_json(to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')), 1000000002)) u
$$;

-- Whether an execution of this trigger with this context is active. Those that have ended are marked, so that each is looked at once.
-- The tasks are locked against retry_task, which makes an execution active again; one that is being retried now counts as active.
create or replace function absurd.has_active_execution(p_trigger_name text, p_context_hash text) returns boolean
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  with ended as materialized (
    select t.task_id, t.finished_at from absurd.tasks t
    where t.outcome is not null and t.task_id in (
      select e.task_id from absurd.trigger_executions e
      where e.trigger_name = p_trigger_name and e.context_hash = p_context_hash and e.completed_at is null)
    for share skip locked
  )
  update absurd.trigger_executions e set completed_at = ended.finished_at
  from ended where e.task_id = ended.task_id and e.completed_at is null;
  return exists (
    select from absurd.trigger_executions e join absurd.tasks t on t.task_id = e.task_id
    where e.trigger_name = p_trigger_name and e.context_hash = p_context_hash and e.completed_at is null);
end $$;

-- Spawns the tasks of a poll's fires; one answer per fire: fired or skipped. Raises AB012 if a fire is refused: then none of them stays.
create or replace function absurd.fire_trigger(
  p_trigger absurd.triggers, p_now timestamptz, p_contexts json[], p_hashes text[], p_task_ids uuid[], p_run_ids uuid[])
returns text[]
language plpgsql volatile as $$
declare
  v_statuses text[] := '{}'::text[];
  v_headers json := absurd.with_source(p_trigger.headers, 'trigger', p_trigger.trigger_name);
  v_spawned record;
begin
  for i in 1 .. cardinality(p_task_ids) loop
    if not p_trigger.allow_concurrent and absurd.has_active_execution(p_trigger.trigger_name, p_hashes[i]) then
      v_statuses := v_statuses || 'skipped'::text;
      continue;
    end if;
    select s.status, s.message into v_spawned
    from absurd.spawn_one(p_trigger.queue_name, p_task_ids[i], p_run_ids[i], p_trigger.task_name,
      absurd.trigger_params(p_contexts[i], p_trigger.trigger_name, p_now), v_headers, p_trigger.options, null) s;
    if v_spawned.status <> 'ok' then
      raise exception '%', v_spawned.message using errcode = 'AB012';
    end if;
    insert into absurd.trigger_executions (trigger_name, context_hash, task_id, started_at)
    values (p_trigger.trigger_name, p_hashes[i], p_task_ids[i], p_now);
    v_statuses := v_statuses || 'fired'::text;
  end loop;
  return v_statuses;
end $$;

-- Ends a poll: spawns what it fired and keeps what it remembers, in one transaction, or notes its error; says when the next one is due.
-- status: ok; disabled (by people, meanwhile: nothing is fired or kept); refused (a fire was, or the state is too large; it counts as an error); lost (another
-- process has the trigger, or it is gone: nothing changes). fires: per fire fired, skipped, disabled or lost; repeated after a lost answer it
-- says the same. Locks: the queue's advisory lock, shared; the trigger's row; then what spawn_one takes.
create or replace function absurd.settle_trigger_poll(
  p_trigger_name text, p_poll_id uuid, p_contexts json[], p_hashes text[], p_task_ids uuid[], p_run_ids uuid[],
  p_state json default null, p_error text default null)
returns table (status text, fires text[], next_in double precision, message text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_trigger absurd.triggers;
  v_queue_name text;
  v_status text := 'ok';
  v_fires text[] := '{}'::text[];
  v_error text := p_error;
begin
  select t.queue_name into v_queue_name from absurd.triggers t where t.trigger_name = p_trigger_name;
  -- Again when a registration has moved the trigger between the look and the lock: the queue's lock comes before the row's.
  while v_queue_name is not null loop
    perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(v_queue_name));
    select * into v_trigger from absurd.triggers t where t.trigger_name = p_trigger_name and t.queue_name = v_queue_name for update;
    exit when found;
    select t.queue_name into v_queue_name from absurd.triggers t where t.trigger_name = p_trigger_name;
  end loop;
  if v_trigger.poll_id is distinct from p_poll_id or p_poll_id is null then
    return query select 'lost', array(
      select case when exists (select from absurd.trigger_executions e where e.task_id = u.task_id) then 'fired' else 'lost' end
      from unnest(p_task_ids) with ordinality as u(task_id, ord) order by u.ord), null::double precision, null::text;
    return;
  end if;
  v_now := absurd.current_time();
  if not v_trigger.enabled then
    v_status := 'disabled';
    v_fires := array_fill('disabled'::text, array[cardinality(p_task_ids)]);
  elsif v_error is null then
    begin
      perform absurd.require_size(v_trigger.queue_name, format('the state of trigger "%s"', v_trigger.trigger_name), p_state);
      v_fires := absurd.fire_trigger(v_trigger, v_now, p_contexts, p_hashes, p_task_ids, p_run_ids);
    exception when sqlstate 'AB012' or sqlstate 'AB013' then
      v_status := 'refused';
      v_error := sqlerrm;
    end;
  end if;
  update absurd.triggers t
  set poll_id = null,
    state = case when v_status = 'ok' and v_error is null then coalesce(p_state, t.state) else t.state end,
    last_fire_at = case when 'fired' = any (v_fires) then v_now else t.last_fire_at end,
    failures = case when v_error is not null then least(t.failures, 2147483646) + 1 else 0 end,
    last_error = v_error,
    last_error_at = case when v_error is not null then v_now else t.last_error_at end,
    next_poll_at = p.at,
    lease_expires_at = p.at + absurd.trigger_lease()
  from (
    select case when v_error is null then greatest(least(v_trigger.last_poll_at, v_now) + absurd.stored_seconds(v_trigger.poll_interval), v_now)
      -- the interval doubled with each failure in a row, up to five minutes; a longer interval stays
      else v_now + absurd.stored_seconds(greatest(v_trigger.poll_interval,
        least(least(v_trigger.poll_interval, 300) * 2 ^ least(greatest(v_trigger.failures, 0) + 1, 30), 300))) end as at) p
  where t.trigger_name = p_trigger_name;
  return query
  select v_status, v_fires, extract(epoch from t.next_poll_at - v_now)::double precision, v_error
  from absurd.triggers t where t.trigger_name = p_trigger_name;
end $$;

-- Lets go of the triggers of a process that stops: the next one need not wait for the leases.
create or replace function absurd.release_triggers(p_owner text) returns integer
language plpgsql volatile as $$
declare
  v_count integer;
begin
  update absurd.triggers t set owner = null, lease_expires_at = null, poll_id = null
  where t.trigger_name in (select r.trigger_name from absurd.triggers r where r.owner = p_owner for update skip locked);
  get diagnostics v_count = row_count;
  return v_count;
end $$;

-- The triggers, in order of name.
create or replace function absurd.list_triggers() returns setof absurd.triggers
language sql stable as $$
  select * from absurd.triggers t order by t.trigger_name
$$;

-- Lets a trigger be polled, or not. Once this has committed, a disabled trigger fires nothing, not even from a poll in flight.
create or replace function absurd.set_trigger_enabled(p_trigger_name text, p_enabled boolean) returns void
language plpgsql volatile as $$
begin
  update absurd.triggers t
  set enabled = p_enabled, updated_at = absurd.current_time(),
    next_poll_at = case when p_enabled then least(t.next_poll_at, absurd.current_time()) else t.next_poll_at end,
    lease_expires_at = case when p_enabled then absurd.idle_lease(t, absurd.current_time()) else t.lease_expires_at end
  where t.trigger_name = p_trigger_name and t.enabled <> p_enabled;
  if not found then
    perform absurd.require_trigger(p_trigger_name);
  end if;
end $$;

-- Refuses a trigger that does not exist.
create or replace function absurd.require_trigger(p_trigger_name text) returns void
language plpgsql stable as $$
begin
  if not exists (select from absurd.triggers t where t.trigger_name = p_trigger_name) then
    raise exception 'there is no trigger "%"', p_trigger_name
      using errcode = 'AB012', hint = 'absurdctl list-triggers shows those that a worker has registered.';
  end if;
end $$;

-- Deletes a trigger with its history; a process whose code still has it registers it again within a minute. False: there was none.
create or replace function absurd.delete_trigger(p_trigger_name text) returns boolean
language plpgsql volatile as $$
begin
  delete from absurd.triggers t where t.trigger_name = p_trigger_name;
  if not found then
    return false;
  end if;
  delete from absurd.trigger_executions e where e.trigger_name = p_trigger_name;
  return true;
end $$;

-- Executions of a trigger, the newest first; p_before, an execution_id, goes on behind a page. completed_at is null while one is active.
-- task_state is null when the task has been cleaned up.
create or replace function absurd.list_trigger_executions(p_trigger_name text, p_before bigint default null, p_limit integer default 50)
returns table (execution_id bigint, trigger_name text, context_hash text, task_id uuid, started_at timestamptz, completed_at timestamptz,
  task_state text)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  perform absurd.require_trigger(p_trigger_name);
  return query
  select e.execution_id, e.trigger_name, e.context_hash, e.task_id, e.started_at, coalesce(t.finished_at, e.completed_at),
    coalesce(t.outcome, r.state)
  from (
    select x.* from absurd.trigger_executions x
    where x.trigger_name = p_trigger_name and x.execution_id < coalesce(p_before, 9223372036854775807)
    order by x.trigger_name desc, x.execution_id desc
    limit least(greatest(p_limit, 0), 1000)) e
  left join absurd.tasks t on t.task_id = e.task_id
  left join absurd.runs r on r.task_id = e.task_id
  order by e.execution_id desc;
end $$;

-- Keeps when the executions of these tasks, which are about to be deleted, ended. Of each trigger the newest thousand executions stay;
-- older ones go once their task is gone.
create or replace function absurd.close_trigger_executions(p_task_ids uuid[]) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_names text[];
begin
  with closed as (
    update absurd.trigger_executions e set completed_at = t.finished_at
    from absurd.tasks t
    where t.task_id = any (p_task_ids) and e.task_id = t.task_id
    returning e.trigger_name
  )
  select array_agg(distinct c.trigger_name) into v_names from closed c;
  if v_names is null then
    return;
  end if;
  delete from absurd.trigger_executions e
  where e.execution_id in (
    select old.execution_id
    from unnest(v_names) as u(trigger_name)
    cross join lateral (
      select x.execution_id, x.task_id from absurd.trigger_executions x
      where x.trigger_name = u.trigger_name and x.completed_at is not null and x.execution_id < (
        select k.execution_id from absurd.trigger_executions k where k.trigger_name = u.trigger_name
        order by k.execution_id desc offset 999 limit 1)
      order by x.execution_id
      limit 2 * cardinality(p_task_ids)) old
    where old.task_id = any (p_task_ids) or not exists (select from absurd.tasks t where t.task_id = old.task_id));
end $$;

-- Makes the execution of a task that is tried again active again.
create or replace function absurd.reopen_trigger_execution(p_task_id uuid) returns void
language sql volatile as $$
  update absurd.trigger_executions e set completed_at = null where e.task_id = p_task_id and e.completed_at is not null
$$;

-- Deletes the triggers of a queue that is being dropped, with their history.
create or replace function absurd.drop_triggers(p_queue_name text) returns void
language plpgsql volatile as $$
declare
  v_names text[];
begin
  with gone as (
    delete from absurd.triggers t where t.queue_name = p_queue_name returning t.trigger_name
  )
  select array_agg(g.trigger_name) into v_names from gone g;
  delete from absurd.trigger_executions e where e.trigger_name = any (v_names);
end $$;

-- How many tasks of a queue are ready and wait for a worker, counted up to p_limit: as quick before ten million of them as before ten.
create or replace function absurd.count_ready(p_queue_name text, p_limit integer) returns integer
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  perform absurd.require_queue(p_queue_name);
  return (select count(*)::integer from (
    select from absurd.runs r where r.queue_name = p_queue_name and r.state = 'pending' limit greatest(p_limit, 0)) c);
end $$;

-- functions/deliver.sql

-- Hands arrivals to the waits that were registered for them: writes each as a checkpoint of the waiting task, and wakes the runs
-- that have nothing left to wait for. Waits that are gone meanwhile (timed out, cancelled) get nothing. Returns how many got theirs.
-- Locks: runs in order of run_id, then their waits: the order of everybody who touches both.
create or replace function absurd.deliver_arrivals(p_wait_ids bigint[], p_kind text, p_states json[], p_event_seqs bigint[] default null)
returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_count integer;
  v_awake uuid[];
  v_queues text[];
begin
  perform from absurd.runs r
  where r.run_id in (select w.run_id from absurd.waits w where w.wait_id = any (p_wait_ids))
  order by r.run_id for update;
  with gone as (
    delete from absurd.waits w
    using unnest(p_wait_ids, p_states, p_event_seqs) as i(wait_id, state, event_seq)
    where w.wait_id = i.wait_id
    returning w.run_id, w.task_id, w.step_name, w.position, w.event_name, i.state, i.event_seq
  ), recorded as (
    insert into absurd.checkpoints (task_id, step_name, position, kind, state, event_seq, owner_run_id, completed_at)
    select g.task_id, g.step_name, g.position, p_kind, coalesce(g.state, 'null'), g.event_seq, g.run_id, v_now from gone g
    where g.task_id is not null and g.step_name is not null
    on conflict (task_id, step_name) do nothing
  ), counted as (
    select g.run_id, count(*)::integer as n, min(g.event_name) as event_name from gone g group by g.run_id
  ), changed as (
    update absurd.runs r
    set waits_left = greatest(r.waits_left, c.n) - c.n,
      state = case when r.waits_left <= c.n then 'pending' else r.state end,
      available_at = case when r.waits_left <= c.n then v_now else r.available_at end,
      wake_event = c.event_name
    from counted c
    where r.run_id = c.run_id and r.state = 'sleeping'
    returning r.run_id, r.queue_name, r.state
  )
  select (select count(*) from gone), array_agg(c.run_id), array_agg(distinct c.queue_name) into v_count, v_awake, v_queues
  from changed c where c.state = 'pending';
  if v_awake is not null then
    delete from absurd.waits w where w.run_id = any (v_awake);
    perform absurd.notify_queues(v_queues);
  end if;
  return v_count;
end $$;

-- Tells the runs and clients that wait for these tasks that they have ended.
create or replace function absurd.wake_task_waiters(p_task_ids uuid[]) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_told bigint;
begin
  with told as (
    delete from absurd.waits w where w.awaited_task_id = any (p_task_ids) and w.kind = 'client'
      and exists (select from absurd.tasks t where t.task_id = w.awaited_task_id and t.outcome is not null)
    returning w.detail, w.awaited_task_id
  )
  select count(pg_notify(t.detail, t.awaited_task_id::text)) filter (where octet_length(t.detail) between 1 and 63) into v_told from told t;
  perform absurd.deliver_arrivals(array_agg(w.wait_id), 'task', array_agg(absurd.task_outcome(w.awaited_task_id)))
  from absurd.waits w
  join absurd.tasks t on t.task_id = w.awaited_task_id
  where w.awaited_task_id = any (p_task_ids) and w.kind = 'task' and t.outcome is not null
  having count(*) > 0;
end $$;

-- How a task ended, in the form that await_task() records: {"task_id", "state", "result", "failure"}. Null while it lives.
create or replace function absurd.task_outcome(p_task_id uuid) returns json
language sql stable as $$
  select json_build_object('task_id', t.task_id, 'state', t.outcome, 'result', t.result, 'failure', a.failure)
  from absurd.tasks t
  left join absurd.attempts a on a.run_id = t.run_id
  where t.task_id = p_task_id and t.outcome is not null
$$;

-- functions/subscriptions.sql

-- The key of the advisory lock on the subscriptions of a queue. Every emit shares it to the end of its transaction; who changes them
-- takes it alone. So no emit is under way while they change: an event whose emit commits after a subscribe() reaches the subscriber,
-- and after an unsubscribe() nothing more is started.
create or replace function absurd.subscriptions_lock_key(p_queue_name text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd subscriptions ' || p_queue_name, 0)
$$;

-- Takes the subscriptions of a queue alone. Whoever waits for a lock holds up all that come after him, and an open transaction that has
-- emitted may last: so it waits for a tenth of a second at a time, and lets emits pass in between. After a second, and every five
-- from then on, it waits for as long as PostgreSQL takes to find a deadlock: the emitter may wait for a row of the caller's transaction,
-- and would not look for one again. Raises after the caller's own lock_timeout, if there is one.
create or replace function absurd.lock_subscriptions(p_queue_name text) returns void
language plpgsql volatile as $$
declare
  v_patience text := current_setting('lock_timeout');
  v_started timestamptz := clock_timestamp();
  v_rounds integer := 0;
begin
  loop
    begin
      perform set_config('lock_timeout', case when v_rounds % 25 = 5
        then extract(epoch from current_setting('deadlock_timeout')::interval + interval '0.1 seconds') * 1000 else 100 end::integer::text, true);
      perform pg_advisory_xact_lock(absurd.subscriptions_lock_key(p_queue_name));
      perform set_config('lock_timeout', v_patience, true);
      return;
    exception when lock_not_available then
      if v_patience::interval > interval '0' and clock_timestamp() - v_started >= v_patience::interval then
        raise;
      end if;
      perform pg_sleep(0.1);
      v_rounds := v_rounds + 1;
    end;
  end loop;
end $$;

-- What is wrong with a pattern, or null.
create or replace function absurd.pattern_error(p_pattern text) returns text
language sql immutable parallel safe as $$
  select coalesce(
    absurd.name_error('pattern', p_pattern),
    case when strpos(left(p_pattern, -1), '*') > 0 then format('pattern "%s" has a "*" before its end; '
      'a pattern is the name of an event, or the beginning of names with one "*" behind it', left(p_pattern, 100)) end)
$$;

-- Makes a task start whenever a fitting event is emitted, or changes how; the subscription as it is then. Said again with the same
-- values it changes nothing and waits for nobody. p_config, which keeps the order of its keys, wins over the option config.
-- Locks: the queue, shared; its subscriptions, alone: emits in open transactions are waited for.
create or replace function absurd.store_subscription(
  p_queue_name text, p_pattern text, p_task_name text, p_options jsonb default '{}', p_config json default null)
returns setof absurd.subscriptions
language plpgsql volatile as $$
declare
  v_given jsonb := coalesce(nullif(p_options, 'null'), '{}');
  v_options jsonb;
  v_config json;
  v_target text;
  v_problem text := coalesce(
    absurd.pattern_error(p_pattern), absurd.name_error('task name', p_task_name),
    absurd.object_error('options', v_given, array['config', 'target_queue', 'headers', 'retry_strategy', 'max_attempts', 'cancellation',
      'priority', 'delay']),
    case when jsonb_typeof(v_given -> 'target_queue') not in ('string', 'null') then
      format('target_queue must be the name of a queue, not %s', left((v_given -> 'target_queue')::text, 100)) end);
begin
  if v_problem is null then
    v_options := v_given - array['config', 'target_queue'];
    v_problem := coalesce((absurd.read_spawn_options(v_options)).error, absurd.kept_headers_error((v_options -> 'headers')::json));
  end if;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  v_target := v_given ->> 'target_queue';
  v_config := coalesce(p_config, (v_given -> 'config')::json);
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));
  perform absurd.require_queue(p_queue_name), absurd.confirm_queue(p_queue_name);
  if v_target is not null then
    perform absurd.require_queue(v_target);
  end if;
  perform absurd.require_size(p_queue_name, format('config of subscription "%s"', p_pattern), v_config);
  return query
    select s.* from absurd.subscriptions s
    where s.queue_name = p_queue_name and s.pattern = p_pattern and s.task_name = p_task_name
      and s.target_queue is not distinct from v_target and s.config::text is not distinct from v_config::text and s.options = v_options;
  if found then
    return;
  end if;
  perform absurd.lock_subscriptions(p_queue_name);
  return query
    insert into absurd.subscriptions as s (queue_name, pattern, task_name, target_queue, config, options, after_seq, created_at)
    values (p_queue_name, p_pattern, p_task_name, v_target, v_config, v_options,
      (select coalesce(max(e.seq), 0) from absurd.events e), absurd.current_time())
    on conflict (queue_name, pattern, task_name) do update
    set target_queue = excluded.target_queue, config = excluded.config, options = excluded.options, last_error = null, last_error_at = null
    returning s.*;
end $$;

-- Has a task started for each event from now on whose name is the pattern, or begins with it if it ends in *. The same again changes
-- nothing, other options replace the former. Returns the number of the subscription.
-- Options: config (any JSON), target_queue, headers, retry_strategy, max_attempts, cancellation, priority, delay.
create or replace function absurd.subscribe(p_queue_name text, p_pattern text, p_task_name text, p_options jsonb default '{}') returns bigint
language sql volatile as $$
  select s.subscription_id from absurd.store_subscription(p_queue_name, p_pattern, p_task_name, p_options) s
$$;

-- Ends a subscription; false if there is none. When it has returned and is committed, nothing more is started by it.
create or replace function absurd.unsubscribe(p_queue_name text, p_pattern text, p_task_name text) returns boolean
language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));
  perform absurd.require_queue(p_queue_name);
  if not exists (select from absurd.subscriptions s
    where s.queue_name = p_queue_name and s.pattern = p_pattern and s.task_name = p_task_name) then
    return false;
  end if;
  perform absurd.lock_subscriptions(p_queue_name);
  delete from absurd.subscriptions s where s.queue_name = p_queue_name and s.pattern = p_pattern and s.task_name = p_task_name;
  return found;
end $$;

-- Subscriptions in their order: all, those of a queue, those of one pattern.
create or replace function absurd.list_subscriptions(p_queue_name text default null, p_pattern text default null)
returns table (
  subscription_id bigint, queue_name text, pattern text, task_name text, target_queue text, config json, options jsonb,
  created_at timestamptz, last_error text, last_error_at timestamptz)
language sql stable as $$
  select s.subscription_id, s.queue_name, s.pattern, s.task_name, s.target_queue, s.config, s.options, s.created_at, s.last_error,
    s.last_error_at
  from absurd.subscriptions s
  where (p_queue_name is null or s.queue_name = p_queue_name) and (p_pattern is null or s.pattern = p_pattern)
  order by s.subscription_id
$$;

-- All patterns that fit an event: its name, and each beginning of it with a "*" behind; none of them twice. However long the name is:
-- a pattern has 1,000 bytes at most, its "*" among them.
create or replace function absurd.fitting_patterns(p_event_name text) returns setof text
language sql immutable parallel safe as $$
  select p_event_name where right(p_event_name, 1) <> '*'
  union all
  select left(p_event_name, n) || '*' from generate_series(0, least(length(p_event_name), 999)) as n
$$;

-- Who subscribes to an event, in no order: one probe of the index for each pattern that fits, however many subscriptions there are.
-- p_seq leaves out those who came after that event.
create or replace function absurd.find_subscribers(p_queue_name text, p_event_name text, p_seq bigint default null)
returns setof absurd.subscriptions
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  -- offset 0: a plan that was made while the table was empty would otherwise compare patterns with each of its rows
  return query
    select s.*
    from absurd.fitting_patterns(p_event_name) as f(pattern)
    cross join lateral (
      select i.* from absurd.subscriptions i where i.queue_name = p_queue_name and i.pattern = f.pattern offset 0) s
    where p_seq is null or s.after_seq < p_seq;
end $$;

-- The queues into which they put their tasks, other than the event's own.
create or replace function absurd.target_queues(p_queue_name text, p_event_name text) returns setof text
language sql stable as $$
  select distinct s.target_queue from absurd.find_subscribers(p_queue_name, p_event_name) s
  where s.target_queue <> p_queue_name
  order by s.target_queue
$$;

-- Takes the locks of an emit, those of record_event(), for workers, who never wait for them: false if one of them is taken.
-- Those that could be had stay.
create or replace function absurd.try_lock_emit(p_queue_name text, p_event_name text) returns boolean
language plpgsql volatile as $$
begin
  if not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name))
      or not pg_try_advisory_xact_lock_shared(absurd.subscriptions_lock_key(p_queue_name)) then
    return false;
  end if;
  if exists (select from absurd.subscriptions s where s.queue_name = p_queue_name) and exists (
    select from absurd.target_queues(p_queue_name, p_event_name) as t(q)
    where not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(t.q))) then
    return false;
  end if;
  return pg_try_advisory_xact_lock(absurd.event_lock_key(p_queue_name, p_event_name));
end $$;

-- Starts the tasks of an event's subscribers, in their order; returns how many. The caller holds the locks of an emit.
-- In pieces of about 16 MB and a thousand tasks, so that a large payload for many subscribers fits into memory.
create or replace function absurd.start_subscribers(p_event absurd.events) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_ids bigint[];
  v_started integer := 0;
begin
  for v_ids in
    select array_agg(m.subscription_id order by m.subscription_id)
    from (
      select s.subscription_id, div(sum(16384 + coalesce(octet_length(p_event.payload::text), 0) + coalesce(octet_length(s.config::text), 0))
        over (order by s.subscription_id), 16777216) as piece
      from absurd.find_subscribers(p_event.queue_name, p_event.event_name, p_event.seq) s
      -- A row marked undelivered by hand starts nothing a second time, and does not stop the sweep.
      where not exists (select from absurd.event_tasks t where t.seq = p_event.seq and t.subscription_id = s.subscription_id)
    ) m
    group by m.piece
    order by m.piece
  loop
    v_started := v_started + absurd.start_some_subscribers(p_event, v_ids);
  end loop;
  return v_started;
end $$;

-- Starts one piece of them. A subscriber whose task cannot be started is told so in its row; its neighbours are started.
create or replace function absurd.start_some_subscribers(p_event absurd.events, p_subscription_ids bigint[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_details jsonb := jsonb_build_object('event_name', p_event.event_name, 'event_seq', p_event.seq, 'event_queue', p_event.queue_name)
    || case when p_event.source is null then '{}' else jsonb_build_object('event_source', p_event.source) end;
  v_time text := to_char(p_event.emitted_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');
  v_queues text[];
  v_ids uuid[];
  v_run_ids uuid[];
  v_names text[];
  v_params json[];
  v_headers json[];
  v_options jsonb[];
  v_failed bigint[];
begin
  select array_agg(coalesce(s.target_queue, s.queue_name) order by u.ord), array_agg(absurd.make_id() order by u.ord),
    array_agg(absurd.make_id() order by u.ord), array_agg(s.task_name order by u.ord),
    array_agg(json_build_object('event_type', p_event.event_name, 'event_payload', p_event.payload, 'event_config', s.config,
      'event_time', v_time) order by u.ord),
    array_agg(absurd.with_source((s.options -> 'headers')::json, 'subscription', s.pattern, v_details) order by u.ord),
    array_agg(s.options order by u.ord)
  into v_queues, v_ids, v_run_ids, v_names, v_params, v_headers, v_options
  from unnest(p_subscription_ids) with ordinality as u(subscription_id, ord)
  -- offset 0: as in find_subscribers()
  cross join lateral (select i.* from absurd.subscriptions i where i.subscription_id = u.subscription_id offset 0) s;
  with answered as (
    insert into absurd.event_tasks (seq, subscription_id, task_name, task_id, run_id, status, message)
    select p_event.seq, p_subscription_ids[a.ord], v_names[a.ord], a.task_id, a.run_id, a.status, a.message
    from absurd.spawn_tasks(v_queues, v_ids, v_run_ids, v_names, v_params, v_headers, v_options,
      array_fill(null::text, array[cardinality(v_ids)])) with ordinality as a(task_id, run_id, attempt, created, status, message, ord)
    returning event_tasks.subscription_id, event_tasks.status
  )
  select array_agg(a.subscription_id) filter (where a.status <> 'ok') into v_failed from answered a;
  if v_failed is null then
    return cardinality(v_ids);
  end if;
  -- skip locked: somebody else is writing a failure into it, and an emit holds up no other
  update absurd.subscriptions s
  set last_error = t.message, last_error_at = absurd.current_time()
  from absurd.event_tasks t
  where t.seq = p_event.seq and t.subscription_id = s.subscription_id and s.subscription_id in (
    select l.subscription_id from absurd.subscriptions l where l.subscription_id = any (v_failed) for update skip locked);
  return cardinality(v_ids) - cardinality(v_failed);
end $$;

-- functions/emit.sql

-- Emits an event: appends it to the log, wakes its waiters and starts its subscribers' tasks, in the caller's transaction. Returns its
-- place in the log. With a key that the queue has seen nothing happens, and that emission's place is returned.
-- p_source: what emits it, {"kind", "name", …}, for the headers of the tasks that it starts.
create or replace function absurd.append_event(
  p_queue_name text, p_event_name text, p_payload json default null, p_idempotency_key text default null, p_source jsonb default null)
returns bigint
language plpgsql volatile as $$
begin
  return (absurd.record_event(p_queue_name, p_event_name, p_payload, p_idempotency_key, p_source)).seq;
end $$;

-- The same, and whether it was emitted now. What everybody calls who emits.
-- Locks, to the end of the transaction: the queue and its subscriptions, shared, so that nobody changes these; the queues of the
-- subscribers' tasks, shared; then the event's name, alone. A wait for that name takes the same lock shared, so whichever commits
-- second sees the other, and the first emission of a name is the same for everybody. Last, the key: who emits with the same one
-- waits for the outcome of the first.
create or replace function absurd.record_event(
  p_queue_name text, p_event_name text, p_payload json, p_idempotency_key text, p_source jsonb, out seq bigint, out created boolean)
language plpgsql volatile
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_sees_waits boolean := current_setting('transaction_isolation') in ('read committed', 'read uncommitted');
  v_problem text := absurd.name_error('event name', p_event_name);
begin
  if v_problem is null and p_idempotency_key is not null then
    v_problem := absurd.name_error('idempotency key', p_idempotency_key);
  end if;
  if v_problem is null and jsonb_typeof(p_source) <> 'object' then
    v_problem := format('source must be an object, not %s', left(p_source::text, 100));
  end if;
  -- A quarter of what headers may have, which it becomes part of.
  if v_problem is null and octet_length(p_source::text) > 16384 then
    v_problem := format('source has %s bytes; 16384 are allowed', octet_length(p_source::text));
  end if;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name)),
    pg_advisory_xact_lock_shared(absurd.subscriptions_lock_key(p_queue_name));
  perform absurd.require_queue(p_queue_name), absurd.confirm_queue(p_queue_name);
  perform absurd.require_size(p_queue_name, format('payload of event "%s"', p_event_name), p_payload);
  if exists (select from absurd.subscriptions s where s.queue_name = p_queue_name) then
    perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(t.q)) from absurd.target_queues(p_queue_name, p_event_name) as t(q);
  end if;
  perform pg_advisory_xact_lock(absurd.event_lock_key(p_queue_name, p_event_name));
  -- An earlier emission of the name that still has to be delivered comes first.
  if v_sees_waits and exists (select from absurd.events e where not e.delivered) then
    perform absurd.deliver_undelivered(p_queue_name, p_event_name);
  end if;
  if p_idempotency_key is not null then
    seq := absurd.claim_event_key(p_queue_name, p_idempotency_key);
  end if;
  created := seq is null;
  if not created then
    return;
  end if;
  insert into absurd.events as e (queue_name, event_name, payload, source, emitted_at, delivered)
  values (p_queue_name, p_event_name, p_payload, p_source, absurd.current_time(), v_sees_waits)
  returning e.seq into record_event.seq;
  if p_idempotency_key is not null then
    update absurd.event_keys k set seq = record_event.seq where k.queue_name = p_queue_name and k.idempotency_key = p_idempotency_key;
  end if;
  if v_sees_waits then
    perform absurd.deliver_event(seq);
  end if;
end $$;

-- Takes a key for an emission, or finds the place of the event that has it; null: it is the caller's now.
create or replace function absurd.claim_event_key(p_queue_name text, p_idempotency_key text) returns bigint
language plpgsql volatile as $$
declare
  v_seq bigint;
begin
  -- Again until either holds: a clean-up may delete a key between the insert that met it and the look at it.
  loop
    insert into absurd.event_keys (queue_name, idempotency_key, created_at)
    values (p_queue_name, p_idempotency_key, absurd.current_time())
    on conflict (queue_name, idempotency_key) do nothing;
    if found then
      return null;
    end if;
    select k.seq into v_seq from absurd.event_keys k where k.queue_name = p_queue_name and k.idempotency_key = p_idempotency_key;
    if found then
      return v_seq;
    end if;
  end loop;
end $$;

-- Emits an event and says whom it has started: a row for each subscriber, in the order in which they subscribed; one row without a task
-- when nobody has. status: ok; else why there is no task (no_queue, invalid, too_large), with a message. With a key that the queue
-- has seen: what the first emission with it has started, and created is false.
create or replace function absurd.dispatch_event(
  p_queue_name text, p_event_name text, p_payload json default null, p_idempotency_key text default null, p_source jsonb default null)
returns table (seq bigint, created boolean, task_name text, task_id uuid, run_id uuid, status text, message text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_event record;
begin
  perform absurd.require_read_committed('dispatch_event');
  select * into v_event from absurd.record_event(p_queue_name, p_event_name, p_payload, p_idempotency_key, p_source);
  return query
    select v_event.seq, v_event.created, t.task_name, t.task_id, t.run_id, t.status, t.message
    from (select) as one
    left join absurd.event_tasks t on t.seq = v_event.seq
    order by t.subscription_id;
end $$;

-- Hands the events of a name whose emit could not see the waits of others to those waits, in order; how many. The caller holds the
-- locks of an emit, so that nobody else delivers them. A row of theirs that somebody has locked is waited for: what comes after it
-- may not come first.
create or replace function absurd.deliver_undelivered(p_queue_name text, p_event_name text, p_limit integer default null) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_seq bigint;
  v_count integer := 0;
begin
  for v_seq in
    select e.seq from absurd.events e
    where not e.delivered and e.queue_name = p_queue_name and e.event_name = p_event_name
    order by e.seq limit p_limit for update
  loop
    perform absurd.deliver_event(v_seq);
    update absurd.events e set delivered = true where e.seq = v_seq;
    v_count := v_count + 1;
  end loop;
  return v_count;
end $$;

-- Hands an event to its subscribers and to the waits registered for its name. The caller holds the locks of an emit.
create or replace function absurd.deliver_event(p_seq bigint) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_event absurd.events;
  v_wait_ids bigint[];
  v_taken integer := 0;
begin
  select * into v_event from absurd.events e where e.seq = p_seq;
  if exists (select from absurd.subscriptions s where s.queue_name = v_event.queue_name) then
    v_taken := absurd.start_subscribers(v_event);
  end if;
  v_wait_ids := array(
    select w.wait_id from absurd.waits w
    where w.queue_name = v_event.queue_name and w.event_name = v_event.event_name and coalesce(w.since_seq, 0) < v_event.seq);
  if cardinality(v_wait_ids) > 0 then
    v_taken := v_taken + absurd.deliver_arrivals(v_wait_ids, 'event', array_fill(v_event.payload, array[cardinality(v_wait_ids)]),
      array_fill(v_event.seq, array[cardinality(v_wait_ids)]));
  end if;
  if v_taken > 0 then
    update absurd.events e set claimed_at = absurd.current_time() where e.seq = p_seq and e.claimed_at is null;
  end if;
end $$;

-- Emits events from running tasks, each with its checkpoint: exactly once, however often it is repeated.
-- One status per item: ok, lost, cancelled; busy: somebody is deciding on that name, ask again; no_queue, invalid, too_large.
-- p_traces: what the source of each event says of its trace, {"traceparent": …}.
-- It never waits for the locks of an emit, so an emit in a long transaction elsewhere holds up nobody but its namesakes.
create or replace function absurd.emit_events(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_step_names text[], p_positions integer[],
  p_queue_names text[], p_event_names text[], p_payloads json[], p_traces jsonb[] default null)
returns text[]
language plpgsql volatile as $$
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
  v_queue absurd.queues;
begin
  for i in 1 .. cardinality(p_run_ids) loop
    continue when v_status[i] <> 'ok'
      or exists (select from absurd.checkpoints c where c.task_id = p_task_ids[i] and c.step_name = p_step_names[i]);
    select * into v_queue from absurd.queues q where q.queue_name = p_queue_names[i];
    if not found then
      v_status[i] := 'no_queue';
    elsif absurd.name_error('event name', p_event_names[i]) is not null then
      v_status[i] := 'invalid';
    elsif octet_length(p_payloads[i]::text) > v_queue.max_payload_bytes then
      v_status[i] := 'too_large';
    elsif not absurd.try_lock_emit(p_queue_names[i], p_event_names[i]) then
      v_status[i] := 'busy';
    else
      insert into absurd.checkpoints (task_id, step_name, position, state, event_seq, owner_run_id, completed_at)
      values (p_task_ids[i], p_step_names[i], p_positions[i], 'null',
        absurd.append_event(p_queue_names[i], p_event_names[i], p_payloads[i],
          p_source => coalesce(p_traces[i], '{}') || jsonb_build_object('kind', 'task', 'name', p_task_ids[i])), p_run_ids[i], absurd.current_time());
    end if;
  end loop;
  return v_status;
end $$;

-- functions/results.sql

-- State, result and failure of a task, as text that keeps the order of keys. No row: no such task.
-- PL/pgSQL, which keeps its plan: a function in SQL that runs as its owner is not inlined, and planned anew at each call.
create or replace function absurd.read_result(p_task_id uuid) returns table (state text, result text, failure text)
language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select coalesce(t.outcome, r.state, 'pending'), t.result::text, a.failure::text
    from absurd.tasks t
    left join absurd.runs r on r.task_id = t.task_id
    left join absurd.attempts a on a.run_id = t.run_id
    where t.task_id = p_task_id;
end $$;

-- Asks for a notification on a channel (payload: the task id) when a task ends. If it has ended already it says how and asks nothing.
-- The share lock makes it decide against an end that is being committed: whoever is second sees the other.
create or replace function absurd.watch_task(p_task_id uuid, p_channel text, p_seconds double precision)
returns table (state text, result text, failure text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_task absurd.tasks;
begin
  perform absurd.require_read_committed('watch_task');
  -- The end of the task notifies this channel: a name that NOTIFY refuses must not get as far as that.
  if p_channel is null or octet_length(p_channel) not between 1 and 63 then
    raise exception 'a channel name has 1 to 63 bytes; "%" has %', left(p_channel, 80), coalesce(octet_length(p_channel), 0)
      using errcode = 'AB012';
  end if;
  select * into v_task from absurd.tasks t where t.task_id = p_task_id for share;
  if found and v_task.outcome is null then
    delete from absurd.waits w where w.awaited_task_id = p_task_id and w.kind = 'client' and w.detail = p_channel;
    insert into absurd.waits (kind, queue_name, awaited_task_id, detail, created_at, expires_at)
    values ('client', v_task.queue_name, p_task_id, p_channel, absurd.current_time(),
      absurd.current_time() + make_interval(secs => least(greatest(p_seconds, 0), 315360000)));
  end if;
  return query select * from absurd.read_result(p_task_id);
end $$;

-- Takes that back.
create or replace function absurd.unwatch_task(p_task_id uuid, p_channel text) returns void
language plpgsql volatile
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  delete from absurd.waits w where w.awaited_task_id = p_task_id and w.kind = 'client' and w.detail = p_channel;
end $$;

-- functions/schedules.sql

-- What is wrong with the cron expression of a schedule as far as SQL can tell, or null. Schedulers read it whole.
create or replace function absurd.cron_error(p_cron text) returns text
language sql immutable parallel safe as $$
  select case
    when length(p_cron) > 500 then format('cron "%s…" has %s characters; the limit is 500', left(p_cron, 40), length(p_cron))
    when btrim(p_cron) ~* '^@(hourly|daily|midnight|weekly|monthly|yearly|annually)$' then null
    when btrim(p_cron) ~ '^@' then format('cron "%s" is not known; known are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually', left(p_cron, 100))
    when cardinality(regexp_split_to_array(btrim(p_cron), E'\\s+')) not in (5, 6) then
      format('cron "%s" has %s field(s); it takes 5 (minute hour day month weekday), or 6 with seconds first', left(p_cron, 100),
        case when btrim(p_cron) = '' then 0 else cardinality(regexp_split_to_array(btrim(p_cron), E'\\s+')) end)
    when p_cron !~* E'^[0-9a-z*/,\\s-]+$' then
      format('cron "%s" holds "%s"; fields take numbers, names, and * / , -', left(p_cron, 100), substring(p_cron from E'[^0-9A-Za-z*/,\\s-]'))
  end
$$;

-- What is wrong with the options of the tasks of a schedule, or null.
create or replace function absurd.schedule_options_error(p_options jsonb) returns text
language sql stable as $$
  select coalesce(
    absurd.object_error('options', p_options, array['headers', 'retry_strategy', 'max_attempts', 'cancellation', 'priority', 'delay']),
    (absurd.read_spawn_options(p_options)).error,
    absurd.kept_headers_error((p_options -> 'headers')::json))
$$;

-- What is wrong with the definition of a schedule, or null.
create or replace function absurd.schedule_error(p_name text, p_definition jsonb, p_params json) returns text
language plpgsql stable as $$
declare
  v_error text := coalesce(
    absurd.name_error('schedule name', p_name),
    case when octet_length(p_name) > 900 then format('schedule name "%s…" has %s bytes; the limit is 900', left(p_name, 40), octet_length(p_name)) end,
    case when p_definition is null or jsonb_typeof(p_definition) <> 'object' then 'the definition of a schedule must be an object' end,
    absurd.object_error('a schedule', p_definition, array['task', 'event', 'cron', 'every', 'timezone', 'params', 'starts_at', 'ends_at',
      'jitter', 'catchup', 'catchup_limit', 'overlap', 'run_immediately', 'options']));
  v_key text;
begin
  if v_error is not null then
    return format('schedule "%s": %s', left(p_name, 100), v_error);
  end if;
  p_definition := jsonb_strip_nulls(p_definition);
  select format('%s must be a string, not %s', d.key, left(d.value::text, 100)) into v_error
  from jsonb_each(p_definition) d
  where d.key in ('task', 'event', 'cron', 'timezone', 'starts_at', 'ends_at', 'catchup', 'overlap') and jsonb_typeof(d.value) <> 'string'
  limit 1;
  v_error := coalesce(
    v_error,
    case when (p_definition ? 'task') = (p_definition ? 'event') then 'give a task or an event, one of them' end,
    case when (p_definition ? 'cron') = (p_definition ? 'every') then 'give cron or every, one of them' end,
    case when p_definition ? 'task' then absurd.name_error('task name', p_definition ->> 'task') end,
    case when p_definition ? 'event' then absurd.name_error('event name', p_definition ->> 'event') end,
    absurd.cron_error(p_definition ->> 'cron'),
    absurd.number_error('every', p_definition -> 'every', 1, 315360000),
    case when p_definition ? 'timezone' and p_definition ->> 'timezone' <> 'UTC'
        and not exists (select from pg_timezone_names z where z.name = p_definition ->> 'timezone') then
      format('timezone "%s" is not known; give an IANA name such as Europe/Vienna', left(p_definition ->> 'timezone', 100)) end,
    absurd.number_error('jitter', p_definition -> 'jitter', 0, 3600),
    case when coalesce(p_definition ->> 'catchup', 'skip') not in ('skip', 'one', 'all') then
      format('catchup must be skip, one or all, not "%s"', left(p_definition ->> 'catchup', 100)) end,
    absurd.number_error('catchup_limit', p_definition -> 'catchup_limit', 1, 1000, true),
    case when coalesce(p_definition ->> 'overlap', 'allow') not in ('allow', 'skip') then
      format('overlap must be allow or skip, not "%s"', left(p_definition ->> 'overlap', 100)) end,
    case when jsonb_typeof(p_definition -> 'run_immediately') <> 'boolean' then 'run_immediately must be true or false' end,
    absurd.schedule_options_error(p_definition -> 'options'),
    case when p_definition ? 'event' and coalesce(p_definition -> 'options', '{}') <> '{}' then
      'an event takes no options; give them to its subscriptions' end,
    case when p_definition ? 'event' and p_definition ->> 'overlap' = 'skip' then
      'overlap skip is for a schedule that starts a task; an event is over when it is emitted' end,
    case when p_definition ? 'event' and json_typeof(p_params) not in ('object', 'null') then
      'the params of a schedule that emits an event must be an object' end);
  if v_error is null then
    begin
      perform p_params::jsonb;
      v_error := coalesce(v_error, absurd.json_error('the params', p_params), absurd.json_error('the options', p_definition::json));
      foreach v_key in array array['starts_at', 'ends_at'] loop
        if (p_definition ->> v_key)::timestamptz not between '1970-01-01' and '9000-01-01' then
          v_error := format('%s must lie between 1970 and 9000, not %s', v_key, p_definition ->> v_key);
        end if;
      end loop;
      if (p_definition ->> 'ends_at')::timestamptz <= (p_definition ->> 'starts_at')::timestamptz then
        v_error := 'ends_at must be after starts_at';
      end if;
    exception when data_exception then
      v_error := sqlerrm;
    end;
  end if;
  return 'schedule "' || left(p_name, 100) || '": ' || v_error;
end $$;

-- The row that a definition makes, new and from now on. Raises for what cannot be stored.
create or replace function absurd.read_schedule(p_name text, p_queue_name text, p_definition jsonb, p_params json, p_declared_by text)
returns absurd.schedules
language plpgsql stable as $$
declare
  v_now timestamptz := absurd.current_time();
  v_params json := coalesce(p_params, (p_definition -> 'params')::json, 'null');
  v_error text := absurd.schedule_error(p_name, p_definition, v_params);
  v absurd.schedules;
begin
  if v_error is not null then
    raise exception '%', v_error using errcode = 'AB012';
  end if;
  perform absurd.require_queue(p_queue_name);
  perform absurd.require_size(p_queue_name, format('params of schedule "%s"', p_name), v_params);
  v.schedule_name := p_name;
  v.queue_name := p_queue_name;
  v.task_name := p_definition ->> 'task';
  v.event_name := p_definition ->> 'event';
  v.cron := p_definition ->> 'cron';
  v.interval_seconds := absurd.option_number(p_definition -> 'every');
  v.timezone := coalesce(p_definition ->> 'timezone', 'UTC');
  v.params := v_params;
  v.options := coalesce(nullif(p_definition -> 'options', 'null'), '{}');
  v.starts_at := (p_definition ->> 'starts_at')::timestamptz;
  v.ends_at := (p_definition ->> 'ends_at')::timestamptz;
  v.jitter_seconds := coalesce(absurd.option_number(p_definition -> 'jitter'), 0);
  v.catchup := coalesce(p_definition ->> 'catchup', 'skip');
  v.catchup_limit := coalesce((p_definition ->> 'catchup_limit')::numeric, 100);
  v.overlap := coalesce(p_definition ->> 'overlap', 'allow');
  v.run_immediately := coalesce((p_definition ->> 'run_immediately')::boolean, v.interval_seconds is not null);
  v.declared_by := p_declared_by;
  v.anchor_at := coalesce(v.starts_at, v_now);
  v.plan_after := case when v.starts_at > v_now then v.starts_at - interval '1 microsecond' else v_now end;
  if v.run_immediately and greatest(v.starts_at, v_now) < coalesce(v.ends_at, 'infinity') then
    v.next_slot := greatest(v.starts_at, v_now);
    v.due_at := v.next_slot;
  end if;
  v.active_task_ids := '{}';
  v.fired_count := 0;
  v.revision := 1;
  v.created_at := v_now;
  v.updated_at := v_now;
  return v;
end $$;

-- What two rows say differently, by the names of columns: when they fire, or all that people decide.
create or replace function absurd.schedule_changes(p_old absurd.schedules, p_new absurd.schedules, p_timing_only boolean) returns text[]
language sql stable as $$
  select array(
    select f.name from unnest(
      array['cron', 'interval_seconds', 'timezone', 'starts_at', 'ends_at', 'jitter_seconds', 'run_immediately']
      || case when p_timing_only then '{}'
        else array['queue_name', 'task_name', 'event_name', 'params', 'options', 'catchup', 'catchup_limit', 'overlap'] end) as f(name)
    where to_jsonb(p_old) -> f.name is distinct from to_jsonb(p_new) -> f.name)
$$;

-- Tells schedulers that something has changed.
create or replace function absurd.notify_schedulers(p_schedule_name text) returns void
language sql volatile as $$
  select pg_notify('absurd_schedules', p_schedule_name)
$$;

-- Makes a schedule: created, unchanged (it was there, just so) or changed (with p_replace). The definition is an object:
--   task or event; cron or every (seconds); timezone, params, starts_at, ends_at, jitter (seconds), catchup (skip, one, all),
--   catchup_limit, overlap (allow, skip), run_immediately, options (of the tasks: headers, retry_strategy, max_attempts, cancellation,
--   priority, delay).
-- One that changes when it fires begins anew, now; otherwise its next slot stays. A paused one stays paused.
-- Locks: the queue, shared, against drop_queue; then the row. Of two that make the same one at once the second finds the first's.
create or replace function absurd.create_schedule(
  p_schedule_name text, p_queue_name text, p_definition jsonb, p_params json default null, p_replace boolean default false,
  p_declared_by text default null)
returns table (change text, schedule absurd.schedules)
language plpgsql volatile as $$
declare
  v_new absurd.schedules;
  v_old absurd.schedules;
  v_changes text[];
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  v_new := absurd.read_schedule(p_schedule_name, p_queue_name, p_definition, p_params, p_declared_by);
  loop
    insert into absurd.schedules select v_new.* on conflict (schedule_name) do nothing;
    if found then
      perform absurd.notify_schedulers(p_schedule_name);
      return query select 'created', v_new;
      return;
    end if;
    select * into v_old from absurd.schedules s where s.schedule_name = p_schedule_name for update;
    -- Deleted between the insert that met it and this look: again.
    exit when found;
  end loop;
  v_changes := absurd.schedule_changes(v_old, v_new, false);
  if v_changes = '{}' and (p_declared_by is null or p_declared_by = v_old.declared_by) then
    if p_declared_by is not null and v_old.undeclared_at is not null then
      update absurd.schedules s set undeclared_at = null where s.schedule_name = p_schedule_name returning * into v_old;
    end if;
    return query select 'unchanged', v_old;
    return;
  elsif p_declared_by is distinct from v_old.declared_by then
    raise exception 'schedule "%" was made %; change it there, delete it first, or take another name', p_schedule_name,
      coalesce('by the code of app "' || v_old.declared_by || '"', 'by hand') using errcode = 'AB021';
  elsif not coalesce(p_replace, false) then
    raise exception 'schedule "%" exists, but with another %', p_schedule_name, array_to_string(v_changes, ', ')
      using errcode = 'AB021', hint = 'Delete it first, or replace it (replace=True, --replace).';
  end if;
  return query select 'changed', absurd.change_schedule(v_old, v_new);
end $$;

-- Writes the new definition over the old one. The caller has locked the row.
create or replace function absurd.change_schedule(p_old absurd.schedules, p_new absurd.schedules) returns absurd.schedules
language plpgsql volatile as $$
declare
  v_anew boolean := absurd.schedule_changes(p_old, p_new, true) <> '{}';
begin
  update absurd.schedules s
  set queue_name = p_new.queue_name, task_name = p_new.task_name, event_name = p_new.event_name, params = p_new.params,
    options = p_new.options, cron = p_new.cron, interval_seconds = p_new.interval_seconds, timezone = p_new.timezone,
    starts_at = p_new.starts_at, ends_at = p_new.ends_at, jitter_seconds = p_new.jitter_seconds, catchup = p_new.catchup,
    catchup_limit = p_new.catchup_limit, overlap = p_new.overlap, run_immediately = p_new.run_immediately, undeclared_at = null,
    anchor_at = case when v_anew then p_new.anchor_at else s.anchor_at end,
    plan_after = case when v_anew then p_new.plan_after else s.plan_after end,
    next_slot = case when v_anew then p_new.next_slot else s.next_slot end,
    due_at = case when v_anew then p_new.due_at else s.due_at end,
    ended_at = case when not v_anew then s.ended_at end,
    problem = case when not v_anew then s.problem end,
    revision = s.revision + 1, updated_at = p_new.updated_at
  where s.schedule_name = p_old.schedule_name
  returning * into p_old;
  perform absurd.notify_schedulers(p_old.schedule_name);
  return p_old;
end $$;

-- Brings the schedules of an app in line with what its code declares: one answer per declared one (created, changed, unchanged, refused)
-- and one for each that is no longer declared (undeclared). A bad one harms no other.
-- Locks: all queues, shared, then rows, both in order of name: many workers start at once.
create or replace function absurd.reconcile_schedules(
  p_owner text, p_names text[], p_queue_names text[], p_definitions jsonb[], p_params json[])
returns table (schedule_name text, change text, message text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_item record;
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(u.q))
  from (select distinct d.q from unnest(p_queue_names) as d(q) order by 1) u;
  for v_item in
    select u.name, u.queue_name, u.definition, u.params
    from unnest(p_names, p_queue_names, p_definitions, p_params) as u(name, queue_name, definition, params) order by u.name
  loop
    begin
      return query
        select v_item.name, c.change, null::text
        from absurd.create_schedule(v_item.name, v_item.queue_name, v_item.definition, v_item.params, true, p_owner) c;
    exception when sqlstate 'AB010' or sqlstate 'AB012' or sqlstate 'AB013' or sqlstate 'AB021' then
      return query select v_item.name, 'refused', sqlerrm;
    end;
  end loop;
  return query
    with gone as (
      select s.schedule_name from absurd.schedules s
      where s.declared_by = p_owner and s.schedule_name <> all (p_names)
      order by s.schedule_name for update
    )
    update absurd.schedules s set undeclared_at = coalesce(s.undeclared_at, absurd.current_time())
    from gone where s.schedule_name = gone.schedule_name
    returning s.schedule_name, 'undeclared', null::text;
end $$;

-- Schedules in order of name: all, or those of these names, or those that emit an event.
create or replace function absurd.list_schedules(p_schedule_names text[] default null, p_event_name text default null)
returns setof absurd.schedules
language sql stable as $$
  select * from absurd.schedules s
  where (p_schedule_names is null or s.schedule_name = any (p_schedule_names)) and (p_event_name is null or s.event_name = p_event_name)
  order by s.schedule_name
$$;

-- What a schedule is doing, in one word.
create or replace function absurd.schedule_status(p_schedule absurd.schedules) returns text
language sql immutable as $$
  select case
    when p_schedule.paused_at is not null then 'paused'
    when p_schedule.ended_at is not null then 'ended'
    when p_schedule.problem is not null then 'invalid'
    when p_schedule.undeclared_at is not null then 'undeclared'
    else 'active'
  end
$$;

-- Refuses a schedule that does not exist.
create or replace function absurd.require_schedule(p_schedule absurd.schedules, p_schedule_name text) returns void
language plpgsql immutable as $$
begin
  if p_schedule.schedule_name is null then
    raise exception 'there is no schedule "%"', left(p_schedule_name, 1000)
      using errcode = 'AB020', hint = 'absurdctl list-schedules shows all.';
  end if;
end $$;

-- Stops a schedule until resume_schedule. Nothing happens if it is paused.
create or replace function absurd.pause_schedule(p_schedule_name text) returns void
language plpgsql volatile as $$
declare
  v absurd.schedules;
begin
  select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update;
  perform absurd.require_schedule(v, p_schedule_name);
  if v.paused_at is null then
    update absurd.schedules s set paused_at = absurd.current_time(), revision = s.revision + 1 where s.schedule_name = p_schedule_name;
    perform absurd.notify_schedulers(p_schedule_name);
  end if;
end $$;

-- Lets a paused schedule go on with its next slot from now on; those of the pause are left out. Nothing happens if it is not paused.
create or replace function absurd.resume_schedule(p_schedule_name text) returns void
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v absurd.schedules;
begin
  select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update;
  perform absurd.require_schedule(v, p_schedule_name);
  if v.paused_at is not null then
    update absurd.schedules s
    set paused_at = null, revision = s.revision + 1, plan_after = greatest(s.plan_after, v_now),
      next_slot = case when s.next_slot > v_now then s.next_slot end, due_at = case when s.next_slot > v_now then s.due_at end
    where s.schedule_name = p_schedule_name;
    perform absurd.notify_schedulers(p_schedule_name);
  end if;
end $$;

-- Deletes a schedule; false if there was none. Its tasks stay.
create or replace function absurd.delete_schedule(p_schedule_name text) returns boolean
language plpgsql volatile as $$
begin
  delete from absurd.schedules s where s.schedule_name = p_schedule_name;
  if not found then
    return false;
  end if;
  perform absurd.notify_schedulers(p_schedule_name);
  return true;
end $$;

-- functions/fire_schedules.sql

-- The moment of a slot as text, the same for everybody: part of idempotency keys.
create or replace function absurd.slot_text(p_slot timestamptz) returns text
language sql immutable parallel safe as $$
  select to_char(p_slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    || case when date_trunc('second', p_slot) <> p_slot then to_char(p_slot at time zone 'UTC', '.US') else '' end || 'Z'
$$;

-- Takes the locks that a firing needs, in their order: those of an emit, or the queue, shared; then the row. Null fields when there is no such
-- schedule. Without p_wait nothing is waited for: null fields too when somebody holds one of them, so that one schedule in a
-- long transaction holds up no other.
create or replace function absurd.lock_schedule(p_schedule_name text, p_wait boolean) returns absurd.schedules
language plpgsql volatile as $$
declare
  v_seen absurd.schedules;
  v absurd.schedules;
begin
  loop
    select * into v_seen from absurd.schedules s where s.schedule_name = p_schedule_name;
    if not found then
      return null;
    elsif p_wait then
      perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(v_seen.queue_name));
      if v_seen.event_name is not null then
        perform pg_advisory_xact_lock_shared(absurd.subscriptions_lock_key(v_seen.queue_name));
        perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(t.q))
        from absurd.target_queues(v_seen.queue_name, v_seen.event_name) as t(q);
        perform pg_advisory_xact_lock(absurd.event_lock_key(v_seen.queue_name, v_seen.event_name));
      end if;
      select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update;
    else
      if not (case when v_seen.event_name is null then pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(v_seen.queue_name))
          else absurd.try_lock_emit(v_seen.queue_name, v_seen.event_name) end) then
        return null;
      end if;
      select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update skip locked;
    end if;
    if not found then
      return null;
    end if;
    -- Moved to another queue or event before we had the row: the locks are the wrong ones.
    exit when (v.queue_name, v.event_name) is not distinct from (v_seen.queue_name, v_seen.event_name);
  end loop;
  return v;
end $$;

-- The payload of a schedule's event: its params with scheduled_at and, from the second run on, last_run. The order of keys is kept.
create or replace function absurd.schedule_payload(p_schedule absurd.schedules, p_slot timestamptz) returns json
language sql stable as $$
  select json_object_agg(e.key, e.value order by e.ord)
  from (
    select p.key, p.value, p.ord
    from json_each(case when json_typeof(p_schedule.params) = 'object' then p_schedule.params else '{}' end) with ordinality as p(key, value, ord)
    where p.key not in ('scheduled_at', 'last_run')
    union all
    select 'scheduled_at', to_json(absurd.slot_text(p_schedule.created_at)), 1e9
    union all
    select 'last_run', to_json(absurd.slot_text(p_slot)), 1e9 + 1 where p_schedule.last_slot is not null
  ) e
$$;

-- Does once what a schedule is for: one row per task that was spawned; for an event one per subscriber, without a task if there is none.
-- problem says why it could not be done. The caller has the locks of lock_schedule.
create or replace function absurd.run_schedule(p_schedule absurd.schedules, p_slot timestamptz, p_idempotency_key text)
returns table (task_id uuid, run_id uuid, event_seq bigint, created boolean, problem text)
language plpgsql volatile as $$
#variable_conflict use_column
begin
  if p_schedule.event_name is not null then
    return query
      select d.task_id, d.run_id, d.seq, d.created, null::text
      from absurd.dispatch_event(p_schedule.queue_name, p_schedule.event_name, absurd.schedule_payload(p_schedule, p_slot), p_idempotency_key,
        jsonb_build_object('kind', 'schedule', 'name', p_schedule.schedule_name, 'slot', absurd.slot_text(p_slot))) d;
  else
    return query
      select s.task_id, s.run_id, null::bigint, s.created, s.message
      from absurd.spawn_one(p_schedule.queue_name, absurd.make_id(), absurd.make_id(), p_schedule.task_name, p_schedule.params,
        absurd.with_source((p_schedule.options -> 'headers')::json, 'schedule', p_schedule.schedule_name,
          jsonb_build_object('slot', absurd.slot_text(p_slot))),
        p_schedule.options - 'headers', p_idempotency_key) s;
  end if;
end $$;

-- The key that makes a slot happen once, whoever asks for it: schedulers, a backfill, a schedule that was deleted and made again.
create or replace function absurd.slot_key(p_schedule_name text, p_slot timestamptz) returns text
language sql immutable parallel safe as $$
  select 'schedule:' || p_schedule_name || ':' || absurd.slot_text(p_slot)
$$;

-- Fires a schedule whose next slot, p_slot, is due: for each of p_slots (none, when all were missed for good), and moves it on to
-- p_next_slot (null: there is none, it ends). One transaction under the row's lock, and void unless p_revision and p_slot still stand:
-- however many schedulers there are, and wherever one dies, each slot fires once.
-- Status: fired, skipped (nothing was to be started), failed (the message says why; the slot is over all the same), early (not due by the
-- database's clock), stale (decided by others, changed, paused or gone), busy (somebody holds a lock; ask again).
create or replace function absurd.fire_schedule(
  p_schedule_name text, p_revision integer, p_slot timestamptz, p_slots timestamptz[], p_next_slot timestamptz, p_next_due timestamptz)
returns table (status text, message text)
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v absurd.schedules;
  v_outcome absurd.schedules;
begin
  -- A look without locks first: of many schedulers most come too late.
  select * into v from absurd.schedules s where s.schedule_name = p_schedule_name;
  if v.revision is distinct from p_revision or v.next_slot is distinct from p_slot or v.paused_at is not null then
    return query select 'stale', null::text;
    return;
  elsif v.due_at > v_now or exists (select from unnest(p_slots) as u(slot) where u.slot > v_now) then
    return query select 'early', null::text;
    return;
  end if;
  v := absurd.lock_schedule(p_schedule_name, false);
  if v.schedule_name is null then
    return query select 'busy', null::text;
    return;
  elsif v.revision <> p_revision or v.next_slot is distinct from p_slot or v.paused_at is not null then
    return query select 'stale', null::text;
    return;
  end if;
  v_outcome := absurd.run_slots(v, p_slots);
  update absurd.schedules s
  set next_slot = p_next_slot, due_at = p_next_due, ended_at = case when p_next_slot is null then v_now end, problem = null,
    last_slot = v_outcome.last_slot, last_task_id = v_outcome.last_task_id, active_task_ids = v_outcome.active_task_ids,
    fired_count = v_outcome.fired_count,
    last_fired_at = case when v_outcome.fired_count > v.fired_count then v_now else s.last_fired_at end,
    last_error = coalesce(v_outcome.problem, s.last_error),
    last_error_at = case when v_outcome.problem is not null then v_now else s.last_error_at end
  where s.schedule_name = p_schedule_name;
  return query select
    case when v_outcome.problem is not null then 'failed' when v_outcome.fired_count > v.fired_count then 'fired' else 'skipped' end,
    v_outcome.problem;
end $$;

-- Runs slots of a schedule, in order, all or none, and returns the row as it is afterwards; problem says what went wrong.
create or replace function absurd.run_slots(p_schedule absurd.schedules, p_slots timestamptz[]) returns absurd.schedules
language plpgsql volatile as $$
declare
  v absurd.schedules := p_schedule;
  v_slot timestamptz;
  v_item record;
begin
  v.problem := null;
  v.active_task_ids := array(
    select t.task_id from absurd.tasks t where t.task_id = any (v.active_task_ids) and t.outcome is null order by t.task_id);
  foreach v_slot in array p_slots loop
    continue when v.overlap = 'skip' and v.active_task_ids <> '{}';
    for v_item in select * from absurd.run_schedule(v, v_slot, absurd.slot_key(v.schedule_name, v_slot)) loop
      if v_item.problem is not null then
        raise exception '%', v_item.problem using errcode = 'AB012';
      end if;
      v.last_task_id := coalesce(v_item.task_id, v.last_task_id);
      if v.overlap = 'skip' and v_item.task_id is not null then
        v.active_task_ids := v.active_task_ids || v_item.task_id;
      end if;
    end loop;
    v.last_slot := v_slot;
    v.fired_count := v.fired_count + 1;
  end loop;
  return v;
exception
  -- A fault of the moment is no fault of the schedule: the whole firing is undone and asked for again.
  when deadlock_detected or serialization_failure or lock_not_available or insufficient_resources or operator_intervention
      or system_error or internal_error then
    raise;
  when others then
    p_schedule.problem := sqlerrm;
    return p_schedule;
end $$;

-- Writes down the first slot that a scheduler has computed for a schedule that has none (null: there is none, it ends), or why it
-- cannot. Void, and false, unless p_revision and p_slot (its next slot, null at first) still stand or while somebody holds the row.
create or replace function absurd.plan_schedule(
  p_schedule_name text, p_revision integer, p_slot timestamptz, p_next_slot timestamptz, p_next_due timestamptz, p_problem text)
returns boolean
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
begin
  perform from absurd.schedules s
  where s.schedule_name = p_schedule_name and s.revision = p_revision and s.next_slot is not distinct from p_slot and s.ended_at is null
  for update skip locked;
  if not found then
    return false;
  elsif p_problem is not null then
    update absurd.schedules s set problem = p_problem, last_error = p_problem, last_error_at = v_now
    where s.schedule_name = p_schedule_name and s.problem is distinct from p_problem;
  else
    update absurd.schedules s
    set next_slot = p_next_slot, due_at = p_next_due, problem = null, ended_at = case when p_next_slot is null then v_now end
    where s.schedule_name = p_schedule_name;
  end if;
  return true;
end $$;

-- Runs a schedule now, out of its turn, whatever its slots, pause and overlap say. One row per task that it spawned; for an event one
-- per subscriber, without a task if there is none. p_idempotency_key: of what it makes; whoever calls with it again is told of that.
create or replace function absurd.trigger_schedule(p_schedule_name text, p_idempotency_key text default null)
returns table (task_id uuid, run_id uuid, event_seq bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v absurd.schedules := absurd.lock_schedule(p_schedule_name, true);
  v_item record;
begin
  perform absurd.require_schedule(v, p_schedule_name);
  for v_item in select * from absurd.run_schedule(v, v_now, p_idempotency_key) loop
    if v_item.problem is not null then
      raise exception 'schedule "%": %', p_schedule_name, v_item.problem using errcode = 'AB012';
    end if;
    if v_item.created is not false then
      update absurd.schedules s
      set last_fired_at = v_now, last_task_id = coalesce(v_item.task_id, s.last_task_id),
        active_task_ids = case when s.overlap = 'skip' and v_item.task_id is not null then s.active_task_ids || v_item.task_id
          else s.active_task_ids end
      where s.schedule_name = p_schedule_name;
    end if;
    return query select v_item.task_id, v_item.run_id, v_item.event_seq;
  end loop;
end $$;

-- Runs past slots of a schedule, whatever its pause and overlap say; those that have been run are left out. How many were run.
-- The slots were computed for p_revision; a schedule that has changed meanwhile is refused.
create or replace function absurd.backfill_schedule(p_schedule_name text, p_revision integer, p_slots timestamptz[]) returns integer
language plpgsql volatile as $$
declare
  v absurd.schedules := absurd.lock_schedule(p_schedule_name, true);
  v_slot timestamptz;
  v_problem text;
  v_created boolean;
  v_count integer := 0;
  v_latest timestamptz := (select max(u.slot) from unnest(p_slots) as u(slot));
begin
  perform absurd.require_schedule(v, p_schedule_name);
  if v.revision <> p_revision then
    raise exception 'schedule "%" was changed meanwhile; nothing was run', p_schedule_name
      using errcode = 'AB021', hint = 'Repeat the call.';
  elsif v_latest > absurd.current_time() then
    raise exception 'schedule "%": a backfill runs past slots only, and % is not past; take an earlier end', p_schedule_name, v_latest
      using errcode = 'AB012';
  end if;
  for v_slot in select distinct u.slot from unnest(p_slots) as u(slot) order by 1 loop
    select max(r.problem), coalesce(bool_or(r.created), false) into v_problem, v_created
    from absurd.run_schedule(v, v_slot, absurd.slot_key(p_schedule_name, v_slot)) r;
    if v_problem is not null then
      raise exception 'schedule "%": %', p_schedule_name, v_problem using errcode = 'AB012';
    end if;
    v_count := v_count + v_created::integer;
  end loop;
  return v_count;
end $$;

-- functions/tokens.sql

-- Makes a token for a running task and records it as a checkpoint, in one transaction: exactly once. timeout: seconds, null for ever.
-- status: ok, lost, cancelled, invalid, too_large (then message says why).
-- state: {"id", "secret", "expires_at"}; when the step was done before, what it recorded then.
create or replace function absurd.create_token(
  p_task_id uuid, p_run_id uuid, p_epoch integer, p_step_name text, p_position integer, p_token_name text,
  p_timeout double precision default null, p_title text default null, p_description text default null, p_json_schema json default null)
returns table (status text, state json, message text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_status text;
  v_state json;
  v_problem text := coalesce(absurd.name_error('step name', p_step_name), absurd.name_error('token name', p_token_name),
    case when p_timeout is not null and not p_timeout between 0 and 315360000
      then format('timeout must be between 0 and 315360000 seconds (ten years), not %s', p_timeout) end);
  v_id uuid := absurd.make_id();
  -- 244 random bits, of the generator that PostgreSQL makes its own secrets with.
  v_secret text := replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
  v_expires_at timestamptz;
begin
  v_status := (absurd.fence_runs(array[p_run_id], array[p_epoch]))[1];
  if v_status = 'ok' then
    select c.state into v_state from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name;
    if found then
      return query select 'ok', v_state, null::text;
      return;
    end if;
    if v_problem is not null then
      v_status := 'invalid';
    else
      select 'too_large', format('title, description and type of token "%s" have %s bytes; queue "%s" allows %s', p_token_name, s.size,
        q.queue_name, q.max_payload_bytes)
      into v_status, v_problem
      from absurd.tasks t
      join absurd.queues q on q.queue_name = t.queue_name
      cross join lateral (select octet_length(concat(p_title, p_description, p_json_schema)) as size) s
      where t.task_id = p_task_id and s.size > q.max_payload_bytes;
    end if;
  end if;
  if v_status <> 'ok' then
    return query select v_status, null::json, v_problem;
    return;
  end if;
  v_expires_at := v_now + make_interval(secs => p_timeout);
  v_state := json_build_object('id', v_id, 'secret', v_secret, 'expires_at', v_expires_at);
  insert into absurd.tokens (token_id, secret_hash, task_id, token_name, title, description, json_schema, created_at, expires_at)
  values (v_id, absurd.token_hash(v_secret), p_task_id, p_token_name, p_title, p_description, p_json_schema, v_now, v_expires_at);
  insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)
  values (p_task_id, p_step_name, p_position, v_state, p_run_id, v_now);
  return query select 'ok', v_state, null::text;
end $$;

-- What a secret is known by. Tokens are found by it alone, so that how long the look takes says nothing about other secrets.
create or replace function absurd.token_hash(p_secret text) returns bytea
language sql immutable parallel safe as $$
  select sha256(convert_to(p_secret, 'UTF8'))
$$;

-- A text as those may read it who see everything and may answer nothing: secrets of tokens are stars in it, wherever they stand: the
-- step that made the token, the params of the task that mails its link, an event. A secret is the 64 digits of two UUIDs of version 4,
-- known by their hash. Other digits may stand right beside it, so each 64 in a row that have the bits of such UUIDs are looked at.
create or replace function absurd.hide_secrets(p_text text) returns text
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  v_text text := p_text;
  v_secret text;
begin
  for v_secret in
    select convert_from(substring(d.digits from o.place + 1 for 64), 'UTF8')
    -- Not {64}: PostgreSQL takes ten times as long for each match of a pattern with so many states.
    from (select distinct convert_to(m.found[1], 'UTF8') as digits from regexp_matches(p_text, '[0-9a-f]{12}[0-9a-f]*', 'g') as m(found)) d
    cross join generate_series(0, length(d.digits) - 64) as o(place)
    join absurd.tokens k on k.secret_hash = sha256(substring(d.digits from o.place + 1 for 64))
    -- '4' and one of '89ab'
    where get_byte(d.digits, o.place + 12) = 52 and get_byte(d.digits, o.place + 44) = 52
      and get_byte(d.digits, o.place + 16) in (56, 57, 97, 98) and get_byte(d.digits, o.place + 48) in (56, 57, 97, 98)
  loop
    v_text := replace(v_text, v_secret, '***');
  end loop;
  return v_text;
end $$;

-- Whether a token may still be used: open, used, expired, ended (its task has); null if there is no such token.
-- A wait that was told of the expiry has the last word over the clock, which a failover may have put back.
create or replace function absurd.token_status(p_token_id uuid) returns text
language sql stable as $$
  select case
    when k.used_at is not null then 'used'
    when k.expires_at <= absurd.current_time() or exists (
      select from absurd.checkpoints c
      where c.task_id = k.task_id and c.kind = 'timeout' and c.completed_at >= k.expires_at
        and starts_with(c.step_name, '$await_token:' || k.token_id)) then 'expired'
    when not exists (select from absurd.tasks t where t.task_id = k.task_id and t.outcome is null) then 'ended'
    else 'open'
  end
  from absurd.tokens k
  where k.token_id = p_token_id
$$;

-- What is known of a token, by its secret: no row if there is none. status: open, used, expired, ended (its task has). Changes nothing.
create or replace function absurd.read_token(p_secret text)
returns table (
  token_id uuid, token_name text, queue_name text, task_id uuid, task_name text, title text, description text, json_schema json,
  created_at timestamptz, expires_at timestamptz, used_at timestamptz, status text)
language sql stable as $$
  select k.token_id, k.token_name, t.queue_name, k.task_id, t.task_name, k.title, k.description, k.json_schema,
    k.created_at, k.expires_at, k.used_at, absurd.token_status(k.token_id)
  from absurd.tokens k
  join absurd.tasks t on t.task_id = k.task_id
  where k.secret_hash = absurd.token_hash(p_secret)
$$;

-- Answers a token, once: the task that waits for it, or will, gets the payload. In the caller's transaction: a rollback takes it back.
-- Returns ok; or used, expired, ended (the task has), unknown, and then nothing has changed. Only ok means that the task sees the answer.
-- Locks: the run of the token's task, first of all. Whatever is decided about a token (its making, a wait for it, the end of that
-- wait by time, its use) is decided by who holds that row: two answers, or an answer and the expiry, cannot both be right.
create or replace function absurd.use_token(p_secret text, p_payload json default null) returns text
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_token absurd.tokens;
  v_run_id uuid;
  v_status text;
  v_wait_ids bigint[];
begin
  perform absurd.require_read_committed('use_token');
  select * into v_token from absurd.tokens k where k.secret_hash = absurd.token_hash(p_secret);
  if not found then
    return 'unknown';
  end if;
  -- Again until it holds: while we waited for the row, the attempt may have ended and another one begun.
  loop
    select r.run_id into v_run_id from absurd.runs r where r.task_id = v_token.task_id for update;
    v_status := coalesce(absurd.token_status(v_token.token_id), 'unknown');
    if v_status <> 'open' then
      return v_status;
    end if;
    exit when v_run_id is not null;
  end loop;
  perform absurd.require_size(r.queue_name, format('the answer to token "%s"', v_token.token_name), p_payload)
  from absurd.runs r where r.run_id = v_run_id;
  update absurd.tokens k set used_at = absurd.current_time(), payload = coalesce(p_payload, 'null') where k.token_id = v_token.token_id;
  v_wait_ids := array(
    select w.wait_id from absurd.waits w where w.run_id = v_run_id and w.kind = 'token' and w.detail = v_token.token_id::text);
  if cardinality(v_wait_ids) > 0 then
    perform absurd.deliver_arrivals(v_wait_ids, 'token', array_fill(p_payload, array[cardinality(v_wait_ids)]));
  end if;
  return 'ok';
end $$;

-- functions/sweep.sql

-- What time does to live rows, in bounded pieces and off the claim path: expired leases, deadlines, dead workers, events that an
-- emit could not deliver itself, clients that went away. Any worker may call it; one at a time does it, the others return at once.
-- p_settling: the database may have been away. Whoever could not renew anything meanwhile has time to come back, and only deadlines and
-- events are looked after.
-- swept_until: no lease and no deadline that ended before it is left, for p_after of the next sweep, which then begins a second before
-- that place: they are not committed in the order of their times. While somebody holds an old snapshot, runs that have ended stay in
-- the indexes as dead entries, and a sweep without p_after walks past all of them; a caller has to make one now and then, for what
-- was committed long after the time in it.
create or replace function absurd.sweep(
  p_limit integer default 200, p_settling boolean default false, p_after timestamptz default null)
returns table (
  leases_expired integer, deadlines_passed integer, worker_runs_ended integer, events_delivered integer, swept_until timestamptz)
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_from timestamptz := p_after - interval '1 second';
  v_leases integer;
  v_deadlines integer;
  v_workers integer;
begin
  p_limit := greatest(coalesce(p_limit, 200), 0);
  if not pg_try_advisory_xact_lock(hashtextextended('absurd sweep', 0)) then
    return query select 0, 0, 0, 0, p_after;
    return;
  end if;
  if p_settling then
    return query select 0, absurd.expire_deadlines(p_limit, v_from), 0, absurd.deliver_late(p_limit), p_after;
    return;
  end if;
  delete from absurd.waits w where w.wait_id in (
    select c.wait_id from absurd.waits c where c.kind = 'client' and c.expires_at < v_now for update skip locked);
  perform absurd.forget_listeners();
  v_leases := absurd.expire_leases(p_limit, v_from);
  v_deadlines := absurd.expire_deadlines(p_limit, v_from);
  v_workers := absurd.reap_workers(p_limit);
  return query select v_leases, v_deadlines, v_workers, absurd.deliver_late(p_limit),
    coalesce(absurd.first_overdue(v_now, v_from) - interval '1 microsecond', v_now);
end $$;

-- The first lease or deadline that ended up to a moment, and that a sweep has left: there was more than it may end at once, or somebody
-- has locked it. Null if there is none.
create or replace function absurd.first_overdue(p_now timestamptz, p_after timestamptz) returns timestamptz
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
begin
  return least(
    (select r.lease_expires_at from absurd.runs r
     where r.state = 'running' and r.lease_expires_at <= p_now and r.lease_expires_at >= coalesce(p_after, '-infinity')
     order by r.lease_expires_at limit 1),
    (select r.deadline_at from absurd.runs r
     where r.deadline_at <= p_now and r.deadline_at >= coalesce(p_after, '-infinity')
     order by r.deadline_at limit 1));
end $$;

-- Ends attempts for the sweep, whose caller has locked them; returns how many. The end of a task wakes those who wait for it, so it
-- needs their rows too; where somebody holds one for long, that task alone is left to a later sweep.
create or replace function absurd.end_swept(p_run_ids uuid[], p_causes text[], p_failures json[]) returns integer
language plpgsql volatile
set lock_timeout = '200ms'
as $$
declare
  v_count integer := 0;
begin
  begin
    perform absurd.end_attempts(p_run_ids, p_causes, p_failures);
    return cardinality(p_run_ids);
  exception when lock_not_available then
    perform set_config('lock_timeout', '10ms', true);
  end;
  for i in 1 .. cardinality(p_run_ids) loop
    begin
      perform absurd.end_attempts(array[p_run_ids[i]], array[p_causes[i]], array[p_failures[i]]);
      v_count := v_count + 1;
    exception when lock_not_available then
      null;
    end;
  end loop;
  return v_count;
end $$;

-- Ends attempts whose lease has run out, after a given moment only if there is one: see sweep().
create or replace function absurd.expire_leases(p_limit integer default 200, p_after timestamptz default null) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run_ids uuid[] := array(
    select e.run_id from (
      select r.run_id from absurd.runs r
      where r.state = 'running' and r.lease_expires_at <= v_now and r.lease_expires_at >= coalesce(p_after, '-infinity')
      order by r.lease_expires_at limit p_limit
      for update skip locked) e);
begin
  if cardinality(v_run_ids) > 0 then
    return absurd.end_swept(v_run_ids, array_fill('lease'::text, array[cardinality(v_run_ids)]), array(
      select json_build_object('name', '$ClaimTimeout', 'message', format('worker %s did not renew the lease that ran out at %s',
        coalesce(r.worker_id, '(unknown)'), r.lease_expires_at))
      from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord));
  end if;
  return 0;
end $$;

-- Cancels tasks that were not started within max_delay or have used up max_duration, after a given moment only if there is one: see sweep().
create or replace function absurd.expire_deadlines(p_limit integer default 200, p_after timestamptz default null) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run_ids uuid[] := array(
    select e.run_id from (
      select r.run_id from absurd.runs r
      where r.deadline_at <= v_now and r.deadline_at >= coalesce(p_after, '-infinity')
      order by r.deadline_at limit p_limit
      for update skip locked) e);
begin
  if cardinality(v_run_ids) > 0 then
    return absurd.end_swept(v_run_ids,
      array(select case when r.state = 'running' then 'duration' else 'delay' end
        from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord),
      array(select json_build_object('name', '$Cancelled', 'message',
          case when r.state = 'running' then 'the task has used up its max_duration' else 'the task was not started within its max_delay' end)
        from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord));
  end if;
  return 0;
end $$;

-- Delivers events whose emit could not see the waits of others (REPEATABLE READ and above), name by name, and those of one name in
-- their order. A name for which somebody holds a row for long is left to a later call: neither the sweep nor a claim waits for it.
create or replace function absurd.deliver_late(p_limit integer default 200) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
set lock_timeout = '200ms'
as $$
declare
  v_name record;
  v_count integer := 0;
begin
  for v_name in
    select f.queue_name, f.event_name, count(*)::integer as n
    from (select e.seq, e.queue_name, e.event_name from absurd.events e where not e.delivered order by e.seq limit p_limit) f
    group by f.queue_name, f.event_name
    order by min(f.seq)
  loop
    begin
      -- The name first: whoever had its events without it could not be passed by an emit, which has to deliver them before its own.
      if absurd.try_lock_emit(v_name.queue_name, v_name.event_name) then
        v_count := v_count + absurd.deliver_undelivered(v_name.queue_name, v_name.event_name, v_name.n);
      end if;
    exception when lock_not_available then
      perform set_config('lock_timeout', '10ms', true);
    end;
  end loop;
  return v_count;
end $$;

-- functions/workers.sql

-- Makes a worker known, or known again after its row was swept away.
create or replace function absurd.register_worker(
  p_worker_id text, p_queue_names text[], p_hostname text, p_pid integer, p_version text, p_concurrency integer,
  p_lease_seconds double precision, p_session_key bigint default null)
returns void
language sql volatile as $$
  insert into absurd.workers (worker_id, queue_names, hostname, pid, version, concurrency, lease_seconds, session_key, started_at, heartbeat_at)
  values (p_worker_id, p_queue_names, p_hostname, p_pid, p_version, p_concurrency, p_lease_seconds, p_session_key,
    absurd.current_time(), absurd.current_time())
  on conflict (worker_id) do update
  set heartbeat_at = excluded.heartbeat_at, session_key = excluded.session_key, missing_since = null
$$;

-- The advisory lock by which the others see that a worker's session lives.
create or replace function absurd.worker_lock_key(p_worker_id text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd worker ' || p_worker_id, 0)
$$;

-- Says that a worker lives. False: its row is gone, register again.
create or replace function absurd.heartbeat_worker(p_worker_id text, p_running integer) returns boolean
language sql volatile as $$
  with beat as (
    update absurd.workers w set heartbeat_at = absurd.current_time(), running = p_running, missing_since = null
    where w.worker_id = p_worker_id
    returning 1
  )
  select exists (select from beat)
$$;

-- Says whether a worker has free slots and waits for notifications.
create or replace function absurd.set_worker_idle(p_worker_id text, p_idle boolean) returns void
language sql volatile as $$
  update absurd.workers w set idle = p_idle where w.worker_id = p_worker_id and w.idle <> p_idle
$$;

-- Forgets a worker that stops.
create or replace function absurd.unregister_worker(p_worker_id text) returns void
language sql volatile as $$
  delete from absurd.workers w where w.worker_id = p_worker_id
$$;

-- Whether there are workers that have not been back since the database was away: it was restarted, it crashed, or a standby was promoted.
-- A worker renews its leases before it says that it lives, so that whoever has said so since is not among them.
create or replace function absurd.workers_may_return(p_worker_id text) returns boolean
language sql volatile as $$
  select exists (
    select from absurd.workers w
    where w.worker_id <> p_worker_id
      -- A crash of one process restarts all but the postmaster, which forgets its statistics then. A promoted standby keeps the time of
      -- the last commit that its primary sent.
      and w.heartbeat_at < greatest(pg_postmaster_start_time(), pg_stat_get_bgwriter_stat_reset_time(), pg_last_xact_replay_timestamp())
      -- A clock that a test has moved is not the server's.
      and absurd.current_time() between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute')
$$;

-- Finds workers whose session has been gone for three seconds (a reconnect takes less) and ends the attempts they held;
-- forgets rows without a heartbeat. Returns how many attempts were ended.
create or replace function absurd.reap_workers(p_limit integer default 200) returns integer
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_dead text[];
  v_run_ids uuid[];
  v_ended integer := 0;
begin
  update absurd.workers w
  set missing_since = case when s.alive then null else coalesce(w.missing_since, v_now) end
  from (
    select k.worker_id, exists (
      select from pg_locks l
      where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
        and l.database = (select d.oid from pg_database d where d.datname = current_database())
        and l.classid::bigint = (k.session_key >> 32) & 4294967295 and l.objid::bigint = k.session_key & 4294967295) as alive
    from absurd.workers k
    where k.session_key is not null
  ) s
  where w.worker_id = s.worker_id and s.alive = (w.missing_since is not null);
  -- Whoever is dead first: to look for runs reads the index of leases whole, with the entries that an old snapshot keeps in it.
  v_dead := array(select w.worker_id from absurd.workers w where w.missing_since < v_now - interval '3 seconds');
  if cardinality(v_dead) > 0 then
    v_run_ids := array(
      select d.run_id from (
        select r.run_id
        from absurd.runs r
        where r.state = 'running' and r.lease_expires_at is not null and r.worker_id = any (v_dead)
        order by r.run_id
        limit p_limit
        for update skip locked) d);
  end if;
  if cardinality(v_run_ids) > 0 then
    v_ended := absurd.end_swept(v_run_ids, array_fill('worker'::text, array[cardinality(v_run_ids)]), array(
      select json_build_object('name', '$WorkerLost', 'message', format('worker %s vanished while it held this run', r.worker_id))
      from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord));
  end if;
  delete from absurd.workers w
  where (w.missing_since < v_now - interval '3 seconds'
      or w.heartbeat_at < v_now - absurd.stored_seconds(greatest(2 * least(greatest(w.lease_seconds, 0), 315360000), 60)))
    and not exists (select from absurd.runs r where r.worker_id = w.worker_id and r.state = 'running' and r.lease_expires_at is not null);
  return v_ended;
end $$;

-- functions/listeners.sql

-- Says that a listener lives and how it fares; makes it known if its row is not there. p_failures counts its errors: the last one is
-- dated when the number grows. Whatever a listener says is taken, cut to a length that a list can show.
create or replace function absurd.heartbeat_listener(
  p_listener_id text, p_name text, p_queue_name text, p_hostname text, p_pid integer, p_status text, p_started_count integer,
  p_failures integer, p_last_error text)
returns void
language sql volatile as $$
  insert into absurd.listeners as l (listener_id, name, queue_name, hostname, pid, status, started_at, heartbeat_at, started_count,
    failures, last_error, last_error_at)
  values (left(p_listener_id, 255), left(p_name, 1000), left(p_queue_name, 255), left(p_hostname, 255), p_pid, left(p_status, 20),
    absurd.current_time(), absurd.current_time(),
    p_started_count, p_failures, left(p_last_error, 2000), case when p_last_error is not null then absurd.current_time() end)
  on conflict (listener_id) do update
  set status = excluded.status, heartbeat_at = excluded.heartbeat_at, started_count = excluded.started_count,
    failures = excluded.failures, last_error = excluded.last_error,
    last_error_at = case when l.failures = excluded.failures then l.last_error_at else excluded.last_error_at end
$$;

-- Forgets a listener that ends.
create or replace function absurd.unregister_listener(p_listener_id text) returns void
language sql volatile as $$
  delete from absurd.listeners l where l.listener_id = left(p_listener_id, 255)
$$;

-- Forgets listeners without a heartbeat for a day.
create or replace function absurd.forget_listeners() returns void
language sql volatile as $$
  delete from absurd.listeners l where l.listener_id in (
    select d.listener_id from absurd.listeners d where d.heartbeat_at < absurd.current_time() - interval '1 day' for update skip locked)
$$;

-- Listeners, the oldest first, a thousand at most. A status of dead: no heartbeat for a minute.
create or replace function absurd.list_listeners(p_name text default null)
returns table (
  listener_id text, name text, queue_name text, hostname text, pid integer, status text, started_at timestamptz,
  heartbeat_at timestamptz, started_count integer, failures integer, last_error text, last_error_at timestamptz)
language sql stable as $$
  select l.listener_id, l.name, l.queue_name, l.hostname, l.pid,
    case when l.heartbeat_at < absurd.current_time() - interval '1 minute' then 'dead' else l.status end,
    l.started_at, l.heartbeat_at, l.started_count, l.failures, l.last_error, l.last_error_at
  from absurd.listeners l
  where p_name is null or l.name = p_name
  order by l.started_at, l.listener_id
  limit 1000
$$;

-- functions/policy.sql

-- What people decided about a queue's storage and retention. No row: no such queue.
create or replace function absurd.get_queue_policy(p_queue_name text)
returns table (
  queue_name text, storage_mode text, default_partition text, partition_lookahead interval, partition_lookback interval,
  cleanup_ttl interval, cleanup_limit integer, detach_mode text, detach_min_age interval)
language sql stable as $$
  select q.queue_name, q.storage_mode, q.default_partition, q.partition_lookahead, q.partition_lookback,
    q.cleanup_ttl, q.cleanup_limit, q.detach_mode, q.detach_min_age
  from absurd.queues q
  where q.queue_name = p_queue_name
$$;

-- An interval of a policy: text as PostgreSQL reads it, or a number of seconds; null if it is not there. At most a hundred years,
-- so that no moment computed with it lies outside of what a timestamp can hold.
create or replace function absurd.read_policy_interval(p_policy jsonb, p_name text) returns interval
language plpgsql stable as $$
declare
  v_value interval;
begin
  if jsonb_typeof(p_policy -> p_name) = 'number' then
    v_value := make_interval(secs => least(greatest((p_policy ->> p_name)::numeric, -1), 1e10)::double precision);
  elsif jsonb_typeof(p_policy -> p_name) = 'string' then
    v_value := (p_policy ->> p_name)::interval;
  elsif jsonb_typeof(p_policy -> p_name) <> 'null' then
    raise data_exception;
  end if;
  if v_value < interval '0' or v_value > interval '100 years' then
    raise data_exception;
  end if;
  return v_value;
exception when data_exception then
  raise exception '% must be an interval such as "30 days", or seconds, between 0 and 100 years, not %',
    p_name, left((p_policy -> p_name)::text, 100) using errcode = 'AB012';
end $$;

-- A word of a policy, one of those known; null if it is not there.
create or replace function absurd.read_policy_word(p_policy jsonb, p_name text, p_known text[]) returns text
language plpgsql stable as $$
begin
  if coalesce(jsonb_typeof(p_policy -> p_name), 'null') <> 'null' and (p_policy ->> p_name) <> all (p_known) then
    raise exception '% must be %, not %', p_name, array_to_string(p_known, ' or '), left((p_policy -> p_name)::text, 100)
      using errcode = 'AB012';
  end if;
  return p_policy ->> p_name;
end $$;

-- Changes a queue's policy: what the object names, and nothing else. max_payload_bytes limits params, results, states and payloads.
create or replace function absurd.set_queue_policy(p_queue_name text, p_policy jsonb) returns void
language plpgsql volatile as $$
declare
  v_problem text := coalesce(
    case when p_policy is null or jsonb_typeof(p_policy) = 'null' then 'policy must be an object, not null' end,
    absurd.object_error('policy', p_policy, array['default_partition', 'partition_lookahead', 'partition_lookback', 'cleanup_ttl',
      'cleanup_limit', 'detach_mode', 'detach_min_age', 'max_payload_bytes']),
    absurd.number_error('cleanup_limit', p_policy -> 'cleanup_limit', 1, 2147483647, true),
    absurd.number_error('max_payload_bytes', p_policy -> 'max_payload_bytes', 1024, 268435456, true));
begin
  perform absurd.require_queue(p_queue_name);
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  update absurd.queues q
  set default_partition = coalesce(absurd.read_policy_word(p_policy, 'default_partition', array['enabled', 'disabled']), q.default_partition),
    partition_lookahead = coalesce(absurd.read_policy_interval(p_policy, 'partition_lookahead'), q.partition_lookahead),
    partition_lookback = coalesce(absurd.read_policy_interval(p_policy, 'partition_lookback'), q.partition_lookback),
    cleanup_ttl = coalesce(absurd.read_policy_interval(p_policy, 'cleanup_ttl'), q.cleanup_ttl),
    cleanup_limit = coalesce((p_policy ->> 'cleanup_limit')::numeric::integer, q.cleanup_limit),
    detach_mode = coalesce(absurd.read_policy_word(p_policy, 'detach_mode', array['none', 'empty']), q.detach_mode),
    detach_min_age = coalesce(absurd.read_policy_interval(p_policy, 'detach_min_age'), q.detach_min_age),
    max_payload_bytes = coalesce((p_policy ->> 'max_payload_bytes')::numeric::integer, q.max_payload_bytes)
  where q.queue_name = p_queue_name;
end $$;

-- functions/queue_options.sql

-- The options of a queue: what it keeps of what has ended, and for how long, and how large values may be.

-- Creates a queue with options, as set_queue_options() takes them; one that exists stays as it is. Returns whether it was created.
create or replace function absurd.make_queue(p_queue_name text, p_options jsonb default '{}') returns boolean
language plpgsql volatile as $$
begin
  if exists (select from absurd.queues q where q.queue_name = p_queue_name) then
    return false;
  end if;
  perform absurd.create_queue(p_queue_name, 'unpartitioned');
  if p_options <> '{}' then
    perform absurd.change_queue(p_queue_name, p_options);
  end if;
  return true;
end $$;

-- Changes options of a queue: what the object names, and nothing else. keep_completed, keep_failed, keep_cancelled: how long a task that
-- ended so is kept; keep_events: an event, from when somebody took it. An interval or seconds, a minute at least; null: for ever.
-- keep_count: how many ended tasks are kept at most; null: any number. max_payload_bytes: limit of params, results and payloads.
create or replace function absurd.set_queue_options(p_queue_name text, p_options jsonb) returns void
language sql volatile as $$
  select absurd.change_queue(p_queue_name, p_options)
$$;

-- The same, for functions of other roles.
create or replace function absurd.change_queue(p_queue_name text, p_options jsonb) returns void
language plpgsql volatile as $$
declare
  v_problem text := coalesce(
    case when p_options is null or jsonb_typeof(p_options) = 'null' then 'options must be an object, not null' end,
    absurd.object_error('options', p_options,
      array['keep_completed', 'keep_failed', 'keep_cancelled', 'keep_count', 'keep_events', 'max_payload_bytes']),
    absurd.number_error('keep_count', p_options -> 'keep_count', 1, 10000000, true));
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));  -- against drop_queue
  perform absurd.require_queue(p_queue_name);
  if coalesce(p_options -> 'max_payload_bytes', 'null') <> 'null' then
    perform absurd.set_queue_policy(p_queue_name, jsonb_build_object('max_payload_bytes', p_options -> 'max_payload_bytes'));
  end if;
  if p_options - 'max_payload_bytes' = '{}' then
    return;
  end if;
  insert into absurd.retention (queue_name) values (p_queue_name) on conflict (queue_name) do nothing;
  update absurd.retention r
  set keep_completed = absurd.keep_option(p_options, 'keep_completed', r.keep_completed),
    keep_failed = absurd.keep_option(p_options, 'keep_failed', r.keep_failed),
    keep_cancelled = absurd.keep_option(p_options, 'keep_cancelled', r.keep_cancelled),
    keep_events = absurd.keep_option(p_options, 'keep_events', r.keep_events),
    keep_count = case when p_options ? 'keep_count' then (p_options ->> 'keep_count')::numeric::integer else r.keep_count end,
    -- What was decided for the former settings is void, and the new ones hold at once.
    after_task_name = null, after_task_id = null, beyond_task_id = null, counted_down_to = null, next_tasks_at = null, after_seq = null,
    next_events_at = null
  where r.queue_name = p_queue_name;
end $$;

-- One of the ages in options, in seconds, or what holds so far if they do not name it.
create or replace function absurd.keep_option(p_options jsonb, p_name text, p_present double precision) returns double precision
language plpgsql stable as $$
declare
  v_seconds double precision;
begin
  if not p_options ? p_name then
    return p_present;
  end if;
  v_seconds := extract(epoch from absurd.read_policy_interval(p_options, p_name));
  -- Whoever has just learned that a task ended may be about to ask for its result.
  if v_seconds < 60 then
    raise exception '% must be 60 seconds or more, not %', p_name, left((p_options -> p_name)::text, 100) using errcode = 'AB012';
  end if;
  return v_seconds;
end $$;

-- The options of all queues, or of one, and what clean-up has done there. Seconds; null: for ever, or no limit.
create or replace function absurd.queue_options(p_queue_name text default null)
returns table (
  queue_name text, keep_completed double precision, keep_failed double precision, keep_cancelled double precision, keep_count integer,
  keep_events double precision, max_payload_bytes integer, visited_at timestamptz, cleaned_at timestamptz, tasks_deleted bigint,
  events_deleted bigint)
language sql stable as $$
  select q.queue_name, r.keep_completed, r.keep_failed, r.keep_cancelled, r.keep_count, r.keep_events, q.max_payload_bytes, r.visited_at,
    r.cleaned_at, coalesce(r.tasks_deleted, 0), coalesce(r.events_deleted, 0)
  from absurd.queues q
  left join absurd.retention r on r.queue_name = q.queue_name
  where p_queue_name is null or q.queue_name = p_queue_name
  order by q.queue_name
$$;

-- functions/retention_walks.sql

-- The walks that find what a queue need not keep.
-- A walk goes through the tasks of a queue in order of name and id, through its events in order of the log. It remembers its place, so
-- that no batch reads again what the ones before it have passed over: living tasks, failures that are kept, events nobody has taken.

-- One step of counting what keep_count keeps: ended tasks, the newest first, one range of ids after another. When it has come so far,
-- beyond_task_id is the oldest that is kept, or null if there are not so many, and counted_down_to is null. It reads twice p_rows tasks at
-- most and a few of each task name; where names are very many more tasks, too, so that it does not read them for little.
-- A range cannot be narrower than a 256th of a millisecond; of one that holds more, as many are counted as a step may read: too few.
create or replace function absurd.count_kept(inout p_queue absurd.retention, p_rows integer, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  v_span bigint := least(greatest(coalesce(p_queue.count_span, 0), 0), 1::bigint << 54);
  v_names text[];
  v_most integer;
  v_range record;
begin
  read := 0;
  if p_queue.counted_down_to is null then
    p_queue.counted := 0;
    p_queue.beyond_task_id := null;
    p_queue.counted_down_to := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  end if;
  if p_queue.keep_count > 0 then
    v_names := array(select n.task_name from absurd.task_names(p_queue.queue_name) n);
    v_most := greatest(p_rows, 4 * cardinality(v_names));
  else
    p_queue.counted_down_to := null;
  end if;
  while p_queue.counted_down_to is not null and read <= v_most / 2 loop
    v_range := absurd.ended_before(p_queue.queue_name, v_names, p_queue.counted_down_to, v_span, v_most);
    read := read + v_range.read + 2 * cardinality(v_names);
    if v_range.read > v_most and v_span > 0 then
      v_span := v_span / 2;
      continue;
    elsif p_queue.counted::bigint + cardinality(v_range.task_ids) >= p_queue.keep_count then
      p_queue.beyond_task_id := (v_range.task_ids)[p_queue.keep_count - p_queue.counted];
      p_queue.counted_down_to := null;
    else
      p_queue.counted := p_queue.counted + cardinality(v_range.task_ids);
      p_queue.counted_down_to := v_range.low;
    end if;
    v_span := case when v_range.read <= v_most / 2 then 2 * greatest(v_span, 1) else v_span end;
  end loop;
  p_queue.count_span := v_span;
end $$;

-- The ended tasks in a range of ids, the newest first: from the last task with one of the names before an id, as far back as p_span says,
-- in 256ths of a millisecond. low: where the range begins, null when there is no task before. read: how many were read, p_most + 1 if
-- there are more than p_most.
create or replace function absurd.ended_before(
  p_queue_name text, p_names text[], p_before uuid, p_span bigint, p_most integer, out task_ids uuid[], out low uuid, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  v_high uuid := absurd.last_before(p_queue_name, p_names, p_before);
  -- Its first 60 bits: 48 of milliseconds, the version, and 8 of whatever follows
  v_bits bigint := ('x' || left(replace(v_high::text, '-', ''), 15))::bit(60)::bigint;
  v_name text;
  v_task record;
begin
  task_ids := '{}'::uuid[];
  read := 0;
  if v_high is null then
    return;
  end if;
  low := rpad(lpad(to_hex(greatest(v_bits - p_span, 0)), 15, '0'), 32, '0')::uuid;
  foreach v_name in array p_names loop
    for v_task in
      select t.task_name, t.task_id, t.outcome from absurd.tasks t
      where t.queue_name = p_queue_name and (t.task_name, t.task_id) >= (v_name, low)
      order by t.queue_name, t.task_name, t.task_id limit p_most + 1 - read
    loop
      exit when v_task.task_name <> v_name or v_task.task_id > v_high;
      read := read + 1;
      if v_task.outcome is not null then
        task_ids := task_ids || v_task.task_id;
      end if;
    end loop;
    exit when read > p_most;
  end loop;
  task_ids := array(select u.task_id from unnest(task_ids) as u(task_id) order by u.task_id desc);
end $$;

-- The last id before another one among the tasks with one of the names.
create or replace function absurd.last_before(p_queue_name text, p_names text[], p_before uuid) returns uuid
language sql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
  select l.task_id
  from unnest(p_names) as n(task_name)
  -- Written so that only the index of names will do: by that of ids, a name that is seldom used would cost a walk over all tasks.
  cross join lateral (
    select t.task_name, t.task_id from absurd.tasks t
    where t.queue_name = p_queue_name and (t.task_name, t.task_id) < (n.task_name, p_before)
    order by t.queue_name desc, t.task_name desc, t.task_id desc limit 1) l
  where l.task_name = n.task_name
  order by l.task_id desc limit 1
$$;

-- Walks over tasks of a queue behind a place, and finds those that may go: that ended before the moment for their outcome, or that are
-- too many (p_beyond) and ended before p_settled. It ends after p_rows tasks, or when those found and their steps are p_limit in all.
-- Of each name it skips what is younger than all these moments. Ids are made by the clocks of clients: what one has spawned whose clock is
-- more than five minutes fast may be found so much later. last_name is null when it has come to the end.
create or replace function absurd.walk_tasks(
  p_queue_name text, p_after_name text, p_after_id uuid, p_completed timestamptz, p_failed timestamptz, p_cancelled timestamptz,
  p_beyond uuid, p_settled timestamptz, p_limit integer, p_rows integer,
  out task_ids uuid[], out last_name text, out last_id uuid, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  v_latest timestamptz := greatest(p_completed, p_failed, p_cancelled);
  -- Null while the clock is moved
  v_young_id uuid := absurd.id_floor(v_latest + interval '5 minutes');
  v_task record;
  v_young integer := 0;
  v_weight integer := 0;
  v_skip boolean := true;
begin
  task_ids := '{}'::uuid[];
  read := 0;
  last_name := coalesce(p_after_name, '');
  last_id := coalesce(p_after_id, '00000000-0000-0000-0000-000000000000');
  while v_skip and read < p_rows loop
    v_skip := false;
    for v_task in
      select t.task_name, t.task_id, t.spawned_at, t.outcome, t.finished_at
      from absurd.tasks t
      where t.queue_name = p_queue_name and (t.task_name, t.task_id) > (last_name, last_id)
      order by t.queue_name, t.task_name, t.task_id
      limit p_rows - read
    loop
      read := read + 1;
      v_young := case when v_task.task_name <> last_name then 0 else v_young end;
      last_name := v_task.task_name;
      last_id := v_task.task_id;
      if v_task.task_id < p_beyond and v_task.outcome is not null and v_task.finished_at <= p_settled
          or v_task.finished_at <= (case v_task.outcome when 'completed' then p_completed when 'failed' then p_failed
            when 'cancelled' then p_cancelled end) then
        task_ids := task_ids || v_task.task_id;
        v_weight := v_weight + 1
          + (select count(*)::integer from (select from absurd.checkpoints c where c.task_id = v_task.task_id limit p_limit) s);
        if v_weight >= p_limit then
          return;
        end if;
      elsif v_task.spawned_at > v_latest is not false and v_task.task_id < greatest(p_beyond, v_young_id) is not true then
        -- What was spawned after the latest moment has not ended before it. More than one, for clocks are not the same.
        v_young := v_young + 1;
        if v_young >= 100 then
          last_id := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
          v_skip := true;
          exit;
        end if;
      else
        v_young := 0;
      end if;
    end loop;
  end loop;
  if read < p_rows and not v_skip then
    last_name := null;
    last_id := null;
  end if;
end $$;

-- Walks over the log behind a place, and finds the events of a queue that were taken (p_unclaimed: or emitted, if nobody has taken them)
-- before a moment. Spares those that are still to be delivered and every name that somebody waits for. last_seq is null at the end:
-- with the first event that is too young.
create or replace function absurd.walk_events(
  p_queue_name text, p_after_seq bigint, p_cutoff timestamptz, p_unclaimed boolean, p_limit integer, p_rows integer,
  out seqs bigint[], out last_seq bigint, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_event record;
  v_weight integer := 0;
begin
  seqs := '{}'::bigint[];
  read := 0;
  for v_event in
    select e.seq, e.emitted_at, e.queue_name = p_queue_name and e.delivered
      and (p_unclaimed or coalesce(e.claimed_at <= p_cutoff, false)) as old, e.queue_name, e.event_name
    from absurd.events e
    where e.seq > coalesce(p_after_seq, 0)
    order by e.seq
    limit p_rows
  loop
    if v_event.emitted_at > p_cutoff then
      last_seq := null;
      return;
    end if;
    read := read + 1;
    last_seq := v_event.seq;
    if v_event.old and not exists (
        select from absurd.waits w where w.queue_name = v_event.queue_name and w.event_name = v_event.event_name) then
      seqs := seqs || v_event.seq;
      v_weight := v_weight + 1
        + (select count(*)::integer from (select from absurd.event_tasks t where t.seq = v_event.seq limit p_limit) s);
      if v_weight >= p_limit then
        return;
      end if;
    end if;
  end loop;
  if read < p_rows then
    last_seq := null;
  end if;
end $$;

-- functions/retention.sql

-- What the queues need not keep any longer: the batches that delete it, each with a step of the walks that find it (retention_walks.sql).

-- Deletes a batch of what the queues need not keep any longer: about p_limit rows of tasks, steps and events at most, a few milliseconds
-- of work. One session at a time does it, the others return at once and say busy; busy is also said when somebody holds a queue whose turn
-- it was. next_in: seconds until there may be more to do, 0 for now, null when no queue has a limit. seconds: how long this batch took
-- here. p_queue_name: for one queue alone; p_anew: its walks begin at the beginning, even if they rest.
-- For pg_cron: select cron.schedule('absurd retention', '10 seconds', 'select * from absurd.apply_retention(5000)').
create or replace function absurd.apply_retention(
  p_limit integer default 500, p_queue_name text default null, p_anew boolean default false)
returns table (tasks_deleted integer, events_deleted integer, next_in double precision, busy boolean, seconds double precision)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_began timestamptz := clock_timestamp();
  v_now timestamptz := absurd.current_time();
  v_limit integer := least(greatest(coalesce(p_limit, 500), 1), 100000);
  -- A walk reads more than it deletes: there is a limit to that too.
  v_rows integer := 4 * v_limit;
  v_queue absurd.retention;
  v_step record;
  v_tasks integer := 0;
  v_events integer := 0;
  v_visited text[] := array[]::text[];
begin
  if p_queue_name is not null then
    perform absurd.require_queue(p_queue_name);
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('absurd retention', 0)) then
    return query select 0, 0, 1::double precision, true, 0::double precision;
    return;
  end if;
  for v_queue in
    select r.* from absurd.retention r
    where (p_queue_name is null or r.queue_name = p_queue_name) and (p_anew or absurd.retains_at(r) <= v_now)
    order by r.visited_at nulls first, r.queue_name
    -- skip locked: somebody is cleaning up by hand
    for update skip locked
  loop
    exit when v_limit <= 0 or v_rows <= 0;
    -- Not while it is being dropped.
    continue when not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(v_queue.queue_name));
    v_step := absurd.retain_queue(v_queue, v_now, v_limit, v_rows, p_anew);
    v_tasks := v_tasks + v_step.tasks;
    v_events := v_events + v_step.events;
    v_limit := v_limit - v_step.tasks - v_step.events;
    v_rows := v_rows - v_step.read;
    v_visited := v_visited || v_queue.queue_name;
  end loop;
  return query
    select v_tasks, v_events, min(case when w.held then 1 else w.rest end), coalesce(bool_or(w.held), false),
      extract(epoch from clock_timestamp() - v_began)::double precision
    from (
      select (p_anew or absurd.retains_at(r) <= v_now) and v_limit > 0 and v_rows > 0 and r.queue_name <> all (v_visited) as held,
        -- Bounded, for it is computed from what rows hold: no walk rests for more than an hour.
        extract(epoch from least(greatest(absurd.retains_at(r), v_now), v_now + interval '1 hour') - v_now)::double precision as rest
      from absurd.retention r
      where (p_queue_name is null or r.queue_name = p_queue_name) and absurd.retains_at(r) is not null) w;
end $$;

-- When the walks of a queue go on, the first of them; null: it keeps everything.
create or replace function absurd.retains_at(p_queue absurd.retention) returns timestamptz
language sql immutable as $$
  select least(
    case when absurd.limits_tasks(p_queue) then coalesce(p_queue.next_tasks_at, '-infinity') end,
    case when p_queue.keep_events is not null then coalesce(p_queue.next_events_at, '-infinity') end)
$$;

-- Whether a queue does not keep all of its tasks.
create or replace function absurd.limits_tasks(p_queue absurd.retention) returns boolean
language sql immutable as $$
  select coalesce(p_queue.keep_completed, p_queue.keep_failed, p_queue.keep_cancelled, p_queue.keep_count) is not null
$$;

-- The moment from which on everything is kept for so many seconds. Null: for ever, also when the row says what nobody could have set: it
-- stops no other queue, and nothing is deleted by an error.
create or replace function absurd.kept_from(p_now timestamptz, p_seconds double precision) returns timestamptz
language sql immutable as $$
  select case when p_seconds between 0 and 3.2e9 then p_now - make_interval(secs => p_seconds) end
$$;

-- When a walk that has taken so many seconds is followed by the next one: so that reading what is kept never is more than a twentieth
-- of the time.
create or replace function absurd.next_walk(p_now timestamptz, p_seconds double precision) returns timestamptz
language sql immutable as $$
  select p_now + make_interval(secs => least(greatest(20 * least(p_seconds, 3600), 10), 3600))
$$;

-- One step of each walk of a queue that is due: deletes, and writes down the places.
create or replace function absurd.retain_queue(
  p_queue absurd.retention, p_now timestamptz, p_limit integer, p_rows integer, p_anew boolean,
  out tasks integer, out events integer, out read integer)
language plpgsql volatile as $$
declare
  v_step record;
begin
  tasks := 0;
  events := 0;
  read := 0;
  if p_anew then
    p_queue.after_task_name := null;
    p_queue.counted_down_to := null;
    p_queue.next_tasks_at := null;
    p_queue.after_seq := null;
    p_queue.next_events_at := null;
  end if;
  if absurd.limits_tasks(p_queue) and p_queue.next_tasks_at > p_now is not true then
    v_step := absurd.retain_tasks(p_queue, p_now, p_limit, p_rows);
    p_queue := v_step.p_queue;
    tasks := v_step.deleted;
    read := v_step.read;
  end if;
  if p_queue.keep_events is not null and p_queue.next_events_at > p_now is not true and tasks < p_limit and read < p_rows then
    v_step := absurd.retain_events(p_queue, p_now, p_limit - tasks, p_rows - read);
    p_queue := v_step.p_queue;
    events := v_step.deleted;
    read := read + v_step.read;
  end if;
  update absurd.retention r
  set after_task_name = p_queue.after_task_name, after_task_id = p_queue.after_task_id, beyond_task_id = p_queue.beyond_task_id,
    counted = p_queue.counted, counted_down_to = p_queue.counted_down_to, count_span = p_queue.count_span,
    task_seconds = p_queue.task_seconds, next_tasks_at = p_queue.next_tasks_at, after_seq = p_queue.after_seq,
    event_seconds = p_queue.event_seconds, next_events_at = p_queue.next_events_at, visited_at = p_now,
    tasks_deleted = least(r.tasks_deleted, 9e18::bigint) + tasks, events_deleted = least(r.events_deleted, 9e18::bigint) + events
  where r.queue_name = p_queue.queue_name;
end $$;

-- One step of the walk over the tasks of a queue. Before it begins, what keep_count keeps is counted.
create or replace function absurd.retain_tasks(
  inout p_queue absurd.retention, p_now timestamptz, p_limit integer, p_rows integer, out deleted integer, out read integer)
language plpgsql volatile as $$
declare
  v_began timestamptz := clock_timestamp();
  v_step record;
begin
  deleted := 0;
  read := 0;
  if p_queue.after_task_name is null then
    p_queue.task_seconds := case when p_queue.counted_down_to is null then 0 else p_queue.task_seconds end;
    v_step := absurd.count_kept(p_queue, p_rows);
    p_queue := v_step.p_queue;
    read := v_step.read;
  end if;
  if p_queue.after_task_name is not null or p_queue.counted_down_to is null then
    v_step := absurd.walk_tasks(p_queue.queue_name, p_queue.after_task_name, p_queue.after_task_id,
      absurd.kept_from(p_now, p_queue.keep_completed), absurd.kept_from(p_now, p_queue.keep_failed),
      absurd.kept_from(p_now, p_queue.keep_cancelled), p_queue.beyond_task_id, p_now - interval '1 minute', p_limit,
      greatest(p_rows - read, 1));
    deleted := absurd.delete_tasks(v_step.task_ids);
    read := read + v_step.read;
    p_queue.after_task_name := v_step.last_name;
    p_queue.after_task_id := v_step.last_id;
    p_queue.counted_down_to := null;
  end if;
  p_queue.task_seconds := p_queue.task_seconds + extract(epoch from clock_timestamp() - v_began);
  p_queue.next_tasks_at := case when p_queue.after_task_name is null and p_queue.counted_down_to is null
    then absurd.next_walk(p_now, p_queue.task_seconds) end;
end $$;

-- One step of the walk over its events.
create or replace function absurd.retain_events(
  inout p_queue absurd.retention, p_now timestamptz, p_limit integer, p_rows integer, out deleted integer, out read integer)
language plpgsql volatile as $$
declare
  v_began timestamptz := clock_timestamp();
  v_before double precision := case when p_queue.after_seq is null then 0 else p_queue.event_seconds end;
  v_step record := absurd.walk_events(
    p_queue.queue_name, p_queue.after_seq, absurd.kept_from(p_now, p_queue.keep_events), false, p_limit, p_rows);
begin
  deleted := absurd.delete_event_rows(v_step.seqs);
  read := v_step.read;
  p_queue.after_seq := v_step.last_seq;
  p_queue.event_seconds := v_before + extract(epoch from clock_timestamp() - v_began);
  p_queue.next_events_at := case when v_step.last_seq is null then absurd.next_walk(p_now, p_queue.event_seconds) end;
end $$;

-- functions/cleanup.sql

-- Refuses arguments that a clean-up cannot use, and keeps the queue from being dropped meanwhile.
create or replace function absurd.require_cleanup(p_queue_name text, p_ttl_seconds integer, p_limit integer) returns void
language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  perform absurd.require_queue(p_queue_name);
  if p_ttl_seconds is null or p_ttl_seconds < 0 then
    raise exception 'ttl_seconds must be 0 or more, not %', coalesce(p_ttl_seconds::text, 'null') using errcode = 'AB012';
  elsif p_limit is null or p_limit < 1 then
    raise exception 'limit must be 1 or more, not %', coalesce(p_limit::text, 'null') using errcode = 'AB012';
  end if;
end $$;

-- Deletes tasks that ended at least so many seconds ago, with all that belongs to them; at most p_limit. A living task is never touched,
-- nor one whose end may still be asked for: by somebody who waits for it, or by a parent that has not completed. Returns how many were
-- deleted; fewer than p_limit means that there are no others, but for children of those that went just now, and for tasks of clients whose
-- clock is more than five minutes fast: these are found so much later.
create or replace function absurd.cleanup_tasks(p_queue_name text, p_ttl_seconds integer, p_limit integer default 1000) returns integer
language plpgsql volatile as $$
declare
  v_cutoff timestamptz;
begin
  perform absurd.require_cleanup(p_queue_name, p_ttl_seconds, p_limit);
  v_cutoff := absurd.current_time() - make_interval(secs => p_ttl_seconds);
  return absurd.clean_tasks(p_queue_name, v_cutoff, v_cutoff, v_cutoff, null, p_limit);
end $$;

-- The same with a moment for each outcome, null to spare it, and p_beyond as for walk_tasks(). It begins where the last walk over the
-- tasks of this queue stopped and goes round once at most: batch after batch reads each task that stays only once.
create or replace function absurd.clean_tasks(
  p_queue_name text, p_completed timestamptz, p_failed timestamptz, p_cancelled timestamptz, p_beyond uuid, p_limit integer)
returns integer
language plpgsql volatile as $$
declare
  v_start absurd.retention := absurd.take_retention(p_queue_name);
  v_name text := v_start.after_task_name;
  v_id uuid := v_start.after_task_id;
  v_again boolean := v_start.after_task_name is null;
  v_step record;
  v_deleted integer := 0;
begin
  loop
    v_step := absurd.walk_tasks(p_queue_name, v_name, v_id, p_completed, p_failed, p_cancelled, p_beyond,
      absurd.current_time(), p_limit - v_deleted, 10000);
    v_deleted := v_deleted + absurd.delete_tasks(v_step.task_ids);
    v_name := v_step.last_name;
    v_id := v_step.last_id;
    exit when v_deleted >= p_limit or v_name is null and v_again
      or v_again and v_start.after_task_name is not null and (v_name, v_id) >= (v_start.after_task_name, v_start.after_task_id);
    v_again := v_again or v_name is null;
  end loop;
  if v_deleted < p_limit then
    v_name := null;
    v_id := null;
  end if;
  update absurd.retention r
  set after_task_name = v_name, after_task_id = v_id, tasks_deleted = r.tasks_deleted + v_deleted, cleaned_at = absurd.current_time()
  where r.queue_name = p_queue_name;
  return v_deleted;
end $$;

-- The row of a queue that is being cleaned up, locked: two who do it at once take turns.
create or replace function absurd.take_retention(p_queue_name text) returns absurd.retention
language plpgsql volatile as $$
declare
  v_row absurd.retention;
begin
  insert into absurd.retention (queue_name) values (p_queue_name) on conflict (queue_name) do nothing;
  select * into v_row from absurd.retention r where r.queue_name = p_queue_name for update;
  return v_row;
end $$;

-- Deletes tasks that have ended, and what belongs to them. Left alone: one that somebody is retrying or deleting at this moment, one that
-- somebody waits for, and a child whose parent has not completed: one that lives, or is retried, may still ask how the child ended.
create or replace function absurd.delete_tasks(p_task_ids uuid[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_gone uuid[];
begin
  v_gone := array(
    select l.task_id from (
      select t.task_id from absurd.tasks t
      where t.task_id = any (p_task_ids) and t.outcome is not null
        and not exists (select from absurd.waits w where w.awaited_task_id = t.task_id)
        and not exists (select from absurd.tasks p where p.task_id = t.parent_task_id and p.outcome is distinct from 'completed')
      order by t.task_id for update of t skip locked) l);
  if cardinality(v_gone) = 0 then
    return 0;
  end if;
  delete from absurd.idempotency_keys k
  using absurd.tasks t
  where t.task_id = any (v_gone) and k.queue_name = t.queue_name and k.idempotency_key = t.idempotency_key and k.task_id = t.task_id;
  perform absurd.close_trigger_executions(v_gone), absurd.forget_started(v_gone);
  delete from absurd.checkpoints c where c.task_id = any (v_gone);
  delete from absurd.attempts a where a.task_id = any (v_gone);
  delete from absurd.tokens k where k.task_id = any (v_gone);
  delete from absurd.tasks t where t.task_id = any (v_gone);
  return cardinality(v_gone);
end $$;

-- Deletes what the log says of tasks that events have started and that are about to go. There is no index for that question: the tasks
-- themselves tell in their headers which event it was.
create or replace function absurd.forget_started(p_task_ids uuid[]) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off
as $$
begin
  with started as materialized (
    select t.task_id, absurd.option_number(absurd.readable_jsonb(t.headers) #> '{absurd-source,event_seq}')::bigint as seq
    from absurd.tasks t
    where t.task_id = any (p_task_ids) and t.headers::text like '%"event_seq"%'
  )
  delete from absurd.event_tasks d
  using (
    select e.seq, e.subscription_id
    from (select distinct s.seq from started s) q
    join absurd.event_tasks e on e.seq = q.seq
    where e.task_id in (select s.task_id from started s)
    -- skip locked: the event itself is being deleted
    for update of e skip locked) g
  where d.seq = g.seq and d.subscription_id = g.subscription_id;
end $$;

-- Deletes old events of a queue: see cleanup_events() and purge_events(). It goes round once at most, as clean_tasks() does.
create or replace function absurd.delete_events(p_queue_name text, p_ttl_seconds integer, p_limit integer, p_unclaimed boolean)
returns integer
language plpgsql volatile as $$
declare
  v_start bigint;
  v_seq bigint;
  v_again boolean;
  v_cutoff timestamptz;
  v_step record;
  v_deleted integer := 0;
begin
  perform absurd.require_cleanup(p_queue_name, p_ttl_seconds, p_limit);
  v_cutoff := absurd.current_time() - make_interval(secs => p_ttl_seconds);
  v_start := (absurd.take_retention(p_queue_name)).after_seq;
  v_seq := v_start;
  v_again := v_start is null;
  loop
    v_step := absurd.walk_events(p_queue_name, v_seq, v_cutoff, p_unclaimed, p_limit - v_deleted, 10000);
    v_deleted := v_deleted + absurd.delete_event_rows(v_step.seqs);
    v_seq := v_step.last_seq;
    exit when v_deleted >= p_limit or v_seq is null and v_again or v_again and v_seq >= v_start;
    v_again := v_again or v_seq is null;
  end loop;
  update absurd.retention r
  set after_seq = case when v_deleted >= p_limit then v_seq end, events_deleted = r.events_deleted + v_deleted,
    cleaned_at = absurd.current_time()
  where r.queue_name = p_queue_name;
  return v_deleted;
end $$;

-- Deletes events with their keys and what is known of whom they started. One that is being claimed at this moment is not old: it stays.
create or replace function absurd.delete_event_rows(p_seqs bigint[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_gone bigint[] := array(select f.seq from absurd.events f where f.seq = any (p_seqs) order by f.seq for update skip locked);
begin
  delete from absurd.event_tasks t where t.seq = any (v_gone);
  delete from absurd.event_keys k where k.seq = any (v_gone);
  delete from absurd.events e where e.seq = any (v_gone);
  return cardinality(v_gone);
end $$;

-- Deletes events that a wait or subscriber has claimed at least so many seconds ago; at most p_limit. Spares what nobody has claimed
-- yet and every name that somebody waits for. Returns how many were deleted.
create or replace function absurd.cleanup_events(p_queue_name text, p_ttl_seconds integer, p_limit integer default 1000) returns integer
language sql volatile as $$
  select absurd.delete_events(p_queue_name, p_ttl_seconds, p_limit, false)
$$;

-- The same for all events that were emitted so long ago, also those that nobody has claimed: a wait that comes later misses them.
create or replace function absurd.purge_events(p_queue_name text, p_ttl_seconds integer, p_limit integer default 1000) returns integer
language sql volatile as $$
  select absurd.delete_events(p_queue_name, p_ttl_seconds, p_limit, true)
$$;

-- Cleans up one queue, or all, as the policy of each says; a queue with options of its own (set_queue_options) by these instead.
create or replace function absurd.cleanup_all_queues(p_queue_name text default null)
returns table (queue_name text, tasks_deleted integer, events_deleted integer)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_queue record;
  v_step record;
begin
  if p_queue_name is not null then
    perform absurd.require_queue(p_queue_name);
  end if;
  for v_queue in
    select q.queue_name, q.cleanup_limit, least(extract(epoch from q.cleanup_ttl), 2147483647)::integer as ttl,
      absurd.limits_tasks(r) or r.keep_events is not null as own,
      absurd.retains_at(r) > absurd.current_time() as rests
    from absurd.queues q
    left join absurd.retention r on r.queue_name = q.queue_name
    where p_queue_name is null or q.queue_name = p_queue_name
    order by q.queue_name
  loop
    if v_queue.own then
      select * into v_step from absurd.apply_retention(v_queue.cleanup_limit, v_queue.queue_name, v_queue.rests is true);
      return query select v_queue.queue_name, v_step.tasks_deleted, v_step.events_deleted;
    else
      return query select v_queue.queue_name, absurd.cleanup_tasks(v_queue.queue_name, v_queue.ttl, v_queue.cleanup_limit),
        absurd.cleanup_events(v_queue.queue_name, v_queue.ttl, v_queue.cleanup_limit);
    end if;
  end loop;
end $$;

-- functions/surface_tasks.sql

-- json as jsonb for clients that read it so. What jsonb cannot hold (a NUL character, half a surrogate pair, a number of a million
-- digits) comes as {"$unreadable": "its text"}: a value that somebody stored must not make a claim raise.
create or replace function absurd.readable_jsonb(p_value json) returns jsonb
language plpgsql immutable parallel safe as $$
begin
  return p_value::jsonb;
exception when data_exception or program_limit_exceeded then
  return jsonb_build_object('$unreadable', p_value::text);
end $$;

-- Spawns a task. A known idempotency key returns the first task with created = false.
create or replace function absurd.spawn_task(p_queue_name text, p_task_name text, p_params jsonb, p_options jsonb default '{}')
returns table (task_id uuid, run_id uuid, attempt integer, created boolean)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_spawned record;
begin
  select * into v_spawned
  from absurd.spawn_one(p_queue_name, absurd.make_id(), absurd.make_id(), p_task_name, p_params::json, null, coalesce(p_options, '{}'),
    p_options ->> 'idempotency_key');
  if v_spawned.status <> 'ok' then
    raise exception '%', v_spawned.message
      using errcode = case v_spawned.status when 'no_queue' then 'AB010' when 'too_large' then 'AB013' else 'AB012' end;
  end if;
  return query select v_spawned.task_id, v_spawned.run_id, v_spawned.attempt, v_spawned.created;
end $$;

-- State of a task, with its result or the failure that ended it. No row: the queue has no such task.
create or replace function absurd.get_task_result(p_queue_name text, p_task_id uuid)
returns table (task_id uuid, state text, result jsonb, failure_reason jsonb)
language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select t.task_id, coalesce(t.outcome, r.state, 'pending'), absurd.readable_jsonb(t.result), absurd.readable_jsonb(a.failure)
    from absurd.tasks t
    left join absurd.runs r on r.task_id = t.task_id
    left join absurd.attempts a on a.run_id = t.run_id and t.outcome is not null
    where t.task_id = p_task_id and t.queue_name = p_queue_name;
end $$;

-- functions/surface_runs.sql

-- Locks a run that the caller says to hold and returns it; raises AB001 or AB002 if it is no longer the caller's.
-- Clients of these functions know no epoch: the fence rests on the run's id and its state.
create or replace function absurd.hold_run(p_what text, p_queue_name text, p_run_id uuid, p_task_id uuid default null) returns absurd.runs
language plpgsql volatile as $$
declare
  v_status text;
  v_run absurd.runs;
begin
  perform absurd.require_read_committed(p_what);
  v_status := (absurd.fence_runs(array[p_run_id], array[null]::integer[]))[1];
  if v_status <> 'ok' then
    perform absurd.raise_lost(p_run_id, v_status);
  end if;
  select * into v_run from absurd.runs r where r.run_id = p_run_id;
  if v_run.queue_name is distinct from p_queue_name then
    raise exception 'queue "%" has no run %', p_queue_name, p_run_id using errcode = 'AB011';
  elsif v_run.task_id <> p_task_id then
    raise exception 'run % belongs to task %, not to task %', p_run_id, v_run.task_id, p_task_id using errcode = 'AB011';
  end if;
  return v_run;
end $$;

-- Refuses a moment that a client could not read back: most languages know no infinity and no year 10,000.
create or replace function absurd.require_moment(p_what text, p_at timestamptz) returns void
language plpgsql stable as $$
begin
  if p_at not between '1970-01-01 00:00:00+00' and '9999-12-30 00:00:00+00' then
    raise exception '% must be a moment between 1970 and 9999, not %', p_what, p_at using errcode = 'AB012';
  end if;
end $$;

-- Claims up to p_qty ready runs for p_claim_timeout seconds (0: until they end). Best priority first, then the longest ready.
-- Clients of this function may be the only ones here, so it first does what a sweeping worker would do: wakes sleepers, ends what
-- expired, in bounded pieces that cost an index look-up each when nothing is due.
-- wake_event: the event whose arrival or timeout woke the run; event_payload: what arrived, SQL null after a timeout.
create or replace function absurd.claim_task(p_queue_name text, p_worker_id text, p_claim_timeout integer default 30, p_qty integer default 1)
returns table (
  run_id uuid, task_id uuid, attempt integer, task_name text, params jsonb, retry_strategy jsonb, max_attempts integer, headers jsonb,
  wake_event text, event_payload jsonb)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_run_ids uuid[];
begin
  perform absurd.require_read_committed('claim_task');
  perform absurd.require_queue(p_queue_name);
  if coalesce(p_claim_timeout, 0) < 0 then
    raise exception 'claim_timeout must be 0 (no expiry) or more seconds, not %', p_claim_timeout using errcode = 'AB012';
  elsif p_qty < 1 then
    raise exception 'qty must be 1 or more, not %', p_qty using errcode = 'AB012';
  elsif octet_length(p_worker_id) > 1000 then
    raise exception 'worker_id "%…" has % bytes; the limit is 1000', left(p_worker_id, 40), octet_length(p_worker_id) using errcode = 'AB012';
  end if;
  perform absurd.deliver_late();
  perform absurd.expire_deadlines();
  perform absurd.expire_leases();
  perform absurd.promote_due(p_queue_name);
  v_run_ids := array(
    select c.run_id from absurd.claim_runs(p_queue_name, p_worker_id, nullif(coalesce(p_claim_timeout, 30), 0), coalesce(p_qty, 1)) c);
  return query
    select r.run_id, r.task_id, r.attempt, t.task_name, absurd.readable_jsonb(t.params), t.retry_strategy, t.max_attempts,
      absurd.readable_jsonb(t.headers), r.wake_event, absurd.woken_by(r)
    from absurd.runs r
    join absurd.tasks t on t.task_id = r.task_id
    where r.run_id = any (v_run_ids)
    order by r.priority desc, r.available_at, r.run_id;
end $$;

-- The payload of the event that woke a run: the checkpoint that its arrival wrote at the moment at which it made the run ready.
-- SQL null if no event did.
create or replace function absurd.woken_by(p_run absurd.runs) returns jsonb
language sql stable as $$
  select absurd.readable_jsonb(c.state)
  from absurd.checkpoints c
  left join absurd.events e on e.seq = c.event_seq
  where p_run.wake_event is not null and c.task_id = p_run.task_id and c.kind = 'event' and c.owner_run_id = p_run.run_id
    and c.completed_at = p_run.available_at and (e.seq is null or e.event_name = p_run.wake_event)
  order by c.event_seq desc
  limit 1
$$;

-- Ends a run with a result: its task is completed.
create or replace function absurd.complete_run(p_queue_name text, p_run_id uuid, p_state jsonb default null) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('complete_run', p_queue_name, p_run_id);
begin
  perform absurd.require_size(p_queue_name, format('result of task %s', v_run.task_id), p_state::json);
  perform absurd.complete_runs(array[v_run.task_id], array[p_run_id], array[v_run.epoch], array[p_state::json]);
end $$;

-- Ends an attempt with a failure. The next one follows the task's strategy, or comes at p_retry_at; without attempts left the task
-- has failed.
create or replace function absurd.fail_run(p_queue_name text, p_run_id uuid, p_reason jsonb, p_retry_at timestamptz default null) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('fail_run', p_queue_name, p_run_id);
begin
  perform absurd.require_moment('retry_at', p_retry_at);
  perform absurd.fail_runs(array[p_run_id], array[v_run.epoch], array[absurd.kept_reason(p_queue_name, p_reason)], array[true],
    array[p_retry_at]);
end $$;

-- What is stored of a reason: all of it up to the queue's limit for payloads, and up to 64 kB whatever that limit is, for a traceback is
-- longer than what a queue of small values allows. Of a longer one its name and the beginning and end of its message and traceback:
-- a failure that was refused for its length would be lost, and the run would hold its lease until that ran out.
create or replace function absurd.kept_reason(p_queue_name text, p_reason jsonb) returns json
language plpgsql stable as $$
declare
  v_bytes integer := octet_length(p_reason::text);
begin
  if v_bytes is null or v_bytes <= greatest(65536, (select q.max_payload_bytes from absurd.queues q where q.queue_name = p_queue_name)) then
    return p_reason::json;
  end if;
  return json_build_object(
    'name', left(coalesce(p_reason ->> 'name', '$LongReason'), 500),
    'message', absurd.shortened(coalesce(p_reason ->> 'message', p_reason::text), 8000),
    'traceback', absurd.shortened(p_reason ->> 'traceback', 8000),
    'bytes', v_bytes);
end $$;

-- A text of at most about so many characters: its beginning and its end.
create or replace function absurd.shortened(p_text text, p_length integer) returns text
language sql immutable parallel safe as $$
  select case when length(p_text) <= p_length then p_text
    else format('%s… %s characters left out …%s', left(p_text, p_length / 2), length(p_text) - p_length / 2 * 2, right(p_text, p_length / 2)) end
$$;

-- Puts a running run to sleep until a moment. A moment that has passed makes it ready at once.
create or replace function absurd.schedule_run(p_queue_name text, p_run_id uuid, p_wake_at timestamptz) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('schedule_run', p_queue_name, p_run_id);
begin
  if p_wake_at is null then
    raise exception 'wake_at must be a moment, not null' using errcode = 'AB012';
  end if;
  perform absurd.require_moment('wake_at', p_wake_at);
  perform absurd.put_back(v_run.run_id, case when p_wake_at > absurd.current_time() then 'sleeping' else 'pending' end, p_wake_at, 0);
end $$;

-- Renews a lease: it ends not before so many seconds from now. One without expiry stays so.
create or replace function absurd.extend_claim(p_queue_name text, p_run_id uuid, p_extend_by integer) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('extend_claim', p_queue_name, p_run_id);
begin
  if p_extend_by is null or p_extend_by < 1 then
    raise exception 'extend_by must be 1 or more seconds, not %', coalesce(p_extend_by::text, 'null') using errcode = 'AB012';
  end if;
  update absurd.runs r
  set lease_expires_at = greatest(r.lease_expires_at, absurd.current_time() + make_interval(secs => p_extend_by))
  where r.run_id = v_run.run_id and r.lease_expires_at is not null;
end $$;

-- functions/surface_checkpoints.sql

-- Records a step of a running task, or records it anew: the run that holds the task has the last word, an earlier attempt has none.
-- An arrival that the database recorded stays as it is. p_extend_claim_by renews the lease too, in seconds.
create or replace function absurd.set_task_checkpoint_state(
  p_queue_name text, p_task_id uuid, p_step_name text, p_state jsonb, p_owner_run uuid, p_extend_claim_by integer default null)
returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('set_task_checkpoint_state', p_queue_name, p_owner_run, p_task_id);
  v_problem text := absurd.name_error('step name', p_step_name);
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform absurd.require_size(p_queue_name, format('state of step "%s"', p_step_name), p_state::json);
  insert into absurd.checkpoints (task_id, step_name, state, owner_run_id, completed_at)
  values (v_run.task_id, p_step_name, coalesce(p_state, 'null')::json, p_owner_run, absurd.current_time())
  on conflict (task_id, step_name) do update
  set state = excluded.state, owner_run_id = excluded.owner_run_id, completed_at = excluded.completed_at
  where checkpoints.kind = 'step';
  if p_extend_claim_by is not null then
    perform absurd.extend_claim(p_queue_name, p_owner_run, p_extend_claim_by);
  end if;
end $$;

-- What was recorded under a step name: a step, or the payload of an awaited event. No row: nothing, or a timeout, which is no
-- value (await_event() answers it). Whatever is here is committed; p_include_pending asks for nothing more.
create or replace function absurd.get_task_checkpoint_state(
  p_queue_name text, p_task_id uuid, p_step_name text, p_include_pending boolean default false)
returns table (checkpoint_name text, state jsonb, status text, owner_run_id uuid, updated_at timestamptz)
language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select c.step_name, absurd.readable_jsonb(c.state), 'committed', c.owner_run_id, c.completed_at
    from absurd.tasks t
    join absurd.checkpoints c on c.task_id = t.task_id and c.step_name = p_step_name
    where t.task_id = p_task_id and t.queue_name = p_queue_name and c.kind <> 'timeout';
end $$;

-- The attempt that a run of a task is or was, whether it lives, failed or completed the task.
create or replace function absurd.attempt_of(p_task_id uuid, p_run_id uuid) returns integer
language sql stable as $$
  select coalesce(
    (select r.attempt from absurd.runs r where r.run_id = p_run_id and r.task_id = p_task_id),
    (select a.attempt from absurd.attempts a where a.run_id = p_run_id and a.task_id = p_task_id),
    (select t.attempt from absurd.tasks t where t.task_id = p_task_id and t.run_id = p_run_id))
$$;

-- All that was recorded by the attempt of a run and by those before it, in the order in which it was recorded.
create or replace function absurd.get_task_checkpoint_states(p_queue_name text, p_task_id uuid, p_run_id uuid)
returns table (checkpoint_name text, state jsonb, status text, owner_run_id uuid, updated_at timestamptz)
language plpgsql stable as $$
#variable_conflict use_column
declare
  v_attempt integer := absurd.attempt_of(p_task_id, p_run_id);
begin
  if v_attempt is null or not exists (select from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name) then
    raise exception 'queue "%" has no run % of a task %', p_queue_name, p_run_id, p_task_id using errcode = 'AB011';
  end if;
  return query
    select c.step_name, absurd.readable_jsonb(c.state), 'committed', c.owner_run_id, c.completed_at
    from absurd.checkpoints c
    where c.task_id = p_task_id and c.kind <> 'timeout'
      and (c.owner_run_id = p_run_id or coalesce(absurd.attempt_of(p_task_id, c.owner_run_id) <= v_attempt, true))
    order by c.completed_at, c.position, c.step_name;
end $$;

-- functions/surface_events.sql

-- Waits for an event from a running task. should_suspend: the run sleeps now; stop, and claim it again when the event or the timeout
-- (seconds) has come. Else payload is the event's, json null if it has none; SQL null says that the timeout came first, now and on
-- every replay.
-- Locks: the event's name, shared, before the run, as everybody who takes both. An emit of that name in an open transaction is
-- waited for.
create or replace function absurd.await_event(
  p_queue_name text, p_task_id uuid, p_run_id uuid, p_step_name text, p_event_name text, p_timeout integer default null)
returns table (should_suspend boolean, payload jsonb)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_problem text := coalesce(absurd.name_error('step name', p_step_name), absurd.name_error('event name', p_event_name),
    case when p_timeout < 0 then format('timeout must be 0 or more seconds, not %s', p_timeout) end);
  v_run absurd.runs;
  v_checkpoint absurd.checkpoints;
  v_arrival record;
  v_status text;
  v_wait json := json_build_object('step', p_step_name, 'queue', p_queue_name, 'event', p_event_name);
begin
  perform absurd.require_read_committed('await_event');
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform absurd.require_queue(p_queue_name);
  perform pg_advisory_xact_lock_shared(absurd.event_lock_key(p_queue_name, p_event_name));
  v_run := absurd.hold_run('await_event', p_queue_name, p_run_id, p_task_id);
  select * into v_checkpoint from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name;
  if found then
    return query select false, case when v_checkpoint.kind <> 'timeout' then absurd.readable_jsonb(v_checkpoint.state) end;
    return;
  end if;
  select * into v_arrival from absurd.find_arrival(v_wait);
  if v_arrival.status = 'found' then
    perform absurd.record_arrivals(p_task_id, p_run_id, 0,
      array[(p_step_name, v_arrival.kind, v_arrival.state, v_arrival.event_seq)::absurd.arrival]);
    return query select false, absurd.readable_jsonb(v_arrival.state);
    return;
  end if;
  v_status := absurd.suspend_run(p_task_id, p_run_id, 0, 1, json_build_array(v_wait),
    absurd.current_time() + make_interval(secs => p_timeout), p_step_name, 'timeout');
  if v_status <> 'ok' then
    raise exception 'event "%" of queue "%" cannot be awaited: %', p_event_name, p_queue_name, v_status using errcode = 'AB012';
  end if;
  return query select true, null::jsonb;
end $$;

-- Emits an event in the caller's transaction: a rollback takes it back. Waits see the first emission of a name.
create or replace function absurd.emit_event(p_queue_name text, p_event_name text, p_payload jsonb default null) returns void
language plpgsql volatile as $$
begin
  perform absurd.record_event(p_queue_name, p_event_name, p_payload::json, null, null);
end $$;

-- functions/inspect_tasks.sql

-- Reading for people: the command line and web pages. Nothing here locks or changes a row. Every filter is a value; null means any.

-- The smallest UUIDv7 of a moment: a place in the order of spawning. Null while the clock is moved, for ids take the real one.
create or replace function absurd.id_floor(p_at timestamptz) returns uuid
language sql stable parallel safe as $$
  select case when coalesce(current_setting('absurd.fake_now', true), '') = '' and p_at > '1970-01-02' then
    (lpad(to_hex((extract(epoch from p_at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
  end
$$;

-- The page size that a caller gets: between 1 and 1,000.
create or replace function absurd.page_size(p_limit integer) returns integer
language sql immutable parallel safe as $$
  select least(greatest(coalesce(p_limit, 50), 1), 1000)
$$;

-- The moment so long ago, null for null. Ages beyond what a timestamp can hold mean the same as a thousand years.
create or replace function absurd.moment_ago(p_age interval) returns timestamptz
language sql stable as $$
  select case when p_age is not null then absurd.current_time() - least(greatest(p_age, '-1000 years'), '1000 years') end
$$;

-- Pairs of queue and task name that occur, by a loose scan of the index: as many reads as pairs, however many tasks there are.
create or replace function absurd.task_names(p_queue_name text default null) returns table (queue_name text, task_name text)
language sql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off
as $$
  with recursive pair as (
    (select t.queue_name, t.task_name from absurd.tasks t
     where t.queue_name >= coalesce(p_queue_name, '') order by t.queue_name, t.task_name limit 1)
    union all
    select n.queue_name, n.task_name
    from pair p
    cross join lateral (
      select t.queue_name, t.task_name from absurd.tasks t
      where (t.queue_name, t.task_name) > (p.queue_name, p.task_name)
      order by t.queue_name, t.task_name limit 1) n
    where p_queue_name is null or p.queue_name = p_queue_name
  )
  select p.queue_name, p.task_name from pair p where p_queue_name is null or p.queue_name = p_queue_name
$$;

-- Tasks, the newest spawned first; failed and cancelled ones, the last ended first. The next page: pass the last task_id of this one.
-- p_older_than and p_newer_than are ages since the spawn. Ids are in order of time, so that an age is found by its place.
create or replace function absurd.list_tasks(
  p_queue_name text default null, p_task_name text default null, p_state text default null,
  p_older_than interval default null, p_newer_than interval default null, p_before_task_id uuid default null,
  p_limit integer default 50)
returns table (
  task_id uuid, run_id uuid, queue_name text, task_name text, state text, attempt integer, max_attempts integer, priority integer,
  spawned_at timestamptz, available_at timestamptz, started_at timestamptz, finished_at timestamptz, worker_id text,
  parent_task_id uuid, idempotency_key text, note text)
language plpgsql stable
set jit = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_to timestamptz := absurd.moment_ago(p_older_than);
  v_from timestamptz := absurd.moment_ago(p_newer_than);
  v_ids uuid[];
begin
  if p_state in ('pending', 'running', 'sleeping') then
    v_ids := absurd.list_live_ids(p_queue_name, p_task_name, p_state, v_to, v_from, p_before_task_id, v_limit);
  elsif p_state in ('failed', 'cancelled') then
    v_ids := absurd.list_ended_ids(p_queue_name, p_task_name, p_state, v_to, v_from, p_before_task_id, v_limit);
  elsif p_state = 'completed' or p_state is null then
    v_ids := absurd.list_spawned_ids(p_queue_name, p_task_name, p_state, v_to, v_from, p_before_task_id, v_limit);
  else
    raise exception 'state must be pending, running, sleeping, completed, failed or cancelled, not "%"', left(p_state, 80)
      using errcode = 'AB012';
  end if;
  return query
    select t.task_id, coalesce(r.run_id, t.run_id), t.queue_name, t.task_name, coalesce(t.outcome, r.state, 'pending'),
      coalesce(r.attempt, t.attempt), t.max_attempts, t.priority, t.spawned_at, r.available_at, coalesce(r.started_at, t.started_at),
      t.finished_at, coalesce(r.worker_id, t.worker_id), t.parent_task_id, absurd.hide_secrets(t.idempotency_key), r.note
    from unnest(v_ids) with ordinality as i(task_id, ord)
    join absurd.tasks t on t.task_id = i.task_id
    left join absurd.runs r on r.task_id = i.task_id
    order by i.ord;
end $$;

-- The newest tasks, living or completed. Of one queue: the newest of each of its task names, merged.
create or replace function absurd.list_spawned_ids(
  p_queue_name text, p_task_name text, p_outcome text, p_to timestamptz, p_from timestamptz, p_before_task_id uuid, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
declare
  -- An hour of grace: ids are made by the clocks of clients.
  v_before uuid := least(p_before_task_id, absurd.id_floor(p_to + interval '1 hour'));
  v_after uuid := absurd.id_floor(p_from - interval '1 hour');
begin
  if p_queue_name is null and p_task_name is null then
    return array(
      select t.task_id from absurd.tasks t
      where (v_before is null or t.task_id < v_before) and (v_after is null or t.task_id >= v_after)
        and (p_outcome is null or t.outcome = p_outcome)
        and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
      order by t.task_id desc limit p_limit);
  end if;
  return array(
    select l.task_id
    from absurd.task_names(p_queue_name) n
    cross join lateral (
      select t.task_id from absurd.tasks t
      where t.queue_name = n.queue_name and t.task_name = n.task_name
        and (v_before is null or t.task_id < v_before) and (v_after is null or t.task_id >= v_after)
        and (p_outcome is null or t.outcome = p_outcome)
        and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
      order by t.task_id desc limit p_limit) l
    where p_task_name is null or n.task_name = p_task_name
    order by l.task_id desc limit p_limit);
end $$;

-- The newest tasks that are pending, running or sleeping.
create or replace function absurd.list_live_ids(
  p_queue_name text, p_task_name text, p_state text, p_to timestamptz, p_from timestamptz, p_before_task_id uuid, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set plan_cache_mode = force_custom_plan
as $$
declare
  v_before uuid := least(p_before_task_id, absurd.id_floor(p_to + interval '1 hour'));
  v_after uuid := absurd.id_floor(p_from - interval '1 hour');
begin
  return array(
    select r.task_id
    from absurd.runs r
    join absurd.tasks t on t.task_id = r.task_id
    where r.state = p_state and (p_queue_name is null or r.queue_name = p_queue_name)
      and (p_task_name is null or t.task_name = p_task_name)
      and (v_before is null or r.task_id < v_before) and (v_after is null or r.task_id >= v_after)
      and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
    order by r.task_id desc limit p_limit);
end $$;

-- Tasks that failed or were cancelled, the last ended first, by the attempts that ended them.
create or replace function absurd.list_ended_ids(
  p_queue_name text, p_task_name text, p_outcome text, p_to timestamptz, p_from timestamptz, p_before_task_id uuid, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_before_end timestamptz := (select t.finished_at from absurd.tasks t where t.task_id = p_before_task_id);
begin
  return array(
    select l.task_id
    from absurd.queues q
    cross join lateral (
      select a.task_id, a.ended_at
      from absurd.attempts a
      join absurd.tasks t on t.task_id = a.task_id
      where a.final and a.queue_name = q.queue_name and t.outcome = p_outcome
        and (p_task_name is null or t.task_name = p_task_name)
        and (v_before_end is null or a.ended_at <= v_before_end)
        and (v_before_end is null or (a.ended_at, a.task_id) < (v_before_end, p_before_task_id))
        and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
      order by a.ended_at desc, a.task_id desc limit p_limit) l
    where p_queue_name is null or q.queue_name = p_queue_name
    order by l.ended_at desc, l.task_id desc limit p_limit);
end $$;

-- functions/find_tasks.sql

-- The search of people, whatever they combine: every page is bounded. Candidates come in order from one index, in chunks; each is looked at,
-- until a page is full, p_search_limit of them have been looked at, or 0.2 s are over, for text 0.5 s. What is left is reached by `next`.

-- Tasks, the newest spawned first; failed and cancelled ones, the last ended first, unless an id, a key or p_spawned_to is given. Every
-- filter that is null means any.
--   p_task_name        with p_prefix, its beginning
--   p_spawned_from, p_spawned_to   from the first moment on, before the second
--   p_task_id          an id or the beginning of one, with or without its dashes
--   p_text             stands in params or in the failure of an attempt, ASCII letters in either case; values that are stored in more
--                      than 100 kB are not searched
-- Returns {"tasks": […], "searched": n, "next": place}: how many candidates were looked at; `next` is null at the end, else the p_after
-- of the call that goes on, also when this page is not full or empty.
create or replace function absurd.find_tasks(
  p_queue_name text default null, p_task_name text default null, p_prefix boolean default false, p_state text default null,
  p_spawned_from timestamptz default null, p_spawned_to timestamptz default null, p_idempotency_key text default null,
  p_task_id text default null, p_text text default null, p_after text default null, p_limit integer default 50,
  p_search_limit integer default 50000)
returns json
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_limit integer := absurd.page_size(p_limit);
  v_stop_at timestamptz := clock_timestamp() + case when p_text is not null then interval '500 milliseconds' else interval '200 milliseconds' end;
  v_digits text := absurd.id_digits(p_task_id);
  v_low uuid := greatest(rpad(v_digits, 32, '0')::uuid, absurd.id_around(p_spawned_from, '-10 seconds'));
  v_high uuid := least(rpad(v_digits, 32, 'f')::uuid, absurd.id_around(p_spawned_to, '10 seconds'));
  v_ended boolean := coalesce(p_state in ('failed', 'cancelled') and num_nulls(v_digits, p_idempotency_key, p_spawned_to) = 3, false);
  v_place record := absurd.read_place(p_after, v_ended);
  v_at timestamptz := v_place.at;
  v_id uuid := v_place.id;
  v_set uuid[];
  v_queue_names text[];
  v_task_names text[];
  v_size integer := v_limit + 1;
  -- Rows of a chunk at most, so that none takes long; those that are read beside their state are more than those looked at.
  v_largest integer := case when p_text is not null then 500 else 2000 end;
  -- The candidates of a chunk, of failed and cancelled ones with their ends; how many rows were read for them, and the last of these
  v_chunk uuid[];
  v_ats timestamptz[];
  v_read integer;
  v_last_id uuid;
  v_last_at timestamptz;
  v_found uuid[] := '{}'::uuid[];
  v_found_ats timestamptz[] := '{}'::timestamptz[];
  v_hits uuid[];
  v_searched integer := 0;
  v_looked integer := 0;
  v_more boolean := true;
begin
  if p_state not in ('pending', 'running', 'sleeping', 'completed', 'failed', 'cancelled') then
    raise exception 'state must be pending, running, sleeping, completed, failed or cancelled, not "%"', left(p_state, 80)
      using errcode = 'AB012';
  end if;
  if p_idempotency_key is not null then
    v_set := absurd.keyed_ids(p_queue_name, p_idempotency_key);
  elsif length(v_digits) = 32 then
    v_set := array[v_digits::uuid];
  elsif p_state in ('pending', 'running', 'sleeping') and v_digits is null then
    v_set := absurd.live_ids(p_queue_name, p_state, 10000);
  elsif not v_ended and v_digits is null then
    select n.queue_names, n.task_names into v_queue_names, v_task_names
    from absurd.searched_names(p_queue_name, p_task_name, p_prefix, 1000) n;
    -- A chunk reads so many rows for each name.
    v_largest := greatest(v_limit + 1, least(v_largest, 20000 / greatest(cardinality(v_task_names), 1)));
  end if;
  while v_more loop
    v_size := least(v_size, v_largest);
    if v_set is not null then
      v_chunk := array(
        select u.id from unnest(v_set) as u(id)
        where (v_id is null or u.id < v_id) and (v_low is null or u.id >= v_low) and (v_high is null or u.id <= v_high)
        order by u.id desc limit v_size);
      v_read := cardinality(v_chunk);
      v_last_id := v_chunk[v_read];
    elsif v_ended then
      select e.ids, e.ats into v_chunk, v_ats from absurd.ended_ids(
        p_queue_name, greatest(p_spawned_from, '1970-01-03') - interval '10 seconds', v_at, v_id, v_size) e;
      v_read := cardinality(v_chunk);
      v_last_id := v_chunk[v_read];
      v_last_at := v_ats[v_read];
    elsif p_state in ('pending', 'running', 'sleeping') and v_digits is null then
      select w.ids, w.last_id, w.n into v_chunk, v_last_id, v_read
      from absurd.walk_live(p_queue_name, p_state, v_low, v_high, v_id, v_size) w;
    else
      select w.ids, w.last_id, w.n into v_chunk, v_last_id, v_read
      from absurd.walk_spawned(v_queue_names, v_task_names, p_state, v_low, v_high, v_id, v_size) w;
    end if;
    v_searched := v_searched + v_read;
    v_looked := v_looked + cardinality(v_chunk);
    v_more := v_read = v_size;
    v_hits := absurd.matching_ids(v_chunk, p_queue_name, p_task_name, p_prefix, p_state, p_spawned_from, p_spawned_to, p_idempotency_key,
      p_text, v_limit + 1 - cardinality(v_found));
    v_found := v_found || v_hits;
    v_found_ats := v_found_ats || array(select v_ats[array_position(v_chunk, u.id)] from unnest(v_hits) with ordinality as u(id, ord) order by u.ord);
    if cardinality(v_found) > v_limit then
      v_more := true;
      v_id := v_found[v_limit];
      v_at := v_found_ats[v_limit];
      exit;
    elsif v_more then
      v_id := v_last_id;
      v_at := v_last_at;
      exit when v_looked >= p_search_limit or clock_timestamp() > v_stop_at;
    end if;
    v_size := v_size * 4;
  end loop;
  return json_build_object(
    'tasks', absurd.found_tasks(v_found[1:v_limit]), 'searched', v_searched,
    'next', case when v_more and v_ended then (extract(epoch from v_at) * 1000000)::bigint || '/' || v_id when v_more then v_id::text end);
end $$;

-- The digits of an id or of its beginning; null for null.
create or replace function absurd.id_digits(p_task_id text) returns text
language plpgsql immutable as $$
declare
  v_digits text := lower(replace(p_task_id, '-', ''));
begin
  if v_digits !~ '^[0-9a-f]{1,32}$' then
    raise exception 'task_id must be an id or the beginning of one, hexadecimal digits and dashes, not "%"', left(p_task_id, 80)
      using errcode = 'AB012';
  end if;
  return v_digits;
end $$;

-- The place of a moment among the ids, with some grace: they are made by the clocks of clients.
create or replace function absurd.id_around(p_at timestamptz, p_grace interval) returns uuid
language sql stable as $$
  select absurd.id_floor(least(greatest(p_at, '1970-01-03'), '9999-12-30') + p_grace) where p_at is not null
$$;

-- Where a page begins: after an id, or after an end and an id. Nulls for null.
create or replace function absurd.read_place(p_after text, p_ended boolean, out at timestamptz, out id uuid) returns record
language plpgsql immutable as $$
begin
  if p_after is null then
    return;
  elsif p_after !~ (case when p_ended then '^[0-9]{1,17}/[0-9a-f-]{36}$' else '^[0-9a-f-]{36}$' end) then
    raise exception 'after must be the "next" of a page with the same filters, not "%"', left(p_after, 80) using errcode = 'AB012';
  end if;
  id := right(p_after, 36)::uuid;
  if p_ended then
    at := timestamptz 'epoch' + split_part(p_after, '/', 1)::bigint * interval '1 microsecond';
  end if;
exception when invalid_text_representation then
  raise exception 'after must be the "next" of a page with the same filters, not "%"', left(p_after, 80) using errcode = 'AB012';
end $$;

-- Tasks that have this idempotency key, by a look for each queue.
create or replace function absurd.keyed_ids(p_queue_name text, p_idempotency_key text) returns uuid[]
language sql stable
set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select array(
    select k.task_id
    from absurd.queues q
    join absurd.idempotency_keys k on k.queue_name = q.queue_name and k.idempotency_key = p_idempotency_key
    where p_queue_name is null or q.queue_name = p_queue_name)
$$;

-- All tasks in a live state, in no order; null if there are more than p_most: they are met often enough on a walk over all live ones.
-- A small table is read whole. In a large one the ready are found by their index, the running by their leases, the sleeping by
-- their times and by what they wait for. (Running without a lease, by a client's choice, are found in a small table only.)
create or replace function absurd.live_ids(p_queue_name text, p_state text, p_most integer) returns uuid[]
language plpgsql stable
set jit = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_ids uuid[];
begin
  if pg_relation_size('absurd.runs') < 33554432 then
    v_ids := array(
      select r.task_id from absurd.runs r
      where r.state = p_state and (p_queue_name is null or r.queue_name = p_queue_name)
      limit p_most + 1);
  elsif p_state = 'pending' then
    v_ids := array(
      select l.task_id
      from absurd.queues q
      cross join lateral (
        select r.task_id from absurd.runs r where r.queue_name = q.queue_name and r.state = 'pending'
        order by r.priority desc, r.available_at, r.run_id limit p_most + 1) l
      where p_queue_name is null or q.queue_name = p_queue_name
      limit p_most + 1);
  elsif p_state = 'running' then
    v_ids := array(
      select r.task_id from absurd.runs r where r.state = 'running' and r.lease_expires_at is not null
      order by r.lease_expires_at limit p_most + 1);
  else
    v_ids := array(
      select l.task_id
      from absurd.queues q
      cross join lateral (
        select r.task_id from absurd.runs r
        where r.queue_name = q.queue_name and r.state = 'sleeping' and r.available_at is not null
        order by r.available_at limit p_most + 1) l
      where p_queue_name is null or q.queue_name = p_queue_name
      limit p_most + 1);
    if cardinality(v_ids) <= p_most then
      v_ids := array(
        select u.task_id from unnest(v_ids) as u(task_id)
        union
        (select w.task_id from absurd.waits w where w.run_id is not null and w.task_id is not null limit p_most + 1)
        limit p_most + 1);
    end if;
  end if;
  return case when cardinality(v_ids) <= p_most then v_ids end;
end $$;

-- Pairs of queue and task name that a search is for, at most p_most; nulls: any, or more than these, and a walk over all tasks serves better.
create or replace function absurd.searched_names(
  p_queue_name text, p_task_name text, p_prefix boolean, p_most integer, out queue_names text[], out task_names text[])
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set plan_cache_mode = force_custom_plan
as $$
begin
  if p_task_name is not null and not p_prefix then
    select array_agg(q.queue_name), array_agg(p_task_name) into queue_names, task_names
    from (select k.queue_name from absurd.queues k where p_queue_name is null or k.queue_name = p_queue_name limit p_most + 1) q;
    queue_names := coalesce(queue_names, '{}'::text[]);
    task_names := coalesce(task_names, '{}'::text[]);
  elsif p_queue_name is not null or p_task_name is not null then
    -- A loose scan of the index, as task_names() does it, that ends in time.
    select array_agg(n.queue_name), array_agg(n.task_name) into queue_names, task_names
    from (
      with recursive pair as (
        (select t.queue_name, t.task_name from absurd.tasks t
         where t.queue_name >= coalesce(p_queue_name, '') order by t.queue_name, t.task_name limit 1)
        union all
        select l.queue_name, l.task_name
        from pair p
        cross join lateral (
          select t.queue_name, t.task_name from absurd.tasks t
          where (t.queue_name, t.task_name) > (p.queue_name, p.task_name)
          order by t.queue_name, t.task_name limit 1) l
        where p_queue_name is null or p.queue_name = p_queue_name
      )
      select p.queue_name, p.task_name from pair p limit p_most + 1
    ) n;
    if cardinality(task_names) <= p_most then
      select coalesce(array_agg(u.q), '{}'::text[]), coalesce(array_agg(u.n), '{}'::text[]) into queue_names, task_names
      from unnest(queue_names, task_names) as u(q, n)
      where (p_queue_name is null or u.q = p_queue_name) and (p_task_name is null or starts_with(u.n, p_task_name));
    end if;
  end if;
  if cardinality(task_names) > p_most then
    queue_names := null;
    task_names := null;
  end if;
end $$;

-- The newest tasks in a range of ids, all or those of some names, the newest of each merged. n of them are read, up to p_limit, of which
-- ids are those that may be in p_state.
create or replace function absurd.walk_spawned(
  p_queue_names text[], p_task_names text[], p_state text, p_low uuid, p_high uuid, p_before uuid, p_limit integer,
  out ids uuid[], out last_id uuid, out n integer)
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_outcome text := case when p_state in ('completed', 'failed', 'cancelled') then p_state end;
begin
  if p_task_names is null then
    select coalesce(array_agg(w.task_id order by w.task_id desc) filter (where v_outcome is null or w.outcome = v_outcome), '{}'::uuid[]),
      (array_agg(w.task_id order by w.task_id))[1], count(*)::integer
    into ids, last_id, n
    from (
      -- Without a state the row itself is not read here.
      select t.task_id, case when v_outcome is not null then t.outcome end as outcome from absurd.tasks t
      where (p_before is null or t.task_id < p_before) and (p_low is null or t.task_id >= p_low) and (p_high is null or t.task_id <= p_high)
      order by t.task_id desc limit p_limit) w;
    return;
  end if;
  ids := array(
    select l.task_id
    from unnest(p_queue_names, p_task_names) as u(queue_name, task_name)
    cross join lateral (
      select t.task_id from absurd.tasks t
      where t.queue_name = u.queue_name and t.task_name = u.task_name
        and (p_before is null or t.task_id < p_before) and (p_low is null or t.task_id >= p_low) and (p_high is null or t.task_id <= p_high)
      order by t.task_id desc limit p_limit) l
    order by l.task_id desc limit p_limit);
  n := cardinality(ids);
  last_id := ids[n];
end $$;

-- The same for live tasks: of n that are read, those in a state.
create or replace function absurd.walk_live(
  p_queue_name text, p_state text, p_low uuid, p_high uuid, p_before uuid, p_limit integer, out ids uuid[], out last_id uuid, out n integer)
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
begin
  select coalesce(array_agg(w.task_id order by w.task_id desc) filter (
      where w.state = p_state and (p_queue_name is null or w.queue_name = p_queue_name)), '{}'::uuid[]),
    (array_agg(w.task_id order by w.task_id))[1], count(*)::integer
  into ids, last_id, n
  from (
    select r.task_id, r.state, r.queue_name from absurd.runs r
    where (p_before is null or r.task_id < p_before) and (p_low is null or r.task_id >= p_low) and (p_high is null or r.task_id <= p_high)
    order by r.task_id desc limit p_limit) w;
end $$;

-- Tasks that failed or were cancelled since a moment, the last ended first, by the attempts that ended them.
create or replace function absurd.ended_ids(
  p_queue_name text, p_from timestamptz, p_before_at timestamptz, p_before_id uuid, p_limit integer, out ids uuid[], out ats timestamptz[])
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
begin
  select coalesce(array_agg(e.task_id order by e.ended_at desc, e.task_id desc), '{}'::uuid[]),
    coalesce(array_agg(e.ended_at order by e.ended_at desc, e.task_id desc), '{}'::timestamptz[])
  into ids, ats
  from (
    select l.task_id, l.ended_at
    from absurd.queues q
    cross join lateral (
      select a.task_id, a.ended_at
      from absurd.attempts a
      where a.final and a.queue_name = q.queue_name and (p_from is null or a.ended_at >= p_from)
        and (p_before_at is null or a.ended_at <= p_before_at)
        and (p_before_at is null or (a.ended_at, a.task_id) < (p_before_at, p_before_id))
      order by a.ended_at desc, a.task_id desc limit p_limit) l
    where p_queue_name is null or q.queue_name = p_queue_name
    order by l.ended_at desc, l.task_id desc limit p_limit
  ) e;
end $$;

-- Those of the candidates that pass every filter, in their order.
create or replace function absurd.matching_ids(
  p_ids uuid[], p_queue_name text, p_task_name text, p_prefix boolean, p_state text, p_spawned_from timestamptz, p_spawned_to timestamptz,
  p_idempotency_key text, p_text text, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  -- As typed, and as it stands in a JSON string.
  v_plain text := lower(p_text collate "C");
  v_quoted text := lower(substr(to_json(p_text)::text, 2, length(to_json(p_text)::text) - 2) collate "C");
begin
  if p_ids = '{}'::uuid[] then
    return p_ids;
  end if;
  return array(
    select t.task_id
    from unnest(p_ids) with ordinality as c(task_id, ord)
    join absurd.tasks t on t.task_id = c.task_id
    where (p_queue_name is null or t.queue_name = p_queue_name)
      and (p_task_name is null or case when p_prefix then starts_with(t.task_name, p_task_name) else t.task_name = p_task_name end)
      and (p_spawned_from is null or t.spawned_at >= p_spawned_from) and (p_spawned_to is null or t.spawned_at < p_spawned_to)
      and (p_idempotency_key is null or t.idempotency_key = p_idempotency_key)
      and (p_state is null or p_state = coalesce(t.outcome, (select r.state from absurd.runs r where r.task_id = t.task_id), 'pending'))
      -- No function: called for each row, it would cost more than the search.
      and (p_text is null
        or case when pg_column_size(t.params) <= 100000 then case when strpos(lower(t.params::text collate "C"), v_plain) > 0
          or (v_quoted <> v_plain and strpos(lower(t.params::text collate "C"), v_quoted) > 0)
          then absurd.shows_text(t.params::text, v_plain, v_quoted) end end
        or exists (
          select from absurd.attempts a
          where a.task_id = t.task_id and case when pg_column_size(a.failure) <= 100000 then
            case when strpos(lower(a.failure::text collate "C"), v_plain) > 0
              or (v_quoted <> v_plain and strpos(lower(a.failure::text collate "C"), v_quoted) > 0)
            then absurd.shows_text(a.failure::text, v_plain, v_quoted) end end))
    order by c.ord
    limit p_limit);
end $$;

-- Whether words stand in a text as its readers see it. Without this, whoever may search but not answer would find the secret of a token,
-- digit by digit.
create or replace function absurd.shows_text(p_text text, p_plain text, p_quoted text) returns boolean
language sql stable as $$
  select strpos(s.shown, p_plain) > 0 or strpos(s.shown, p_quoted) > 0
  from (select lower(absurd.hide_secrets(p_text) collate "C") as shown) s
$$;

-- Rows of a list, in the order of the ids. failure: the JSON text of that of the last attempt, unless it is larger than 20 kB; waits_for: in
-- words.
create or replace function absurd.found_tasks(p_ids uuid[]) returns json
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select coalesce(json_agg(json_build_object(
    'task_id', t.task_id, 'run_id', coalesce(r.run_id, t.run_id), 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', coalesce(t.outcome, r.state, 'pending'), 'attempt', coalesce(r.attempt, t.attempt), 'max_attempts', t.max_attempts,
    'priority', t.priority, 'spawned_at', t.spawned_at, 'available_at', r.available_at, 'started_at', coalesce(r.started_at, t.started_at),
    'finished_at', t.finished_at, 'worker_id', coalesce(r.worker_id, t.worker_id), 'parent_task_id', t.parent_task_id,
    'idempotency_key', absurd.hide_secrets(t.idempotency_key), 'note', r.note,
    'failure', case when t.outcome is distinct from 'completed' then (
      select case when pg_column_size(a.failure) <= 20000 then absurd.hide_secrets(a.failure::text) end
      from absurd.attempts a where a.task_id = t.task_id order by a.attempt desc limit 1) end,
    'waits_for', case when r.state = 'sleeping' then absurd.awaited_words(r.run_id) end) order by i.ord), '[]')
  from unnest(p_ids) with ordinality as i(task_id, ord)
  join absurd.tasks t on t.task_id = i.task_id
  left join absurd.runs r on r.task_id = t.task_id
$$;

-- Names of tasks to choose from, of one queue or of all; none if there are more than a thousand pairs of queue and name.
create or replace function absurd.known_task_names(p_queue_name text default null) returns text[]
language sql stable
set jit = off
as $$
  select array(
    select distinct u.name from unnest((absurd.searched_names(p_queue_name, '', true, 1000)).task_names) as u(name) order by u.name)
$$;

-- functions/inspect_task.sql

-- The attempts of a task in order: those that failed, then the one that lives or completed the task.
create or replace function absurd.show_attempts(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('run_id', i.run_id, 'attempt', i.attempt, 'state', i.state, 'cause', i.cause,
    'worker_id', i.worker_id, 'started_at', i.started_at, 'ended_at', i.ended_at, 'retry_at', i.retry_at, 'failure', i.failure)
    order by i.attempt), '[]')
  from (
    select a.run_id, a.attempt, case when a.cause in ('cancel', 'delay', 'duration') then 'cancelled' else 'failed' end as state,
      a.cause, a.worker_id, a.started_at, a.ended_at, a.retry_at, a.failure
    from absurd.attempts a where a.task_id = p_task_id
    union all
    select r.run_id, r.attempt, r.state, null, r.worker_id, r.started_at, null, null, null
    from absurd.runs r where r.task_id = p_task_id
    union all
    select t.run_id, t.attempt, 'completed', null, t.worker_id, t.started_at, t.finished_at, null, null
    from absurd.tasks t where t.task_id = p_task_id and t.outcome = 'completed'
  ) i
$$;

-- The recorded effects of a task in handler order, the first 1,000.
create or replace function absurd.show_checkpoints(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('step_name', c.step_name, 'kind', c.kind, 'position', c.position, 'state', c.state,
    'event_seq', c.event_seq, 'owner_run_id', c.owner_run_id, 'completed_at', c.completed_at)
    order by c.position, c.completed_at, c.step_name), '[]')
  from (
    select s.* from absurd.checkpoints s where s.task_id = p_task_id order by s.position, s.completed_at, s.step_name limit 1000
  ) c
$$;

-- What a sleeping task waits for.
create or replace function absurd.show_waits(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('kind', case when w.kind = 'timer' then w.detail else w.kind end, 'step_name', w.step_name,
    'queue_name', w.queue_name, 'event_name', w.event_name, 'since_seq', w.since_seq, 'awaited_task_id', w.awaited_task_id,
    'waiting_since', w.created_at, 'until', r.available_at)
    order by w.wait_id), '[]')
  from absurd.runs r
  join absurd.waits w on w.run_id = r.run_id
  where r.task_id = p_task_id
$$;

-- The tasks that a task spawned, the first 1,000.
create or replace function absurd.show_children(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('task_id', k.task_id, 'queue_name', k.queue_name, 'task_name', k.task_name,
    'state', coalesce(k.outcome, r.state, 'pending'), 'spawned_at', k.spawned_at, 'finished_at', k.finished_at)
    order by k.task_id), '[]')
  from (select t.* from absurd.tasks t where t.parent_task_id = p_task_id order by t.task_id limit 1000) k
  left join absurd.runs r on r.task_id = k.task_id
$$;

-- Everything that is known of one task, as one document; null if there is no such task. Lists are bounded: at most 1,000 checkpoints
-- and 1,000 children, while checkpoint_count and child_count say how many there are. Secrets of tokens are hidden.
create or replace function absurd.show_task(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select absurd.hide_secrets(json_build_object(
    'task_id', t.task_id, 'run_id', coalesce(r.run_id, t.run_id), 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', coalesce(t.outcome, r.state, 'pending'), 'attempt', coalesce(r.attempt, t.attempt), 'max_attempts', t.max_attempts,
    'priority', t.priority, 'params', t.params, 'headers', t.headers, 'retry_strategy', t.retry_strategy,
    'max_delay', t.max_delay, 'max_duration', t.max_duration, 'idempotency_key', t.idempotency_key,
    'parent_task_id', t.parent_task_id, 'spawned_at', t.spawned_at, 'available_at', r.available_at,
    'started_at', coalesce(r.started_at, t.started_at), 'finished_at', t.finished_at,
    'worker_id', coalesce(r.worker_id, t.worker_id), 'lease_expires_at', r.lease_expires_at, 'deadline_at', r.deadline_at,
    'note', r.note, 'result', t.result,
    'failure', (select a.failure from absurd.attempts a where a.run_id = t.run_id and t.outcome is not null),
    'attempts', absurd.show_attempts(t.task_id),
    'checkpoint_count', (select count(*) from absurd.checkpoints c where c.task_id = t.task_id),
    'checkpoints', absurd.show_checkpoints(t.task_id),
    'waits', absurd.show_waits(t.task_id),
    'child_count', (select count(*) from absurd.tasks k where k.parent_task_id = t.task_id),
    'children', absurd.show_children(t.task_id))::text)::json
  from absurd.tasks t
  left join absurd.runs r on r.task_id = t.task_id
  where t.task_id = p_task_id
$$;

-- What a caller needs of a task, in a bounded number of fields; null if there is no such task. While it is retried, failure is that of
-- its last attempt. Secrets of tokens are hidden, but for a result: that is what the task gives, to whom it was given.
create or replace function absurd.read_task(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select json_build_object(
    'task_id', t.task_id, 'state', coalesce(t.outcome, r.state, 'pending'), 'run_id', coalesce(r.run_id, t.run_id),
    'queue_name', t.queue_name, 'task_name', t.task_name, 'attempt', coalesce(r.attempt, t.attempt),
    'max_attempts', t.max_attempts, 'priority', t.priority, 'params', absurd.hide_secrets(t.params::text)::json,
    'headers', absurd.hide_secrets(t.headers::text)::json,
    'idempotency_key', absurd.hide_secrets(t.idempotency_key), 'parent_task_id', t.parent_task_id, 'spawned_at', t.spawned_at,
    'available_at', r.available_at, 'started_at', coalesce(r.started_at, t.started_at), 'finished_at', t.finished_at,
    'note', r.note, 'result', t.result,
    'failure', case when t.outcome is distinct from 'completed' then
      (select absurd.hide_secrets(a.failure::text)::json from absurd.attempts a where a.task_id = t.task_id order by a.attempt desc limit 1) end)
  from absurd.tasks t
  left join absurd.runs r on r.task_id = t.task_id
  where t.task_id = p_task_id
$$;

-- The next piece of a long history, as read_checkpoints() gives it to workers, with secrets of tokens hidden.
create or replace function absurd.list_checkpoints(p_task_id uuid, p_after_position integer, p_after_step text) returns text
language sql stable as $$
  select absurd.hide_secrets(absurd.read_checkpoints(p_task_id, p_after_position, p_after_step))
$$;

-- The queue of a task, for callers who know its id alone; null if there is no such task.
create or replace function absurd.queue_of_task(p_task_id uuid) returns text
language sql stable as $$
  select t.queue_name from absurd.tasks t where t.task_id = p_task_id
$$;

-- functions/task_details.sql

-- One task for a page about it, in bounded pieces: large values are cut and can be had whole, lists come in pages.

-- What is known of a task, as one document; null if there is no such task. Stored values come as {"text"}, their JSON in a string: whatever
-- it is, it does not keep the rest from being read. Larger ones than p_value_bytes come as {"bytes"}: task_value() has the whole. Pages, of p_limit: attempts, the last first, before p_before_attempt;
-- checkpoints in handler order after (p_after_position, p_after_step); children after p_after_child. *_count say how many there are.
-- Secrets of tokens are stars. marks: the last 300 checkpoints in order of time, without their values. parents: up to 20, the nearest first.
create or replace function absurd.task_details(
  p_task_id uuid, p_before_attempt integer default null, p_after_position integer default null, p_after_step text default null,
  p_after_child uuid default null, p_limit integer default 100, p_value_bytes integer default 8192)
returns json
language sql stable
set jit = off set enable_seqscan = off
as $$
  select absurd.hide_secrets(json_build_object(
    'now', absurd.current_time(),
    'task_id', t.task_id, 'run_id', coalesce(r.run_id, t.run_id), 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', coalesce(t.outcome, r.state, 'pending'), 'attempt', coalesce(r.attempt, t.attempt), 'max_attempts', t.max_attempts,
    'priority', t.priority, 'retry_strategy', t.retry_strategy, 'max_delay', t.max_delay, 'max_duration', t.max_duration,
    'idempotency_key', t.idempotency_key, 'parent_task_id', t.parent_task_id, 'spawned_at', t.spawned_at, 'available_at', r.available_at,
    'started_at', coalesce(r.started_at, t.started_at), 'finished_at', t.finished_at, 'worker_id', coalesce(r.worker_id, t.worker_id),
    'lease_expires_at', r.lease_expires_at, 'deadline_at', r.deadline_at, 'note', r.note,
    'params', absurd.bounded_value(t.params, p_value_bytes), 'headers', absurd.bounded_value(t.headers, p_value_bytes),
    'result', absurd.bounded_value(t.result, p_value_bytes),
    'source', case when json_typeof(t.headers) = 'object' then (t.headers -> 'absurd-source')::text end,
    'attempt_count', (select count(*) from absurd.attempts a where a.task_id = t.task_id)
      + (t.outcome is null or t.outcome = 'completed')::integer,
    'attempts', absurd.page_of_attempts(t.task_id, p_before_attempt, p_limit, p_value_bytes),
    'checkpoint_count', c.total, 'checkpoints', c.page, 'marks', c.marks,
    'waits', absurd.page_of_waits(t.task_id, p_limit),
    'child_count', (select count(*) from (select from absurd.tasks k where k.parent_task_id = t.task_id limit 10001) k),
    'children', absurd.page_of_children(t.task_id, p_after_child, p_limit),
    'parents', absurd.parents_of(t.task_id))::text)::json
  from absurd.tasks t
  left join absurd.runs r on r.task_id = t.task_id
  cross join absurd.checkpoints_of(p_task_id, p_after_position, p_after_step, p_limit, p_value_bytes, 300) c
  where t.task_id = p_task_id
$$;

-- One value of a task whole, as it was stored: params, headers, result; checkpoint by its step name; failure by the number of its attempt.
-- No value or no task: null. Secrets of tokens are stars. A value of more than p_max_bytes is refused: AB013.
create or replace function absurd.task_value(
  p_task_id uuid, p_what text, p_step_name text default null, p_attempt integer default null, p_max_bytes integer default 268435456)
returns json
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
declare
  v_value json;
begin
  case p_what
    when 'params' then
      v_value := (select t.params from absurd.tasks t where t.task_id = p_task_id);
    when 'headers' then
      v_value := (select t.headers from absurd.tasks t where t.task_id = p_task_id);
    when 'result' then
      v_value := (select t.result from absurd.tasks t where t.task_id = p_task_id);
    when 'checkpoint' then
      v_value := (select c.state from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name);
    when 'failure' then
      v_value := (select a.failure from absurd.attempts a
        where a.task_id = p_task_id and a.attempt = p_attempt order by a.ended_at desc limit 1);
    else
      raise exception 'what must be params, headers, result, checkpoint or failure, not "%"', left(p_what, 80) using errcode = 'AB012';
  end case;
  if octet_length(v_value::text) > p_max_bytes then
    raise exception 'the % of task % has % bytes, more than the % that were asked for', p_what, p_task_id, octet_length(v_value::text), p_max_bytes
      using errcode = 'AB013', hint = 'absurdctl export-task writes all of it into a file.';
  end if;
  return absurd.hide_secrets(v_value::text)::json;
end $$;

-- The text of a value, or its size. Null for null.
create or replace function absurd.bounded_value(p_value json, p_bytes integer) returns json
language sql immutable parallel safe as $$
  select case
    when p_value is null then null
    when octet_length(p_value::text) <= p_bytes then json_build_object('text', p_value::text)
    else json_build_object('bytes', octet_length(p_value::text))
  end
$$;

-- Attempts, the last first: those that ended, and the one that lives or completed the task.
create or replace function absurd.page_of_attempts(p_task_id uuid, p_before_attempt integer, p_limit integer, p_value_bytes integer)
returns json
language sql stable as $$
  select coalesce(json_agg(json_build_object('run_id', p.run_id, 'attempt', p.attempt, 'state', p.state, 'cause', p.cause,
    'worker_id', p.worker_id, 'started_at', p.started_at, 'ended_at', p.ended_at, 'retry_at', p.retry_at,
    'failure', absurd.bounded_value(p.failure, p_value_bytes)) order by p.attempt desc, p.ended_at desc nulls first), '[]')
  from (
    select * from (
      (select a.run_id, a.attempt, case when a.cause in ('cancel', 'delay', 'duration') then 'cancelled' else 'failed' end as state,
        a.cause, a.worker_id, a.started_at, a.ended_at, a.retry_at, a.failure
      from absurd.attempts a
      where a.task_id = p_task_id and (p_before_attempt is null or a.attempt < p_before_attempt)
      order by a.attempt desc limit absurd.page_size(p_limit))
      union all
      select r.run_id, r.attempt, r.state, null, r.worker_id, r.started_at, null, null, null
      from absurd.runs r where r.task_id = p_task_id
      union all
      select t.run_id, t.attempt, 'completed', null, t.worker_id, t.started_at, t.finished_at, null, null
      from absurd.tasks t where t.task_id = p_task_id and t.outcome = 'completed'
    ) i
    where p_before_attempt is null or i.attempt < p_before_attempt
    order by i.attempt desc
    limit absurd.page_size(p_limit)
  ) p
$$;

-- A page of the checkpoints in handler order, how many there are, and when the last ones were recorded, by which run. They are walked once,
-- without their values: no index knows their order.
create or replace function absurd.checkpoints_of(
  p_task_id uuid, p_after_position integer, p_after_step text, p_limit integer, p_value_bytes integer, p_marks integer,
  out total bigint, out page json, out marks json)
returns record
language sql stable
set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  with every as materialized (
    select s.step_name, s.position, s.kind, s.owner_run_id, s.completed_at from absurd.checkpoints s where s.task_id = p_task_id
  )
  select (select count(*) from every),
    (select coalesce(json_agg(json_build_object('step_name', c.step_name, 'kind', c.kind, 'position', c.position,
        'state', absurd.bounded_value(c.state, p_value_bytes), 'event_seq', c.event_seq,
        'owner_run_id', c.owner_run_id, 'completed_at', c.completed_at) order by c.position, c.step_name collate "C"), '[]')
      from (
        select e.step_name from every e
        where p_after_position is null or (e.position, e.step_name collate "C") > (p_after_position, coalesce(p_after_step, '') collate "C")
        order by e.position, e.step_name collate "C"
        limit absurd.page_size(p_limit)
      ) k
      join absurd.checkpoints c on c.task_id = p_task_id and c.step_name = k.step_name),
    (select coalesce(json_agg(json_build_object('step_name', m.step_name, 'kind', m.kind, 'owner_run_id', m.owner_run_id,
        'completed_at', m.completed_at) order by m.completed_at, m.position, m.step_name), '[]')
      from (select * from every e order by e.completed_at desc, e.position desc, e.step_name desc limit p_marks) m)
$$;

-- What a sleeping task waits for. token_name: of the token whose answer it is.
create or replace function absurd.page_of_waits(p_task_id uuid, p_limit integer) returns json
language sql stable as $$
  select coalesce(json_agg(json_build_object('kind', case when w.kind = 'timer' then w.detail else w.kind end, 'step_name', w.step_name,
    'queue_name', w.queue_name, 'event_name', w.event_name, 'since_seq', w.since_seq, 'awaited_task_id', w.awaited_task_id,
    'token_name', (select k.token_name from absurd.tokens k where w.kind = 'token' and k.token_id::text = w.detail and k.task_id = p_task_id),
    'waiting_since', w.created_at, 'until', w.available_at) order by w.wait_id), '[]')
  from (
    select v.*, r.available_at
    from absurd.runs r
    join absurd.waits v on v.run_id = r.run_id
    where r.task_id = p_task_id
    order by v.wait_id
    limit absurd.page_size(p_limit)
  ) w
$$;

-- The tasks that a task spawned, in order. child_count: whether there is more below.
create or replace function absurd.page_of_children(p_task_id uuid, p_after_child uuid, p_limit integer) returns json
language sql stable as $$
  select coalesce(json_agg(json_build_object('task_id', k.task_id, 'queue_name', k.queue_name, 'task_name', k.task_name,
    'state', coalesce(k.outcome, r.state, 'pending'), 'spawned_at', k.spawned_at, 'finished_at', k.finished_at,
    'has_children', exists (select from absurd.tasks g where g.parent_task_id = k.task_id)) order by k.task_id), '[]')
  from (
    select t.task_id, t.queue_name, t.task_name, t.outcome, t.spawned_at, t.finished_at
    from absurd.tasks t
    where t.parent_task_id = p_task_id and (p_after_child is null or t.task_id > p_after_child)
    order by t.task_id limit absurd.page_size(p_limit)
  ) k
  left join absurd.runs r on r.task_id = k.task_id
$$;

-- The task that spawned a task, the one that spawned that, and so on; one that has been cleaned up is the last.
create or replace function absurd.parents_of(p_task_id uuid) returns json
language sql stable as $$
  with recursive chain as (
    select t.parent_task_id as task_id, 1 as distance
    from absurd.tasks t where t.task_id = p_task_id and t.parent_task_id is not null
    union all
    select t.parent_task_id, c.distance + 1
    from chain c
    join absurd.tasks t on t.task_id = c.task_id
    where t.parent_task_id is not null and c.distance < 20
  )
  select coalesce(json_agg(json_build_object('task_id', c.task_id, 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', case when t.task_id is not null then coalesce(t.outcome, r.state, 'pending') end) order by c.distance), '[]')
  from chain c
  left join absurd.tasks t on t.task_id = c.task_id
  left join absurd.runs r on r.task_id = c.task_id
$$;

-- functions/inspect_queues.sql

-- Events, the newest first; the next page: pass the last seq of this one. p_prefix reads p_event_name as the beginning of the name.
-- A whole name in a named queue is found by its index; any other search walks the log backwards until the page is full.
create or replace function absurd.list_events(
  p_queue_name text default null, p_event_name text default null, p_prefix boolean default false,
  p_newer_than interval default null, p_before_seq bigint default null, p_limit integer default 50)
returns table (
  seq bigint, queue_name text, event_name text, payload json, emitted_at timestamptz, claimed_at timestamptz, delivered boolean)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_from timestamptz := absurd.moment_ago(p_newer_than);
begin
  return query
    select e.seq, e.queue_name, e.event_name, absurd.hide_secrets(e.payload::text)::json, e.emitted_at, e.claimed_at, e.delivered
    from absurd.events e
    where (p_queue_name is null or e.queue_name = p_queue_name)
      and (p_event_name is null or p_prefix or e.event_name = p_event_name)
      and (p_event_name is null or not p_prefix or starts_with(e.event_name, p_event_name))
      and (v_from is null or e.emitted_at >= v_from)
      and (p_before_seq is null or e.seq < p_before_seq)
    order by e.seq desc
    limit absurd.page_size(p_limit);
end $$;

-- What sleeping runs wait for, the longest waiting first; the next page: pass the last wait_id of this one.
-- kind: event, task, token, or sleep for one that waits for a time alone. until: when it wakes anyway.
create or replace function absurd.list_waits(
  p_queue_name text default null, p_after_wait_id bigint default null, p_limit integer default 50)
returns table (
  wait_id bigint, kind text, queue_name text, task_id uuid, task_name text, run_id uuid, step_name text, event_queue_name text,
  event_name text, awaited_task_id uuid, waiting_since timestamptz, until timestamptz)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
begin
  return query
    select w.wait_id, case when w.kind = 'timer' then w.detail else w.kind end, r.queue_name, r.task_id, t.task_name, r.run_id,
      w.step_name, case when w.kind = 'event' then w.queue_name end, w.event_name, w.awaited_task_id, w.created_at, r.available_at
    from absurd.waits w
    join absurd.runs r on r.run_id = w.run_id
    join absurd.tasks t on t.task_id = r.task_id
    where (w.kind in ('event', 'task', 'token') or (w.kind = 'timer' and w.detail = 'sleep'))
      and (p_queue_name is null or r.queue_name = p_queue_name)
      and (p_after_wait_id is null or w.wait_id > p_after_wait_id)
    order by w.wait_id
    limit absurd.page_size(p_limit);
end $$;

-- Workers, with the number of runs each holds. stale: no heartbeat for longer than its lease.
create or replace function absurd.list_workers()
returns table (
  worker_id text, queue_names text[], hostname text, pid integer, version text, concurrency integer, running integer, idle boolean,
  started_at timestamptz, heartbeat_at timestamptz, lease_seconds double precision, stale boolean)
language sql stable
set jit = off
as $$
  select w.worker_id, w.queue_names, w.hostname, w.pid, w.version, w.concurrency,
    (select count(*) from absurd.runs r where r.worker_id = w.worker_id and r.state = 'running' and r.lease_expires_at is not null)::integer, w.idle,
    w.started_at, w.heartbeat_at, w.lease_seconds,
    w.missing_since is not null or w.heartbeat_at < absurd.current_time() - make_interval(secs => least(greatest(w.lease_seconds, 0), 315360000))
  from absurd.workers w
  order by w.started_at, w.worker_id
$$;

-- What is alive in each queue: exact counts, one pass over live runs and none over history.
-- oldest_ready_at: since when the first ready run waits to be claimed.
create or replace function absurd.queue_stats(p_queue_name text default null)
returns table (
  queue_name text, paused_at timestamptz, pending bigint, running bigint, sleeping bigint, oldest_ready_at timestamptz,
  workers bigint, max_payload_bytes integer)
language sql stable
set jit = off
as $$
  select q.queue_name, q.paused_at, coalesce(l.pending, 0), coalesce(l.running, 0), coalesce(l.sleeping, 0), l.oldest_ready_at,
    (select count(*) from absurd.workers w where q.queue_name = any (w.queue_names)), q.max_payload_bytes
  from absurd.queues q
  left join (
    select r.queue_name, count(*) filter (where r.state = 'pending') as pending, count(*) filter (where r.state = 'running') as running,
      count(*) filter (where r.state = 'sleeping') as sleeping,
      min(r.available_at) filter (where r.state = 'pending') as oldest_ready_at
    from absurd.runs r
    where p_queue_name is null or r.queue_name = p_queue_name
    group by r.queue_name
  ) l on l.queue_name = q.queue_name
  where p_queue_name is null or q.queue_name = p_queue_name
  order by q.queue_name
$$;

-- Runs that workers handed back because they could not run them, with the reason: most often a task name that no worker knows.
create or replace function absurd.find_unclaimable(p_queue_name text default null, p_limit integer default 50)
returns table (queue_name text, task_id uuid, task_name text, run_id uuid, state text, available_at timestamptz, note text)
language sql stable
set jit = off
as $$
  select r.queue_name, r.task_id, t.task_name, r.run_id, r.state, r.available_at, r.note
  from absurd.runs r
  join absurd.tasks t on t.task_id = r.task_id
  where r.note is not null and (p_queue_name is null or r.queue_name = p_queue_name)
  order by r.run_id
  limit absurd.page_size(p_limit)
$$;

-- functions/inspect_overview.sql

-- Reading for the dashboard: whatever a table holds, each function reads a bounded number of its rows. Where counting ends at a bound,
-- the number returned is one more than that.

-- How far a count goes, in rows.
create or replace function absurd.count_bound() returns integer
language sql immutable parallel safe as $$ select 10000 $$;

-- How many rows a search without an index looks at.
create or replace function absurd.search_bound() returns integer
language sql immutable parallel safe as $$ select 20000 $$;

-- Queues in order of name, with what is alive in them and what failed since a moment. sleeping_more: more sleep than could be counted.
-- The next page: pass the last name.
create or replace function absurd.page_of_queues(
  p_since timestamptz default null, p_after text default null, p_limit integer default 50, p_queue_name text default null)
returns table (
  queue_name text, created_at timestamptz, paused_at timestamptz, max_payload_bytes integer, pending integer, running integer,
  sleeping integer, sleeping_more boolean, failed integer, oldest_ready_at timestamptz, workers integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_bound integer := absurd.count_bound();
  v_since timestamptz := coalesce(p_since, absurd.current_time() - interval '1 day');
  v_timeless jsonb;
  v_more boolean;
begin
  -- Sleepers without a time are in no index of runs: they are counted by their waits, half as many, for with each its run is looked at.
  select coalesce(jsonb_object_agg(s.queue_name, s.sleepers), '{}'), coalesce(sum(s.waits), 0) > v_bound / 2 into v_timeless, v_more
  from (
    select r.queue_name, count(distinct r.run_id) filter (where r.available_at is null and r.state = 'sleeping') as sleepers, count(*) as waits
    from (select w.run_id from absurd.waits w where w.run_id is not null order by w.run_id limit v_bound / 2 + 1) w
    left join absurd.runs r on r.run_id = w.run_id
    group by r.queue_name
  ) s
  where s.queue_name is not null;
  return query
    select q.queue_name, q.created_at, q.paused_at, q.max_payload_bytes,
      (select count(*)::integer from (
        select from absurd.runs r where r.queue_name = q.queue_name and r.state = 'pending' limit v_bound + 1) c),
      coalesce(l.running, 0),
      coalesce((v_timeless ->> q.queue_name)::integer, 0) + (select count(*)::integer from (
        select from absurd.runs r
        where r.queue_name = q.queue_name and r.state = 'sleeping' and r.available_at is not null limit v_bound + 1) c),
      v_more,
      -- Among the newest: the index knows no causes, and a million cancelled tasks may lie before the first that has failed.
      (select count(*) filter (where c.cause not in ('cancel', 'delay', 'duration'))::integer from (
        select a.cause from absurd.attempts a
        where a.queue_name = q.queue_name and a.final and a.ended_at >= v_since
        order by a.ended_at desc limit v_bound + 1) c),
      absurd.oldest_ready(q.queue_name),
      (select count(*)::integer from absurd.workers w where q.queue_name = any (w.queue_names))
    from (
      select n.* from absurd.queues n
      where (p_after is null or n.queue_name > p_after) and (p_queue_name is null or n.queue_name = p_queue_name)
      order by n.queue_name limit absurd.page_size(p_limit)
    ) q
    left join (
      select r.queue_name, count(*)::integer as running
      from (select r.queue_name from absurd.runs r where r.state = 'running' and r.lease_expires_at is not null limit v_bound + 1) r
      group by r.queue_name
    ) l on l.queue_name = q.queue_name
    order by q.queue_name;
end $$;

-- Since when the first ready run of a queue waits to be claimed: the first of each priority, of which there are few.
create or replace function absurd.oldest_ready(p_queue_name text) returns timestamptz
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
  with recursive first as (
    (select r.priority, r.available_at, 1 as place from absurd.runs r
     where r.queue_name = p_queue_name and r.state = 'pending'
     order by r.priority desc, r.available_at, r.run_id limit 1)
    union all
    select n.priority, n.available_at, f.place + 1
    from first f
    cross join lateral (
      select r.priority, r.available_at from absurd.runs r
      where r.queue_name = p_queue_name and r.state = 'pending' and r.priority < f.priority
      order by r.priority desc, r.available_at, r.run_id limit 1) n
    where f.place < 100
  )
  select min(f.available_at) from first f
$$;

-- How many tasks ended in each of p_buckets pieces of the last p_seconds, by queue. failed and cancelled are counted, up to 1,000 in a
-- piece. completed are those of the tasks that were spawned in that time or as long before, for nothing keeps tasks in the order of their
-- ends: all of them up to search_bound(); beyond that a sample, and estimated is true. p_queue_name: only that one.
create or replace function absurd.throughput(p_seconds double precision, p_buckets integer default 60, p_queue_name text default null)
returns table (
  bucket integer, queue_name text, completed double precision, failed double precision, cancelled double precision, estimated boolean)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_buckets integer := least(greatest(coalesce(p_buckets, 60), 1), 120);
  v_seconds double precision := least(greatest(coalesce(p_seconds, 3600), 60), 31536000);
  v_width interval := make_interval(secs => v_seconds / v_buckets);
  v_to timestamptz := absurd.current_time();
  v_from timestamptz := v_to - make_interval(secs => v_seconds);
  v_many boolean := exists (
    select from absurd.tasks t
    where t.task_id >= absurd.id_floor(v_from - make_interval(secs => v_seconds))
    order by t.task_id offset absurd.search_bound() limit 1);
begin
  return query
    with seen as materialized (
      select t.queue_name, t.outcome, t.finished_at, 1::double precision as weight
      from absurd.tasks_spawned(v_from - make_interval(secs => v_seconds), v_to + interval '1 hour', absurd.search_bound()) t
      where not v_many
      union all
      select s.queue_name, s.outcome, s.finished_at, s.weight from absurd.sample_spawned(v_from, v_to, v_buckets) s where v_many
    ), done as (
      select floor(extract(epoch from s.finished_at - v_from) / extract(epoch from v_width))::integer as bucket, s.queue_name,
        sum(s.weight) as completed
      from seen s
      where s.outcome = 'completed' and s.finished_at >= v_from and s.finished_at < v_to
        and (p_queue_name is null or s.queue_name = p_queue_name)
      group by 1, 2
    ), ended as (
      select s.i as bucket, q.queue_name, count(*) filter (where a.cause not in ('cancel', 'delay', 'duration')) as failed,
        count(*) filter (where a.cause in ('cancel', 'delay', 'duration')) as cancelled
      from generate_series(0, v_buckets - 1) as s(i)
      cross join (
        select n.queue_name from absurd.queues n where p_queue_name is null or n.queue_name = p_queue_name
        order by n.queue_name limit 100) q
      cross join lateral (
        select a.cause from absurd.attempts a
        where a.final and a.queue_name = q.queue_name
          and a.ended_at >= v_from + s.i * v_width and a.ended_at < v_from + (s.i + 1) * v_width
        limit 1000) a
      group by 1, 2
    )
    select coalesce(d.bucket, e.bucket), coalesce(d.queue_name, e.queue_name), coalesce(d.completed, 0)::double precision,
      coalesce(e.failed, 0)::double precision, coalesce(e.cancelled, 0)::double precision, v_many
    from done d
    full join ended e on e.bucket = d.bucket and e.queue_name = d.queue_name
    order by 1, 2;
end $$;

-- Some of the tasks that were spawned in a span of time and as long before it, each with the number of tasks that it stands for. Of each
-- piece of the span: the first 200, and 40 from each of six places. How many there are in the piece is counted up to 2,000; beyond that
-- it follows from how close tasks follow each other in those places: the median, for one of them may lie in a burst.
create or replace function absurd.sample_spawned(p_from timestamptz, p_to timestamptz, p_pieces integer)
returns table (queue_name text, outcome text, finished_at timestamptz, weight double precision)
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off
as $$
  with piece as materialized (
    select s.i, s.width, absurd.id_floor(s.start) as low, absurd.id_floor(s.start + s.width) as high, s.start
    from (
      select i, (p_to - p_from) / b.pieces as width, p_from + i * (p_to - p_from) / b.pieces as start
      from (select least(greatest(p_pieces, 1), 120) as pieces) b cross join generate_series(0, b.pieces - 1) as i
      union all
      select -i, (p_to - p_from) / 12, p_from - i * (p_to - p_from) / 12 from generate_series(1, 12) as i
    ) s
  ), place as materialized (
    select s.i, s.k, s.width, absurd.id_floor(s.start) as low, absurd.id_floor(s.start + s.width) as high, s.start
    from (
      select p.i, k, p.width / 6 as width, p.start + (k + 0.3) * p.width / 6 as start
      from piece p cross join generate_series(0, 5) as k
    ) s
  ), near as materialized (
    select p.i, p.k, t.*
    from place p
    cross join lateral (
      select t.task_id, t.queue_name, t.outcome, t.finished_at, t.spawned_at from absurd.tasks t
      where t.task_id >= p.low and t.task_id < p.high order by t.task_id limit 40) t
  ), looked as materialized (
    select n.i, n.k, count(*) as tasks, max(n.spawned_at) as until from near n group by n.i, n.k
  ), density as materialized (
    -- tasks in a second: the median of the six places
    select p.i, percentile_cont(0.5) within group (order by case when coalesce(l.tasks, 0) < 40
      then coalesce(l.tasks, 0) / extract(epoch from p.width)
      else 40 / greatest(extract(epoch from l.until - p.start), 0.0001) end::double precision) as density
    from place p left join looked l on l.i = p.i and l.k = p.k
    group by p.i
  ), number as materialized (
    select p.i, greatest(c.tasks, d.density * extract(epoch from p.width)::double precision) as tasks
    from piece p
    join density d on d.i = p.i
    cross join lateral (
      select count(*) as tasks from (
        select from absurd.tasks t where t.task_id >= p.low and t.task_id < p.high order by t.task_id limit 2000) b) c
  ), seen as materialized (
    select distinct on (s.task_id) s.i, s.queue_name, s.outcome, s.finished_at
    from (
      select p.i, t.*
      from piece p
      cross join lateral (
        select t.task_id, t.queue_name, t.outcome, t.finished_at from absurd.tasks t
        where t.task_id >= p.low and t.task_id < p.high order by t.task_id limit 200) t
      union all
      select n.i, n.task_id, n.queue_name, n.outcome, n.finished_at from near n
    ) s
  ), size as materialized (
    select s.i, count(*) as tasks from seen s group by s.i
  )
  select s.queue_name, s.outcome, s.finished_at, greatest(n.tasks / z.tasks, 1)
  from seen s
  join size z on z.i = s.i
  join number n on n.i = s.i
$$;

-- The first tasks that were spawned in a span of time, by their ids.
create or replace function absurd.tasks_spawned(p_from timestamptz, p_to timestamptz, p_limit integer)
returns table (task_id uuid, queue_name text, spawned_at timestamptz, outcome text, finished_at timestamptz)
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
  select t.task_id, t.queue_name, t.spawned_at, t.outcome, t.finished_at
  from absurd.tasks t
  where t.task_id >= absurd.id_floor(p_from) and t.task_id < absurd.id_floor(p_to)
  order by t.task_id
  limit p_limit
$$;

-- Workers, the oldest first, with the number of runs that each holds and those of them that started first, as JSON:
-- [{"task_id", "task_name", "queue_name", "attempt", "started_at", "lease_expires_at"}].
create or replace function absurd.page_of_workers(p_runs integer default 20, p_limit integer default 200)
returns table (
  worker_id text, queue_names text[], hostname text, pid integer, version text, concurrency integer, running integer, idle boolean,
  started_at timestamptz, heartbeat_at timestamptz, lease_seconds double precision, missing boolean, stale boolean, runs json)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
begin
  return query
    with held as materialized (
      select h.*, row_number() over (partition by h.worker_id order by h.started_at, h.run_id) as place
      from (
        select r.worker_id, r.run_id, r.task_id, r.queue_name, r.attempt, r.started_at, r.lease_expires_at
        from absurd.runs r where r.state = 'running' and r.lease_expires_at is not null limit absurd.count_bound()) h
    ), number as (
      select h.worker_id, count(*)::integer as running from held h group by h.worker_id
    ), shown as (
      select h.worker_id, json_agg(json_build_object('task_id', h.task_id, 'task_name', t.task_name, 'queue_name', h.queue_name,
        'attempt', h.attempt, 'started_at', h.started_at, 'lease_expires_at', h.lease_expires_at) order by h.place) as runs
      from held h join absurd.tasks t on t.task_id = h.task_id
      where h.place <= least(greatest(p_runs, 0), 100)
      group by h.worker_id
    )
    select w.worker_id, w.queue_names, w.hostname, w.pid, w.version, w.concurrency, coalesce(n.running, 0), w.idle, w.started_at,
      w.heartbeat_at, w.lease_seconds, w.missing_since is not null,
      w.missing_since is not null or w.heartbeat_at < v_now - absurd.stored_seconds(w.lease_seconds), s.runs
    from (select v.* from absurd.workers v order by v.started_at, v.worker_id limit absurd.page_size(p_limit)) w
    left join number n on n.worker_id = w.worker_id
    left join shown s on s.worker_id = w.worker_id
    order by w.started_at, w.worker_id;
end $$;

-- The names of schedules that fire next; those that no scheduler has computed yet come by the moment after which they do.
create or replace function absurd.due_schedules(p_limit integer default 10) returns setof text
language sql stable
set jit = off
as $$
  select s.schedule_name
  from absurd.schedules s
  where s.paused_at is null and s.ended_at is null and s.problem is null
  order by coalesce(s.due_at, s.plan_after), s.schedule_name
  limit absurd.page_size(p_limit)
$$;

-- The tasks that failed last, with the kind and the beginning of their failure.
create or replace function absurd.last_failures(p_limit integer default 8)
returns table (task_id uuid, task_name text, queue_name text, attempt integer, ended_at timestamptz, failure_name text, failure_message text)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  -- Of each queue: what has been cancelled is read too, and passed over.
  v_rows integer := absurd.count_bound() / greatest(least((select count(*) from absurd.queues), 100), 1);
begin
  return query
    select f.task_id, t.task_name, f.queue_name, f.attempt, f.ended_at, left(absurd.failure_text(f.failure, 'name'), 200),
      left(absurd.hide_secrets(left(absurd.failure_text(f.failure, 'message'), 2000)), 300)
    from (
      select l.*
      from (select q.queue_name from absurd.queues q order by q.queue_name limit 200) q
      cross join lateral (
        select a.task_id, a.queue_name, a.attempt, a.ended_at, a.failure
        from (
          select n.* from absurd.attempts n where n.final and n.queue_name = q.queue_name order by n.ended_at desc limit v_rows) a
        where a.cause not in ('cancel', 'delay', 'duration')
        order by a.ended_at desc limit absurd.page_size(p_limit)) l
      order by l.ended_at desc limit absurd.page_size(p_limit)
    ) f
    join absurd.tasks t on t.task_id = f.task_id
    order by f.ended_at desc;
end $$;

-- A text of a failure; null for what is none, or cannot be read as text because it holds a NUL character.
create or replace function absurd.failure_text(p_failure json, p_name text) returns text
language plpgsql immutable as $$
begin
  return case when json_typeof(p_failure) = 'object' then p_failure ->> p_name end;
exception when data_exception then
  return null;
end $$;

-- functions/inspect_dashboard.sql

-- Lists for the dashboard, in bounded pages.

-- Events, the newest first, with their payload and source unless they are longer than p_bytes; started: how many tasks it started.
-- p_prefix reads p_event_name as the beginning of the name. A whole name is found by its index; any other search looks at so many events
-- as search_bound() says. searched_to: a last row with this alone when it ended there; go on with it as p_before_seq.
create or replace function absurd.page_of_events(
  p_queue_name text default null, p_event_name text default null, p_prefix boolean default false, p_before_seq bigint default null,
  p_limit integer default 50, p_bytes integer default 4000)
returns table (
  seq bigint, queue_name text, event_name text, payload text, payload_bytes integer, source text, emitted_at timestamptz,
  claimed_at timestamptz, delivered boolean, started integer, searched_to bigint)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_by_index boolean := p_event_name is not null and not coalesce(p_prefix, false);
  v_to bigint;
  v_seqs bigint[];
begin
  if v_by_index then
    v_seqs := array(
      select f.seq
      from absurd.queues q
      cross join lateral (
        select e.seq from absurd.events e
        where e.queue_name = q.queue_name and e.event_name = p_event_name and (p_before_seq is null or e.seq < p_before_seq)
        order by e.seq desc limit v_limit) f
      where p_queue_name is null or q.queue_name = p_queue_name
      order by f.seq desc limit v_limit);
  else
    select min(l.seq) into v_to from (
      select e.seq from absurd.events e where p_before_seq is null or e.seq < p_before_seq
      order by e.seq desc limit absurd.search_bound()) l;
    v_seqs := array(
      select e.seq from absurd.events e
      where e.seq >= v_to and (p_before_seq is null or e.seq < p_before_seq)
        and (p_queue_name is null or e.queue_name = p_queue_name)
        and (p_event_name is null or starts_with(e.event_name, p_event_name))
      order by e.seq desc limit v_limit);
  end if;
  return query
    select e.seq, e.queue_name, e.event_name, case when octet_length(e.payload::text) <= p_bytes then absurd.hide_secrets(e.payload::text) end,
      octet_length(e.payload::text), case when octet_length(e.source::text) <= p_bytes then absurd.hide_secrets(e.source::text) end, e.emitted_at, e.claimed_at,
      e.delivered, (select count(t.task_id)::integer from absurd.event_tasks t where t.seq = e.seq), null::bigint
    from unnest(v_seqs) as s(seq) join absurd.events e on e.seq = s.seq
    order by e.seq desc;
  if cardinality(v_seqs) < v_limit and exists (select from absurd.events e where e.seq < v_to) then
    return query select null::bigint, null, null, null, null::integer, null, null::timestamptz, null::timestamptz, null::boolean,
      null::integer, v_to;
  end if;
end $$;

-- The tasks that an event has started, one row for each subscriber in their order: status ok, or why there is none. state: of the task
-- now; null when it is gone.
create or replace function absurd.tasks_of_event(p_seq bigint, p_limit integer default 200)
returns table (subscription_id bigint, task_name text, task_id uuid, status text, message text, state text, finished_at timestamptz)
language sql stable
set jit = off set enable_seqscan = off
as $$
  select s.subscription_id, s.task_name, s.task_id, s.status, s.message,
    case when t.task_id is not null then coalesce(t.outcome, r.state, 'pending') end, t.finished_at
  from (
    select e.* from absurd.event_tasks e where e.seq = p_seq order by e.subscription_id limit absurd.page_size(p_limit)) s
  left join absurd.tasks t on t.task_id = s.task_id
  left join absurd.runs r on r.task_id = s.task_id
  order by s.subscription_id
$$;

-- The tasks that got an event from a wait, and by which step. No index leads from an event to them: the checkpoints of tasks are walked,
-- of those that had been spawned when it was emitted the newest first; with p_later of those spawned since, the oldest first. A call looks
-- for 0.1 s. next: a last row with this alone when it ended before the walk did, for p_after of the call that goes on; searched_at: to
-- the tasks of which moment it came.
create or replace function absurd.takers_of_event(
  p_seq bigint, p_later boolean default false, p_after text default null, p_limit integer default 50)
returns table (
  task_id uuid, task_name text, queue_name text, step_name text, state text, spawned_at timestamptz, taken_at timestamptz,
  searched_at timestamptz, next text)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_stop_at timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_chunk integer := 1000;
  v_id uuid := left(p_after, 36)::uuid;
  v_step text := substr(p_after, 38);
  v_read integer;
  v_ids uuid[];
  v_steps text[];
  v_found_ids uuid[] := array[]::uuid[];
  v_found_steps text[] := array[]::text[];
begin
  if v_id is null then
    -- While the clock is moved ids say nothing of moments: all are earlier.
    select coalesce(absurd.id_floor(e.emitted_at + interval '1 second'), 'ffffffff-ffff-ffff-ffff-ffffffffffff') into v_id
    from absurd.events e where e.seq = p_seq;
    v_step := '';
  end if;
  loop
    select count(*)::integer, (array_agg(c.task_id order by c.place desc))[1], (array_agg(c.step_name order by c.place desc))[1],
      coalesce(array_agg(c.task_id order by c.place) filter (where c.taken), '{}'),
      coalesce(array_agg(c.step_name order by c.place) filter (where c.taken), '{}')
    into v_read, v_id, v_step, v_ids, v_steps
    from (
      (select k.task_id, k.step_name, k.kind = 'event' and k.event_seq = p_seq as taken,
         row_number() over (order by k.task_id desc, k.step_name desc) as place
       from absurd.checkpoints k
       where not p_later and (k.task_id, k.step_name) < (v_id, v_step)
       order by k.task_id desc, k.step_name desc limit v_chunk)
      union all
      (select k.task_id, k.step_name, k.kind = 'event' and k.event_seq = p_seq,
         row_number() over (order by k.task_id, k.step_name)
       from absurd.checkpoints k
       where p_later and (k.task_id, k.step_name) > (v_id, v_step)
       order by k.task_id, k.step_name limit v_chunk)
    ) c;
    v_found_ids := v_found_ids || v_ids;
    v_found_steps := v_found_steps || v_steps;
    if cardinality(v_found_ids) > v_limit then
      v_found_ids := v_found_ids[:v_limit];
      v_found_steps := v_found_steps[:v_limit];
      v_id := v_found_ids[v_limit];
      v_step := v_found_steps[v_limit];
      v_read := v_chunk;
      exit;
    end if;
    exit when v_read < v_chunk or clock_timestamp() > v_stop_at;
  end loop;
  return query
    select f.task_id, t.task_name, t.queue_name, absurd.hide_secrets(f.step_name), coalesce(t.outcome, r.state, 'pending'), t.spawned_at,
      c.completed_at, null::timestamptz, null::text
    from unnest(v_found_ids, v_found_steps) with ordinality as f(task_id, step_name, ord)
    join absurd.tasks t on t.task_id = f.task_id
    join absurd.checkpoints c on c.task_id = f.task_id and c.step_name = f.step_name
    left join absurd.runs r on r.task_id = f.task_id
    order by f.ord;
  if v_read = v_chunk then
    return query
      select null::uuid, null, null, null, null, null::timestamptz, null::timestamptz,
        (select t.spawned_at from absurd.tasks t where t.task_id = v_id), v_id || '/' || v_step;
  end if;
end $$;

-- What sleeping runs wait for, the longest waiting first; kind as in list_waits(). p_event_name: waits for that event alone, by its index;
-- any other search looks at a quarter of so many waits as search_bound() says, for with each it looks at its run. searched_to: as in
-- page_of_events(), for p_after_wait_id.
create or replace function absurd.page_of_waits_for(
  p_queue_name text default null, p_event_name text default null, p_kind text default null, p_after_wait_id bigint default null,
  p_limit integer default 50)
returns table (
  wait_id bigint, kind text, queue_name text, task_id uuid, task_name text, step_name text, event_queue_name text, event_name text,
  awaited_task_id uuid, waiting_since timestamptz, until timestamptz, searched_to bigint)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_to bigint;
  v_ids bigint[];
begin
  if p_event_name is not null then
    v_ids := array(
      select f.wait_id
      from absurd.queues q
      cross join lateral (
        select w.wait_id from absurd.waits w
        where w.queue_name = q.queue_name and w.event_name = p_event_name and w.run_id is not null
        limit absurd.search_bound()) f
      where (p_queue_name is null or q.queue_name = p_queue_name) and (p_after_wait_id is null or f.wait_id > p_after_wait_id)
      order by f.wait_id limit v_limit);
  else
    select max(l.wait_id) into v_to from (
      select w.wait_id from absurd.waits w where p_after_wait_id is null or w.wait_id > p_after_wait_id
      order by w.wait_id limit absurd.search_bound() / 4) l;
    v_ids := array(
      select w.wait_id
      from absurd.waits w
      join absurd.runs r on r.run_id = w.run_id
      where w.wait_id <= v_to and (p_after_wait_id is null or w.wait_id > p_after_wait_id)
        and (w.kind in ('event', 'task', 'token') or (w.kind = 'timer' and w.detail = 'sleep'))
        and (p_kind is null or case when w.kind = 'timer' then w.detail else w.kind end = p_kind)
        and (p_queue_name is null or r.queue_name = p_queue_name)
      order by w.wait_id limit v_limit);
  end if;
  return query
    select w.wait_id, case when w.kind = 'timer' then w.detail else w.kind end, r.queue_name, r.task_id, t.task_name, w.step_name,
      case when w.kind = 'event' then w.queue_name end, w.event_name, w.awaited_task_id, w.created_at, r.available_at, null::bigint
    from unnest(v_ids) as i(wait_id)
    join absurd.waits w on w.wait_id = i.wait_id
    join absurd.runs r on r.run_id = w.run_id
    join absurd.tasks t on t.task_id = r.task_id
    order by w.wait_id;
  if cardinality(v_ids) < v_limit and exists (select from absurd.waits w where w.wait_id > v_to) then
    return query select null::bigint, null, null, null::uuid, null, null, null, null, null::uuid, null::timestamptz, null::timestamptz, v_to;
  end if;
end $$;

-- The names of schedules in order, those that hold a text in their name or in what they start; the next page: pass the last name.
create or replace function absurd.page_of_schedules(p_text text default null, p_after text default null, p_limit integer default 50)
returns setof text
language sql stable
set jit = off
as $$
  select s.schedule_name
  from absurd.schedules s
  where (p_after is null or s.schedule_name > p_after)
    and (p_text is null or strpos(lower(concat_ws(' ', s.schedule_name, s.task_name, s.event_name)), lower(p_text)) > 0)
  order by s.schedule_name
  limit absurd.page_size(p_limit)
$$;

-- Subscriptions in the order in which they were made, those that hold a text in their pattern or the name of their task; the next page:
-- pass the last id.
create or replace function absurd.page_of_subscriptions(
  p_queue_name text default null, p_text text default null, p_after bigint default null, p_limit integer default 50)
returns table (
  subscription_id bigint, queue_name text, pattern text, task_name text, target_queue text, config text, created_at timestamptz,
  last_error text, last_error_at timestamptz)
language sql stable
set jit = off
as $$
  select s.subscription_id, s.queue_name, s.pattern, s.task_name, s.target_queue,
    case when octet_length(s.config::text) <= 4000 then s.config::text end, s.created_at, s.last_error, s.last_error_at
  from absurd.subscriptions s
  where (p_queue_name is null or s.queue_name = p_queue_name) and (p_after is null or s.subscription_id > p_after)
    and (p_text is null or strpos(lower(s.pattern || ' ' || s.task_name), lower(p_text)) > 0)
  order by s.subscription_id
  limit absurd.page_size(p_limit)
$$;

-- functions/metrics.sql

-- Reading for machines that watch: counts for metrics, and what happens, for those who follow it.

-- What is alive in each queue: exact counts, one pass over live runs and none over history, so a caller asks seldom when many tasks live.
-- oldest_ready: seconds since the first ready run waits for a claim; oldest_running: since the first start of the oldest attempt that runs;
-- overdue: since the first sleeper should have woken. 0 for none. workers: those that serve it and have given a sign of life lately.
create or replace function absurd.queue_metrics()
returns table (
  queue_name text, paused boolean, pending bigint, running bigint, sleeping bigint, oldest_ready double precision,
  oldest_running double precision, overdue double precision, workers bigint)
language plpgsql stable
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
begin
  return query
    select q.queue_name, q.paused_at is not null, coalesce(l.pending, 0), coalesce(l.running, 0), coalesce(l.sleeping, 0),
      coalesce(greatest(extract(epoch from v_now) - extract(epoch from l.ready_at), 0), 0)::double precision,
      coalesce(greatest(extract(epoch from v_now) - extract(epoch from l.started_at), 0), 0)::double precision,
      coalesce(greatest(extract(epoch from v_now) - extract(epoch from l.due_at), 0), 0)::double precision,
      (select count(*) from absurd.workers w where q.queue_name = any (w.queue_names) and w.missing_since is null
        and w.heartbeat_at >= v_now - make_interval(secs => least(greatest(w.lease_seconds, 0), 315360000)))
    from absurd.queues q
    left join (
      select r.queue_name, count(*) filter (where r.state = 'pending') as pending, count(*) filter (where r.state = 'running') as running,
        count(*) filter (where r.state = 'sleeping') as sleeping,
        min(r.available_at) filter (where r.state = 'pending') as ready_at,
        min(r.started_at) filter (where r.state = 'running') as started_at,
        min(r.available_at) filter (where r.state = 'sleeping') as due_at
      from absurd.runs r
      group by r.queue_name
    ) l on l.queue_name = q.queue_name
    order by q.queue_name;
end $$;

-- How many rows of each kind this database has seen, by PostgreSQL's own statistics, which lag by a second: who asks twice has a rate.
-- spawned: tasks; ended: runs that left the queue; steps: recorded effects; events: emissions; failed: attempts.
create or replace function absurd.activity_counters()
returns table (spawned bigint, ended bigint, steps bigint, events bigint, failed bigint)
language sql stable as $$
  select pg_stat_get_tuples_inserted('absurd.tasks'::regclass), pg_stat_get_tuples_deleted('absurd.runs'::regclass),
    pg_stat_get_tuples_inserted('absurd.checkpoints'::regclass), pg_stat_get_tuples_inserted('absurd.events'::regclass),
    pg_stat_get_tuples_inserted('absurd.attempts'::regclass)
$$;

-- Whom to follow in a queue: its living tasks, and those spawned since a moment, which may have ended already. The last spawned first,
-- 1,000 at most of each. Ids are in the order of time, give or take the clocks of those who made them.
create or replace function absurd.tasks_to_follow(p_queue_name text, p_since timestamptz, p_limit integer default 1000) returns setof uuid
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  v_floor uuid := absurd.id_floor(p_since - interval '10 seconds');
begin
  return query
    (select r.task_id from absurd.runs r
     where p_queue_name is null or r.queue_name = p_queue_name
     order by r.task_id desc
     limit absurd.page_size(p_limit))
    union
    (select t.task_id from absurd.tasks t
     where v_floor is not null and t.task_id >= v_floor and (p_queue_name is null or t.queue_name = p_queue_name)
     order by t.task_id desc
     limit absurd.page_size(p_limit));
end $$;

-- Events after a place in the log, in its order; null for the last one there is.
create or replace function absurd.events_after(p_queue_name text, p_after_seq bigint, p_limit integer default 1000)
returns table (seq bigint, queue_name text, event_name text, payload text, emitted_at timestamptz)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
  return query
    select e.seq, e.queue_name, e.event_name, left(absurd.hide_secrets(left(e.payload::text, 2000)), 300), e.emitted_at
    from absurd.events e
    where (p_queue_name is null or e.queue_name = p_queue_name)
      and e.seq > coalesce(p_after_seq, (select max(l.seq) - 1 from absurd.events l))
    order by e.seq
    limit absurd.page_size(p_limit);
end $$;

-- What has happened to some tasks since a moment, in the order of time: kind spawned, started, step, event, task, token, timeout, sleep (over),
-- waiting, failed, completed, cancelled. name: of the task, step or event; detail: the value or message, shortened.
-- The next page: pass moment and place of the last row. Rows appear when they are committed, not in the order of their moments: who
-- follows has to look back some seconds.
create or replace function absurd.task_activity(
  p_task_ids uuid[], p_since timestamptz default '-infinity', p_after_place text default '', p_limit integer default 1000)
returns table (
  happened_at timestamptz, place text, task_id uuid, queue_name text, task_name text, kind text, name text, detail text, attempt integer,
  worker_id text)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select h.happened_at, h.place, t.task_id, t.queue_name, t.task_name, h.kind, h.name, left(absurd.hide_secrets(left(h.detail, 2000)), 300), h.attempt, h.worker_id
    from unnest(p_task_ids[:1000]) as i(task_id)
    join absurd.tasks t on t.task_id = i.task_id
    cross join lateral (
      select e.happened_at, concat_ws(' ', t.task_id, e.kind, e.attempt, e.name) as place, e.kind, e.name, e.detail, e.attempt, e.worker_id
      from (
        select t.spawned_at as happened_at, 'spawned' as kind, t.task_name as name,
          (absurd.readable_jsonb(t.headers) -> 'absurd-source')::text as detail, null::integer as attempt, null::text as worker_id
        union all
        select r.started_at, 'started', t.task_name, null, r.attempt, r.worker_id from absurd.runs r where r.task_id = t.task_id
        union all
        select a.started_at, 'started', t.task_name, null, a.attempt, a.worker_id from absurd.attempts a where a.task_id = t.task_id
        union all
        select t.started_at, 'started', t.task_name, null, t.attempt, t.worker_id where t.outcome = 'completed'
        union all
        select c.completed_at, c.kind, c.step_name, c.state::text, null, null from absurd.checkpoints c where c.task_id = t.task_id
        union all
        select w.created_at, 'waiting', coalesce(w.event_name, w.awaited_task_id::text, w.step_name),
          concat_ws(' ', case when w.kind = 'timer' then w.detail else w.kind end, 'until ' || r.available_at::timestamptz(0)), r.attempt, null
        from absurd.runs r
        join absurd.waits w on w.run_id = r.run_id
        where r.task_id = t.task_id and not (w.kind = 'timer' and w.detail = 'timeout')
        union all
        select a.ended_at, case when a.cause in ('cancel', 'delay', 'duration') then 'cancelled' else 'failed' end, t.task_name,
          concat_ws('', concat_ws(': ', nullif(a.cause, 'error'), absurd.readable_jsonb(a.failure) ->> 'name',
            absurd.readable_jsonb(a.failure) ->> 'message'), case when a.retry_at is not null then '; again at ' || a.retry_at::timestamptz(0) end),
          a.attempt, a.worker_id
        from absurd.attempts a where a.task_id = t.task_id
        union all
        select t.finished_at, 'completed', t.task_name, t.result::text, t.attempt, t.worker_id where t.outcome = 'completed'
      ) e
      where e.happened_at >= p_since
    ) h
    where (h.happened_at, h.place) > (p_since, p_after_place)
    order by h.happened_at, h.place
    limit absurd.page_size(p_limit);
end $$;

-- functions/queue_age.sql

-- For how many seconds the longest waiting ready task of a queue has been ready: what to scale workers by. 0 while nothing waits, or the
-- queue is paused. As quick before ten million tasks as before ten: it looks at one row of each priority that occurs.
create or replace function absurd.queue_age(p_queue_name text) returns double precision
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
begin
  perform absurd.require_queue(p_queue_name);
  return (
    with recursive first as (
      (select r.priority, r.available_at from absurd.runs r
       where r.queue_name = p_queue_name and r.state = 'pending'
       order by r.priority desc, r.available_at limit 1)
      union all
      select n.priority, n.available_at
      from first f
      cross join lateral (
        select r.priority, r.available_at from absurd.runs r
        where r.queue_name = p_queue_name and r.state = 'pending' and r.priority < f.priority
        order by r.priority desc, r.available_at limit 1) n
    )
    select coalesce(greatest(extract(epoch from absurd.current_time() - min(f.available_at)), 0), 0)::double precision
    from first f
    where exists (select from absurd.queues q where q.queue_name = p_queue_name and q.paused_at is null));
end $$;

-- functions/doctor.sql

-- What `absurdctl doctor` asks of our tables. Everything is bounded: a sick database is not made sicker.

-- Each queue: whether anybody may claim from it and does, and whether it grows without end. ended: how many of p_count tasks have
-- ended, where nothing limits them. untaken: how many of the p_count oldest events of all queues nobody has taken in 30 days.
create or replace function absurd.doctor_queues(p_count integer default 100000)
returns table (
  queue_name text, paused_at timestamptz, workers integer, oldest_ready_at timestamptz, keeps_tasks boolean, keeps_events boolean,
  cleaned_at timestamptz, ended integer, untaken integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
declare
  v_month timestamptz := absurd.current_time() - interval '30 days';
begin
  return query
    select q.queue_name, q.paused_at,
      (select count(*)::integer from absurd.list_workers() w where q.queue_name = any (w.queue_names) and not w.stale),
      absurd.oldest_ready(q.queue_name),
      absurd.limits_tasks(t) is not true, t.keep_events is null, t.cleaned_at,
      case when absurd.limits_tasks(t) then 0 else (
        select count(*)::integer from (
          select d.outcome from absurd.tasks d where d.queue_name = q.queue_name limit p_count) c
        where c.outcome is not null) end,
      coalesce(u.untaken, 0)
    from absurd.queues q
    left join absurd.retention t on t.queue_name = q.queue_name
    left join (
      select c.queue_name, count(*)::integer as untaken
      from (select e.queue_name, e.claimed_at, e.emitted_at from absurd.events e order by e.seq limit p_count) c
      where c.claimed_at is null and c.emitted_at < v_month
      group by c.queue_name
    ) u on u.queue_name = q.queue_name
    order by q.queue_name;
end $$;

-- What should have happened and has not. what: lease (runs that nobody has ended though their lease is over), unknown_task (runs that no
-- worker can run), undelivered (events), schedule_late, schedule_problem, schedule_failing, trigger_late, trigger_failing,
-- subscription_failing, worker_stale, listener_stale. count: up to a thousand; since: of the oldest.
create or replace function absurd.doctor_work()
returns table (what text, queue_name text, name text, count integer, since timestamptz, detail text)
language plpgsql stable
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
begin
  return query
    select 'lease', null::text, null::text, count(*)::integer, min(l.lease_expires_at), null::text
    from (
      select r.lease_expires_at from absurd.runs r
      where r.state = 'running' and r.lease_expires_at < v_now - interval '15 seconds' order by r.lease_expires_at limit 1000) l
    having count(*) > 0;
  return query
    select 'unknown_task', n.queue_name, t.task_name, count(*)::integer, min(t.spawned_at), min(n.note)
    from (select r.queue_name, r.task_id, r.note from absurd.runs r where r.note like 'no worker%' order by r.run_id limit 1000) n
    join absurd.tasks t on t.task_id = n.task_id
    group by n.queue_name, t.task_name order by n.queue_name, t.task_name;
  return query
    select 'undelivered', null::text, null::text, count(*)::integer, min(u.emitted_at), null::text
    from (
      select e.emitted_at from absurd.events e where not e.delivered and e.emitted_at < v_now - interval '1 minute' order by e.seq limit 1000) u
    having count(*) > 0;
  return query
    select
      case when s.problem is not null then 'schedule_problem' when s.due_at < v_now - interval '1 minute' then 'schedule_late'
        else 'schedule_failing' end,
      s.queue_name, s.schedule_name, 1, coalesce(s.due_at, s.last_error_at), coalesce(s.problem, s.last_error)
    from absurd.schedules s
    where s.paused_at is null and s.ended_at is null
      and (s.problem is not null or s.due_at < v_now - interval '1 minute' or s.last_error_at > coalesce(s.last_fired_at, '-infinity'))
    order by s.schedule_name limit 100;
  return query
    select case when t.failures >= 3 then 'trigger_failing' else 'trigger_late' end, t.queue_name, t.trigger_name, t.failures,
      case when t.failures >= 3 then t.last_error_at else t.next_poll_at end, case when t.failures >= 3 then t.last_error else t.owner end
    from absurd.triggers t
    where t.enabled and (t.failures >= 3 or t.next_poll_at < v_now - interval '1 minute' - absurd.stored_seconds(t.poll_timeout))
    order by t.trigger_name limit 100;
  return query
    select 'subscription_failing', s.queue_name, s.task_name, 1, s.last_error_at, s.last_error
    from absurd.subscriptions s
    where s.last_error_at > v_now - interval '1 day'
    order by s.queue_name, s.subscription_id limit 100;
  return query
    select 'worker_stale', array_to_string(w.queue_names, ', '), w.worker_id, w.running, w.heartbeat_at, w.hostname
    from absurd.list_workers() w
    where w.stale limit 100;
  return query
    select 'listener_stale', l.queue_name, l.name, 1, l.heartbeat_at, l.hostname
    from absurd.listeners l
    where l.heartbeat_at < v_now - interval '1 minute' order by l.name limit 100;
end $$;

-- functions/roles.sql

-- Who may call what. Three group roles, made by create_roles(), for people to grant to the roles that their programs log in as:
--   absurd_producer  spawns, emits, reads results, answers tokens, and says of a listener that it lives
--   absurd_worker    the same, and all that running tasks, schedules, triggers and subscriptions take
--   absurd_reader    lists and shows everything, changes nothing
-- The tables are closed to all three: each function of theirs that reads or writes a table runs as its owner (security definer), with a
-- search_path in which nobody else can put anything. Nobody has a right by being in `public`.

-- Every function of the schema stands here once; a test holds that. What is forgotten is the owner's alone.
-- In place of a role: `owner` for what only the owner of the schema may call; `helper` for what only other functions call.
create or replace function absurd.function_roles() returns table (role_names text[], as_owner boolean, function_names text[])
language sql immutable as $$
  values
    -- They read no table, and some are inlined for speed: they run as whoever calls them.
    ('{producer,worker,reader}'::text[], false, array['current_time', 'fake_time', 'queue_channel', 'schedule_status']),
    ('{worker}', false, array['worker_lock_key']),

    ('{producer,worker,reader}', true, array['get_schema_version', 'get_oldest_served_version', 'list_queues', 'read_result', 'get_task_result']),

    -- Spawn, emit, wait for a result, answer a token
    ('{producer,worker}', true, array['spawn_quietly', 'spawn_one', 'spawn_tasks', 'spawn_task', 'append_event', 'dispatch_event', 'emit_event',
      'watch_task', 'unwatch_task', 'read_token', 'use_token']),
    -- A listener turns what it hears into tasks and events
    ('{producer,worker}', true, array['heartbeat_listener', 'unregister_listener']),

    -- The life of a run
    ('{worker}', true, array['claim_runs', 'read_checkpoints', 'promote_due', 'record_checkpoints', 'verify_checkpoint', 'check_waits',
      'suspend_runs', 'emit_events', 'spawn_children', 'create_token', 'complete_runs', 'fail_runs', 'release_runs', 'release_forgotten',
      'extend_leases', 'extend_worker_leases']),
    -- The same, one item at a time, for clients in other languages
    ('{worker}', true, array['claim_task', 'extend_claim', 'set_task_checkpoint_state', 'get_task_checkpoint_state',
      'get_task_checkpoint_states', 'await_event', 'schedule_run', 'complete_run', 'fail_run']),
    -- The life of a worker
    ('{worker}', true, array['register_worker', 'heartbeat_worker', 'set_worker_idle', 'unregister_worker', 'workers_may_return', 'sweep',
      'queue_limits', 'apply_retention']),
    -- What its code declares, and takes back
    ('{worker}', true, array['create_queue', 'make_queue', 'subscribe', 'store_subscription', 'unsubscribe', 'create_schedule', 'reconcile_schedules',
      'plan_schedule', 'fire_schedule', 'pause_schedule', 'resume_schedule', 'trigger_schedule', 'backfill_schedule', 'delete_schedule',
      'register_trigger', 'missing_triggers', 'claim_trigger_polls', 'settle_trigger_poll', 'release_triggers', 'set_trigger_enabled',
      'delete_trigger']),
    -- It may end and begin every task as it is, so these are nothing new to it
    ('{worker}', true, array['cancel_task', 'retry_task', 'fork_task', 'run_task_now', 'queue_of_task']),

    -- What is declared, how much there is to do, one task as the HTTP API shows it
    ('{worker,reader}', true, array['list_subscriptions', 'list_schedules', 'list_triggers', 'list_trigger_executions', 'list_listeners',
      'get_queue_policy', 'queue_options', 'queue_age', 'queue_stats', 'count_ready', 'read_task']),
    ('{reader}', true, array['find_tasks', 'known_task_names', 'task_details', 'task_value']),
    -- History and payloads of everybody, through hide_secrets(): who reads them may not answer tokens
    ('{reader}', true, array['list_tasks', 'show_task', 'list_checkpoints', 'task_names', 'list_events', 'list_waits', 'list_workers', 'find_unclaimable',
      'doctor_queues', 'doctor_work']),
    ('{reader}', true, array['page_of_queues', 'throughput', 'page_of_workers', 'due_schedules', 'last_failures', 'page_of_events',
      'tasks_of_event', 'takers_of_event', 'page_of_waits_for', 'page_of_schedules', 'page_of_subscriptions']),
    ('{helper}', false, array['count_bound', 'search_bound', 'oldest_ready', 'sample_spawned', 'tasks_spawned', 'failure_text']),

    -- What cannot be taken back, or is for all
    ('{owner}', true, array['drop_queue', 'pause_queue', 'resume_queue', 'set_queue_policy', 'set_queue_options', 'cleanup_tasks', 'cleanup_events',
      'cleanup_all_queues', 'purge_events']),
    ('{owner}', false, array['create_roles', 'apply_roles', 'adopt_objects', 'granted_roles', 'grant_functions', 'function_roles']),

    -- Who watches: metrics, traces, absurdctl top and tail
    ('{worker,reader}', true, array['queue_metrics']),
    ('{worker}', true, array['event_sources']),
    ('{reader}', true, array['activity_counters', 'events_after', 'task_activity', 'tasks_to_follow']),

    -- They run with the rights of the function that calls them.
    ('{helper}', false, array['ended_ids', 'copy_key_error', 'find_fork', 'find_step', 'fork_options_error', 'forked_headers', 'found_tasks', 'id_around',
      'id_digits', 'keyed_ids', 'live_ids', 'matching_ids', 'open_token_error', 'page_of_attempts', 'checkpoints_of',
      'page_of_children', 'page_of_waits', 'parents_of', 'read_place', 'searched_names', 'shows_text', 'walk_live', 'walk_spawned']),
    ('{helper}', false, array['are_usual_options', 'attempt_of', 'awaited_words', 'bounded_value', 'change_queue', 'change_schedule', 'claim_event_key', 'claim_idempotency_keys',
      'claim_places', 'clean_tasks', 'close_trigger_executions', 'confirm_queue', 'count_kept', 'cron_error', 'delete_event_rows', 'delete_events', 'delete_tasks', 'deliver_arrivals', 'deliver_event',
      'deliver_late', 'deliver_undelivered', 'drop_round', 'drop_runs', 'drop_triggers', 'end_attempts', 'end_swept', 'end_waits', 'ended_before', 'event_lock_key',
      'expire_deadlines', 'expire_leases', 'fence_runs', 'find_arrival', 'find_followers', 'find_subscribers', 'fire_trigger',
      'first_checkpoints', 'first_overdue', 'fitting_patterns', 'forget_listeners', 'forget_started', 'has_active_execution', 'headers_error', 'hide_secrets', 'hold_run', 'id_floor', 'idle_lease', 'kept_headers_error', 'limit_looks',
      'json_error', 'keep_option', 'kept_from', 'kept_reason', 'last_before', 'limits_tasks', 'list_ended_ids', 'list_live_ids', 'list_spawned_ids', 'lock_ready', 'lock_schedule', 'lock_subscriptions',
      'lost_status', 'make_id', 'moment_ago', 'name_error', 'next_walk', 'notify_queues', 'notify_schedulers', 'number_error', 'number_problem',
      'object_error', 'object_problem', 'option_number', 'page_size', 'pattern_error', 'put_back', 'queue_lock_key', 'raise_lost',
      'read_policy_interval', 'read_policy_word', 'read_schedule', 'read_spawn_options', 'readable_jsonb', 'reap_workers',
      'record_arrivals', 'record_event', 'reopen_trigger_execution', 'require_cleanup', 'require_moment', 'require_queue',
      'require_read_committed', 'require_schedule', 'require_size', 'require_trigger', 'retain_events', 'retain_queue', 'retain_tasks', 'retains_at', 'retry_delay', 'retry_strategy_error',
      'run_schedule', 'run_slots', 'schedule_changes', 'schedule_error', 'schedule_options_error', 'schedule_payload', 'show_attempts',
      'shortened', 'show_checkpoints', 'show_children', 'show_waits', 'slot_key', 'slot_text', 'spawn_problem', 'start_some_subscribers',
      'start_subscribers', 'stored_seconds', 'subscriptions_lock_key', 'suspend_run', 'take_retention', 'target_queues', 'task_outcome', 'token_hash', 'token_status',
      'trigger_lease', 'trigger_params', 'trigger_problem', 'try_lock_emit', 'wake_task_waiters', 'walk_events', 'walk_tasks', 'with_source',
      'woken_by'])
$$;

-- Makes the functions and their privileges what function_roles() says: at the end of each installation and upgrade, and in create_roles().
-- What people have granted stays, except to the three roles, whose rights are these and no others.
create or replace function absurd.apply_roles() returns void
language plpgsql volatile as $$
declare
  v_item record;
begin
  perform absurd.adopt_objects((select c.relowner from pg_class c where c.oid = 'absurd.schema_version'::regclass));
  -- Where public had the right to call, somebody's own said nothing (release 0.1.0, default privileges): the function ran as its caller,
  -- or is new. It would say much from now on.
  for v_item in
    select p.oid::regprocedure as routine, pg_get_userbyid(a.grantee) as role_name
    from pg_proc p
    cross join lateral (select distinct x.grantee from aclexplode(p.proacl) x) a
    where p.pronamespace = 'absurd'::regnamespace and a.grantee not in (0, p.proowner)
      and exists (select from aclexplode(p.proacl) x where x.grantee = 0)
  loop
    execute format('revoke all on routine %s from %I cascade', v_item.routine, v_item.role_name);
  end loop;
  revoke all on all routines in schema absurd from public;
  for v_item in
    select p.oid::regprocedure as routine
    from absurd.function_roles() f
    cross join lateral unnest(f.function_names) as u(name)
    join pg_proc p on p.pronamespace = 'absurd'::regnamespace and p.proname = u.name
    where f.as_owner
  loop
    execute format('alter routine %s security definer set search_path = pg_catalog, pg_temp', v_item.routine);
  end loop;
  for v_item in select g.role_name, g.word from absurd.granted_roles() g loop
    if v_item.role_name = 'absurd_' || v_item.word then
      execute format('revoke all on all routines in schema absurd from %I', v_item.role_name);
    end if;
    perform absurd.grant_functions(v_item.role_name, v_item.word);
  end loop;
end $$;

-- Gives tables, types and functions that another role's upgrade has made, a superuser's, to whom the rest belongs: a function runs as its
-- owner and needs his tables. Sequences and indexes go with their tables.
create or replace function absurd.adopt_objects(p_owner oid) returns void
language plpgsql volatile as $$
declare
  v_item record;
begin
  for v_item in
    select c.oid::regclass as relation from pg_class c
    where c.relnamespace = 'absurd'::regnamespace and c.relkind = 'r' and c.relowner <> p_owner
  loop
    execute format('alter table %s owner to %I', v_item.relation, pg_get_userbyid(p_owner));
  end loop;
  for v_item in
    select t.oid::regtype as type from pg_type t
    join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
    where t.typnamespace = 'absurd'::regnamespace and t.typowner <> p_owner
  loop
    execute format('alter type %s owner to %I', v_item.type, pg_get_userbyid(p_owner));
  end loop;
  for v_item in
    select p.oid::regprocedure as routine from pg_proc p
    where p.pronamespace = 'absurd'::regnamespace and p.proowner <> p_owner
  loop
    execute format('alter routine %s owner to %I', v_item.routine, pg_get_userbyid(p_owner));
  end loop;
end $$;

-- The roles that have rights here, and which. The three, if create_roles() has opened this database to them: roles are the whole server's,
-- and those that another database has made get nothing here. Besides, roles that were given the tables themselves, as was usual before
-- there were these. The functions run as their owner, so nobody may call by them what his tables did not let him do: everything is for
-- whoever may do everything with all tables of release 0.1.0 that matter, what a reader may for whoever may read all these, what a
-- producer may for whoever may read and insert tasks and their runs.
create or replace function absurd.granted_roles() returns table (role_name name, word text)
language sql stable as $$
  with needed as (
    select array['queues', 'tasks', 'runs', 'attempts', 'checkpoints', 'events', 'waits', 'idempotency_keys', 'subscriptions', 'schedules',
      'triggers', 'tokens', 'workers', 'listeners'] as table_names
  ), granted as (
    select pg_get_userbyid(a.grantee) as role_name,
      count(*) filter (where a.privilege_type = 'SELECT') as selects,
      count(*) filter (where a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')) as everything,
      count(*) filter (where a.privilege_type in ('SELECT', 'INSERT') and c.relname in ('tasks', 'runs')) as spawns
    from needed n
    join pg_class c on c.relnamespace = 'absurd'::regnamespace and c.relname = any (n.table_names)
    cross join lateral (select distinct x.grantee, x.privilege_type from aclexplode(c.relacl) x) a
    where a.grantee not in (0, c.relowner)
    group by a.grantee
  )
  select pg_get_userbyid(a.grantee), substr(pg_get_userbyid(a.grantee), 8)
  from pg_namespace n
  cross join lateral aclexplode(n.nspacl) a
  where n.oid = 'absurd'::regnamespace and a.privilege_type = 'USAGE'
    and pg_get_userbyid(a.grantee) in ('absurd_producer', 'absurd_worker', 'absurd_reader')
  union all
  select g.role_name, w.word
  from granted g
  cross join needed n
  cross join lateral (values
    ('all', g.everything = 4 * cardinality(n.table_names)),
    ('reader', g.selects = cardinality(n.table_names)),
    ('producer', g.spawns = 4)) as w(word, has)
  where w.has
$$;

-- Lets a role call what a producer, a worker or a reader calls, or all.
create or replace function absurd.grant_functions(p_role_name name, p_word text) returns void
language plpgsql volatile as $$
declare
  v_item record;
begin
  for v_item in
    select p.oid::regprocedure as routine
    from absurd.function_roles() f
    cross join lateral unnest(f.function_names) as u(name)
    join pg_proc p on p.pronamespace = 'absurd'::regnamespace and p.proname = u.name
    where p_word = 'all' or p_word = any (f.role_names)
  loop
    execute format('grant execute on routine %s to %I', v_item.routine, p_role_name);
  end loop;
end $$;

-- Makes the three roles where the server does not have them, opens this database's schema to them, and gives them their rights. May be
-- repeated. They are group roles, without login: grant them to the roles that programs log in as.
create or replace function absurd.create_roles() returns void
language plpgsql volatile as $$
declare
  v_role_name text;
begin
  foreach v_role_name in array array['absurd_producer', 'absurd_worker', 'absurd_reader'] loop
    begin
      if not exists (select from pg_roles r where r.rolname = v_role_name) then
        execute format('create role %I nologin', v_role_name);
      end if;
    exception
      -- Somebody makes it for another database at this moment.
      when duplicate_object or unique_violation then
        null;
      when insufficient_privilege then
        raise exception 'role "%" cannot make the role %', current_user, v_role_name
          using errcode = 'insufficient_privilege', hint = 'Have somebody with CREATEROLE say: create role absurd_producer nologin; '
            'create role absurd_worker nologin; create role absurd_reader nologin; then repeat this.';
    end;
    execute format('grant usage on schema absurd to %I', v_role_name);
  end loop;
  perform absurd.apply_roles();
end $$;

-- finish.sql

-- The version is the number of the newest file in migrations/, or 1 while there are none.
insert into absurd.schema_version (version) values ('2');
do $$ begin perform absurd.create_queue('default'); end $$;
do $$ begin perform absurd.apply_roles(); end $$;

comment on schema absurd is 'Absurd: durable tasks. Do not change by hand. sha256:6536960c540061a9';
commit;
