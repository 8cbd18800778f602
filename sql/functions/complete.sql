-- Ends runs with a result: the task is completed, the run row goes, whoever waits for the task is told.
-- One status per item: ok, lost, cancelled. Repeated after a lost answer it says ok again.
create or replace function absurd.complete_runs(p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_results json[]) returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  with item as materialized (
    select i.run_id, i.result
    from unnest(p_run_ids, p_results, v_status) as i(run_id, result, status)
    where i.status = 'ok'
  ), gone as (
    delete from absurd.runs r using item i where r.run_id = i.run_id
    returning r.run_id, r.task_id, r.epoch, r.attempt, r.worker_id, r.started_at, i.result
  )
  update absurd.tasks t
  set outcome = 'completed', result = coalesce(g.result, 'null'), run_id = g.run_id, epoch = g.epoch, attempt = g.attempt, worker_id = g.worker_id,
    started_at = g.started_at, finished_at = v_now
  from gone g
  where t.task_id = g.task_id;
  if exists (select from absurd.waits w where w.awaited_task_id = any (p_task_ids)) then
    perform absurd.wake_task_waiters(p_task_ids);
  end if;
  if 'lost' = any (v_status) then
    v_status := array(
      select case when i.status = 'lost' and t.outcome = 'completed' and t.run_id = i.run_id and t.epoch = i.epoch then 'ok' else i.status end
      from unnest(p_task_ids, p_run_ids, p_epochs, v_status) with ordinality as i(task_id, run_id, epoch, status, ord)
      left join absurd.tasks t on t.task_id = i.task_id
      order by i.ord);
  end if;
  return v_status;
end $$;
