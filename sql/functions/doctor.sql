-- What `absurdctl doctor` asks of our tables. Everything is bounded: a sick database is not made sicker.

-- Each queue: whether anybody may claim from it and does, and whether it grows without end. ended: how many of p_count tasks have
-- ended, where nothing limits them. untaken: how many of the p_count oldest events of all queues nobody has taken in 30 days.
create or replace function absurd.doctor_queues(p_count integer default 100000)
returns table (
  queue_name text, paused_at timestamptz, workers integer, oldest_ready_at timestamptz, keeps_tasks boolean, keeps_events boolean,
  cleaned_at timestamptz, ended integer, untaken integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
declare
  v_month timestamptz := absurd.current_time() - interval '30 days';
begin
  return query
    select q.queue_name, q.paused_at,
      (select count(*)::integer from absurd.list_workers() w where q.queue_name = any (w.queue_names) and not w.stale),
      absurd.oldest_ready(q.queue_name),
      absurd.limits_tasks(t) is not true, t.keep_events is null, t.cleaned_at,
      case when absurd.limits_tasks(t) then 0 else (
        select count(*)::integer from (
          select d.outcome from absurd.tasks d where d.queue_name = q.queue_name limit p_count) c
        where c.outcome is not null) end,
      coalesce(u.untaken, 0)
    from absurd.queues q
    left join absurd.retention t on t.queue_name = q.queue_name
    left join (
      select c.queue_name, count(*)::integer as untaken
      from (select e.queue_name, e.claimed_at, e.emitted_at from absurd.events e order by e.seq limit p_count) c
      where c.claimed_at is null and c.emitted_at < v_month
      group by c.queue_name
    ) u on u.queue_name = q.queue_name
    order by q.queue_name;
end $$;

-- What should have happened and has not. what: lease (runs that nobody has ended though their lease is over), unknown_task (runs that no
-- worker can run), undelivered (events), schedule_late, schedule_problem, schedule_failing, trigger_late, trigger_failing,
-- subscription_failing, worker_stale, listener_stale. count: up to a thousand; since: of the oldest.
create or replace function absurd.doctor_work()
returns table (what text, queue_name text, name text, count integer, since timestamptz, detail text)
language plpgsql stable
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
begin
  return query
    select 'lease', null::text, null::text, count(*)::integer, min(l.lease_expires_at), null::text
    from (
      select r.lease_expires_at from absurd.runs r
      where r.state = 'running' and r.lease_expires_at < v_now - interval '15 seconds' order by r.lease_expires_at limit 1000) l
    having count(*) > 0;
  return query
    select 'unknown_task', n.queue_name, t.task_name, count(*)::integer, min(t.spawned_at), min(n.note)
    from (select r.queue_name, r.task_id, r.note from absurd.runs r where r.note like 'no worker%' order by r.run_id limit 1000) n
    join absurd.tasks t on t.task_id = n.task_id
    group by n.queue_name, t.task_name order by n.queue_name, t.task_name;
  return query
    select 'undelivered', null::text, null::text, count(*)::integer, min(u.emitted_at), null::text
    from (
      select e.emitted_at from absurd.events e where not e.delivered and e.emitted_at < v_now - interval '1 minute' order by e.seq limit 1000) u
    having count(*) > 0;
  return query
    select
      case when s.problem is not null then 'schedule_problem' when s.due_at < v_now - interval '1 minute' then 'schedule_late'
        else 'schedule_failing' end,
      s.queue_name, s.schedule_name, 1, coalesce(s.due_at, s.last_error_at), coalesce(s.problem, s.last_error)
    from absurd.schedules s
    where s.paused_at is null and s.ended_at is null
      and (s.problem is not null or s.due_at < v_now - interval '1 minute' or s.last_error_at > coalesce(s.last_fired_at, '-infinity'))
    order by s.schedule_name limit 100;
  return query
    select case when t.failures >= 3 then 'trigger_failing' else 'trigger_late' end, t.queue_name, t.trigger_name, t.failures,
      case when t.failures >= 3 then t.last_error_at else t.next_poll_at end, case when t.failures >= 3 then t.last_error else t.owner end
    from absurd.triggers t
    where t.enabled and (t.failures >= 3 or t.next_poll_at < v_now - interval '1 minute' - absurd.stored_seconds(t.poll_timeout))
    order by t.trigger_name limit 100;
  return query
    select 'subscription_failing', s.queue_name, s.task_name, 1, s.last_error_at, s.last_error
    from absurd.subscriptions s
    where s.last_error_at > v_now - interval '1 day'
    order by s.queue_name, s.subscription_id limit 100;
  return query
    select 'worker_stale', array_to_string(w.queue_names, ', '), w.worker_id, w.running, w.heartbeat_at, w.hostname
    from absurd.list_workers() w
    where w.stale limit 100;
  return query
    select 'listener_stale', l.queue_name, l.name, 1, l.heartbeat_at, l.hostname
    from absurd.listeners l
    where l.heartbeat_at < v_now - interval '1 minute' order by l.name limit 100;
end $$;
