-- One row per listener process.
create table absurd.listeners (
  listener_id text primary key,
  name text not null,
  -- where its tasks go; null: wherever their definition says
  queue_name text,
  hostname text not null,
  pid integer not null,
  -- listening; waiting: to be started again after an error; stopping
  status text not null,
  started_at timestamptz not null,
  heartbeat_at timestamptz not null,
  -- how often it was started: more than once after errors
  started_count integer not null,
  failures integer not null,
  last_error text,
  last_error_at timestamptz
) with (fillfactor = 50);
