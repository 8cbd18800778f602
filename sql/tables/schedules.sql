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
