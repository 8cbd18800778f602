-- Reading for people: the command line and web pages. Nothing here locks or changes a row. Every filter is a value; null means any.

-- The smallest UUIDv7 of a moment: a place in the order of spawning. Null while the clock is moved, for ids take the real one.
create or replace function absurd.id_floor(p_at timestamptz) returns uuid
language sql stable parallel safe as $$
  select case when coalesce(current_setting('absurd.fake_now', true), '') = '' and p_at > '1970-01-02' then
    (lpad(to_hex((extract(epoch from p_at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
  end
$$;

-- The page size that a caller gets: between 1 and 1,000.
create or replace function absurd.page_size(p_limit integer) returns integer
language sql immutable parallel safe as $$
  select least(greatest(coalesce(p_limit, 50), 1), 1000)
$$;

-- The moment so long ago, null for null. Ages beyond what a timestamp can hold mean the same as a thousand years.
create or replace function absurd.moment_ago(p_age interval) returns timestamptz
language sql stable as $$
  select case when p_age is not null then absurd.current_time() - least(greatest(p_age, '-1000 years'), '1000 years') end
$$;

-- Pairs of queue and task name that occur, by a loose scan of the index: as many reads as pairs, however many tasks there are.
create or replace function absurd.task_names(p_queue_name text default null) returns table (queue_name text, task_name text)
language sql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off
as $$
  with recursive pair as (
    (select t.queue_name, t.task_name from absurd.tasks t
     where t.queue_name >= coalesce(p_queue_name, '') order by t.queue_name, t.task_name limit 1)
    union all
    select n.queue_name, n.task_name
    from pair p
    cross join lateral (
      select t.queue_name, t.task_name from absurd.tasks t
      where (t.queue_name, t.task_name) > (p.queue_name, p.task_name)
      order by t.queue_name, t.task_name limit 1) n
    where p_queue_name is null or p.queue_name = p_queue_name
  )
  select p.queue_name, p.task_name from pair p where p_queue_name is null or p.queue_name = p_queue_name
$$;

-- Tasks, the newest spawned first; failed and cancelled ones, the last ended first. The next page: pass the last task_id of this one.
-- p_older_than and p_newer_than are ages since the spawn. Ids are in order of time, so that an age is found by its place.
create or replace function absurd.list_tasks(
  p_queue_name text default null, p_task_name text default null, p_state text default null,
  p_older_than interval default null, p_newer_than interval default null, p_before_task_id uuid default null,
  p_limit integer default 50)
returns table (
  task_id uuid, run_id uuid, queue_name text, task_name text, state text, attempt integer, max_attempts integer, priority integer,
  spawned_at timestamptz, available_at timestamptz, started_at timestamptz, finished_at timestamptz, worker_id text,
  parent_task_id uuid, idempotency_key text, note text)
language plpgsql stable
set jit = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_to timestamptz := absurd.moment_ago(p_older_than);
  v_from timestamptz := absurd.moment_ago(p_newer_than);
  v_ids uuid[];
begin
  if p_state in ('pending', 'running', 'sleeping') then
    v_ids := absurd.list_live_ids(p_queue_name, p_task_name, p_state, v_to, v_from, p_before_task_id, v_limit);
  elsif p_state in ('failed', 'cancelled') then
    v_ids := absurd.list_ended_ids(p_queue_name, p_task_name, p_state, v_to, v_from, p_before_task_id, v_limit);
  elsif p_state = 'completed' or p_state is null then
    v_ids := absurd.list_spawned_ids(p_queue_name, p_task_name, p_state, v_to, v_from, p_before_task_id, v_limit);
  else
    raise exception 'state must be pending, running, sleeping, completed, failed or cancelled, not "%"', left(p_state, 80)
      using errcode = 'AB012';
  end if;
  return query
    select t.task_id, coalesce(r.run_id, t.run_id), t.queue_name, t.task_name, coalesce(t.outcome, r.state, 'pending'),
      coalesce(r.attempt, t.attempt), t.max_attempts, t.priority, t.spawned_at, r.available_at, coalesce(r.started_at, t.started_at),
      t.finished_at, coalesce(r.worker_id, t.worker_id), t.parent_task_id, absurd.hide_secrets(t.idempotency_key), r.note
    from unnest(v_ids) with ordinality as i(task_id, ord)
    join absurd.tasks t on t.task_id = i.task_id
    left join absurd.runs r on r.task_id = i.task_id
    order by i.ord;
end $$;

-- The newest tasks, living or completed. Of one queue: the newest of each of its task names, merged.
create or replace function absurd.list_spawned_ids(
  p_queue_name text, p_task_name text, p_outcome text, p_to timestamptz, p_from timestamptz, p_before_task_id uuid, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
declare
  -- An hour of grace: ids are made by the clocks of clients.
  v_before uuid := least(p_before_task_id, absurd.id_floor(p_to + interval '1 hour'));
  v_after uuid := absurd.id_floor(p_from - interval '1 hour');
begin
  if p_queue_name is null and p_task_name is null then
    return array(
      select t.task_id from absurd.tasks t
      where (v_before is null or t.task_id < v_before) and (v_after is null or t.task_id >= v_after)
        and (p_outcome is null or t.outcome = p_outcome)
        and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
      order by t.task_id desc limit p_limit);
  end if;
  return array(
    select l.task_id
    from absurd.task_names(p_queue_name) n
    cross join lateral (
      select t.task_id from absurd.tasks t
      where t.queue_name = n.queue_name and t.task_name = n.task_name
        and (v_before is null or t.task_id < v_before) and (v_after is null or t.task_id >= v_after)
        and (p_outcome is null or t.outcome = p_outcome)
        and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
      order by t.task_id desc limit p_limit) l
    where p_task_name is null or n.task_name = p_task_name
    order by l.task_id desc limit p_limit);
end $$;

-- The newest tasks that are pending, running or sleeping.
create or replace function absurd.list_live_ids(
  p_queue_name text, p_task_name text, p_state text, p_to timestamptz, p_from timestamptz, p_before_task_id uuid, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set plan_cache_mode = force_custom_plan
as $$
declare
  v_before uuid := least(p_before_task_id, absurd.id_floor(p_to + interval '1 hour'));
  v_after uuid := absurd.id_floor(p_from - interval '1 hour');
begin
  return array(
    select r.task_id
    from absurd.runs r
    join absurd.tasks t on t.task_id = r.task_id
    where r.state = p_state and (p_queue_name is null or r.queue_name = p_queue_name)
      and (p_task_name is null or t.task_name = p_task_name)
      and (v_before is null or r.task_id < v_before) and (v_after is null or r.task_id >= v_after)
      and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
    order by r.task_id desc limit p_limit);
end $$;

-- Tasks that failed or were cancelled, the last ended first, by the attempts that ended them.
create or replace function absurd.list_ended_ids(
  p_queue_name text, p_task_name text, p_outcome text, p_to timestamptz, p_from timestamptz, p_before_task_id uuid, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_before_end timestamptz := (select t.finished_at from absurd.tasks t where t.task_id = p_before_task_id);
begin
  return array(
    select l.task_id
    from absurd.queues q
    cross join lateral (
      select a.task_id, a.ended_at
      from absurd.attempts a
      join absurd.tasks t on t.task_id = a.task_id
      where a.final and a.queue_name = q.queue_name and t.outcome = p_outcome
        and (p_task_name is null or t.task_name = p_task_name)
        and (v_before_end is null or a.ended_at <= v_before_end)
        and (v_before_end is null or (a.ended_at, a.task_id) < (v_before_end, p_before_task_id))
        and (p_to is null or t.spawned_at < p_to) and (p_from is null or t.spawned_at >= p_from)
      order by a.ended_at desc, a.task_id desc limit p_limit) l
    where p_queue_name is null or q.queue_name = p_queue_name
    order by l.ended_at desc, l.task_id desc limit p_limit);
end $$;
