-- Records completed steps of running tasks. One status per item: ok, lost, cancelled. A repeated call changes nothing and says ok.
create or replace function absurd.record_checkpoints(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_step_names text[], p_positions integer[], p_states json[])
returns text[]
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)
  select i.task_id, i.step_name, i.position, i.state, i.run_id, v_now
  from unnest(p_task_ids, p_run_ids, p_step_names, p_positions, p_states, v_status)
    as i(task_id, run_id, step_name, position, state, status)
  where i.status = 'ok'
  on conflict (task_id, step_name) do nothing;
  return v_status;
end $$;

-- What a worker needs to know of a step whose commit was never answered: waits for the transaction that may still hold the run,
-- then says ok if the checkpoint is there and the run's status otherwise; missing if the run is still the caller's and nothing was recorded.
create or replace function absurd.verify_checkpoint(p_task_id uuid, p_run_id uuid, p_epoch integer, p_step_name text) returns text
language plpgsql volatile as $$
declare
  v_status text := (absurd.fence_runs(array[p_run_id], array[p_epoch]))[1];
begin
  if v_status = 'ok' and not exists (
      select from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name and c.owner_run_id = p_run_id) then
    return 'missing';
  end if;
  return v_status;
end $$;
