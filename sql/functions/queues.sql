-- Creates a queue; one that exists stays as it is. The storage mode is kept and reported: all queues share their tables here.
create or replace function absurd.create_queue(p_queue_name text, p_storage_mode text) returns void
language plpgsql volatile as $$
begin
  if p_queue_name is null or octet_length(p_queue_name) not between 1 and 57 then
    raise exception 'a queue name has 1 to 57 bytes of UTF-8; "%" has %', left(p_queue_name, 80), coalesce(octet_length(p_queue_name), 0)
      using errcode = 'AB012';
  elsif p_storage_mode is null or p_storage_mode not in ('unpartitioned', 'partitioned') then
    raise exception 'storage mode must be unpartitioned or partitioned, not "%"', p_storage_mode using errcode = 'AB012';
  end if;
  insert into absurd.queues (queue_name, storage_mode) values (p_queue_name, p_storage_mode) on conflict (queue_name) do nothing;
end $$;

-- The same with the usual storage mode.
create or replace function absurd.create_queue(p_queue_name text) returns void
language sql volatile as $$
  select absurd.create_queue(p_queue_name, 'unpartitioned')
$$;

-- Drops a queue with everything in it; nothing happens if it is absent. Its advisory lock keeps new tasks, events and waits out meanwhile.
-- Runs of other queues that wait for something in it wake, ask again, and learn that it is gone.
create or replace function absurd.drop_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock(absurd.queue_lock_key(p_queue_name));
  delete from absurd.queues q where q.queue_name = p_queue_name;
  if not found then
    return;
  end if;
  perform absurd.drop_triggers(p_queue_name);
  perform absurd.drop_runs(p_queue_name);
  delete from absurd.waits w where w.queue_name = p_queue_name
    or w.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.checkpoints c where c.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.attempts a where a.queue_name = p_queue_name
    or a.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  -- of triggers that have moved to another queue since: their history stays, and nothing in it is active for ever
  update absurd.trigger_executions e set completed_at = absurd.current_time()
  where e.completed_at is null and e.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.tokens k where k.task_id in (select t.task_id from absurd.tasks t where t.queue_name = p_queue_name);
  delete from absurd.schedules s where s.queue_name = p_queue_name;
  delete from absurd.retention r where r.queue_name = p_queue_name;
  delete from absurd.idempotency_keys k where k.queue_name = p_queue_name;
  delete from absurd.subscriptions s where s.queue_name = p_queue_name;
  delete from absurd.event_keys k where k.queue_name = p_queue_name;
  delete from absurd.event_tasks t where t.seq in (select e.seq from absurd.events e where e.queue_name = p_queue_name);
  delete from absurd.events e where e.queue_name = p_queue_name;
  delete from absurd.tasks t where t.queue_name = p_queue_name;
  -- Again: whoever watches a task holds its row while he registers, so this one came in between.
  delete from absurd.waits w where w.queue_name = p_queue_name;
end $$;

-- Deletes the runs of a queue that is being dropped, and wakes those of other queues that wait for something in it.
-- Locks: whoever ends an attempt holds its run and then locks those that wait for the task. So they are taken in that direction here
-- too, round by round: first the runs that wait for none of the others, in order of run_id. Again until there is none, for whoever ends
-- an attempt while we wait for its row begins the next one in a row that we cannot see yet.
-- A plan of its own for each look at all of them, which knows how many are left: a general one walks all of them for each of them.
create or replace function absurd.drop_runs(p_queue_name text) returns void
language plpgsql volatile
set plan_cache_mode = force_custom_plan
as $$
declare
  v_run_ids uuid[];
  v_round uuid[];
begin
  loop
    v_run_ids := array(
      select r.run_id from absurd.runs r where r.queue_name = p_queue_name
      union
      select r.run_id from absurd.waits w
      left join absurd.tasks t on t.task_id = w.awaited_task_id
      join absurd.runs r on r.run_id = w.run_id and r.queue_name <> p_queue_name and r.state = 'sleeping'
      where (w.kind = 'event' and w.queue_name = p_queue_name) or (w.kind = 'task' and t.queue_name = p_queue_name));
    exit when cardinality(v_run_ids) = 0;
    v_round := array(
      select u.run_id from unnest(v_run_ids) as u(run_id)
      where not exists (
        select from absurd.waits w
        join absurd.runs r on r.task_id = w.awaited_task_id
        join unnest(v_run_ids) as m(run_id) on m.run_id = r.run_id
        where w.run_id = u.run_id and w.kind = 'task'));
    -- None: they wait for each other in a circle.
    v_round := case when cardinality(v_round) > 0 then v_round else v_run_ids end;
    -- A long chain has as many rounds as runs: as long as there are any, the next ones are those who waited for the last ones.
    while cardinality(v_round) > 0 loop
      v_round := absurd.find_followers(p_queue_name, absurd.drop_round(p_queue_name, v_round));
    end loop;
  end loop;
end $$;

-- One round of drop_runs(); the tasks of the runs that it has deleted.
create or replace function absurd.drop_round(p_queue_name text, p_run_ids uuid[]) returns uuid[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_task_ids uuid[];
begin
  perform from absurd.runs r join unnest(p_run_ids) as u(run_id) on u.run_id = r.run_id order by r.run_id for update of r;
  delete from absurd.waits w using unnest(p_run_ids) as u(run_id) where w.run_id = u.run_id;
  with gone as (
    delete from absurd.runs r using unnest(p_run_ids) as u(run_id) where r.run_id = u.run_id and r.queue_name = p_queue_name
    returning r.task_id)
  select array_agg(g.task_id) into v_task_ids from gone g;
  perform absurd.put_back(r.run_id, 'pending', absurd.current_time(), 0)
  from absurd.runs r join unnest(p_run_ids) as u(run_id) on u.run_id = r.run_id
  where r.state = 'sleeping';
  return v_task_ids;
end $$;

-- Runs that wait for one of these tasks, which have none any more, and for no task besides.
create or replace function absurd.find_followers(p_queue_name text, p_task_ids uuid[]) returns uuid[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  return array(
    select distinct w.run_id
    from unnest(p_task_ids) as e(task_id)
    join absurd.waits w on w.awaited_task_id = e.task_id and w.kind = 'task'
    join absurd.runs r on r.run_id = w.run_id and (r.queue_name = p_queue_name or r.state = 'sleeping')
    where not exists (
      select from absurd.waits o
      join absurd.runs l on l.task_id = o.awaited_task_id
      where o.run_id = w.run_id and o.kind = 'task'));
end $$;

-- The names of all queues.
create or replace function absurd.list_queues() returns table (queue_name text)
language sql stable as $$
  select q.queue_name from absurd.queues q order by q.queue_name
$$;

-- How large params, payloads, results and states may be, in bytes, for those of these queues that exist.
create or replace function absurd.queue_limits(p_queue_names text[]) returns table (queue_name text, max_payload_bytes integer)
language sql stable as $$
  select q.queue_name, q.max_payload_bytes from absurd.queues q where q.queue_name = any (p_queue_names)
$$;

-- Stops claims from a queue; what runs goes on. Tasks and events are still accepted.
create or replace function absurd.pause_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  perform absurd.require_queue(p_queue_name);
  update absurd.queues q set paused_at = coalesce(q.paused_at, absurd.current_time()) where q.queue_name = p_queue_name;
end $$;

-- Lets claims go on.
create or replace function absurd.resume_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  perform absurd.require_queue(p_queue_name);
  update absurd.queues q set paused_at = null where q.queue_name = p_queue_name;
  perform absurd.notify_queues(array[p_queue_name]);
end $$;
