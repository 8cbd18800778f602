-- What is wrong with a trigger, or null: nothing is stored that a later poll would stumble over.
create or replace function absurd.trigger_problem(
  p_trigger_name text, p_task_name text, p_poll_interval double precision, p_poll_timeout double precision, p_headers json, p_options jsonb)
returns text
language sql stable as $$
  select coalesce(
    absurd.name_error('trigger name', p_trigger_name),
    absurd.name_error('task name', p_task_name),
    case when p_poll_interval is null or not p_poll_interval between 0.1 and 315360000 then
      format('poll_interval must be between 0.1 and 315360000 seconds, not %s', coalesce(p_poll_interval::text, 'null')) end,
    case when p_poll_timeout is null or not p_poll_timeout between 0.1 and 86400 then
      format('poll_timeout must be between 0.1 and 86400 seconds, not %s', coalesce(p_poll_timeout::text, 'null')) end,
    case when p_headers is not null and json_typeof(p_headers) <> 'object' then
      format('headers must be an object, not %s', left(p_headers::text, 100)) end,
    absurd.kept_headers_error(p_headers),
    absurd.object_error('options', p_options, array['retry_strategy', 'max_attempts', 'cancellation', 'priority']),
    (absurd.read_spawn_options(p_options)).error)
$$;

-- Makes a trigger known, or brings what is known of it up to date. What people decided (enabled), what it remembers and who polls it
-- stay. A name belongs to the app that declared it first: two that took turns at one row would start each other's tasks.
-- Locks: the queue's advisory lock, shared (against drop_queue), then the row.
create or replace function absurd.register_trigger(
  p_trigger_name text, p_queue_name text, p_task_name text, p_poll_interval double precision, p_poll_timeout double precision,
  p_allow_concurrent boolean, p_headers json default null, p_options jsonb default '{}', p_declared_by text default null)
returns void
language plpgsql volatile
set lock_timeout = '500ms'
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_problem text := absurd.trigger_problem(p_trigger_name, p_task_name, p_poll_interval, p_poll_timeout, p_headers, p_options);
  v_owner text;
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  perform absurd.require_queue(p_queue_name);
  insert into absurd.triggers as t (trigger_name, queue_name, task_name, declared_by, headers, options, poll_interval, poll_timeout,
    allow_concurrent, next_poll_at, created_at, updated_at)
  values (p_trigger_name, p_queue_name, p_task_name, p_declared_by, p_headers, coalesce(p_options, '{}'), p_poll_interval, p_poll_timeout,
    coalesce(p_allow_concurrent, false), v_now, v_now, v_now)
  on conflict (trigger_name) do update
  set queue_name = excluded.queue_name, task_name = excluded.task_name, headers = excluded.headers, options = excluded.options,
    poll_interval = excluded.poll_interval, poll_timeout = excluded.poll_timeout, allow_concurrent = excluded.allow_concurrent,
    -- a shorter interval counts at once
    next_poll_at = least(t.next_poll_at, v_now + make_interval(secs => excluded.poll_interval)),
    lease_expires_at = absurd.idle_lease(t, v_now + make_interval(secs => excluded.poll_interval)),
    updated_at = v_now
  where (t.queue_name, t.task_name, t.headers::text, t.options, t.poll_interval, t.poll_timeout, t.allow_concurrent)
    is distinct from (excluded.queue_name, excluded.task_name, excluded.headers::text, excluded.options, excluded.poll_interval,
      excluded.poll_timeout, excluded.allow_concurrent)
    and t.declared_by is not distinct from excluded.declared_by;
  select t.declared_by into v_owner from absurd.triggers t where t.trigger_name = p_trigger_name;
  if v_owner is distinct from p_declared_by then
    raise exception 'trigger "%" belongs to the app "%" on this database; give this one another name, or delete that one first',
      p_trigger_name, v_owner using errcode = 'AB012';
  end if;
end $$;

-- Which of these triggers have no row.
create or replace function absurd.missing_triggers(p_names text[]) returns setof text
language sql stable as $$
  select u.name from unnest(p_names) as u(name) where not exists (select from absurd.triggers t where t.trigger_name = u.name)
$$;

-- How long a process keeps a trigger without a sign of life: while it polls (it renews every second), and after a poll is due.
create or replace function absurd.trigger_lease() returns interval
language sql immutable parallel safe as $$
  select interval '5 seconds'
$$;

-- The lease of a trigger whose next poll is moved to p_next_poll_at, if that is sooner: a process that died would keep it until the
-- poll it had in mind. That of a poll in flight stays as it is.
create or replace function absurd.idle_lease(p_trigger absurd.triggers, p_next_poll_at timestamptz) returns timestamptz
language sql immutable as $$
  select case when p_trigger.poll_id is null then least(p_trigger.lease_expires_at, p_next_poll_at + absurd.trigger_lease())
    else p_trigger.lease_expires_at end
