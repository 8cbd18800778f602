-- The options of a queue: what it keeps of what has ended, and for how long, and how large values may be.

-- Creates a queue with options, as set_queue_options() takes them; one that exists stays as it is. Returns whether it was created.
create or replace function absurd.make_queue(p_queue_name text, p_options jsonb default '{}') returns boolean
language plpgsql volatile as $$
begin
  if exists (select from absurd.queues q where q.queue_name = p_queue_name) then
    return false;
  end if;
  perform absurd.create_queue(p_queue_name, 'unpartitioned');
  if p_options <> '{}' then
    perform absurd.change_queue(p_queue_name, p_options);
  end if;
  return true;
end $$;

-- Changes options of a queue: what the object names, and nothing else. keep_completed, keep_failed, keep_cancelled: how long a task that
-- ended so is kept; keep_events: an event, from when somebody took it. An interval or seconds, a minute at least; null: for ever.
-- keep_count: how many ended tasks are kept at most; null: any number. max_payload_bytes: limit of params, results and payloads.
create or replace function absurd.set_queue_options(p_queue_name text, p_options jsonb) returns void
language sql volatile as $$
  select absurd.change_queue(p_queue_name, p_options)
$$;

-- The same, for functions of other roles.
create or replace function absurd.change_queue(p_queue_name text, p_options jsonb) returns void
language plpgsql volatile as $$
declare
  v_problem text := coalesce(
    case when p_options is null or jsonb_typeof(p_options) = 'null' then 'options must be an object, not null' end,
    absurd.object_error('options', p_options,
      array['keep_completed', 'keep_failed', 'keep_cancelled', 'keep_count', 'keep_events', 'max_payload_bytes']),
    absurd.number_error('keep_count', p_options -> 'keep_count', 1, 10000000, true));
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));  -- against drop_queue
  perform absurd.require_queue(p_queue_name);
  if coalesce(p_options -> 'max_payload_bytes', 'null') <> 'null' then
    perform absurd.set_queue_policy(p_queue_name, jsonb_build_object('max_payload_bytes', p_options -> 'max_payload_bytes'));
  end if;
  if p_options - 'max_payload_bytes' = '{}' then
    return;
  end if;
  insert into absurd.retention (queue_name) values (p_queue_name) on conflict (queue_name) do nothing;
  update absurd.retention r
  set keep_completed = absurd.keep_option(p_options, 'keep_completed', r.keep_completed),
    keep_failed = absurd.keep_option(p_options, 'keep_failed', r.keep_failed),
    keep_cancelled = absurd.keep_option(p_options, 'keep_cancelled', r.keep_cancelled),
    keep_events = absurd.keep_option(p_options, 'keep_events', r.keep_events),
    keep_count = case when p_options ? 'keep_count' then (p_options ->> 'keep_count')::numeric::integer else r.keep_count end,
    -- What was decided for the former settings is void, and the new ones hold at once.
    after_task_name = null, after_task_id = null, beyond_task_id = null, counted_down_to = null, next_tasks_at = null, after_seq = null,
    next_events_at = null
  where r.queue_name = p_queue_name;
end $$;

-- One of the ages in options, in seconds, or what holds so far if they do not name it.
create or replace function absurd.keep_option(p_options jsonb, p_name text, p_present double precision) returns double precision
language plpgsql stable as $$
declare
  v_seconds double precision;
begin
  if not p_options ? p_name then
    return p_present;
  end if;
  v_seconds := extract(epoch from absurd.read_policy_interval(p_options, p_name));
  -- Whoever has just learned that a task ended may be about to ask for its result.
  if v_seconds < 60 then
    raise exception '% must be 60 seconds or more, not %', p_name, left((p_options -> p_name)::text, 100) using errcode = 'AB012';
  end if;
  return v_seconds;
end $$;

-- The options of all queues, or of one, and what clean-up has done there. Seconds; null: for ever, or no limit.
create or replace function absurd.queue_options(p_queue_name text default null)
returns table (
  queue_name text, keep_completed double precision, keep_failed double precision, keep_cancelled double precision, keep_count integer,
  keep_events double precision, max_payload_bytes integer, visited_at timestamptz, cleaned_at timestamptz, tasks_deleted bigint,
  events_deleted bigint)
language sql stable as $$
  select q.queue_name, r.keep_completed, r.keep_failed, r.keep_cancelled, r.keep_count, r.keep_events, q.max_payload_bytes, r.visited_at,
    r.cleaned_at, coalesce(r.tasks_deleted, 0), coalesce(r.events_deleted, 0)
  from absurd.queues q
  left join absurd.retention r on r.queue_name = q.queue_name
  where p_queue_name is null or q.queue_name = p_queue_name
  order by q.queue_name
$$;
