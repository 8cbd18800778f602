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
