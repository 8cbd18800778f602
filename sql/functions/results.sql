-- State, result and failure of a task, as text that keeps the order of keys. No row: no such task.
-- PL/pgSQL, which keeps its plan: a function in SQL that runs as its owner is not inlined, and planned anew at each call.
create or replace function absurd.read_result(p_task_id uuid) returns table (state text, result text, failure text)
language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select coalesce(t.outcome, r.state, 'pending'), t.result::text, a.failure::text
    from absurd.tasks t
    left join absurd.runs r on r.task_id = t.task_id
    left join absurd.attempts a on a.run_id = t.run_id
    where t.task_id = p_task_id;
end $$;

-- Asks for a notification on a channel (payload: the task id) when a task ends. If it has ended already it says how and asks nothing.
-- The share lock makes it decide against an end that is being committed: whoever is second sees the other.
create or replace function absurd.watch_task(p_task_id uuid, p_channel text, p_seconds double precision)
returns table (state text, result text, failure text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_task absurd.tasks;
begin
  perform absurd.require_read_committed('watch_task');
  -- The end of the task notifies this channel: a name that NOTIFY refuses must not get as far as that.
  if p_channel is null or octet_length(p_channel) not between 1 and 63 then
    raise exception 'a channel name has 1 to 63 bytes; "%" has %', left(p_channel, 80), coalesce(octet_length(p_channel), 0)
      using errcode = 'AB012';
  end if;
  select * into v_task from absurd.tasks t where t.task_id = p_task_id for share;
  if found and v_task.outcome is null then
    delete from absurd.waits w where w.awaited_task_id = p_task_id and w.kind = 'client' and w.detail = p_channel;
    insert into absurd.waits (kind, queue_name, awaited_task_id, detail, created_at, expires_at)
    values ('client', v_task.queue_name, p_task_id, p_channel, absurd.current_time(),
      absurd.current_time() + make_interval(secs => least(greatest(p_seconds, 0), 315360000)));
  end if;
  return query select * from absurd.read_result(p_task_id);
end $$;

-- Takes that back.
create or replace function absurd.unwatch_task(p_task_id uuid, p_channel text) returns void
language plpgsql volatile
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  delete from absurd.waits w where w.awaited_task_id = p_task_id and w.kind = 'client' and w.detail = p_channel;
end $$;
