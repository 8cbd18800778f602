-- One row per idempotency key of an emission; it goes with its event.
create table absurd.event_keys (
  queue_name text not null,
  idempotency_key text not null,
  -- null for a moment only, inside of the transaction that takes the key
  seq bigint,
  created_at timestamptz not null,
  primary key (queue_name, idempotency_key)
);

create index event_keys_by_event on absurd.event_keys (seq);
