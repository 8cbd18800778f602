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
