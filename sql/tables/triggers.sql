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
