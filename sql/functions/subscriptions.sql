-- The key of the advisory lock on the subscriptions of a queue. Every emit shares it to the end of its transaction; who changes them
-- takes it alone. So no emit is under way while they change: an event whose emit commits after a subscribe() reaches the subscriber,
-- and after an unsubscribe() nothing more is started.
create or replace function absurd.subscriptions_lock_key(p_queue_name text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd subscriptions ' || p_queue_name, 0)
$$;

-- Takes the subscriptions of a queue alone. Whoever waits for a lock holds up all that come after him, and an open transaction that has
-- emitted may last: so it waits for a tenth of a second at a time, and lets emits pass in between. After a second, and every five
-- from then on, it waits for as long as PostgreSQL takes to find a deadlock: the emitter may wait for a row of the caller's transaction,
-- and would not look for one again. Raises after the caller's own lock_timeout, if there is one.
create or replace function absurd.lock_subscriptions(p_queue_name text) returns void
language plpgsql volatile as $$
declare
  v_patience text := current_setting('lock_timeout');
  v_started timestamptz := clock_timestamp();
  v_rounds integer := 0;
begin
  loop
    begin
      perform set_config('lock_timeout', case when v_rounds % 25 = 5
        then extract(epoch from current_setting('deadlock_timeout')::interval + interval '0.1 seconds') * 1000 else 100 end::integer::text, true);
      perform pg_advisory_xact_lock(absurd.subscriptions_lock_key(p_queue_name));
      perform set_config('lock_timeout', v_patience, true);
      return;
    exception when lock_not_available then
      if v_patience::interval > interval '0' and clock_timestamp() - v_started >= v_patience::interval then
        raise;
      end if;
      perform pg_sleep(0.1);
      v_rounds := v_rounds + 1;
    end;
  end loop;
end $$;

-- What is wrong with a pattern, or null.
create or replace function absurd.pattern_error(p_pattern text) returns text
language sql immutable parallel safe as $$
  select coalesce(
    absurd.name_error('pattern', p_pattern),
    case when strpos(left(p_pattern, -1), '*') > 0 then format('pattern "%s" has a "*" before its end; '
      'a pattern is the name of an event, or the beginning of names with one "*" behind it', left(p_pattern, 100)) end)
$$;

-- Makes a task start whenever a fitting event is emitted, or changes how; the subscription as it is then. Said again with the same
-- values it changes nothing and waits for nobody. p_config, which keeps the order of its keys, wins over the option config.
-- Locks: the queue, shared; its subscriptions, alone: emits in open transactions are waited for.
create or replace function absurd.store_subscription(
  p_queue_name text, p_pattern text, p_task_name text, p_options jsonb default '{}', p_config json default null)
returns setof absurd.subscriptions
language plpgsql volatile as $$
declare
  v_given jsonb := coalesce(nullif(p_options, 'null'), '{}');
  v_options jsonb;
  v_config json;
  v_target text;
  v_problem text := coalesce(
    absurd.pattern_error(p_pattern), absurd.name_error('task name', p_task_name),
    absurd.object_error('options', v_given, array['config', 'target_queue', 'headers', 'retry_strategy', 'max_attempts', 'cancellation',
      'priority', 'delay']),
    case when jsonb_typeof(v_given -> 'target_queue') not in ('string', 'null') then
      format('target_queue must be the name of a queue, not %s', left((v_given -> 'target_queue')::text, 100)) end);
begin
  if v_problem is null then
    v_options := v_given - array['config', 'target_queue'];
    v_problem := coalesce((absurd.read_spawn_options(v_options)).error, absurd.kept_headers_error((v_options -> 'headers')::json));
  end if;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  v_target := v_given ->> 'target_queue';
  v_config := coalesce(p_config, (v_given -> 'config')::json);
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));
  perform absurd.require_queue(p_queue_name), absurd.confirm_queue(p_queue_name);
  if v_target is not null then
    perform absurd.require_queue(v_target);
  end if;
  perform absurd.require_size(p_queue_name, format('config of subscription "%s"', p_pattern), v_config);
  return query
    select s.* from absurd.subscriptions s
    where s.queue_name = p_queue_name and s.pattern = p_pattern and s.task_name = p_task_name
      and s.target_queue is not distinct from v_target and s.config::text is not distinct from v_config::text and s.options = v_options;
  if found then
    return;
  end if;
  perform absurd.lock_subscriptions(p_queue_name);
  return query
    insert into absurd.subscriptions as s (queue_name, pattern, task_name, target_queue, config, options, after_seq, created_at)
    values (p_queue_name, p_pattern, p_task_name, v_target, v_config, v_options,
      (select coalesce(max(e.seq), 0) from absurd.events e), absurd.current_time())
    on conflict (queue_name, pattern, task_name) do update
    set target_queue = excluded.target_queue, config = excluded.config, options = excluded.options, last_error = null, last_error_at = null
    returning s.*;
