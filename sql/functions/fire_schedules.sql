-- The moment of a slot as text, the same for everybody: part of idempotency keys.
create or replace function absurd.slot_text(p_slot timestamptz) returns text
language sql immutable parallel safe as $$
  select to_char(p_slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    || case when date_trunc('second', p_slot) <> p_slot then to_char(p_slot at time zone 'UTC', '.US') else '' end || 'Z'
$$;

-- Takes the locks that a firing needs, in their order: those of an emit, or the queue, shared; then the row. Null fields when there is no such
-- schedule. Without p_wait nothing is waited for: null fields too when somebody holds one of them, so that one schedule in a
-- long transaction holds up no other.
create or replace function absurd.lock_schedule(p_schedule_name text, p_wait boolean) returns absurd.schedules
language plpgsql volatile as $$
declare
  v_seen absurd.schedules;
  v absurd.schedules;
begin
  loop
    select * into v_seen from absurd.schedules s where s.schedule_name = p_schedule_name;
    if not found then
      return null;
    elsif p_wait then
      perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(v_seen.queue_name));
      if v_seen.event_name is not null then
        perform pg_advisory_xact_lock_shared(absurd.subscriptions_lock_key(v_seen.queue_name));
        perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(t.q))
        from absurd.target_queues(v_seen.queue_name, v_seen.event_name) as t(q);
        perform pg_advisory_xact_lock(absurd.event_lock_key(v_seen.queue_name, v_seen.event_name));
      end if;
      select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update;
    else
      if not (case when v_seen.event_name is null then pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(v_seen.queue_name))
          else absurd.try_lock_emit(v_seen.queue_name, v_seen.event_name) end) then
        return null;
      end if;
      select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update skip locked;
    end if;
    if not found then
      return null;
    end if;
    -- Moved to another queue or event before we had the row: the locks are the wrong ones.
    exit when (v.queue_name, v.event_name) is not distinct from (v_seen.queue_name, v_seen.event_name);
  end loop;
  return v;
end $$;

-- The payload of a schedule's event: its params with scheduled_at and, from the second run on, last_run. The order of keys is kept.
create or replace function absurd.schedule_payload(p_schedule absurd.schedules, p_slot timestamptz) returns json
language sql stable as $$
  select json_object_agg(e.key, e.value order by e.ord)
  from (
    select p.key, p.value, p.ord
    from json_each(case when json_typeof(p_schedule.params) = 'object' then p_schedule.params else '{}' end) with ordinality as p(key, value, ord)
    where p.key not in ('scheduled_at', 'last_run')
    union all
    select 'scheduled_at', to_json(absurd.slot_text(p_schedule.created_at)), 1e9
    union all
    select 'last_run', to_json(absurd.slot_text(p_slot)), 1e9 + 1 where p_schedule.last_slot is not null
  ) e
$$;

-- Does once what a schedule is for: one row per task that was spawned; for an event one per subscriber, without a task if there is none.
-- problem says why it could not be done. The caller has the locks of lock_schedule.
create or replace function absurd.run_schedule(p_schedule absurd.schedules, p_slot timestamptz, p_idempotency_key text)
returns table (task_id uuid, run_id uuid, event_seq bigint, created boolean, problem text)
language plpgsql volatile as $$
#variable_conflict use_column
begin
  if p_schedule.event_name is not null then
    return query
      select d.task_id, d.run_id, d.seq, d.created, null::text
      from absurd.dispatch_event(p_schedule.queue_name, p_schedule.event_name, absurd.schedule_payload(p_schedule, p_slot), p_idempotency_key,
        jsonb_build_object('kind', 'schedule', 'name', p_schedule.schedule_name, 'slot', absurd.slot_text(p_slot))) d;
  else
    return query
      select s.task_id, s.run_id, null::bigint, s.created, s.message
      from absurd.spawn_one(p_schedule.queue_name, absurd.make_id(), absurd.make_id(), p_schedule.task_name, p_schedule.params,
        absurd.with_source((p_schedule.options -> 'headers')::json, 'schedule', p_schedule.schedule_name,
          jsonb_build_object('slot', absurd.slot_text(p_slot))),
        p_schedule.options - 'headers', p_idempotency_key) s;
  end if;
end $$;

