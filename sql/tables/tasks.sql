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
