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
