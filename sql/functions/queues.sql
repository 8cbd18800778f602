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
  perform absurd.wake_outside_waiters(p_queue_name);
  -- Again until there is none: whoever ends an attempt while we wait for its row begins the next one in a row that we cannot see yet.
  loop
    delete from absurd.runs r where r.queue_name = p_queue_name;
    exit when not exists (select from absurd.runs r where r.queue_name = p_queue_name);
  end loop;
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
  delete from absurd.idempotency_keys k where k.queue_name = p_queue_name;
  delete from absurd.subscriptions s where s.queue_name = p_queue_name;
  delete from absurd.event_keys k where k.queue_name = p_queue_name;
  delete from absurd.event_tasks t where t.seq in (select e.seq from absurd.events e where e.queue_name = p_queue_name);
  delete from absurd.events e where e.queue_name = p_queue_name;
  delete from absurd.tasks t where t.queue_name = p_queue_name;
end $$;

-- Makes the runs of other queues ready that wait for events or tasks of this one.
create or replace function absurd.wake_outside_waiters(p_queue_name text) returns void
language plpgsql volatile as $$
declare
  v_run_ids uuid[] := array(
    select l.run_id from (
      select r.run_id from absurd.runs r
      where r.queue_name <> p_queue_name and r.state = 'sleeping' and r.run_id in (
        select w.run_id from absurd.waits w
        left join absurd.tasks t on t.task_id = w.awaited_task_id
        where (w.kind = 'event' and w.queue_name = p_queue_name) or (w.kind = 'task' and t.queue_name = p_queue_name))
      order by r.run_id for update) l);
begin
  delete from absurd.waits w where w.run_id = any (v_run_ids);
  perform absurd.put_back(u.run_id, 'pending', absurd.current_time(), 0) from unnest(v_run_ids) as u(run_id);
end $$;

-- The names of all queues.
create or replace function absurd.list_queues() returns table (queue_name text)
language sql stable as $$
  select q.queue_name from absurd.queues q order by q.queue_name
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
