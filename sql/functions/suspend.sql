-- Looks for what a wait asks for: {"step", "queue", "event", "since"}, {"step", "task"} or {"step", "token"}.
-- status: found, absent; busy: somebody is deciding on it at this moment, ask again; no_queue, no_task, no_token.
-- Of a token of its own task nobody else decides: the caller holds the run.
-- It never waits for a lock: an emit in a long transaction elsewhere holds up this wait alone.
create or replace function absurd.find_arrival(p_wait json)
returns table (status text, kind text, state json, event_seq bigint)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_event absurd.events;
  v_outcome text;
  v_queue text;
begin
  if p_wait ->> 'task' is not null then
    select t.outcome, t.queue_name into v_outcome, v_queue from absurd.tasks t where t.task_id = (p_wait ->> 'task')::uuid for share skip locked;
    if not found then
      return query select case when exists (select from absurd.tasks t where t.task_id = (p_wait ->> 'task')::uuid)
        then 'busy' else 'no_task' end, 'task', null::json, null::bigint;
    -- The lock of the queue: a drop_queue that has begun would not see this wait and never wake it.
    elsif not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(v_queue)) then
      return query select 'busy', 'task', null::json, null::bigint;
    elsif v_outcome is null then
      return query select 'absent', 'task', null::json, null::bigint;
    else
      return query select 'found', 'task', absurd.task_outcome((p_wait ->> 'task')::uuid), null::bigint;
    end if;
    return;
  end if;
  if p_wait ->> 'token' is not null then
    return query select case when k.used_at is null then 'absent' else 'found' end, 'token', k.payload, null::bigint
      from absurd.tokens k where k.token_id = (p_wait ->> 'token')::uuid;
    if not found then
      return query select 'no_token', 'token', null::json, null::bigint;
    end if;
    return;
  end if;
  if not exists (select from absurd.queues q where q.queue_name = p_wait ->> 'queue') then
    return query select 'no_queue', 'event', null::json, null::bigint;
    return;
  elsif not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(p_wait ->> 'queue'))
      or not pg_try_advisory_xact_lock_shared(absurd.event_lock_key(p_wait ->> 'queue', p_wait ->> 'event')) then
    return query select 'busy', 'event', null::json, null::bigint;
    return;
  end if;
  select * into v_event from absurd.events e
  where e.queue_name = p_wait ->> 'queue' and e.event_name = p_wait ->> 'event' and e.seq > coalesce((p_wait ->> 'since')::bigint, 0)
  order by e.seq limit 1;
  if not found then
    return query select 'absent', 'event', null::json, null::bigint;
    return;
  end if;
  if v_event.claimed_at is null then
    -- skip locked: whoever holds the row is marking it too
    update absurd.events e set claimed_at = absurd.current_time()
    where e.seq = (select f.seq from absurd.events f where f.seq = v_event.seq and f.claimed_at is null for update skip locked);
  end if;
  return query select 'found', 'event', coalesce(v_event.payload, 'null'), v_event.seq;
end $$;

