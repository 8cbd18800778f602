-- Refuses arguments that a clean-up cannot use, and keeps the queue from being dropped meanwhile.
create or replace function absurd.require_cleanup(p_queue_name text, p_ttl_seconds integer, p_limit integer) returns void
language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  perform absurd.require_queue(p_queue_name);
  if p_ttl_seconds is null or p_ttl_seconds < 0 then
    raise exception 'ttl_seconds must be 0 or more, not %', coalesce(p_ttl_seconds::text, 'null') using errcode = 'AB012';
  elsif p_limit is null or p_limit < 1 then
    raise exception 'limit must be 1 or more, not %', coalesce(p_limit::text, 'null') using errcode = 'AB012';
  end if;
end $$;

-- Deletes tasks that ended at least so many seconds ago, with all that belongs to them; at most p_limit. A living task is never touched,
-- nor one whose end may still be asked for: by somebody who waits for it, or by a parent that has not completed. Returns how many were
-- deleted; fewer than p_limit means that there are no others, but for children of those that went just now, and for tasks of clients whose
-- clock is more than five minutes fast: these are found so much later.
create or replace function absurd.cleanup_tasks(p_queue_name text, p_ttl_seconds integer, p_limit integer default 1000) returns integer
language plpgsql volatile as $$
declare
  v_cutoff timestamptz;
begin
  perform absurd.require_cleanup(p_queue_name, p_ttl_seconds, p_limit);
  v_cutoff := absurd.current_time() - make_interval(secs => p_ttl_seconds);
  return absurd.clean_tasks(p_queue_name, v_cutoff, v_cutoff, v_cutoff, null, p_limit);
end $$;

-- The same with a moment for each outcome, null to spare it, and p_beyond as for walk_tasks(). It begins where the last walk over the
-- tasks of this queue stopped and goes round once at most: batch after batch reads each task that stays only once.
create or replace function absurd.clean_tasks(
  p_queue_name text, p_completed timestamptz, p_failed timestamptz, p_cancelled timestamptz, p_beyond uuid, p_limit integer)
returns integer
language plpgsql volatile as $$
declare
  v_start absurd.retention := absurd.take_retention(p_queue_name);
  v_name text := v_start.after_task_name;
  v_id uuid := v_start.after_task_id;
  v_again boolean := v_start.after_task_name is null;
  v_step record;
  v_deleted integer := 0;
begin
  loop
    v_step := absurd.walk_tasks(p_queue_name, v_name, v_id, p_completed, p_failed, p_cancelled, p_beyond,
      absurd.current_time(), p_limit - v_deleted, 10000);
    v_deleted := v_deleted + absurd.delete_tasks(v_step.task_ids);
    v_name := v_step.last_name;
    v_id := v_step.last_id;
    exit when v_deleted >= p_limit or v_name is null and v_again
      or v_again and v_start.after_task_name is not null and (v_name, v_id) >= (v_start.after_task_name, v_start.after_task_id);
    v_again := v_again or v_name is null;
  end loop;
  if v_deleted < p_limit then
    v_name := null;
    v_id := null;
  end if;
  update absurd.retention r
  set after_task_name = v_name, after_task_id = v_id, tasks_deleted = r.tasks_deleted + v_deleted, cleaned_at = absurd.current_time()
  where r.queue_name = p_queue_name;
  return v_deleted;
end $$;

-- The row of a queue that is being cleaned up, locked: two who do it at once take turns.
create or replace function absurd.take_retention(p_queue_name text) returns absurd.retention
language plpgsql volatile as $$
declare
  v_row absurd.retention;
begin
  insert into absurd.retention (queue_name) values (p_queue_name) on conflict (queue_name) do nothing;
  select * into v_row from absurd.retention r where r.queue_name = p_queue_name for update;
  return v_row;
end $$;

