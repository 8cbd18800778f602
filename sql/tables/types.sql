-- What read_spawn_options() makes of the options of a spawn.
create type absurd.spawn_options as (
  error text,
  headers json,
  retry_strategy jsonb,
  max_attempts integer,
  max_delay double precision,
  max_duration double precision,
  priority integer,
  available_at timestamptz,
  idempotency_key text,
  parent_task_id uuid
);
