-- One row per emission. A wait gets the first emission of a name, for ever the same.
create table absurd.events (
  seq bigint generated always as identity primary key,
  queue_name text not null,
  event_name text not null,
  payload json,
  -- what emitted it, {"kind", "name", …}: a webhook, a schedule, a task; the tasks that it starts tell it on
  source jsonb,
  emitted_at timestamptz not null,
  -- when a wait or subscriber took it first; clean-up spares what nobody has claimed
  claimed_at timestamptz,
  -- false until the waits have been looked at (an emit in REPEATABLE READ cannot see them and leaves it to a worker)
  delivered boolean not null default true
);

create index events_by_name on absurd.events (queue_name, event_name, seq);
create index events_undelivered on absurd.events (seq) where not delivered;
