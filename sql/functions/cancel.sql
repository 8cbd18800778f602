-- Cancels a task, whatever it is doing; a task that has ended stays as it is. Its worker learns of it at its next call.
create or replace function absurd.cancel_task(p_queue_name text, p_task_id uuid) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_run_id uuid;
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
  end loop;
  perform absurd.end_attempts(array[v_run_id], array['cancel'],
    array[json_build_object('name', '$Cancelled', 'message', 'the task was cancelled')]);
end $$;