end $$;

-- Has a task started for each event from now on whose name is the pattern, or begins with it if it ends in *. The same again changes
-- nothing, other options replace the former. Returns the number of the subscription.
-- Options: config (any JSON), target_queue, headers, retry_strategy, max_attempts, cancellation, priority, delay.
create or replace function absurd.subscribe(p_queue_name text, p_pattern text, p_task_name text, p_options jsonb default '{}') returns bigint
language sql volatile as $$
  select s.subscription_id from absurd.store_subscription(p_queue_name, p_pattern, p_task_name, p_options) s
$$;

-- Ends a subscription; false if there is none. When it has returned and is committed, nothing more is started by it.
create or replace function absurd.unsubscribe(p_queue_name text, p_pattern text, p_task_name text) returns boolean
language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));
  perform absurd.require_queue(p_queue_name);
  if not exists (select from absurd.subscriptions s
    where s.queue_name = p_queue_name and s.pattern = p_pattern and s.task_name = p_task_name) then
    return false;
  end if;
  perform absurd.lock_subscriptions(p_queue_name);
  delete from absurd.subscriptions s where s.queue_name = p_queue_name and s.pattern = p_pattern and s.task_name = p_task_name;
  return found;
end $$;

-- Subscriptions in their order: all, those of a queue, those of one pattern.
create or replace function absurd.list_subscriptions(p_queue_name text default null, p_pattern text default null)
returns table (
  subscription_id bigint, queue_name text, pattern text, task_name text, target_queue text, config json, options jsonb,
  created_at timestamptz, last_error text, last_error_at timestamptz)
language sql stable as $$
  select s.subscription_id, s.queue_name, s.pattern, s.task_name, s.target_queue, s.config, s.options, s.created_at, s.last_error,
    s.last_error_at
  from absurd.subscriptions s
  where (p_queue_name is null or s.queue_name = p_queue_name) and (p_pattern is null or s.pattern = p_pattern)
  order by s.subscription_id
$$;

-- All patterns that fit an event: its name, and each beginning of it with a "*" behind; none of them twice. However long the name is:
-- a pattern has 1,000 bytes at most, its "*" among them.
create or replace function absurd.fitting_patterns(p_event_name text) returns setof text
language sql immutable parallel safe as $$
  select p_event_name where right(p_event_name, 1) <> '*'
  union all
  select left(p_event_name, n) || '*' from generate_series(0, least(length(p_event_name), 999)) as n
$$;

-- Who subscribes to an event, in no order: one probe of the index for each pattern that fits, however many subscriptions there are.
-- p_seq leaves out those who came after that event.
create or replace function absurd.find_subscribers(p_queue_name text, p_event_name text, p_seq bigint default null)
returns setof absurd.subscriptions
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  -- offset 0: a plan that was made while the table was empty would otherwise compare patterns with each of its rows
  return query
    select s.*
    from absurd.fitting_patterns(p_event_name) as f(pattern)
    cross join lateral (
      select i.* from absurd.subscriptions i where i.queue_name = p_queue_name and i.pattern = f.pattern offset 0) s
    where p_seq is null or s.after_seq < p_seq;
end $$;

-- The queues into which they put their tasks, other than the event's own.
create or replace function absurd.target_queues(p_queue_name text, p_event_name text) returns setof text
language sql stable as $$
  select distinct s.target_queue from absurd.find_subscribers(p_queue_name, p_event_name) s
  where s.target_queue <> p_queue_name
  order by s.target_queue
$$;

