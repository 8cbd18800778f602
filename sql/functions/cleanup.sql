-- Refuses arguments that a clean-up cannot use.
create or replace function absurd.require_cleanup(p_queue_name text, p_ttl_seconds integer, p_limit integer) returns void
language plpgsql stable as $$
begin
  perform absurd.require_queue(p_queue_name);
  if p_ttl_seconds is null or p_ttl_seconds < 0 then
    raise exception 'ttl_seconds must be 0 or more, not %', coalesce(p_ttl_seconds::text, 'null') using errcode = 'AB012';
  elsif p_limit is null or p_limit < 1 then
    raise exception 'limit must be 1 or more, not %', coalesce(p_limit::text, 'null') using errcode = 'AB012';
  end if;
end $$;

-- Deletes tasks that ended at least so many seconds ago, with their checkpoints, attempts, tokens and idempotency keys; at most p_limit.
-- A living task is never touched. Returns how many tasks were deleted.
create or replace function absurd.cleanup_tasks(p_queue_name text, p_ttl_seconds integer, p_limit integer default 1000) returns integer
language plpgsql volatile as $$
declare
  v_cutoff timestamptz := absurd.current_time() - make_interval(secs => p_ttl_seconds);
  v_found uuid[] := '{}'::uuid[];
  v_task_name text;
begin
  perform absurd.require_cleanup(p_queue_name, p_ttl_seconds, p_limit);
  for v_task_name in select n.task_name from absurd.task_names(p_queue_name) n loop
    v_found := v_found || absurd.find_finished(p_queue_name, v_task_name, v_cutoff, p_limit - cardinality(v_found));
    exit when cardinality(v_found) >= p_limit;
  end loop;
  return absurd.delete_tasks(v_found);
end $$;

-- Tasks of one name that ended before a moment, in order of spawning. It stops at the first one that was spawned after that moment:
-- what follows cannot have ended before it. So the walk reads what is old, not what is there.
create or replace function absurd.find_finished(p_queue_name text, p_task_name text, p_cutoff timestamptz, p_limit integer) returns uuid[]
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  v_found uuid[] := '{}'::uuid[];
  v_task record;
begin
  for v_task in
    select t.task_id, t.spawned_at, t.outcome, t.finished_at
    from absurd.tasks t
    where t.queue_name = p_queue_name and t.task_name = p_task_name
    order by t.task_id
  loop
    exit when v_task.spawned_at > p_cutoff or cardinality(v_found) >= p_limit;
    if v_task.outcome is not null and v_task.finished_at <= p_cutoff then
      v_found := v_found || v_task.task_id;
    end if;
  end loop;
  return v_found;
end $$;

-- Deletes tasks that have ended, and what belongs to them. One that somebody is retrying or deleting at this moment is left alone.
create or replace function absurd.delete_tasks(p_task_ids uuid[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_gone uuid[];
begin
  v_gone := array(
    select l.task_id from (
      select t.task_id from absurd.tasks t where t.task_id = any (p_task_ids) and t.outcome is not null
      order by t.task_id for update skip locked) l);
  delete from absurd.idempotency_keys k
  using absurd.tasks t
  where t.task_id = any (v_gone) and k.queue_name = t.queue_name and k.idempotency_key = t.idempotency_key and k.task_id = t.task_id;
  perform absurd.close_trigger_executions(v_gone);
  delete from absurd.checkpoints c where c.task_id = any (v_gone);
  delete from absurd.attempts a where a.task_id = any (v_gone);
  delete from absurd.tokens k where k.task_id = any (v_gone);
  delete from absurd.tasks t where t.task_id = any (v_gone);
  return cardinality(v_gone);
end $$;

-- Deletes old events, with their keys and what is known of whom they started, in the order of the log, up to the first that is too young.
create or replace function absurd.delete_events(p_queue_name text, p_ttl_seconds integer, p_limit integer, p_unclaimed boolean)
returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_cutoff timestamptz := absurd.current_time() - make_interval(secs => p_ttl_seconds);
  v_found bigint[] := '{}'::bigint[];
  v_event record;
begin
  perform absurd.require_cleanup(p_queue_name, p_ttl_seconds, p_limit);
  for v_event in
    select e.seq, e.emitted_at, e.delivered and (p_unclaimed or coalesce(e.claimed_at <= v_cutoff, false))
      and not exists (select from absurd.waits w where w.queue_name = e.queue_name and w.event_name = e.event_name) as old
    from absurd.events e
    where e.queue_name = p_queue_name
    order by e.seq
  loop
    exit when v_event.emitted_at > v_cutoff or cardinality(v_found) >= p_limit;
    if v_event.old then
      v_found := v_found || v_event.seq;
    end if;
  end loop;
  -- skip locked: an event that is being claimed at this moment is not old
  v_found := array(select f.seq from absurd.events f where f.seq = any (v_found) for update skip locked);
  delete from absurd.event_tasks t where t.seq = any (v_found);
  delete from absurd.event_keys k where k.seq = any (v_found);
  delete from absurd.events e where e.seq = any (v_found);
  return cardinality(v_found);
end $$;

-- Deletes events that a wait or subscriber has claimed at least so many seconds ago; at most p_limit. Spares what nobody has claimed
-- yet and every name that somebody waits for. Returns how many were deleted.
create or replace function absurd.cleanup_events(p_queue_name text, p_ttl_seconds integer, p_limit integer default 1000) returns integer
language sql volatile as $$
  select absurd.delete_events(p_queue_name, p_ttl_seconds, p_limit, false)
$$;

-- The same for all events that were emitted so long ago, also those that nobody has claimed: a wait that comes later misses them.
create or replace function absurd.purge_events(p_queue_name text, p_ttl_seconds integer, p_limit integer default 1000) returns integer
language sql volatile as $$
  select absurd.delete_events(p_queue_name, p_ttl_seconds, p_limit, true)
$$;

-- Cleans up one queue, or all, as the policy of each says.
create or replace function absurd.cleanup_all_queues(p_queue_name text default null)
returns table (queue_name text, tasks_deleted integer, events_deleted integer)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_queue record;
begin
  if p_queue_name is not null then
    perform absurd.require_queue(p_queue_name);
  end if;
  for v_queue in
    select q.queue_name, q.cleanup_limit, least(extract(epoch from q.cleanup_ttl), 2147483647)::integer as ttl
    from absurd.queues q
    where p_queue_name is null or q.queue_name = p_queue_name
    order by q.queue_name
  loop
    return query select v_queue.queue_name, absurd.cleanup_tasks(v_queue.queue_name, v_queue.ttl, v_queue.cleanup_limit),
      absurd.cleanup_events(v_queue.queue_name, v_queue.ttl, v_queue.cleanup_limit);
  end loop;
end $$;
