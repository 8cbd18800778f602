-- Cancels a task, whatever it is doing; a task that has ended stays as it is. Its worker learns of it at its next call.
create or replace function absurd.cancel_task(p_queue_name text, p_task_id uuid) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_run_id uuid;
  v_looks integer := 0;
begin
  perform absurd.require_read_committed('cancel_task');
  -- Again until it holds: while we waited for the row, the attempt may have ended and another one begun.
  loop
    select r.run_id into v_run_id from absurd.runs r
    where r.task_id = p_task_id and r.queue_name = p_queue_name for update;
    exit when found;
    if not exists (select from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name) then
      raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
    elsif exists (select from absurd.tasks t where t.task_id = p_task_id and t.outcome is not null) then
      return;
    end if;
    v_looks := v_looks + 1;
    perform absurd.limit_looks(p_task_id, v_looks);
  end loop;
  perform absurd.end_attempts(array[v_run_id], array['cancel'],
    array[json_build_object('name', '$Cancelled', 'message', 'the task was cancelled')]);
end $$;

-- Ends the search for the run of a task that has none, nor an outcome. No function of ours leaves such a task behind.
create or replace function absurd.limit_looks(p_task_id uuid, p_looks integer) returns void
language plpgsql immutable as $$
begin
  if p_looks > 1000 then
    raise exception 'task % has neither a run nor an outcome: its rows were changed by hand', p_task_id using errcode = 'AB012';
  end if;
end $$;
