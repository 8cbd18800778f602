-- What time does to live rows, in bounded pieces and off the claim path: expired leases, deadlines, dead workers, events that an
-- emit could not deliver itself, clients that went away. Any worker may call it; one at a time does it, the others return at once.
-- p_settling: the database may have been away. Whoever could not renew anything meanwhile has time to come back, and only deadlines and
-- events are looked after.
-- swept_until: no lease and no deadline that ended before it is left, for p_after of the next sweep, which then begins a second before
-- that place: they are not committed in the order of their times. While somebody holds an old snapshot, runs that have ended stay in
-- the indexes as dead entries, and a sweep without p_after walks past all of them; a caller has to make one now and then, for what
-- was committed long after the time in it.
create or replace function absurd.sweep(
  p_limit integer default 200, p_settling boolean default false, p_after timestamptz default null)
returns table (
  leases_expired integer, deadlines_passed integer, worker_runs_ended integer, events_delivered integer, swept_until timestamptz)
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_from timestamptz := p_after - interval '1 second';
  v_leases integer;
  v_deadlines integer;
  v_workers integer;
begin
  p_limit := greatest(coalesce(p_limit, 200), 0);
  if not pg_try_advisory_xact_lock(hashtextextended('absurd sweep', 0)) then
    return query select 0, 0, 0, 0, p_after;
    return;
  end if;
  if p_settling then
    return query select 0, absurd.expire_deadlines(p_limit, v_from), 0, absurd.deliver_late(p_limit), p_after;
    return;
  end if;
  delete from absurd.waits w where w.wait_id in (
    select c.wait_id from absurd.waits c where c.kind = 'client' and c.expires_at < v_now for update skip locked);
  perform absurd.forget_listeners();
  v_leases := absurd.expire_leases(p_limit, v_from);
  v_deadlines := absurd.expire_deadlines(p_limit, v_from);
  v_workers := absurd.reap_workers(p_limit);
  return query select v_leases, v_deadlines, v_workers, absurd.deliver_late(p_limit),
    coalesce(absurd.first_overdue(v_now, v_from) - interval '1 microsecond', v_now);
end $$;

-- The first lease or deadline that ended up to a moment, and that a sweep has left: there was more than it may end at once, or somebody
-- has locked it. Null if there is none.
create or replace function absurd.first_overdue(p_now timestamptz, p_after timestamptz) returns timestamptz
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
begin
  return least(
    (select r.lease_expires_at from absurd.runs r
     where r.state = 'running' and r.lease_expires_at <= p_now and r.lease_expires_at >= coalesce(p_after, '-infinity')
     order by r.lease_expires_at limit 1),
    (select r.deadline_at from absurd.runs r
     where r.deadline_at <= p_now and r.deadline_at >= coalesce(p_after, '-infinity')
     order by r.deadline_at limit 1));
end $$;

-- Ends attempts for the sweep, whose caller has locked them; returns how many. The end of a task wakes those who wait for it, so it
-- needs their rows too; where somebody holds one for long, that task alone is left to a later sweep.
create or replace function absurd.end_swept(p_run_ids uuid[], p_causes text[], p_failures json[]) returns integer
language plpgsql volatile
set lock_timeout = '200ms'
as $$
declare
  v_count integer := 0;
begin
  begin
    perform absurd.end_attempts(p_run_ids, p_causes, p_failures);
    return cardinality(p_run_ids);
  exception when lock_not_available then
    perform set_config('lock_timeout', '10ms', true);
  end;
  for i in 1 .. cardinality(p_run_ids) loop
    begin
      perform absurd.end_attempts(array[p_run_ids[i]], array[p_causes[i]], array[p_failures[i]]);
      v_count := v_count + 1;
    exception when lock_not_available then
      null;
    end;
  end loop;
  return v_count;
end $$;

-- Ends attempts whose lease has run out, after a given moment only if there is one: see sweep().
create or replace function absurd.expire_leases(p_limit integer default 200, p_after timestamptz default null) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run_ids uuid[] := array(
    select e.run_id from (
      select r.run_id from absurd.runs r
      where r.state = 'running' and r.lease_expires_at <= v_now and r.lease_expires_at >= coalesce(p_after, '-infinity')
      order by r.lease_expires_at limit p_limit
      for update skip locked) e);
begin
  if cardinality(v_run_ids) > 0 then
    return absurd.end_swept(v_run_ids, array_fill('lease'::text, array[cardinality(v_run_ids)]), array(
      select json_build_object('name', '$ClaimTimeout', 'message', format('worker %s did not renew the lease that ran out at %s',
        coalesce(r.worker_id, '(unknown)'), r.lease_expires_at))
      from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord));
  end if;
  return 0;
end $$;

-- Cancels tasks that were not started within max_delay or have used up max_duration, after a given moment only if there is one: see sweep().
create or replace function absurd.expire_deadlines(p_limit integer default 200, p_after timestamptz default null) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run_ids uuid[] := array(
    select e.run_id from (
      select r.run_id from absurd.runs r
      where r.deadline_at <= v_now and r.deadline_at >= coalesce(p_after, '-infinity')
      order by r.deadline_at limit p_limit
      for update skip locked) e);
begin
  if cardinality(v_run_ids) > 0 then
    return absurd.end_swept(v_run_ids,
      array(select case when r.state = 'running' then 'duration' else 'delay' end
        from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord),
      array(select json_build_object('name', '$Cancelled', 'message',
          case when r.state = 'running' then 'the task has used up its max_duration' else 'the task was not started within its max_delay' end)
        from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord));
  end if;
  return 0;
end $$;

-- Delivers events whose emit could not see the waits of others (REPEATABLE READ and above), name by name, and those of one name in
-- their order. A name for which somebody holds a row for long is left to a later call: neither the sweep nor a claim waits for it.
create or replace function absurd.deliver_late(p_limit integer default 200) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
set lock_timeout = '200ms'
as $$
declare
  v_name record;
  v_count integer := 0;
begin
  for v_name in
    select f.queue_name, f.event_name, count(*)::integer as n
    from (select e.seq, e.queue_name, e.event_name from absurd.events e where not e.delivered order by e.seq limit p_limit) f
    group by f.queue_name, f.event_name
    order by min(f.seq)
  loop
    begin
      -- The name first: whoever had its events without it could not be passed by an emit, which has to deliver them before its own.
      if absurd.try_lock_emit(v_name.queue_name, v_name.event_name) then
        v_count := v_count + absurd.deliver_undelivered(v_name.queue_name, v_name.event_name, v_name.n);
      end if;
    exception when lock_not_available then
      perform set_config('lock_timeout', '10ms', true);
    end;
  end loop;
  return v_count;
end $$;