$$;

-- Renews the leases of the polls that a process has in flight, and gives it those of the named triggers that are due: enabled, and
-- free, its own, or left by a process that said nothing for the length of a lease. A trigger stays with its process between polls.
-- Rows that somebody has locked are passed over: nobody's open transaction holds up the other triggers.
create or replace function absurd.claim_trigger_polls(p_owner text, p_names text[], p_running uuid[] default '{}', p_limit integer default 100)
returns table (trigger_name text, poll_id uuid, state json, poll_timeout double precision)
language plpgsql volatile
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_names text[];
begin
  if cardinality(p_running) > 0 then
    v_names := array(select r.trigger_name from absurd.triggers r where r.poll_id = any (p_running) for update skip locked);
    update absurd.triggers t set lease_expires_at = v_now + absurd.trigger_lease() where t.trigger_name = any (v_names);
  end if;
  v_names := array(
    select d.trigger_name from absurd.triggers d
    where d.trigger_name = any (p_names) and d.enabled and d.next_poll_at <= v_now
      and (d.owner is null or d.owner = p_owner or d.lease_expires_at <= v_now)
    order by d.next_poll_at, d.trigger_name
    limit p_limit
    for update skip locked);
  return query
  update absurd.triggers t
  set owner = p_owner, poll_id = absurd.make_id(), lease_expires_at = v_now + absurd.trigger_lease(), last_poll_at = v_now
  where t.trigger_name = any (v_names)
  returning t.trigger_name, t.poll_id, t.state, t.poll_timeout;
end $$;

