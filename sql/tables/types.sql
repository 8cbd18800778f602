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

-- What a wait found, on its way to a checkpoint. No json around it: reading a value out of json reads its neighbours too, and a stored
-- value may hold what text cannot (a NUL character).
create type absurd.arrival as (
  step_name text,
  kind text,
  state json,
  event_seq bigint
);

-- The beginning of a task's history: how many checkpoints there are in all, and the first of them as JSON text.
create type absurd.history_head as (
  total integer,
  checkpoints text
);

-- A place in the order of claims: see claim_runs().
create type absurd.claim_place as (
  priority integer,
  available_at timestamptz,
  run_id uuid
);
