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
