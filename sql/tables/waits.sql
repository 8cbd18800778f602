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
