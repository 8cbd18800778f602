-- One row per queue that does not keep everything for ever, or was cleaned up by hand: what people decided, and how far the clean-up
-- has come. Not in `queues`: every spawn reads that, and an upgrade that changes it would wait for everybody's open transactions.
create table absurd.retention (
  queue_name text primary key,
  -- seconds that a task is kept after it ended so; null: for ever
  keep_completed double precision,
  keep_failed double precision,
  keep_cancelled double precision,
  -- ended tasks that are kept at most, the newest; null: any number
  keep_count integer,
  -- seconds that an event is kept after somebody took it first; null: for ever
  keep_events double precision,
  -- The walk over its tasks goes on behind this one, in order of name and id; null: at the beginning
  after_task_name text,
  after_task_id uuid,
  -- what keep_count says in this walk: ended tasks with a smaller id are too many
  beyond_task_id uuid,
  -- how that is found before the walk begins: so many ended tasks have ids from this one on; null: it is found
  counted integer,
  counted_down_to uuid,
  -- how wide a range of ids is counted at once, in 256ths of a millisecond
  count_span bigint,
  -- seconds that this walk has taken: a walk that finds little is followed by a long rest
  task_seconds double precision not null default 0,
  -- when the next walk begins; null: at once
  next_tasks_at timestamptz,
  -- the same of the walk over its events
  after_seq bigint,
  event_seconds double precision not null default 0,
  next_events_at timestamptz,
  visited_at timestamptz,
  -- when somebody cleaned up by hand, last
  cleaned_at timestamptz,
  tasks_deleted bigint not null default 0,
  events_deleted bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200);
