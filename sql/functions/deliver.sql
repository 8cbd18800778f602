-- Hands arrivals to the waits that were registered for them: writes each as a checkpoint of the waiting task, and wakes the runs
-- that have nothing left to wait for. Waits that are gone meanwhile (timed out, cancelled) get nothing. Returns how many got theirs.
-- Locks: runs in order of run_id, then their waits: the order of everybody who touches both.
create or replace function absurd.deliver_arrivals(p_wait_ids bigint[], p_kind text, p_states json[], p_event_seqs bigint[] default null)
returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_count integer;
  v_awake uuid[];
  v_queues text[];
begin
  perform from absurd.runs r
  where r.run_id in (select w.run_id from absurd.waits w where w.wait_id = any (p_wait_ids))
  order by r.run_id for update;
  with gone as (
    delete from absurd.waits w
    using unnest(p_wait_ids, p_states, p_event_seqs) as i(wait_id, state, event_seq)
    where w.wait_id = i.wait_id
    returning w.run_id, w.task_id, w.step_name, w.position, w.event_name, i.state, i.event_seq
  ), recorded as (
    insert into absurd.checkpoints (task_id, step_name, position, kind, state, event_seq, owner_run_id, completed_at)
    select g.task_id, g.step_name, g.position, p_kind, coalesce(g.state, 'null'), g.event_seq, g.run_id, v_now from gone g
    where g.task_id is not null and g.step_name is not null
    on conflict (task_id, step_name) do nothing
  ), counted as (
    select g.run_id, count(*)::integer as n, min(g.event_name) as event_name from gone g group by g.run_id
  ), changed as (
    update absurd.runs r
    set waits_left = greatest(r.waits_left, c.n) - c.n,
      state = case when r.waits_left <= c.n then 'pending' else r.state end,
      available_at = case when r.waits_left <= c.n then v_now else r.available_at end,
      wake_event = c.event_name
    from counted c
    where r.run_id = c.run_id and r.state = 'sleeping'
    returning r.run_id, r.queue_name, r.state
  )
  select (select count(*) from gone), array_agg(c.run_id), array_agg(distinct c.queue_name) into v_count, v_awake, v_queues
  from changed c where c.state = 'pending';
  if v_awake is not null then
    delete from absurd.waits w where w.run_id = any (v_awake);
    perform absurd.notify_queues(v_queues);
  end if;
  return v_count;
end $$;

-- Tells the runs and clients that wait for these tasks that they have ended.
create or replace function absurd.wake_task_waiters(p_task_ids uuid[]) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_told bigint;
begin
  with told as (
    delete from absurd.waits w where w.awaited_task_id = any (p_task_ids) and w.kind = 'client'
      and exists (select from absurd.tasks t where t.task_id = w.awaited_task_id and t.outcome is not null)
    returning w.detail, w.awaited_task_id
  )
  select count(pg_notify(t.detail, t.awaited_task_id::text)) filter (where octet_length(t.detail) between 1 and 63) into v_told from told t;
  perform absurd.deliver_arrivals(array_agg(w.wait_id), 'task', array_agg(absurd.task_outcome(w.awaited_task_id)))
  from absurd.waits w
  join absurd.tasks t on t.task_id = w.awaited_task_id
  where w.awaited_task_id = any (p_task_ids) and w.kind = 'task' and t.outcome is not null
  having count(*) > 0;
end $$;

-- How a task ended, in the form that await_task() records: {"task_id", "state", "result", "failure"}. Null while it lives.
create or replace function absurd.task_outcome(p_task_id uuid) returns json
language sql stable as $$
  select json_build_object('task_id', t.task_id, 'state', t.outcome, 'result', t.result, 'failure', a.failure)
  from absurd.tasks t
  left join absurd.attempts a on a.run_id = t.run_id
  where t.task_id = p_task_id and t.outcome is not null
$$;
