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
