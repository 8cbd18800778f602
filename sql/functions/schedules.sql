-- What is wrong with the cron expression of a schedule as far as SQL can tell, or null. Schedulers read it whole.
create or replace function absurd.cron_error(p_cron text) returns text
language sql immutable parallel safe as $$
  select case
    when length(p_cron) > 500 then format('cron "%s…" has %s characters; the limit is 500', left(p_cron, 40), length(p_cron))
    when btrim(p_cron) ~* '^@(hourly|daily|midnight|weekly|monthly|yearly|annually)$' then null
    when btrim(p_cron) ~ '^@' then format('cron "%s" is not known; known are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually', left(p_cron, 100))
    when cardinality(regexp_split_to_array(btrim(p_cron), E'\\s+')) not in (5, 6) then
      format('cron "%s" has %s field(s); it takes 5 (minute hour day month weekday), or 6 with seconds first', left(p_cron, 100),
        case when btrim(p_cron) = '' then 0 else cardinality(regexp_split_to_array(btrim(p_cron), E'\\s+')) end)
    when p_cron !~* E'^[0-9a-z*/,\\s-]+$' then
      format('cron "%s" holds "%s"; fields take numbers, names, and * / , -', left(p_cron, 100), substring(p_cron from E'[^0-9A-Za-z*/,\\s-]'))
  end
$$;

-- What is wrong with the options of the tasks of a schedule, or null.
create or replace function absurd.schedule_options_error(p_options jsonb) returns text
language sql stable as $$
  select coalesce(
    absurd.object_error('options', p_options, array['headers', 'retry_strategy', 'max_attempts', 'cancellation', 'priority', 'delay']),
    (absurd.read_spawn_options(p_options)).error,
    absurd.kept_headers_error((p_options -> 'headers')::json))
$$;

-- What is wrong with the definition of a schedule, or null.
create or replace function absurd.schedule_error(p_name text, p_definition jsonb, p_params json) returns text
language plpgsql stable as $$
declare
  v_error text := coalesce(
    absurd.name_error('schedule name', p_name),
    case when octet_length(p_name) > 900 then format('schedule name "%s…" has %s bytes; the limit is 900', left(p_name, 40), octet_length(p_name)) end,
    case when p_definition is null or jsonb_typeof(p_definition) <> 'object' then 'the definition of a schedule must be an object' end,
    absurd.object_error('a schedule', p_definition, array['task', 'event', 'cron', 'every', 'timezone', 'params', 'starts_at', 'ends_at',
      'jitter', 'catchup', 'catchup_limit', 'overlap', 'run_immediately', 'options']));
  v_key text;
begin
  if v_error is not null then
    return format('schedule "%s": %s', left(p_name, 100), v_error);
  end if;
  p_definition := jsonb_strip_nulls(p_definition);
  select format('%s must be a string, not %s', d.key, left(d.value::text, 100)) into v_error
  from jsonb_each(p_definition) d
  where d.key in ('task', 'event', 'cron', 'timezone', 'starts_at', 'ends_at', 'catchup', 'overlap') and jsonb_typeof(d.value) <> 'string'
  limit 1;
  v_error := coalesce(
    v_error,
    case when (p_definition ? 'task') = (p_definition ? 'event') then 'give a task or an event, one of them' end,
    case when (p_definition ? 'cron') = (p_definition ? 'every') then 'give cron or every, one of them' end,
    case when p_definition ? 'task' then absurd.name_error('task name', p_definition ->> 'task') end,
    case when p_definition ? 'event' then absurd.name_error('event name', p_definition ->> 'event') end,
    absurd.cron_error(p_definition ->> 'cron'),
    absurd.number_error('every', p_definition -> 'every', 1, 315360000),
    case when p_definition ? 'timezone' and p_definition ->> 'timezone' <> 'UTC'
        and not exists (select from pg_timezone_names z where z.name = p_definition ->> 'timezone') then
      format('timezone "%s" is not known; give an IANA name such as Europe/Vienna', left(p_definition ->> 'timezone', 100)) end,
    absurd.number_error('jitter', p_definition -> 'jitter', 0, 3600),
    case when coalesce(p_definition ->> 'catchup', 'skip') not in ('skip', 'one', 'all') then
      format('catchup must be skip, one or all, not "%s"', left(p_definition ->> 'catchup', 100)) end,
    absurd.number_error('catchup_limit', p_definition -> 'catchup_limit', 1, 1000, true),
    case when coalesce(p_definition ->> 'overlap', 'allow') not in ('allow', 'skip') then
      format('overlap must be allow or skip, not "%s"', left(p_definition ->> 'overlap', 100)) end,
    case when jsonb_typeof(p_definition -> 'run_immediately') <> 'boolean' then 'run_immediately must be true or false' end,
    absurd.schedule_options_error(p_definition -> 'options'),
    case when p_definition ? 'event' and coalesce(p_definition -> 'options', '{}') <> '{}' then
      'an event takes no options; give them to its subscriptions' end,
    case when p_definition ? 'event' and p_definition ->> 'overlap' = 'skip' then
      'overlap skip is for a schedule that starts a task; an event is over when it is emitted' end,
    case when p_definition ? 'event' and json_typeof(p_params) not in ('object', 'null') then
      'the params of a schedule that emits an event must be an object' end);
  if v_error is null then
    begin
      perform p_params::jsonb;
      v_error := coalesce(v_error, absurd.json_error('the params', p_params), absurd.json_error('the options', p_definition::json));
      foreach v_key in array array['starts_at', 'ends_at'] loop
        if (p_definition ->> v_key)::timestamptz not between '1970-01-01' and '9000-01-01' then
          v_error := format('%s must lie between 1970 and 9000, not %s', v_key, p_definition ->> v_key);
        end if;
      end loop;
      if (p_definition ->> 'ends_at')::timestamptz <= (p_definition ->> 'starts_at')::timestamptz then
        v_error := 'ends_at must be after starts_at';
      end if;
    exception when data_exception then
      v_error := sqlerrm;
    end;
  end if;
  return 'schedule "' || left(p_name, 100) || '": ' || v_error;