-- Decides waits of running tasks that can be decided at once. needed: how many of the waits have to arrive (1 = any).
-- status: ok and arrivals [[step_name, position, kind, state, event_seq], …], now checkpoints of the task; waiting: nothing was written,
-- suspend the run; busy: ask again; lost, cancelled, no_queue, no_task, no_token.
create or replace function absurd.check_waits(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_positions integer[], p_needed integer[], p_waits json[])
returns table (status text, arrivals text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
  v_arrivals absurd.arrival[];
  v_decided text;
begin
  for i in 1 .. cardinality(p_run_ids) loop
    v_arrivals := null;
    if v_status[i] = 'ok' then
      select coalesce(min(f.problem), case when count(*) filter (where f.status = 'found') >= p_needed[i] then 'ok' else 'waiting' end),
        array_agg((f.step_name, f.kind, f.state, f.event_seq)::absurd.arrival order by f.ord)
          filter (where f.status = 'found' and f.found_before < p_needed[i])
      into v_decided, v_arrivals
      from (
        select w.ord, w.value ->> 'step' as step_name, a.status, a.kind, a.state, a.event_seq,
          case when a.status not in ('found', 'absent') then a.status end as problem,
          count(*) filter (where a.status = 'found') over (order by w.ord rows between unbounded preceding and 1 preceding) as found_before
        from json_array_elements(p_waits[i]) with ordinality as w(value, ord)
        cross join lateral absurd.find_arrival(w.value) a
      ) f;
      v_status[i] := v_decided;
    end if;
    if v_status[i] = 'ok' then
      perform absurd.record_arrivals(p_task_ids[i], p_run_ids[i], p_positions[i], v_arrivals);
      return query
        select 'ok', json_agg(json_build_array(a.step_name, p_positions[i], a.kind, a.state, a.event_seq) order by a.ord)::text
        from unnest(v_arrivals) with ordinality as a(step_name, kind, state, event_seq, ord);
    else
      return query select v_status[i], null::text;
    end if;
  end loop;
end $$;

-- Writes arrivals as checkpoints.
create or replace function absurd.record_arrivals(p_task_id uuid, p_run_id uuid, p_position integer, p_arrivals absurd.arrival[]) returns void
language sql volatile as $$
  insert into absurd.checkpoints (task_id, step_name, position, kind, state, event_seq, owner_run_id, completed_at)
  select p_task_id, a.step_name, p_position, a.kind, a.state, a.event_seq, p_run_id, absurd.current_time()
  from unnest(p_arrivals) as a
  on conflict (task_id, step_name) do nothing
$$;

-- Puts running tasks to sleep until their time or their arrivals, whichever is first; what arrived meanwhile counts, and a run with
-- nothing left to wait for is ready again at once. A sleep is a suspension with a time and no waits.
-- timer_steps, timer_kinds: the checkpoint to write when the time passes, and its kind: sleep or timeout.
-- One status per item: ok; busy: ask again; lost, cancelled, no_queue, no_task, no_token. Repeated after a lost answer it says ok again.
create or replace function absurd.suspend_runs(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_positions integer[], p_needed integer[], p_waits json[],
  p_wake_ats timestamptz[], p_timeouts double precision[], p_timer_steps text[], p_timer_kinds text[])
returns text[]
language plpgsql volatile as $$
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  for i in 1 .. cardinality(p_run_ids) loop
    if v_status[i] = 'ok' then
      v_status[i] := absurd.suspend_run(p_task_ids[i], p_run_ids[i], p_positions[i], p_needed[i], p_waits[i],
        -- the earlier of the two that are given
        least(p_wake_ats[i], absurd.current_time() + make_interval(secs => p_timeouts[i])), p_timer_steps[i], p_timer_kinds[i]);
    elsif v_status[i] = 'lost' and exists (
        select from absurd.runs r where r.run_id = p_run_ids[i] and r.epoch = p_epochs[i] and r.state <> 'running') then
      v_status[i] := 'ok';
    end if;
  end loop;
  return v_status;
end $$;

-- Puts one run, which the caller has locked, to sleep.
create or replace function absurd.suspend_run(
  p_task_id uuid, p_run_id uuid, p_position integer, p_needed integer, p_waits json, p_wake_at timestamptz, p_timer_step text, p_timer_kind text)
returns text
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_wait record;
  v_arrival record;
  v_arrivals absurd.arrival[] := '{}'::absurd.arrival[];
  v_absent json[] := '{}'::json[];
  v_missing integer := coalesce(p_needed, 0);
begin
  for v_wait in select w.value from json_array_elements(coalesce(p_waits, '[]')) as w(value) loop
    exit when v_missing = 0;
    select * into v_arrival from absurd.find_arrival(v_wait.value);
    if v_arrival.status = 'found' then
      v_missing := v_missing - 1;
      v_arrivals := v_arrivals || (v_wait.value ->> 'step', v_arrival.kind, v_arrival.state, v_arrival.event_seq)::absurd.arrival;
    elsif v_arrival.status = 'absent' then
      v_absent := v_absent || v_wait.value;
    else
      return v_arrival.status;
    end if;
  end loop;
  if cardinality(v_arrivals) > 0 then
    perform absurd.record_arrivals(p_task_id, p_run_id, p_position, v_arrivals);
  end if;
  if p_needed > 0 and v_missing = 0 then
    perform absurd.put_back(p_run_id, 'pending', v_now, 0);
    return 'ok';
  end if;
  insert into absurd.waits
    (kind, run_id, task_id, step_name, position, queue_name, event_name, since_seq, awaited_task_id, detail, created_at)
  select case when w.value ->> 'task' is not null then 'task' when w.value ->> 'token' is not null then 'token' else 'event' end,
    p_run_id, p_task_id, w.value ->> 'step', p_position, coalesce(w.value ->> 'queue', r.queue_name), w.value ->> 'event',
    (w.value ->> 'since')::bigint, (w.value ->> 'task')::uuid, w.value ->> 'token', v_now
  from unnest(v_absent) as w(value), absurd.runs r
  where r.run_id = p_run_id;
  insert into absurd.waits (kind, run_id, task_id, step_name, position, queue_name, detail, created_at)
  select 'timer', p_run_id, p_task_id, p_timer_step, p_position, r.queue_name, p_timer_kind, v_now
  from absurd.runs r
  where r.run_id = p_run_id and p_wake_at is not null and p_timer_step is not null;
  -- A time that is over counts from now: looks for sleepers, and claims, have got past the old one.
  perform absurd.put_back(p_run_id, 'sleeping', case when p_wake_at < v_now then v_now else p_wake_at end, v_missing);
  return 'ok';
end $$;

-- Takes a run, which the caller has locked, out of its worker's hands. What is left of max_duration is kept for the next claim.
create or replace function absurd.put_back(
  p_run_id uuid, p_state text, p_available_at timestamptz, p_waits_left integer, p_note text default null)
returns void
language sql volatile as $$
  with changed as (
    update absurd.runs r
    set state = p_state, available_at = p_available_at, waits_left = p_waits_left, worker_id = null, lease_expires_at = null,
      wake_event = null, note = p_note,
      allowance = case when r.deadline_at is not null
          then greatest(extract(epoch from r.deadline_at) - extract(epoch from absurd.current_time()), 0)::double precision
        else r.allowance end,
      deadline_at = null
    where r.run_id = p_run_id
    returning r.queue_name, r.state
  )
  select absurd.notify_queues(array[c.queue_name]) from changed c where c.state = 'pending'
$$;
