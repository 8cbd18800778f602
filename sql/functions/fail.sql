-- Ends attempts with a failure: the next one follows the task's strategy, or the task has failed.
-- retry_ats overrules the strategy's time; retryable false means that no other attempt makes sense.
-- One status per item: ok, lost, cancelled. Repeated after a lost answer it says ok again.
create or replace function absurd.fail_runs(
  p_run_ids uuid[], p_epochs integer[], p_failures json[], p_retryable boolean[], p_retry_ats timestamptz[] default null)
returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  perform absurd.end_attempts(
    array_agg(i.run_id), array_agg('error'::text), array_agg(i.failure), array_agg(coalesce(i.retryable, true)), array_agg(i.retry_at))
  from unnest(p_run_ids, p_failures, p_retryable, p_retry_ats, v_status) as i(run_id, failure, retryable, retry_at, status)
  where i.status = 'ok'
  having count(*) > 0;
  if 'lost' = any (v_status) then
    v_status := array(
      select case when i.status = 'lost' and a.cause = 'error' and a.epoch = i.epoch then 'ok' else i.status end
      from unnest(p_run_ids, p_epochs, v_status) with ordinality as i(run_id, epoch, status, ord)
      left join absurd.attempts a on a.run_id = i.run_id
      order by i.ord);
  end if;
  return v_status;
end $$;

-- Ends the attempts of runs that the caller has locked, each for its cause. What follows is decided here and nowhere else:
-- cancel, delay, duration: the task is cancelled. error: another attempt after the strategy's delay. lease, worker: another attempt
-- at once, for its holder vanished and the task did nothing wrong. No attempt, or no allowance, left: the task has failed.
create or replace function absurd.end_attempts(
  p_run_ids uuid[], p_causes text[], p_failures json[], p_retryable boolean[] default null, p_retry_ats timestamptz[] default null)
returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_ended uuid[];
  v_ready text[];
begin
  with item as materialized (
    select * from unnest(p_run_ids, p_causes, p_failures, p_retryable, p_retry_ats) as i(run_id, cause, failure, retryable, retry_at)
  ), gone as materialized (
    delete from absurd.runs r using item i where r.run_id = i.run_id
    returning r.*, i.cause, i.failure, i.retryable, i.retry_at,
      case when r.state = 'running' and r.deadline_at is not null
          then greatest(extract(epoch from r.deadline_at) - extract(epoch from v_now), 0)::double precision
        else r.allowance end as left_over
  ), unawaited as (
    delete from absurd.waits w using gone g where w.run_id = g.run_id
  ), judged as materialized (
    -- A caller may have taken the id of an attempt that has ended for his run. That must not fail the statement for the others.
    select g.*, case when exists (select from absurd.attempts a where a.run_id = g.run_id) then absurd.make_id() else g.run_id end as attempt_id,
      g.cause in ('error', 'lease', 'worker') and coalesce(g.retryable, true)
        and (t.max_attempts is null or g.attempt < t.max_attempts) and (g.left_over is null or g.left_over > 0) as again,
      case
        when g.retry_at is not null then g.retry_at
        when g.cause = 'error' then v_now + make_interval(secs => absurd.retry_delay(t.retry_strategy, g.attempt))
        else v_now
      end as next_at
    from gone g
    join absurd.tasks t on t.task_id = g.task_id
  ), ended as (
    insert into absurd.attempts (run_id, task_id, queue_name, attempt, epoch, worker_id, started_at, ended_at, cause, failure, retry_at, final)
    select j.attempt_id, j.task_id, j.queue_name, j.attempt, j.epoch, j.worker_id, j.started_at, v_now, j.cause, coalesce(j.failure, 'null'),
      case when j.again then j.next_at end, not j.again
    from judged j
  ), followed as (
    insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, allowance)
    select absurd.make_id(), j.task_id, j.queue_name, case when j.next_at > v_now then 'sleeping' else 'pending' end,
      least(j.attempt, 2147483646) + 1, j.priority, j.next_at, j.left_over
    from judged j
    where j.again
    returning runs.queue_name, runs.state
  ), finished as (
    update absurd.tasks t
    set outcome = case when j.cause in ('error', 'lease', 'worker') then 'failed' else 'cancelled' end,
      run_id = j.attempt_id, epoch = j.epoch, attempt = j.attempt, worker_id = j.worker_id, started_at = j.started_at, finished_at = v_now
    from judged j
    where t.task_id = j.task_id and not j.again
    returning t.task_id
  )
  select (select array_agg(f.task_id) from finished f), (select array_agg(n.queue_name) from followed n where n.state = 'pending')
  into v_ended, v_ready;
  if v_ended is not null then
    perform absurd.wake_task_waiters(v_ended);
  end if;
  if v_ready is not null then
    perform absurd.notify_queues(v_ready);
  end if;
end $$;
