-- json as jsonb for clients that read it so. What jsonb cannot hold (a NUL character, half a surrogate pair, a number of a million
-- digits) comes as {"$unreadable": "its text"}: a value that somebody stored must not make a claim raise.
create or replace function absurd.readable_jsonb(p_value json) returns jsonb
language plpgsql immutable parallel safe as $$
begin
  return p_value::jsonb;
exception when data_exception or program_limit_exceeded then
  return jsonb_build_object('$unreadable', p_value::text);
end $$;

-- Spawns a task. A known idempotency key returns the first task with created = false.
create or replace function absurd.spawn_task(p_queue_name text, p_task_name text, p_params jsonb, p_options jsonb default '{}')
returns table (task_id uuid, run_id uuid, attempt integer, created boolean)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_spawned record;
begin
  select * into v_spawned
  from absurd.spawn_one(p_queue_name, absurd.make_id(), absurd.make_id(), p_task_name, p_params::json, null, coalesce(p_options, '{}'),
    p_options ->> 'idempotency_key');
  if v_spawned.status <> 'ok' then
    raise exception '%', v_spawned.message
      using errcode = case v_spawned.status when 'no_queue' then 'AB010' when 'too_large' then 'AB013' else 'AB012' end;
  end if;
  return query select v_spawned.task_id, v_spawned.run_id, v_spawned.attempt, v_spawned.created;
end $$;

-- State of a task, with its result or the failure that ended it. No row: the queue has no such task.
create or replace function absurd.get_task_result(p_queue_name text, p_task_id uuid)
returns table (task_id uuid, state text, result jsonb, failure_reason jsonb)
language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select t.task_id, coalesce(t.outcome, r.state, 'pending'), absurd.readable_jsonb(t.result), absurd.readable_jsonb(a.failure)
    from absurd.tasks t
    left join absurd.runs r on r.task_id = t.task_id
    left join absurd.attempts a on a.run_id = t.run_id and t.outcome is not null
    where t.task_id = p_task_id and t.queue_name = p_queue_name;
end $$;
