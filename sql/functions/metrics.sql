-- Reading for machines that watch: counts for metrics, and what happens, for those who follow it.

-- What is alive in each queue: exact counts, one pass over live runs and none over history, so a caller asks seldom when many tasks live.
-- oldest_ready: seconds since the first ready run waits for a claim; oldest_running: since the first start of the oldest attempt that runs;
-- overdue: since the first sleeper should have woken. 0 for none. workers: those that serve it and have given a sign of life lately.
create or replace function absurd.queue_metrics()
returns table (
  queue_name text, paused boolean, pending bigint, running bigint, sleeping bigint, oldest_ready double precision,
  oldest_running double precision, overdue double precision, workers bigint)
language plpgsql stable
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
begin
  return query
    select q.queue_name, q.paused_at is not null, coalesce(l.pending, 0), coalesce(l.running, 0), coalesce(l.sleeping, 0),
      coalesce(greatest(extract(epoch from v_now) - extract(epoch from l.ready_at), 0), 0)::double precision,
      coalesce(greatest(extract(epoch from v_now) - extract(epoch from l.started_at), 0), 0)::double precision,
      coalesce(greatest(extract(epoch from v_now) - extract(epoch from l.due_at), 0), 0)::double precision,
      (select count(*) from absurd.workers w where q.queue_name = any (w.queue_names) and w.missing_since is null
        and w.heartbeat_at >= v_now - make_interval(secs => least(greatest(w.lease_seconds, 0), 315360000)))
    from absurd.queues q
    left join (
      select r.queue_name, count(*) filter (where r.state = 'pending') as pending, count(*) filter (where r.state = 'running') as running,
        count(*) filter (where r.state = 'sleeping') as sleeping,
        min(r.available_at) filter (where r.state = 'pending') as ready_at,
        min(r.started_at) filter (where r.state = 'running') as started_at,
        min(r.available_at) filter (where r.state = 'sleeping') as due_at
      from absurd.runs r
      group by r.queue_name
    ) l on l.queue_name = q.queue_name
    order by q.queue_name;
end $$;

-- How many rows of each kind this database has seen, by PostgreSQL's own statistics, which lag by a second: who asks twice has a rate.
-- spawned: tasks; ended: runs that left the queue; steps: recorded effects; events: emissions; failed: attempts.
create or replace function absurd.activity_counters()
returns table (spawned bigint, ended bigint, steps bigint, events bigint, failed bigint)
language sql stable as $$
  select pg_stat_get_tuples_inserted('absurd.tasks'::regclass), pg_stat_get_tuples_deleted('absurd.runs'::regclass),
    pg_stat_get_tuples_inserted('absurd.checkpoints'::regclass), pg_stat_get_tuples_inserted('absurd.events'::regclass),
    pg_stat_get_tuples_inserted('absurd.attempts'::regclass)
$$;

-- Whom to follow in a queue: its living tasks, and those spawned since a moment, which may have ended already. The last spawned first,
-- 1,000 at most of each. Ids are in the order of time, give or take the clocks of those who made them.
create or replace function absurd.tasks_to_follow(p_queue_name text, p_since timestamptz, p_limit integer default 1000) returns setof uuid
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  v_floor uuid := absurd.id_floor(p_since - interval '10 seconds');
begin
  return query
    (select r.task_id from absurd.runs r
     where p_queue_name is null or r.queue_name = p_queue_name
     order by r.task_id desc
     limit absurd.page_size(p_limit))
    union
    (select t.task_id from absurd.tasks t
     where v_floor is not null and t.task_id >= v_floor and (p_queue_name is null or t.queue_name = p_queue_name)
     order by t.task_id desc
     limit absurd.page_size(p_limit));
end $$;

-- Events after a place in the log, in its order; null for the last one there is.
create or replace function absurd.events_after(p_queue_name text, p_after_seq bigint, p_limit integer default 1000)
returns table (seq bigint, queue_name text, event_name text, payload text, emitted_at timestamptz)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
  return query
    select e.seq, e.queue_name, e.event_name, left(absurd.hide_secrets(left(e.payload::text, 2000)), 300), e.emitted_at
    from absurd.events e
    where (p_queue_name is null or e.queue_name = p_queue_name)
      and e.seq > coalesce(p_after_seq, (select max(l.seq) - 1 from absurd.events l))
    order by e.seq
    limit absurd.page_size(p_limit);
end $$;

-- What has happened to some tasks since a moment, in the order of time: kind spawned, started, step, event, task, token, timeout, sleep (over),
-- waiting, failed, completed, cancelled. name: of the task, step or event; detail: the value or message, shortened.
-- The next page: pass moment and place of the last row. Rows appear when they are committed, not in the order of their moments: who
-- follows has to look back some seconds.
create or replace function absurd.task_activity(
  p_task_ids uuid[], p_since timestamptz default '-infinity', p_after_place text default '', p_limit integer default 1000)
returns table (
  happened_at timestamptz, place text, task_id uuid, queue_name text, task_name text, kind text, name text, detail text, attempt integer,
  worker_id text)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select h.happened_at, h.place, t.task_id, t.queue_name, t.task_name, h.kind, h.name, left(absurd.hide_secrets(left(h.detail, 2000)), 300), h.attempt, h.worker_id
    from unnest(p_task_ids[:1000]) as i(task_id)
    join absurd.tasks t on t.task_id = i.task_id
    cross join lateral (
      select e.happened_at, concat_ws(' ', t.task_id, e.kind, e.attempt, e.name) as place, e.kind, e.name, e.detail, e.attempt, e.worker_id
      from (
        select t.spawned_at as happened_at, 'spawned' as kind, t.task_name as name,
          (absurd.readable_jsonb(t.headers) -> 'absurd-source')::text as detail, null::integer as attempt, null::text as worker_id
        union all
        select r.started_at, 'started', t.task_name, null, r.attempt, r.worker_id from absurd.runs r where r.task_id = t.task_id
        union all
        select a.started_at, 'started', t.task_name, null, a.attempt, a.worker_id from absurd.attempts a where a.task_id = t.task_id
        union all
        select t.started_at, 'started', t.task_name, null, t.attempt, t.worker_id where t.outcome = 'completed'
        union all
        select c.completed_at, c.kind, c.step_name, c.state::text, null, null from absurd.checkpoints c where c.task_id = t.task_id
        union all
        select w.created_at, 'waiting', coalesce(w.event_name, w.awaited_task_id::text, w.step_name),
          concat_ws(' ', case when w.kind = 'timer' then w.detail else w.kind end, 'until ' || r.available_at::timestamptz(0)), r.attempt, null
        from absurd.runs r
        join absurd.waits w on w.run_id = r.run_id
        where r.task_id = t.task_id and not (w.kind = 'timer' and w.detail = 'timeout')
        union all
        select a.ended_at, case when a.cause in ('cancel', 'delay', 'duration') then 'cancelled' else 'failed' end, t.task_name,
          concat_ws('', concat_ws(': ', nullif(a.cause, 'error'), absurd.readable_jsonb(a.failure) ->> 'name',
            absurd.readable_jsonb(a.failure) ->> 'message'), case when a.retry_at is not null then '; again at ' || a.retry_at::timestamptz(0) end),
          a.attempt, a.worker_id
        from absurd.attempts a where a.task_id = t.task_id
        union all
        select t.finished_at, 'completed', t.task_name, t.result::text, t.attempt, t.worker_id where t.outcome = 'completed'
      ) e
      where e.happened_at >= p_since
    ) h
    where (h.happened_at, h.place) > (p_since, p_after_place)
    order by h.happened_at, h.place
    limit absurd.page_size(p_limit);
end $$;
