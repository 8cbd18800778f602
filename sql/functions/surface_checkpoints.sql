-- Records a step of a running task, or records it anew: the run that holds the task has the last word, an earlier attempt has none.
-- An arrival that the database recorded stays as it is. p_extend_claim_by renews the lease too, in seconds.
create or replace function absurd.set_task_checkpoint_state(
  p_queue_name text, p_task_id uuid, p_step_name text, p_state jsonb, p_owner_run uuid, p_extend_claim_by integer default null)
returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('set_task_checkpoint_state', p_queue_name, p_owner_run, p_task_id);
  v_problem text := absurd.name_error('step name', p_step_name);
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform absurd.require_size(p_queue_name, format('state of step "%s"', p_step_name), p_state::json);
  insert into absurd.checkpoints (task_id, step_name, state, owner_run_id, completed_at)
  values (v_run.task_id, p_step_name, coalesce(p_state, 'null')::json, p_owner_run, absurd.current_time())
  on conflict (task_id, step_name) do update
  set state = excluded.state, owner_run_id = excluded.owner_run_id, completed_at = excluded.completed_at
  where checkpoints.kind = 'step';
  if p_extend_claim_by is not null then
    perform absurd.extend_claim(p_queue_name, p_owner_run, p_extend_claim_by);
  end if;
end $$;

-- What was recorded under a step name: a step, or the payload of an awaited event. No row: nothing, or a timeout, which is no
-- value (await_event() answers it). Whatever is here is committed; p_include_pending asks for nothing more.
create or replace function absurd.get_task_checkpoint_state(
  p_queue_name text, p_task_id uuid, p_step_name text, p_include_pending boolean default false)
returns table (checkpoint_name text, state jsonb, status text, owner_run_id uuid, updated_at timestamptz)
language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
    select c.step_name, absurd.readable_jsonb(c.state), 'committed', c.owner_run_id, c.completed_at
    from absurd.tasks t
    join absurd.checkpoints c on c.task_id = t.task_id and c.step_name = p_step_name
    where t.task_id = p_task_id and t.queue_name = p_queue_name and c.kind <> 'timeout';
end $$;

-- The attempt that a run of a task is or was, whether it lives, failed or completed the task.
create or replace function absurd.attempt_of(p_task_id uuid, p_run_id uuid) returns integer
language sql stable as $$
  select coalesce(
    (select r.attempt from absurd.runs r where r.run_id = p_run_id and r.task_id = p_task_id),
    (select a.attempt from absurd.attempts a where a.run_id = p_run_id and a.task_id = p_task_id),
    (select t.attempt from absurd.tasks t where t.task_id = p_task_id and t.run_id = p_run_id))
$$;

-- All that was recorded by the attempt of a run and by those before it, in the order in which it was recorded.
create or replace function absurd.get_task_checkpoint_states(p_queue_name text, p_task_id uuid, p_run_id uuid)
returns table (checkpoint_name text, state jsonb, status text, owner_run_id uuid, updated_at timestamptz)
language plpgsql stable as $$
#variable_conflict use_column
declare
  v_attempt integer := absurd.attempt_of(p_task_id, p_run_id);
begin
  if v_attempt is null or not exists (select from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name) then
    raise exception 'queue "%" has no run % of a task %', p_queue_name, p_run_id, p_task_id using errcode = 'AB011';
  end if;
  return query
    select c.step_name, absurd.readable_jsonb(c.state), 'committed', c.owner_run_id, c.completed_at
    from absurd.checkpoints c
    where c.task_id = p_task_id and c.kind <> 'timeout'
      and (c.owner_run_id = p_run_id or coalesce(absurd.attempt_of(p_task_id, c.owner_run_id) <= v_attempt, true))
    order by c.completed_at, c.position, c.step_name;
end $$;