-- Takes the locks of an emit, those of record_event(), for workers, who never wait for them: false if one of them is taken.
-- Those that could be had stay.
create or replace function absurd.try_lock_emit(p_queue_name text, p_event_name text) returns boolean
language plpgsql volatile as $$
begin
  if not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name))
      or not pg_try_advisory_xact_lock_shared(absurd.subscriptions_lock_key(p_queue_name)) then
    return false;
  end if;
  if exists (select from absurd.subscriptions s where s.queue_name = p_queue_name) and exists (
    select from absurd.target_queues(p_queue_name, p_event_name) as t(q)
    where not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(t.q))) then
    return false;
  end if;
  return pg_try_advisory_xact_lock(absurd.event_lock_key(p_queue_name, p_event_name));
end $$;

-- Starts the tasks of an event's subscribers, in their order; returns how many. The caller holds the locks of an emit.
-- In pieces of about 16 MB and a thousand tasks, so that a large payload for many subscribers fits into memory.
create or replace function absurd.start_subscribers(p_event absurd.events) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_ids bigint[];
  v_started integer := 0;
begin
  for v_ids in
    select array_agg(m.subscription_id order by m.subscription_id)
    from (
      select s.subscription_id, div(sum(16384 + coalesce(octet_length(p_event.payload::text), 0) + coalesce(octet_length(s.config::text), 0))
        over (order by s.subscription_id), 16777216) as piece
      from absurd.find_subscribers(p_event.queue_name, p_event.event_name, p_event.seq) s
      -- A row marked undelivered by hand starts nothing a second time, and does not stop the sweep.
      where not exists (select from absurd.event_tasks t where t.seq = p_event.seq and t.subscription_id = s.subscription_id)
    ) m
    group by m.piece
    order by m.piece
  loop
    v_started := v_started + absurd.start_some_subscribers(p_event, v_ids);
  end loop;
  return v_started;
end $$;

-- Starts one piece of them. A subscriber whose task cannot be started is told so in its row; its neighbours are started.
create or replace function absurd.start_some_subscribers(p_event absurd.events, p_subscription_ids bigint[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_details jsonb := jsonb_build_object('event_name', p_event.event_name, 'event_seq', p_event.seq, 'event_queue', p_event.queue_name)
    || case when p_event.source is null then '{}' else jsonb_build_object('event_source', p_event.source) end;
  v_time text := to_char(p_event.emitted_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');
  v_queues text[];
  v_ids uuid[];
  v_run_ids uuid[];
  v_names text[];
  v_params json[];
  v_headers json[];
  v_options jsonb[];
  v_failed bigint[];
begin
  select array_agg(coalesce(s.target_queue, s.queue_name) order by u.ord), array_agg(absurd.make_id() order by u.ord),
    array_agg(absurd.make_id() order by u.ord), array_agg(s.task_name order by u.ord),
    array_agg(json_build_object('event_type', p_event.event_name, 'event_payload', p_event.payload, 'event_config', s.config,
      'event_time', v_time) order by u.ord),
    array_agg(absurd.with_source((s.options -> 'headers')::json, 'subscription', s.pattern, v_details) order by u.ord),
    array_agg(s.options order by u.ord)
  into v_queues, v_ids, v_run_ids, v_names, v_params, v_headers, v_options
  from unnest(p_subscription_ids) with ordinality as u(subscription_id, ord)
  -- offset 0: as in find_subscribers()
  cross join lateral (select i.* from absurd.subscriptions i where i.subscription_id = u.subscription_id offset 0) s;
  with answered as (
    insert into absurd.event_tasks (seq, subscription_id, task_name, task_id, run_id, status, message)
    select p_event.seq, p_subscription_ids[a.ord], v_names[a.ord], a.task_id, a.run_id, a.status, a.message
    from absurd.spawn_tasks(v_queues, v_ids, v_run_ids, v_names, v_params, v_headers, v_options,
      array_fill(null::text, array[cardinality(v_ids)])) with ordinality as a(task_id, run_id, attempt, created, status, message, ord)
    returning event_tasks.subscription_id, event_tasks.status
  )
  select array_agg(a.subscription_id) filter (where a.status <> 'ok') into v_failed from answered a;
  if v_failed is null then
    return cardinality(v_ids);
  end if;
  -- skip locked: somebody else is writing a failure into it, and an emit holds up no other
  update absurd.subscriptions s
  set last_error = t.message, last_error_at = absurd.current_time()
  from absurd.event_tasks t
  where t.seq = p_event.seq and t.subscription_id = s.subscription_id and s.subscription_id in (
    select l.subscription_id from absurd.subscriptions l where l.subscription_id = any (v_failed) for update skip locked);
  return cardinality(v_ids) - cardinality(v_failed);
end $$;