end $$;

-- The row that a definition makes, new and from now on. Raises for what cannot be stored.
create or replace function absurd.read_schedule(p_name text, p_queue_name text, p_definition jsonb, p_params json, p_declared_by text)
returns absurd.schedules
language plpgsql stable as $$
declare
  v_now timestamptz := absurd.current_time();
  v_params json := coalesce(p_params, (p_definition -> 'params')::json, 'null');
  v_error text := absurd.schedule_error(p_name, p_definition, v_params);
  v absurd.schedules;
begin
  if v_error is not null then
    raise exception '%', v_error using errcode = 'AB012';
  end if;
  perform absurd.require_queue(p_queue_name);
  perform absurd.require_size(p_queue_name, format('params of schedule "%s"', p_name), v_params);
  v.schedule_name := p_name;
  v.queue_name := p_queue_name;
  v.task_name := p_definition ->> 'task';
  v.event_name := p_definition ->> 'event';
  v.cron := p_definition ->> 'cron';
  v.interval_seconds := absurd.option_number(p_definition -> 'every');
  v.timezone := coalesce(p_definition ->> 'timezone', 'UTC');
  v.params := v_params;
  v.options := coalesce(nullif(p_definition -> 'options', 'null'), '{}');
  v.starts_at := (p_definition ->> 'starts_at')::timestamptz;
  v.ends_at := (p_definition ->> 'ends_at')::timestamptz;
  v.jitter_seconds := coalesce(absurd.option_number(p_definition -> 'jitter'), 0);
  v.catchup := coalesce(p_definition ->> 'catchup', 'skip');
  v.catchup_limit := coalesce((p_definition ->> 'catchup_limit')::numeric, 100);
  v.overlap := coalesce(p_definition ->> 'overlap', 'allow');
  v.run_immediately := coalesce((p_definition ->> 'run_immediately')::boolean, v.interval_seconds is not null);
  v.declared_by := p_declared_by;
  v.anchor_at := coalesce(v.starts_at, v_now);
  v.plan_after := case when v.starts_at > v_now then v.starts_at - interval '1 microsecond' else v_now end;
  if v.run_immediately and greatest(v.starts_at, v_now) < coalesce(v.ends_at, 'infinity') then
    v.next_slot := greatest(v.starts_at, v_now);
    v.due_at := v.next_slot;
  end if;
  v.active_task_ids := '{}';
  v.fired_count := 0;
  v.revision := 1;
  v.created_at := v_now;
  v.updated_at := v_now;
  return v;
end $$;

-- What two rows say differently, by the names of columns: when they fire, or all that people decide.
create or replace function absurd.schedule_changes(p_old absurd.schedules, p_new absurd.schedules, p_timing_only boolean) returns text[]
language sql stable as $$
  select array(
    select f.name from unnest(
      array['cron', 'interval_seconds', 'timezone', 'starts_at', 'ends_at', 'jitter_seconds', 'run_immediately']
      || case when p_timing_only then '{}'
        else array['queue_name', 'task_name', 'event_name', 'params', 'options', 'catchup', 'catchup_limit', 'overlap'] end) as f(name)
    where to_jsonb(p_old) -> f.name is distinct from to_jsonb(p_new) -> f.name)
