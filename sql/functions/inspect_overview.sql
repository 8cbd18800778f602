-- Reading for the dashboard: whatever a table holds, each function reads a bounded number of its rows. Where counting ends at a bound,
-- the number returned is one more than that.

-- How far a count goes, in rows.
create or replace function absurd.count_bound() returns integer
language sql immutable parallel safe as $$ select 10000 $$;

-- How many rows a search without an index looks at.
create or replace function absurd.search_bound() returns integer
language sql immutable parallel safe as $$ select 20000 $$;

-- Queues in order of name, with what is alive in them and what failed since a moment. sleeping_more: more sleep than could be counted.
-- The next page: pass the last name.
create or replace function absurd.page_of_queues(
  p_since timestamptz default null, p_after text default null, p_limit integer default 50, p_queue_name text default null)
returns table (
  queue_name text, created_at timestamptz, paused_at timestamptz, max_payload_bytes integer, pending integer, running integer,
  sleeping integer, sleeping_more boolean, failed integer, oldest_ready_at timestamptz, workers integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_bound integer := absurd.count_bound();
  v_since timestamptz := coalesce(p_since, absurd.current_time() - interval '1 day');
  v_timeless jsonb;
  v_more boolean;
begin
  -- Sleepers without a time are in no index of runs: they are counted by their waits, half as many, for with each its run is looked at.
  select coalesce(jsonb_object_agg(s.queue_name, s.sleepers), '{}'), coalesce(sum(s.waits), 0) > v_bound / 2 into v_timeless, v_more
  from (
    select r.queue_name, count(distinct r.run_id) filter (where r.available_at is null and r.state = 'sleeping') as sleepers, count(*) as waits
    from (select w.run_id from absurd.waits w where w.run_id is not null order by w.run_id limit v_bound / 2 + 1) w
    left join absurd.runs r on r.run_id = w.run_id
    group by r.queue_name
  ) s
  where s.queue_name is not null;
  return query
    select q.queue_name, q.created_at, q.paused_at, q.max_payload_bytes,
      (select count(*)::integer from (
        select from absurd.runs r where r.queue_name = q.queue_name and r.state = 'pending' limit v_bound + 1) c),
      coalesce(l.running, 0),
      coalesce((v_timeless ->> q.queue_name)::integer, 0) + (select count(*)::integer from (
        select from absurd.runs r
        where r.queue_name = q.queue_name and r.state = 'sleeping' and r.available_at is not null limit v_bound + 1) c),
      v_more,
      -- Among the newest: the index knows no causes, and a million cancelled tasks may lie before the first that has failed.
      (select count(*) filter (where c.cause not in ('cancel', 'delay', 'duration'))::integer from (
        select a.cause from absurd.attempts a
        where a.queue_name = q.queue_name and a.final and a.ended_at >= v_since
        order by a.ended_at desc limit v_bound + 1) c),
      absurd.oldest_ready(q.queue_name),
      (select count(*)::integer from absurd.workers w where q.queue_name = any (w.queue_names))
    from (
      select n.* from absurd.queues n
      where (p_after is null or n.queue_name > p_after) and (p_queue_name is null or n.queue_name = p_queue_name)
      order by n.queue_name limit absurd.page_size(p_limit)
    ) q
    left join (
      select r.queue_name, count(*)::integer as running
      from (select r.queue_name from absurd.runs r where r.state = 'running' and r.lease_expires_at is not null limit v_bound + 1) r
      group by r.queue_name
    ) l on l.queue_name = q.queue_name
    order by q.queue_name;
end $$;

-- Since when the first ready run of a queue waits to be claimed: the first of each priority, of which there are few.
create or replace function absurd.oldest_ready(p_queue_name text) returns timestamptz
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
  with recursive first as (
    (select r.priority, r.available_at, 1 as place from absurd.runs r
     where r.queue_name = p_queue_name and r.state = 'pending'
     order by r.priority desc, r.available_at, r.run_id limit 1)
    union all
    select n.priority, n.available_at, f.place + 1
    from first f
    cross join lateral (
      select r.priority, r.available_at from absurd.runs r
      where r.queue_name = p_queue_name and r.state = 'pending' and r.priority < f.priority
      order by r.priority desc, r.available_at, r.run_id limit 1) n
    where f.place < 100
  )
  select min(f.available_at) from first f
$$;

-- How many tasks ended in each of p_buckets pieces of the last p_seconds, by queue. failed and cancelled are counted, up to 1,000 in a
-- piece. completed are those of the tasks that were spawned in that time or as long before, for nothing keeps tasks in the order of their
-- ends: all of them up to search_bound(); beyond that a sample, and estimated is true. p_queue_name: only that one.
create or replace function absurd.throughput(p_seconds double precision, p_buckets integer default 60, p_queue_name text default null)
returns table (
  bucket integer, queue_name text, completed double precision, failed double precision, cancelled double precision, estimated boolean)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_buckets integer := least(greatest(coalesce(p_buckets, 60), 1), 120);
  v_seconds double precision := least(greatest(coalesce(p_seconds, 3600), 60), 31536000);
  v_width interval := make_interval(secs => v_seconds / v_buckets);
  v_to timestamptz := absurd.current_time();
  v_from timestamptz := v_to - make_interval(secs => v_seconds);
  v_many boolean := exists (
    select from absurd.tasks t
    where t.task_id >= absurd.id_floor(v_from - make_interval(secs => v_seconds))
    order by t.task_id offset absurd.search_bound() limit 1);
begin
  return query
    with seen as materialized (
      select t.queue_name, t.outcome, t.finished_at, 1::double precision as weight
      from absurd.tasks_spawned(v_from - make_interval(secs => v_seconds), v_to + interval '1 hour', absurd.search_bound()) t
      where not v_many
      union all
      select s.queue_name, s.outcome, s.finished_at, s.weight from absurd.sample_spawned(v_from, v_to, v_buckets) s where v_many
    ), done as (
      select floor(extract(epoch from s.finished_at - v_from) / extract(epoch from v_width))::integer as bucket, s.queue_name,
        sum(s.weight) as completed
      from seen s
      where s.outcome = 'completed' and s.finished_at >= v_from and s.finished_at < v_to
        and (p_queue_name is null or s.queue_name = p_queue_name)
      group by 1, 2
    ), ended as (
      select s.i as bucket, q.queue_name, count(*) filter (where a.cause not in ('cancel', 'delay', 'duration')) as failed,
        count(*) filter (where a.cause in ('cancel', 'delay', 'duration')) as cancelled
      from generate_series(0, v_buckets - 1) as s(i)
      cross join (
        select n.queue_name from absurd.queues n where p_queue_name is null or n.queue_name = p_queue_name
        order by n.queue_name limit 100) q
      cross join lateral (
        select a.cause from absurd.attempts a
        where a.final and a.queue_name = q.queue_name
          and a.ended_at >= v_from + s.i * v_width and a.ended_at < v_from + (s.i + 1) * v_width
        limit 1000) a
      group by 1, 2
    )
    select coalesce(d.bucket, e.bucket), coalesce(d.queue_name, e.queue_name), coalesce(d.completed, 0)::double precision,
      coalesce(e.failed, 0)::double precision, coalesce(e.cancelled, 0)::double precision, v_many
    from done d
    full join ended e on e.bucket = d.bucket and e.queue_name = d.queue_name
    order by 1, 2;
end $$;

-- Some of the tasks that were spawned in a span of time and as long before it, each with the number of tasks that it stands for. Of each
-- piece of the span: the first 200, and 40 from each of six places. How many there are in the piece is counted up to 2,000; beyond that
-- it follows from how close tasks follow each other in those places: the median, for one of them may lie in a burst.
create or replace function absurd.sample_spawned(p_from timestamptz, p_to timestamptz, p_pieces integer)
returns table (queue_name text, outcome text, finished_at timestamptz, weight double precision)
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off
as $$
  with piece as materialized (
    select s.i, s.width, absurd.id_floor(s.start) as low, absurd.id_floor(s.start + s.width) as high, s.start
    from (
      select i, (p_to - p_from) / b.pieces as width, p_from + i * (p_to - p_from) / b.pieces as start
      from (select least(greatest(p_pieces, 1), 120) as pieces) b cross join generate_series(0, b.pieces - 1) as i
      union all
      select -i, (p_to - p_from) / 12, p_from - i * (p_to - p_from) / 12 from generate_series(1, 12) as i
    ) s
  ), place as materialized (
    select s.i, s.k, s.width, absurd.id_floor(s.start) as low, absurd.id_floor(s.start + s.width) as high, s.start
    from (
      select p.i, k, p.width / 6 as width, p.start + (k + 0.3) * p.width / 6 as start
      from piece p cross join generate_series(0, 5) as k
    ) s
  ), near as materialized (
    select p.i, p.k, t.*
    from place p
    cross join lateral (
      select t.task_id, t.queue_name, t.outcome, t.finished_at, t.spawned_at from absurd.tasks t
      where t.task_id >= p.low and t.task_id < p.high order by t.task_id limit 40) t
  ), looked as materialized (
    select n.i, n.k, count(*) as tasks, max(n.spawned_at) as until from near n group by n.i, n.k
  ), density as materialized (
    -- tasks in a second: the median of the six places
    select p.i, percentile_cont(0.5) within group (order by case when coalesce(l.tasks, 0) < 40
      then coalesce(l.tasks, 0) / extract(epoch from p.width)
      else 40 / greatest(extract(epoch from l.until - p.start), 0.0001) end::double precision) as density
    from place p left join looked l on l.i = p.i and l.k = p.k
    group by p.i
  ), number as materialized (
    select p.i, greatest(c.tasks, d.density * extract(epoch from p.width)::double precision) as tasks
    from piece p
    join density d on d.i = p.i
    cross join lateral (
      select count(*) as tasks from (
        select from absurd.tasks t where t.task_id >= p.low and t.task_id < p.high order by t.task_id limit 2000) b) c
  ), seen as materialized (
    select distinct on (s.task_id) s.i, s.queue_name, s.outcome, s.finished_at
    from (
      select p.i, t.*
      from piece p
      cross join lateral (
        select t.task_id, t.queue_name, t.outcome, t.finished_at from absurd.tasks t
        where t.task_id >= p.low and t.task_id < p.high order by t.task_id limit 200) t
      union all
      select n.i, n.task_id, n.queue_name, n.outcome, n.finished_at from near n
    ) s
  ), size as materialized (
    select s.i, count(*) as tasks from seen s group by s.i
  )
  select s.queue_name, s.outcome, s.finished_at, greatest(n.tasks / z.tasks, 1)
  from seen s
  join size z on z.i = s.i
  join number n on n.i = s.i
$$;

-- The first tasks that were spawned in a span of time, by their ids.
create or replace function absurd.tasks_spawned(p_from timestamptz, p_to timestamptz, p_limit integer)
returns table (task_id uuid, queue_name text, spawned_at timestamptz, outcome text, finished_at timestamptz)
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
  select t.task_id, t.queue_name, t.spawned_at, t.outcome, t.finished_at
  from absurd.tasks t
  where t.task_id >= absurd.id_floor(p_from) and t.task_id < absurd.id_floor(p_to)
  order by t.task_id
  limit p_limit
$$;

-- Workers, the oldest first, with the number of runs that each holds and those of them that started first, as JSON:
-- [{"task_id", "task_name", "queue_name", "attempt", "started_at", "lease_expires_at"}].
create or replace function absurd.page_of_workers(p_runs integer default 20, p_limit integer default 200)
returns table (
  worker_id text, queue_names text[], hostname text, pid integer, version text, concurrency integer, running integer, idle boolean,
  started_at timestamptz, heartbeat_at timestamptz, lease_seconds double precision, missing boolean, stale boolean, runs json)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
begin
  return query
    with held as materialized (
      select h.*, row_number() over (partition by h.worker_id order by h.started_at, h.run_id) as place
      from (
        select r.worker_id, r.run_id, r.task_id, r.queue_name, r.attempt, r.started_at, r.lease_expires_at
        from absurd.runs r where r.state = 'running' and r.lease_expires_at is not null limit absurd.count_bound()) h
    ), number as (
      select h.worker_id, count(*)::integer as running from held h group by h.worker_id
    ), shown as (
      select h.worker_id, json_agg(json_build_object('task_id', h.task_id, 'task_name', t.task_name, 'queue_name', h.queue_name,
        'attempt', h.attempt, 'started_at', h.started_at, 'lease_expires_at', h.lease_expires_at) order by h.place) as runs
      from held h join absurd.tasks t on t.task_id = h.task_id
      where h.place <= least(greatest(p_runs, 0), 100)
      group by h.worker_id
    )
    select w.worker_id, w.queue_names, w.hostname, w.pid, w.version, w.concurrency, coalesce(n.running, 0), w.idle, w.started_at,
      w.heartbeat_at, w.lease_seconds, w.missing_since is not null,
      w.missing_since is not null or w.heartbeat_at < v_now - absurd.stored_seconds(w.lease_seconds), s.runs
    from (select v.* from absurd.workers v order by v.started_at, v.worker_id limit absurd.page_size(p_limit)) w
    left join number n on n.worker_id = w.worker_id
    left join shown s on s.worker_id = w.worker_id
    order by w.started_at, w.worker_id;
end $$;

-- The names of schedules that fire next; those that no scheduler has computed yet come by the moment after which they do.
create or replace function absurd.due_schedules(p_limit integer default 10) returns setof text
language sql stable
set jit = off
as $$
  select s.schedule_name
  from absurd.schedules s
  where s.paused_at is null and s.ended_at is null and s.problem is null
  order by coalesce(s.due_at, s.plan_after), s.schedule_name
  limit absurd.page_size(p_limit)
$$;

-- The tasks that failed last, with the kind and the beginning of their failure.
create or replace function absurd.last_failures(p_limit integer default 8)
returns table (task_id uuid, task_name text, queue_name text, attempt integer, ended_at timestamptz, failure_name text, failure_message text)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  -- Of each queue: what has been cancelled is read too, and passed over.
  v_rows integer := absurd.count_bound() / greatest(least((select count(*) from absurd.queues), 100), 1);
begin
  return query
    select f.task_id, t.task_name, f.queue_name, f.attempt, f.ended_at, left(absurd.failure_text(f.failure, 'name'), 200),
      left(absurd.hide_secrets(left(absurd.failure_text(f.failure, 'message'), 2000)), 300)
    from (
      select l.*
      from (select q.queue_name from absurd.queues q order by q.queue_name limit 200) q
      cross join lateral (
        select a.task_id, a.queue_name, a.attempt, a.ended_at, a.failure
        from (
          select n.* from absurd.attempts n where n.final and n.queue_name = q.queue_name order by n.ended_at desc limit v_rows) a
        where a.cause not in ('cancel', 'delay', 'duration')
        order by a.ended_at desc limit absurd.page_size(p_limit)) l
      order by l.ended_at desc limit absurd.page_size(p_limit)
    ) f
    join absurd.tasks t on t.task_id = f.task_id
    order by f.ended_at desc;
end $$;

-- A text of a failure; null for what is none, or cannot be read as text because it holds a NUL character.
create or replace function absurd.failure_text(p_failure json, p_name text) returns text
language plpgsql immutable as $$
begin
  return case when json_typeof(p_failure) = 'object' then p_failure ->> p_name end;
exception when data_exception then
  return null;
end $$;