-- The params of a fired task: its context in the order given, and what fired when.
create or replace function absurd.trigger_params(p_context json, p_trigger_name text, p_at timestamptz) returns json
language sql stable as $$
  select json_object_agg(u.key, u.value order by u.ord) from (
    select e.key, e.value, e.ord from json_each(coalesce(p_context, '{}')) with ordinality as e(key, value, ord)
    union all
    values ('trigger_name', to_json(p_trigger_name), 1000000001),
      ('triggered_at', to_json(to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')), 1000000002)) u
$$;

-- Whether an execution of this trigger with this context is active. Those that have ended are marked, so that each is looked at once.
-- The tasks are locked against retry_task, which makes an execution active again; one that is being retried now counts as active.
create or replace function absurd.has_active_execution(p_trigger_name text, p_context_hash text) returns boolean
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  with ended as materialized (
    select t.task_id, t.finished_at from absurd.tasks t
    where t.outcome is not null and t.task_id in (
      select e.task_id from absurd.trigger_executions e
      where e.trigger_name = p_trigger_name and e.context_hash = p_context_hash and e.completed_at is null)
    for share skip locked
  )
  update absurd.trigger_executions e set completed_at = ended.finished_at
  from ended where e.task_id = ended.task_id and e.completed_at is null;
  return exists (
    select from absurd.trigger_executions e join absurd.tasks t on t.task_id = e.task_id
    where e.trigger_name = p_trigger_name and e.context_hash = p_context_hash and e.completed_at is null);
end $$;

-- Spawns the tasks of a poll's fires; one answer per fire: fired or skipped. Raises AB012 if a fire is refused: then none of them stays.
create or replace function absurd.fire_trigger(
  p_trigger absurd.triggers, p_now timestamptz, p_contexts json[], p_hashes text[], p_task_ids uuid[], p_run_ids uuid[])
returns text[]
language plpgsql volatile as $$
declare
  v_statuses text[] := '{}'::text[];
  v_headers json := absurd.with_source(p_trigger.headers, 'trigger', p_trigger.trigger_name);
  v_spawned record;
begin
  for i in 1 .. cardinality(p_task_ids) loop
    if not p_trigger.allow_concurrent and absurd.has_active_execution(p_trigger.trigger_name, p_hashes[i]) then
      v_statuses := v_statuses || 'skipped'::text;
      continue;
    end if;
    select s.status, s.message into v_spawned
    from absurd.spawn_one(p_trigger.queue_name, p_task_ids[i], p_run_ids[i], p_trigger.task_name,
      absurd.trigger_params(p_contexts[i], p_trigger.trigger_name, p_now), v_headers, p_trigger.options, null) s;
    if v_spawned.status <> 'ok' then
      raise exception '%', v_spawned.message using errcode = 'AB012';
    end if;
    insert into absurd.trigger_executions (trigger_name, context_hash, task_id, started_at)
    values (p_trigger.trigger_name, p_hashes[i], p_task_ids[i], p_now);
    v_statuses := v_statuses || 'fired'::text;
  end loop;
  return v_statuses;
end $$;

-- Ends a poll: spawns what it fired and keeps what it remembers, in one transaction, or notes its error; says when the next one is due.
-- status: ok; disabled (by people, meanwhile: nothing is fired or kept); refused (a fire was, or the state is too large; it counts as an error); lost (another
-- process has the trigger, or it is gone: nothing changes). fires: per fire fired, skipped, disabled or lost; repeated after a lost answer it
-- says the same. Locks: the queue's advisory lock, shared; the trigger's row; then what spawn_one takes.
create or replace function absurd.settle_trigger_poll(
  p_trigger_name text, p_poll_id uuid, p_contexts json[], p_hashes text[], p_task_ids uuid[], p_run_ids uuid[],
  p_state json default null, p_error text default null)
returns table (status text, fires text[], next_in double precision, message text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_trigger absurd.triggers;
  v_queue_name text;
  v_status text := 'ok';
  v_fires text[] := '{}'::text[];
  v_error text := p_error;
begin
  select t.queue_name into v_queue_name from absurd.triggers t where t.trigger_name = p_trigger_name;
  -- Again when a registration has moved the trigger between the look and the lock: the queue's lock comes before the row's.
  while v_queue_name is not null loop
    perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(v_queue_name));
    select * into v_trigger from absurd.triggers t where t.trigger_name = p_trigger_name and t.queue_name = v_queue_name for update;
    exit when found;
    select t.queue_name into v_queue_name from absurd.triggers t where t.trigger_name = p_trigger_name;
  end loop;
  if v_trigger.poll_id is distinct from p_poll_id or p_poll_id is null then
    return query select 'lost', array(
      select case when exists (select from absurd.trigger_executions e where e.task_id = u.task_id) then 'fired' else 'lost' end
      from unnest(p_task_ids) with ordinality as u(task_id, ord) order by u.ord), null::double precision, null::text;
    return;
  end if;
  v_now := absurd.current_time();
  if not v_trigger.enabled then
    v_status := 'disabled';
    v_fires := array_fill('disabled'::text, array[cardinality(p_task_ids)]);
  elsif v_error is null then
    begin
      perform absurd.require_size(v_trigger.queue_name, format('the state of trigger "%s"', v_trigger.trigger_name), p_state);
      v_fires := absurd.fire_trigger(v_trigger, v_now, p_contexts, p_hashes, p_task_ids, p_run_ids);
    exception when sqlstate 'AB012' or sqlstate 'AB013' then
      v_status := 'refused';
      v_error := sqlerrm;
    end;
  end if;
  update absurd.triggers t
  set poll_id = null,
    state = case when v_status = 'ok' and v_error is null then coalesce(p_state, t.state) else t.state end,
    last_fire_at = case when 'fired' = any (v_fires) then v_now else t.last_fire_at end,
    failures = case when v_error is not null then least(t.failures, 2147483646) + 1 else 0 end,
    last_error = v_error,
    last_error_at = case when v_error is not null then v_now else t.last_error_at end,
    next_poll_at = p.at,
    lease_expires_at = p.at + absurd.trigger_lease()
  from (
    select case when v_error is null then greatest(least(v_trigger.last_poll_at, v_now) + absurd.stored_seconds(v_trigger.poll_interval), v_now)
      -- the interval doubled with each failure in a row, up to five minutes; a longer interval stays
      else v_now + absurd.stored_seconds(greatest(v_trigger.poll_interval,
        least(least(v_trigger.poll_interval, 300) * 2 ^ least(greatest(v_trigger.failures, 0) + 1, 30), 300))) end as at) p
  where t.trigger_name = p_trigger_name;
  return query
  select v_status, v_fires, extract(epoch from t.next_poll_at - v_now)::double precision, v_error
  from absurd.triggers t where t.trigger_name = p_trigger_name;
end $$;

-- Lets go of the triggers of a process that stops: the next one need not wait for the leases.
create or replace function absurd.release_triggers(p_owner text) returns integer
language plpgsql volatile as $$
declare
  v_count integer;
begin
  update absurd.triggers t set owner = null, lease_expires_at = null, poll_id = null
  where t.trigger_name in (select r.trigger_name from absurd.triggers r where r.owner = p_owner for update skip locked);
  get diagnostics v_count = row_count;
  return v_count;
end $$;

-- The triggers, in order of name.
create or replace function absurd.list_triggers() returns setof absurd.triggers
language sql stable as $$
  select * from absurd.triggers t order by t.trigger_name
$$;

-- Lets a trigger be polled, or not. Once this has committed, a disabled trigger fires nothing, not even from a poll in flight.
create or replace function absurd.set_trigger_enabled(p_trigger_name text, p_enabled boolean) returns void
language plpgsql volatile as $$
begin
  update absurd.triggers t
  set enabled = p_enabled, updated_at = absurd.current_time(),
    next_poll_at = case when p_enabled then least(t.next_poll_at, absurd.current_time()) else t.next_poll_at end,
    lease_expires_at = case when p_enabled then absurd.idle_lease(t, absurd.current_time()) else t.lease_expires_at end
  where t.trigger_name = p_trigger_name and t.enabled <> p_enabled;
  if not found then
    perform absurd.require_trigger(p_trigger_name);
  end if;
end $$;

-- Refuses a trigger that does not exist.
create or replace function absurd.require_trigger(p_trigger_name text) returns void
language plpgsql stable as $$
begin
  if not exists (select from absurd.triggers t where t.trigger_name = p_trigger_name) then
    raise exception 'there is no trigger "%"', p_trigger_name
      using errcode = 'AB012', hint = 'absurdctl list-triggers shows those that a worker has registered.';
  end if;
end $$;

-- Deletes a trigger with its history; a process whose code still has it registers it again within a minute. False: there was none.
create or replace function absurd.delete_trigger(p_trigger_name text) returns boolean
language plpgsql volatile as $$
begin
  delete from absurd.triggers t where t.trigger_name = p_trigger_name;
  if not found then
    return false;
  end if;
  delete from absurd.trigger_executions e where e.trigger_name = p_trigger_name;
  return true;
end $$;

-- Executions of a trigger, the newest first; p_before, an execution_id, goes on behind a page. completed_at is null while one is active.
-- task_state is null when the task has been cleaned up.
create or replace function absurd.list_trigger_executions(p_trigger_name text, p_before bigint default null, p_limit integer default 50)
returns table (execution_id bigint, trigger_name text, context_hash text, task_id uuid, started_at timestamptz, completed_at timestamptz,
  task_state text)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  perform absurd.require_trigger(p_trigger_name);
  return query
  select e.execution_id, e.trigger_name, e.context_hash, e.task_id, e.started_at, coalesce(t.finished_at, e.completed_at),
    coalesce(t.outcome, r.state)
  from (
    select x.* from absurd.trigger_executions x
    where x.trigger_name = p_trigger_name and x.execution_id < coalesce(p_before, 9223372036854775807)
    order by x.trigger_name desc, x.execution_id desc
    limit least(greatest(p_limit, 0), 1000)) e
  left join absurd.tasks t on t.task_id = e.task_id
  left join absurd.runs r on r.task_id = e.task_id
  order by e.execution_id desc;
end $$;

-- Keeps when the executions of these tasks, which are about to be deleted, ended. Of each trigger the newest thousand executions stay;
-- older ones go once their task is gone.
create or replace function absurd.close_trigger_executions(p_task_ids uuid[]) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_names text[];
begin
  with closed as (
    update absurd.trigger_executions e set completed_at = t.finished_at
    from absurd.tasks t
    where t.task_id = any (p_task_ids) and e.task_id = t.task_id
    returning e.trigger_name
  )
  select array_agg(distinct c.trigger_name) into v_names from closed c;
  if v_names is null then
    return;
  end if;
  delete from absurd.trigger_executions e
  where e.execution_id in (
    select old.execution_id
    from unnest(v_names) as u(trigger_name)
    cross join lateral (
      select x.execution_id, x.task_id from absurd.trigger_executions x
      where x.trigger_name = u.trigger_name and x.completed_at is not null and x.execution_id < (
        select k.execution_id from absurd.trigger_executions k where k.trigger_name = u.trigger_name
        order by k.execution_id desc offset 999 limit 1)
      order by x.execution_id
      limit 2 * cardinality(p_task_ids)) old
    where old.task_id = any (p_task_ids) or not exists (select from absurd.tasks t where t.task_id = old.task_id));
end $$;

-- Makes the execution of a task that is tried again active again.
create or replace function absurd.reopen_trigger_execution(p_task_id uuid) returns void
language sql volatile as $$
  update absurd.trigger_executions e set completed_at = null where e.task_id = p_task_id and e.completed_at is not null
$$;

-- Deletes the triggers of a queue that is being dropped, with their history.
create or replace function absurd.drop_triggers(p_queue_name text) returns void
language plpgsql volatile as $$
declare
  v_names text[];
begin
  with gone as (
    delete from absurd.triggers t where t.queue_name = p_queue_name returning t.trigger_name
  )
  select array_agg(g.trigger_name) into v_names from gone g;
  delete from absurd.trigger_executions e where e.trigger_name = any (v_names);
end $$;

-- How many tasks of a queue are ready and wait for a worker, counted up to p_limit: as quick before ten million of them as before ten.
create or replace function absurd.count_ready(p_queue_name text, p_limit integer) returns integer
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  perform absurd.require_queue(p_queue_name);
  return (select count(*)::integer from (
    select from absurd.runs r where r.queue_name = p_queue_name and r.state = 'pending' limit greatest(p_limit, 0)) c);
end $$;
