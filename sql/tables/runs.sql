-- One row per LIVE attempt: this table is the queue. Narrow, inserted, updated at each claim, deleted at the end.
create table absurd.runs (
  run_id uuid primary key,
  task_id uuid not null,
  queue_name text not null,
  -- pending: may be claimed now; running: held by a worker; sleeping: waits for available_at, for events or for tasks
  state text not null check (state in ('pending', 'running', 'sleeping')),
  attempt integer not null,
  priority integer not null default 0,
  -- when it became or becomes ready; null while it sleeps without a time
  available_at timestamptz,
  -- grows with each claim: the fence against workers that held the run before
  epoch integer not null default 0,
  worker_id text,
  lease_expires_at timestamptz,
  started_at timestamptz,
  -- past this moment the task is cancelled: before its first start by max_delay, while running by what is left of max_duration
  deadline_at timestamptz,
  -- seconds of max_duration that are left, kept while nobody runs it
  allowance double precision,
  -- arrivals that are still missing until the run wakes
  waits_left integer not null default 0,
  -- the event whose arrival or timeout woke the run last
  wake_event text,
  -- why it could not be run, for people
  note text
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0);

create unique index runs_by_task on absurd.runs (task_id);
-- Ready rows in claim order. Sleepers have their own index: one over both would walk past every sleeper of a higher priority.
create index runs_ready on absurd.runs (queue_name, priority desc, available_at, run_id) where state = 'pending';
create index runs_due on absurd.runs (queue_name, available_at) where state = 'sleeping' and available_at is not null;
create index runs_leased on absurd.runs (lease_expires_at) where state = 'running' and lease_expires_at is not null;
create index runs_deadline on absurd.runs (deadline_at) where deadline_at is not null;
-- Runs that nobody could run. Free for the others: a note changes only together with the state.
create index runs_noted on absurd.runs (run_id) where note is not null;
