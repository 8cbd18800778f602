-- One row per idempotency key in use; it goes when its task is cleaned up.
create table absurd.idempotency_keys (
  queue_name text not null,
  idempotency_key text not null,
  task_id uuid not null,
  primary key (queue_name, idempotency_key)
);
