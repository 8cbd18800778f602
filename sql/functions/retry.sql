-- Gives a failed or cancelled task another attempt, from its last checkpoint and with a new allowance of max_duration; or, with
-- spawn_new, starts a copy of it from the beginning. Options: spawn_new; max_attempts (default: one more than were made);
-- idempotency_key of the copy: one that has been made with it is reported, and created is false.
create or replace function absurd.retry_task(p_queue_name text, p_task_id uuid, p_options jsonb default '{}')
returns table (task_id uuid, run_id uuid, attempt integer, created boolean)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_task absurd.tasks;
  v_new_task_id uuid;
  v_new_run_id uuid := absurd.make_id();
  v_max_attempts integer;
  v_key text := p_options ->> 'idempotency_key';
  v_owner record;
  v_problem text := coalesce(
    absurd.object_error('options', p_options, array['spawn_new', 'max_attempts', 'idempotency_key']),
    absurd.copy_key_error(p_options -> 'idempotency_key'),
    case when v_key is not null and p_options -> 'spawn_new' is distinct from 'true' then 'idempotency_key goes with spawn_new' end,
    case when jsonb_typeof(p_options -> 'spawn_new') not in ('boolean', 'null') then 'spawn_new must be true or false' end,
    absurd.number_error('max_attempts', p_options -> 'max_attempts', 1, 1000000, true));
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));  -- against drop_queue
  select * into v_task from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name for no key update;
  if not found then
    raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
  end if;
  v_max_attempts := (p_options ->> 'max_attempts')::numeric;
  if coalesce((p_options ->> 'spawn_new')::boolean, false) then
    v_new_task_id := absurd.make_id();
    if v_key is not null then
      select c.owners[1] as task_id, c.run_ids[1] as run_id, c.attempts[1] as attempt into v_owner
      from absurd.claim_idempotency_keys(array[p_queue_name], array[v_key], array[v_new_task_id], array[v_new_run_id], array[true]) c;
      if v_owner.task_id <> v_new_task_id then
        return query select v_owner.task_id, v_owner.run_id, v_owner.attempt, false;
        return;
      end if;
    end if;
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
      priority, idempotency_key, parent_task_id, spawned_at)
    values (v_new_task_id, v_task.queue_name, v_task.task_name, v_task.params, v_task.headers, v_task.retry_strategy,
      coalesce(v_max_attempts, v_task.max_attempts), v_task.max_delay, v_task.max_duration, v_task.priority, v_key, v_task.parent_task_id, v_now);
    insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, deadline_at, allowance)
    values (v_new_run_id, v_new_task_id, v_task.queue_name, 'pending', 1, v_task.priority, v_now,
      v_now + absurd.stored_seconds(v_task.max_delay), v_task.max_duration);
    perform absurd.notify_queues(array[p_queue_name]);
    return query select v_new_task_id, v_new_run_id, 1, true;
    return;
  end if;
  if coalesce(v_task.outcome, 'live') not in ('failed', 'cancelled') then
    raise exception 'task % is %; only failed and cancelled tasks can be retried', p_task_id, coalesce(v_task.outcome, 'still live')
      using errcode = 'AB012', hint = 'Use the option spawn_new to run a copy of it.';
  elsif v_max_attempts <= v_task.attempt then
    raise exception 'max_attempts is %, but task % has made % already', v_max_attempts, p_task_id, v_task.attempt using errcode = 'AB012';
  end if;
  update absurd.attempts a set final = false where a.run_id = v_task.run_id;
  update absurd.tasks t
  set outcome = null, run_id = null, epoch = null, attempt = null, worker_id = null, started_at = null, finished_at = null,
    -- without limit it stays so: greatest() would pass over the null
    max_attempts = coalesce(v_max_attempts, case when t.max_attempts is not null then greatest(t.max_attempts, v_task.attempt + 1) end)
  where t.task_id = p_task_id;
  perform absurd.reopen_trigger_execution(p_task_id);
  insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, allowance)
  values (v_new_run_id, p_task_id, p_queue_name, 'pending', v_task.attempt + 1, v_task.priority, v_now, v_task.max_duration);
  perform absurd.notify_queues(array[p_queue_name]);
  return query select p_task_id, v_new_run_id, v_task.attempt + 1, false;
end $$;

-- What is wrong with the idempotency key of a copy, or null.
create or replace function absurd.copy_key_error(p_key jsonb) returns text
language sql immutable as $$
  select case jsonb_typeof(p_key)
    when 'null' then null
    when 'string' then absurd.name_error('idempotency key', p_key #>> '{}')
    else case when p_key is not null then format('idempotency_key must be a string, not %s', left(p_key::text, 100)) end
  end
$$;