-- The key that makes a slot happen once, whoever asks for it: schedulers, a backfill, a schedule that was deleted and made again.
create or replace function absurd.slot_key(p_schedule_name text, p_slot timestamptz) returns text
language sql immutable parallel safe as $$
  select 'schedule:' || p_schedule_name || ':' || absurd.slot_text(p_slot)
$$;

-- Fires a schedule whose next slot, p_slot, is due: for each of p_slots (none, when all were missed for good), and moves it on to
-- p_next_slot (null: there is none, it ends). One transaction under the row's lock, and void unless p_revision and p_slot still stand:
-- however many schedulers there are, and wherever one dies, each slot fires once.
-- Status: fired, skipped (nothing was to be started), failed (the message says why; the slot is over all the same), early (not due by the
-- database's clock), stale (decided by others, changed, paused or gone), busy (somebody holds a lock; ask again).
create or replace function absurd.fire_schedule(
  p_schedule_name text, p_revision integer, p_slot timestamptz, p_slots timestamptz[], p_next_slot timestamptz, p_next_due timestamptz)
returns table (status text, message text)
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v absurd.schedules;
  v_outcome absurd.schedules;
begin
  -- A look without locks first: of many schedulers most come too late.
  select * into v from absurd.schedules s where s.schedule_name = p_schedule_name;
  if v.revision is distinct from p_revision or v.next_slot is distinct from p_slot or v.paused_at is not null then
    return query select 'stale', null::text;
    return;
  elsif v.due_at > v_now or exists (select from unnest(p_slots) as u(slot) where u.slot > v_now) then
    return query select 'early', null::text;
    return;
  end if;
  v := absurd.lock_schedule(p_schedule_name, false);
  if v.schedule_name is null then
    return query select 'busy', null::text;
    return;
  elsif v.revision <> p_revision or v.next_slot is distinct from p_slot or v.paused_at is not null then
    return query select 'stale', null::text;
    return;
  end if;
  v_outcome := absurd.run_slots(v, p_slots);
  update absurd.schedules s
  set next_slot = p_next_slot, due_at = p_next_due, ended_at = case when p_next_slot is null then v_now end, problem = null,
    last_slot = v_outcome.last_slot, last_task_id = v_outcome.last_task_id, active_task_ids = v_outcome.active_task_ids,
    fired_count = v_outcome.fired_count,
    last_fired_at = case when v_outcome.fired_count > v.fired_count then v_now else s.last_fired_at end,
    last_error = coalesce(v_outcome.problem, s.last_error),
    last_error_at = case when v_outcome.problem is not null then v_now else s.last_error_at end
  where s.schedule_name = p_schedule_name;
  return query select
    case when v_outcome.problem is not null then 'failed' when v_outcome.fired_count > v.fired_count then 'fired' else 'skipped' end,
    v_outcome.problem;
end $$;

-- Runs slots of a schedule, in order, all or none, and returns the row as it is afterwards; problem says what went wrong.
create or replace function absurd.run_slots(p_schedule absurd.schedules, p_slots timestamptz[]) returns absurd.schedules
language plpgsql volatile as $$
declare
  v absurd.schedules := p_schedule;
  v_slot timestamptz;
  v_item record;
begin
  v.problem := null;
  v.active_task_ids := array(
    select t.task_id from absurd.tasks t where t.task_id = any (v.active_task_ids) and t.outcome is null order by t.task_id);
  foreach v_slot in array p_slots loop
    continue when v.overlap = 'skip' and v.active_task_ids <> '{}';
    for v_item in select * from absurd.run_schedule(v, v_slot, absurd.slot_key(v.schedule_name, v_slot)) loop
      if v_item.problem is not null then
        raise exception '%', v_item.problem using errcode = 'AB012';
      end if;
      v.last_task_id := coalesce(v_item.task_id, v.last_task_id);
      if v.overlap = 'skip' and v_item.task_id is not null then
        v.active_task_ids := v.active_task_ids || v_item.task_id;
      end if;
    end loop;
    v.last_slot := v_slot;
    v.fired_count := v.fired_count + 1;
  end loop;
  return v;
exception
  -- A fault of the moment is no fault of the schedule: the whole firing is undone and asked for again.
  when deadlock_detected or serialization_failure or lock_not_available or insufficient_resources or operator_intervention
      or system_error or internal_error then
    raise;
  when others then
    p_schedule.problem := sqlerrm;
    return p_schedule;
end $$;

-- Writes down the first slot that a scheduler has computed for a schedule that has none (null: there is none, it ends), or why it
-- cannot. Void, and false, unless p_revision and p_slot (its next slot, null at first) still stand or while somebody holds the row.
create or replace function absurd.plan_schedule(
  p_schedule_name text, p_revision integer, p_slot timestamptz, p_next_slot timestamptz, p_next_due timestamptz, p_problem text)
returns boolean
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
begin
  perform from absurd.schedules s
  where s.schedule_name = p_schedule_name and s.revision = p_revision and s.next_slot is not distinct from p_slot and s.ended_at is null
  for update skip locked;
  if not found then
    return false;
  elsif p_problem is not null then
    update absurd.schedules s set problem = p_problem, last_error = p_problem, last_error_at = v_now
    where s.schedule_name = p_schedule_name and s.problem is distinct from p_problem;
  else
    update absurd.schedules s
    set next_slot = p_next_slot, due_at = p_next_due, problem = null, ended_at = case when p_next_slot is null then v_now end
    where s.schedule_name = p_schedule_name;
  end if;
  return true;
end $$;

-- Runs a schedule now, out of its turn, whatever its slots, pause and overlap say. One row per task that it spawned; for an event one
-- per subscriber, without a task if there is none. p_idempotency_key: of what it makes; whoever calls with it again is told of that.
create or replace function absurd.trigger_schedule(p_schedule_name text, p_idempotency_key text default null)
returns table (task_id uuid, run_id uuid, event_seq bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v absurd.schedules := absurd.lock_schedule(p_schedule_name, true);
  v_item record;
begin
  perform absurd.require_schedule(v, p_schedule_name);
  for v_item in select * from absurd.run_schedule(v, v_now, p_idempotency_key) loop
    if v_item.problem is not null then
      raise exception 'schedule "%": %', p_schedule_name, v_item.problem using errcode = 'AB012';
    end if;
    if v_item.created is not false then
      update absurd.schedules s
      set last_fired_at = v_now, last_task_id = coalesce(v_item.task_id, s.last_task_id),
        active_task_ids = case when s.overlap = 'skip' and v_item.task_id is not null then s.active_task_ids || v_item.task_id
          else s.active_task_ids end
      where s.schedule_name = p_schedule_name;
    end if;
    return query select v_item.task_id, v_item.run_id, v_item.event_seq;
  end loop;
end $$;

-- Runs past slots of a schedule, whatever its pause and overlap say; those that have been run are left out. How many were run.
-- The slots were computed for p_revision; a schedule that has changed meanwhile is refused.
create or replace function absurd.backfill_schedule(p_schedule_name text, p_revision integer, p_slots timestamptz[]) returns integer
language plpgsql volatile as $$
declare
  v absurd.schedules := absurd.lock_schedule(p_schedule_name, true);
  v_slot timestamptz;
  v_problem text;
  v_created boolean;
  v_count integer := 0;
  v_latest timestamptz := (select max(u.slot) from unnest(p_slots) as u(slot));
begin
  perform absurd.require_schedule(v, p_schedule_name);
  if v.revision <> p_revision then
    raise exception 'schedule "%" was changed meanwhile; nothing was run', p_schedule_name
      using errcode = 'AB021', hint = 'Repeat the call.';
  elsif v_latest > absurd.current_time() then
    raise exception 'schedule "%": a backfill runs past slots only, and % is not past; take an earlier end', p_schedule_name, v_latest
      using errcode = 'AB012';
  end if;
  for v_slot in select distinct u.slot from unnest(p_slots) as u(slot) order by 1 loop
    select max(r.problem), coalesce(bool_or(r.created), false) into v_problem, v_created
    from absurd.run_schedule(v, v_slot, absurd.slot_key(p_schedule_name, v_slot)) r;
    if v_problem is not null then
      raise exception 'schedule "%": %', p_schedule_name, v_problem using errcode = 'AB012';
    end if;
    v_count := v_count + v_created::integer;
  end loop;
  return v_count;
end $$;