-- Deletes tasks that have ended, and what belongs to them. Left alone: one that somebody is retrying or deleting at this moment, one that
-- somebody waits for, and a child whose parent has not completed: one that lives, or is retried, may still ask how the child ended.
create or replace function absurd.delete_tasks(p_task_ids uuid[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_gone uuid[];
begin
  v_gone := array(
    select l.task_id from (
      select t.task_id from absurd.tasks t
      where t.task_id = any (p_task_ids) and t.outcome is not null
        and not exists (select from absurd.waits w where w.awaited_task_id = t.task_id)
        and not exists (select from absurd.tasks p where p.task_id = t.parent_task_id and p.outcome is distinct from 'completed')
      order by t.task_id for update of t skip locked) l);
  if cardinality(v_gone) = 0 then
    return 0;
  end if;
  delete from absurd.idempotency_keys k
  using absurd.tasks t
  where t.task_id = any (v_gone) and k.queue_name = t.queue_name and k.idempotency_key = t.idempotency_key and k.task_id = t.task_id;
  perform absurd.close_trigger_executions(v_gone), absurd.forget_started(v_gone);
  delete from absurd.checkpoints c where c.task_id = any (v_gone);
  delete from absurd.attempts a where a.task_id = any (v_gone);
  delete from absurd.tokens k where k.task_id = any (v_gone);
  delete from absurd.tasks t where t.task_id = any (v_gone);
  return cardinality(v_gone);
end $$;

-- Deletes what the log says of tasks that events have started and that are about to go. There is no index for that question: the tasks
-- themselves tell in their headers which event it was.
create or replace function absurd.forget_started(p_task_ids uuid[]) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off
as $$
begin
  with started as materialized (
    select t.task_id, absurd.option_number(absurd.readable_jsonb(t.headers) #> '{absurd-source,event_seq}')::bigint as seq
    from absurd.tasks t
    where t.task_id = any (p_task_ids) and t.headers::text like '%"event_seq"%'
  )
  delete from absurd.event_tasks d
  using (
    select e.seq, e.subscription_id
    from (select distinct s.seq from started s) q
    join absurd.event_tasks e on e.seq = q.seq
    where e.task_id in (select s.task_id from started s)
    -- skip locked: the event itself is being deleted
    for update of e skip locked) g
  where d.seq = g.seq and d.subscription_id = g.subscription_id;
end $$;

-- Deletes old events of a queue: see cleanup_events() and purge_events(). It goes round once at most, as clean_tasks() does.
create or replace function absurd.delete_events(p_queue_name text, p_ttl_seconds integer, p_limit integer, p_unclaimed boolean)
returns integer
language plpgsql volatile as $$
declare
  v_start bigint;
  v_seq bigint;
  v_again boolean;
  v_cutoff timestamptz;
  v_step record;
  v_deleted integer := 0;
begin
  perform absurd.require_cleanup(p_queue_name, p_ttl_seconds, p_limit);
  v_cutoff := absurd.current_time() - make_interval(secs => p_ttl_seconds);
  v_start := (absurd.take_retention(p_queue_name)).after_seq;
  v_seq := v_start;
  v_again := v_start is null;
  loop
    v_step := absurd.walk_events(p_queue_name, v_seq, v_cutoff, p_unclaimed, p_limit - v_deleted, 10000);
    v_deleted := v_deleted + absurd.delete_event_rows(v_step.seqs);
    v_seq := v_step.last_seq;
    exit when v_deleted >= p_limit or v_seq is null and v_again or v_again and v_seq >= v_start;
    v_again := v_again or v_seq is null;
  end loop;
  update absurd.retention r
  set after_seq = case when v_deleted >= p_limit then v_seq end, events_deleted = r.events_deleted + v_deleted,
    cleaned_at = absurd.current_time()
  where r.queue_name = p_queue_name;
  return v_deleted;
end $$;

-- Deletes events with their keys and what is known of whom they started. One that is being claimed at this moment is not old: it stays.
create or replace function absurd.delete_event_rows(p_seqs bigint[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_gone bigint[] := array(select f.seq from absurd.events f where f.seq = any (p_seqs) order by f.seq for update skip locked);
begin
  delete from absurd.event_tasks t where t.seq = any (v_gone);
  delete from absurd.event_keys k where k.seq = any (v_gone);
  delete from absurd.events e where e.seq = any (v_gone);
  return cardinality(v_gone);
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

-- Cleans up one queue, or all, as the policy of each says; a queue with options of its own (set_queue_options) by these instead.
create or replace function absurd.cleanup_all_queues(p_queue_name text default null)
returns table (queue_name text, tasks_deleted integer, events_deleted integer)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_queue record;
  v_step record;
begin
  if p_queue_name is not null then
    perform absurd.require_queue(p_queue_name);
  end if;
  for v_queue in
    select q.queue_name, q.cleanup_limit, least(extract(epoch from q.cleanup_ttl), 2147483647)::integer as ttl,
      absurd.limits_tasks(r) or r.keep_events is not null as own,
      absurd.retains_at(r) > absurd.current_time() as rests
    from absurd.queues q
    left join absurd.retention r on r.queue_name = q.queue_name
    where p_queue_name is null or q.queue_name = p_queue_name
    order by q.queue_name
  loop
    if v_queue.own then
      select * into v_step from absurd.apply_retention(v_queue.cleanup_limit, v_queue.queue_name, v_queue.rests is true);
      return query select v_queue.queue_name, v_step.tasks_deleted, v_step.events_deleted;
    else
      return query select v_queue.queue_name, absurd.cleanup_tasks(v_queue.queue_name, v_queue.ttl, v_queue.cleanup_limit),
        absurd.cleanup_events(v_queue.queue_name, v_queue.ttl, v_queue.cleanup_limit);
    end if;
  end loop;
end $$;
