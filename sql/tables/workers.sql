-- One row per living worker process.
create table absurd.workers (
  worker_id text primary key,
  queue_names text[] not null,
  hostname text not null,
  pid integer not null,
  version text not null,
  concurrency integer not null,
  running integer not null default 0,
  -- true while it has free slots and waits for work: only then is a notification worth its price
  idle boolean not null default false,
  -- the advisory lock that its session holds; null when it cannot hold one (a transaction pooler)
  session_key bigint,
  -- since when the others miss that lock
  missing_since timestamptz,
  started_at timestamptz not null,
  heartbeat_at timestamptz not null,
  -- without a heartbeat for longer than this the row is stale
  lease_seconds double precision not null
) with (fillfactor = 50);