$$;

-- Tells schedulers that something has changed.
create or replace function absurd.notify_schedulers(p_schedule_name text) returns void
language sql volatile as $$
  select pg_notify('absurd_schedules', p_schedule_name)
$$;

-- Makes a schedule: created, unchanged (it was there, just so) or changed (with p_replace). The definition is an object:
--   task or event; cron or every (seconds); timezone, params, starts_at, ends_at, jitter (seconds), catchup (skip, one, all),
--   catchup_limit, overlap (allow, skip), run_immediately, options (of the tasks: headers, retry_strategy, max_attempts, cancellation,
--   priority, delay).
-- One that changes when it fires begins anew, now; otherwise its next slot stays. A paused one stays paused.
-- Locks: the queue, shared, against drop_queue; then the row. Of two that make the same one at once the second finds the first's.
create or replace function absurd.create_schedule(
  p_schedule_name text, p_queue_name text, p_definition jsonb, p_params json default null, p_replace boolean default false,
  p_declared_by text default null)
returns table (change text, schedule absurd.schedules)
language plpgsql volatile as $$
declare
  v_new absurd.schedules;
  v_old absurd.schedules;
  v_changes text[];
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  v_new := absurd.read_schedule(p_schedule_name, p_queue_name, p_definition, p_params, p_declared_by);
  loop
    insert into absurd.schedules select v_new.* on conflict (schedule_name) do nothing;
    if found then
      perform absurd.notify_schedulers(p_schedule_name);
      return query select 'created', v_new;
      return;
    end if;
    select * into v_old from absurd.schedules s where s.schedule_name = p_schedule_name for update;
    -- Deleted between the insert that met it and this look: again.
    exit when found;
  end loop;
  v_changes := absurd.schedule_changes(v_old, v_new, false);
  if v_changes = '{}' and (p_declared_by is null or p_declared_by = v_old.declared_by) then
    if p_declared_by is not null and v_old.undeclared_at is not null then
      update absurd.schedules s set undeclared_at = null where s.schedule_name = p_schedule_name returning * into v_old;
    end if;
    return query select 'unchanged', v_old;
    return;
  elsif p_declared_by is distinct from v_old.declared_by then
    raise exception 'schedule "%" was made %; change it there, delete it first, or take another name', p_schedule_name,
      coalesce('by the code of app "' || v_old.declared_by || '"', 'by hand') using errcode = 'AB021';
  elsif not coalesce(p_replace, false) then
    raise exception 'schedule "%" exists, but with another %', p_schedule_name, array_to_string(v_changes, ', ')
      using errcode = 'AB021', hint = 'Delete it first, or replace it (replace=True, --replace).';
  end if;
  return query select 'changed', absurd.change_schedule(v_old, v_new);
end $$;

-- Writes the new definition over the old one. The caller has locked the row.
create or replace function absurd.change_schedule(p_old absurd.schedules, p_new absurd.schedules) returns absurd.schedules
language plpgsql volatile as $$
declare
  v_anew boolean := absurd.schedule_changes(p_old, p_new, true) <> '{}';
begin
  update absurd.schedules s
  set queue_name = p_new.queue_name, task_name = p_new.task_name, event_name = p_new.event_name, params = p_new.params,
    options = p_new.options, cron = p_new.cron, interval_seconds = p_new.interval_seconds, timezone = p_new.timezone,
    starts_at = p_new.starts_at, ends_at = p_new.ends_at, jitter_seconds = p_new.jitter_seconds, catchup = p_new.catchup,
    catchup_limit = p_new.catchup_limit, overlap = p_new.overlap, run_immediately = p_new.run_immediately, undeclared_at = null,
    anchor_at = case when v_anew then p_new.anchor_at else s.anchor_at end,
    plan_after = case when v_anew then p_new.plan_after else s.plan_after end,
    next_slot = case when v_anew then p_new.next_slot else s.next_slot end,
    due_at = case when v_anew then p_new.due_at else s.due_at end,
    ended_at = case when not v_anew then s.ended_at end,
    problem = case when not v_anew then s.problem end,
    revision = s.revision + 1, updated_at = p_new.updated_at
  where s.schedule_name = p_old.schedule_name
  returning * into p_old;
  perform absurd.notify_schedulers(p_old.schedule_name);
  return p_old;
end $$;

