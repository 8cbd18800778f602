-- One row per resume token: what a person or another service may answer once, by its secret, to a task that waits for it.
create table absurd.tokens (
  token_id uuid primary key,
  -- SHA-256 of the secret; the secret itself stands in the checkpoint of the task alone, which hands it out again on replay
  secret_hash bytea not null unique,
  task_id uuid not null,
  token_name text not null,
  title text,
  description text,
  -- what an answer has to be, for those who take it; null: anything
  json_schema json,
  created_at timestamptz not null,
  expires_at timestamptz,
  used_at timestamptz,
  payload json
);

create index tokens_by_task on absurd.tokens (task_id);
