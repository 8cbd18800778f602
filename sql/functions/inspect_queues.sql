-- Events, the newest first; the next page: pass the last seq of this one. p_prefix reads p_event_name as the beginning of the name.
-- A whole name in a named queue is found by its index; any other search walks the log backwards until the page is full.
create or replace function absurd.list_events(
  p_queue_name text default null, p_event_name text default null, p_prefix boolean default false,
  p_newer_than interval default null, p_before_seq bigint default null, p_limit integer default 50)
returns table (
  seq bigint, queue_name text, event_name text, payload json, emitted_at timestamptz, claimed_at timestamptz, delivered boolean)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_from timestamptz := absurd.moment_ago(p_newer_than);
begin
  return query
    select e.seq, e.queue_name, e.event_name, absurd.hide_secrets(e.payload::text)::json, e.emitted_at, e.claimed_at, e.delivered
    from absurd.events e
    where (p_queue_name is null or e.queue_name = p_queue_name)
      and (p_event_name is null or p_prefix or e.event_name = p_event_name)
      and (p_event_name is null or not p_prefix or starts_with(e.event_name, p_event_name))
      and (v_from is null or e.emitted_at >= v_from)
      and (p_before_seq is null or e.seq < p_before_seq)
    order by e.seq desc
    limit absurd.page_size(p_limit);
end $$;

-- What sleeping runs wait for, the longest waiting first; the next page: pass the last wait_id of this one.
-- kind: event, task, token, or sleep for one that waits for a time alone. until: when it wakes anyway.
create or replace function absurd.list_waits(
  p_queue_name text default null, p_after_wait_id bigint default null, p_limit integer default 50)
returns table (
  wait_id bigint, kind text, queue_name text, task_id uuid, task_name text, run_id uuid, step_name text, event_queue_name text,
  event_name text, awaited_task_id uuid, waiting_since timestamptz, until timestamptz)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
begin
  return query
    select w.wait_id, case when w.kind = 'timer' then w.detail else w.kind end, r.queue_name, r.task_id, t.task_name, r.run_id,
      w.step_name, case when w.kind = 'event' then w.queue_name end, w.event_name, w.awaited_task_id, w.created_at, r.available_at
    from absurd.waits w
    join absurd.runs r on r.run_id = w.run_id
    join absurd.tasks t on t.task_id = r.task_id
    where (w.kind in ('event', 'task', 'token') or (w.kind = 'timer' and w.detail = 'sleep'))
      and (p_queue_name is null or r.queue_name = p_queue_name)
      and (p_after_wait_id is null or w.wait_id > p_after_wait_id)
    order by w.wait_id
    limit absurd.page_size(p_limit);
end $$;

-- Workers, with the number of runs each holds. stale: no heartbeat for longer than its lease.
create or replace function absurd.list_workers()
returns table (
  worker_id text, queue_names text[], hostname text, pid integer, version text, concurrency integer, running integer, idle boolean,
  started_at timestamptz, heartbeat_at timestamptz, lease_seconds double precision, stale boolean)
language sql stable
set jit = off
as $$
  select w.worker_id, w.queue_names, w.hostname, w.pid, w.version, w.concurrency,
    (select count(*) from absurd.runs r where r.worker_id = w.worker_id and r.state = 'running' and r.lease_expires_at is not null)::integer, w.idle,
    w.started_at, w.heartbeat_at, w.lease_seconds,
    w.missing_since is not null or w.heartbeat_at < absurd.current_time() - make_interval(secs => least(greatest(w.lease_seconds, 0), 315360000))
  from absurd.workers w
  order by w.started_at, w.worker_id
$$;

-- What is alive in each queue: exact counts, one pass over live runs and none over history.
-- oldest_ready_at: since when the first ready run waits to be claimed.
create or replace function absurd.queue_stats(p_queue_name text default null)
returns table (
  queue_name text, paused_at timestamptz, pending bigint, running bigint, sleeping bigint, oldest_ready_at timestamptz,
  workers bigint, max_payload_bytes integer)
language sql stable
set jit = off
as $$
  select q.queue_name, q.paused_at, coalesce(l.pending, 0), coalesce(l.running, 0), coalesce(l.sleeping, 0), l.oldest_ready_at,
    (select count(*) from absurd.workers w where q.queue_name = any (w.queue_names)), q.max_payload_bytes
  from absurd.queues q
  left join (
    select r.queue_name, count(*) filter (where r.state = 'pending') as pending, count(*) filter (where r.state = 'running') as running,
      count(*) filter (where r.state = 'sleeping') as sleeping,
      min(r.available_at) filter (where r.state = 'pending') as oldest_ready_at
    from absurd.runs r
    where p_queue_name is null or r.queue_name = p_queue_name
    group by r.queue_name
  ) l on l.queue_name = q.queue_name
  where p_queue_name is null or q.queue_name = p_queue_name
  order by q.queue_name
$$;

-- Runs that workers handed back because they could not run them, with the reason: most often a task name that no worker knows.
create or replace function absurd.find_unclaimable(p_queue_name text default null, p_limit integer default 50)
returns table (queue_name text, task_id uuid, task_name text, run_id uuid, state text, available_at timestamptz, note text)
language sql stable
set jit = off
as $$
  select r.queue_name, r.task_id, t.task_name, r.run_id, r.state, r.available_at, r.note
  from absurd.runs r
  join absurd.tasks t on t.task_id = r.task_id
  where r.note is not null and (p_queue_name is null or r.queue_name = p_queue_name)
  order by r.run_id
  limit absurd.page_size(p_limit)
$$;