-- Brings the schedules of an app in line with what its code declares: one answer per declared one (created, changed, unchanged, refused)
-- and one for each that is no longer declared (undeclared). A bad one harms no other.
-- Locks: all queues, shared, then rows, both in order of name: many workers start at once.
create or replace function absurd.reconcile_schedules(
  p_owner text, p_names text[], p_queue_names text[], p_definitions jsonb[], p_params json[])
returns table (schedule_name text, change text, message text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_item record;
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(u.q))
  from (select distinct d.q from unnest(p_queue_names) as d(q) order by 1) u;
  for v_item in
    select u.name, u.queue_name, u.definition, u.params
    from unnest(p_names, p_queue_names, p_definitions, p_params) as u(name, queue_name, definition, params) order by u.name
  loop
    begin
      return query
        select v_item.name, c.change, null::text
        from absurd.create_schedule(v_item.name, v_item.queue_name, v_item.definition, v_item.params, true, p_owner) c;
    exception when sqlstate 'AB010' or sqlstate 'AB012' or sqlstate 'AB013' or sqlstate 'AB021' then
      return query select v_item.name, 'refused', sqlerrm;
    end;
  end loop;
  return query
    with gone as (
      select s.schedule_name from absurd.schedules s
      where s.declared_by = p_owner and s.schedule_name <> all (p_names)
      order by s.schedule_name for update
    )
    update absurd.schedules s set undeclared_at = coalesce(s.undeclared_at, absurd.current_time())
    from gone where s.schedule_name = gone.schedule_name
    returning s.schedule_name, 'undeclared', null::text;
end $$;

-- Schedules in order of name: all, or those of these names, or those that emit an event.
create or replace function absurd.list_schedules(p_schedule_names text[] default null, p_event_name text default null)
returns setof absurd.schedules
language sql stable as $$
  select * from absurd.schedules s
  where (p_schedule_names is null or s.schedule_name = any (p_schedule_names)) and (p_event_name is null or s.event_name = p_event_name)
  order by s.schedule_name
$$;

-- What a schedule is doing, in one word.
create or replace function absurd.schedule_status(p_schedule absurd.schedules) returns text
language sql immutable as $$
  select case
    when p_schedule.paused_at is not null then 'paused'
    when p_schedule.ended_at is not null then 'ended'
    when p_schedule.problem is not null then 'invalid'
    when p_schedule.undeclared_at is not null then 'undeclared'
    else 'active'
  end
$$;

-- Refuses a schedule that does not exist.
create or replace function absurd.require_schedule(p_schedule absurd.schedules, p_schedule_name text) returns void
language plpgsql immutable as $$
begin
  if p_schedule.schedule_name is null then
    raise exception 'there is no schedule "%"', left(p_schedule_name, 1000)
      using errcode = 'AB020', hint = 'absurdctl list-schedules shows all.';
  end if;
end $$;

-- Stops a schedule until resume_schedule. Nothing happens if it is paused.
create or replace function absurd.pause_schedule(p_schedule_name text) returns void
language plpgsql volatile as $$
declare
  v absurd.schedules;
begin
  select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update;
  perform absurd.require_schedule(v, p_schedule_name);
  if v.paused_at is null then
    update absurd.schedules s set paused_at = absurd.current_time(), revision = s.revision + 1 where s.schedule_name = p_schedule_name;
    perform absurd.notify_schedulers(p_schedule_name);
  end if;
end $$;

-- Lets a paused schedule go on with its next slot from now on; those of the pause are left out. Nothing happens if it is not paused.
create or replace function absurd.resume_schedule(p_schedule_name text) returns void
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v absurd.schedules;
begin
  select * into v from absurd.schedules s where s.schedule_name = p_schedule_name for update;
  perform absurd.require_schedule(v, p_schedule_name);
  if v.paused_at is not null then
    update absurd.schedules s
    set paused_at = null, revision = s.revision + 1, plan_after = greatest(s.plan_after, v_now),
      next_slot = case when s.next_slot > v_now then s.next_slot end, due_at = case when s.next_slot > v_now then s.due_at end
    where s.schedule_name = p_schedule_name;
    perform absurd.notify_schedulers(p_schedule_name);
  end if;
end $$;

-- Deletes a schedule; false if there was none. Its tasks stay.
create or replace function absurd.delete_schedule(p_schedule_name text) returns boolean
language plpgsql volatile as $$
begin
  delete from absurd.schedules s where s.schedule_name = p_schedule_name;
  if not found then
    return false;
  end if;
  perform absurd.notify_schedulers(p_schedule_name);
  return true;
end $$;
