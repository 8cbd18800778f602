-- Lists for the dashboard, in bounded pages.

-- Events, the newest first, with their payload and source unless they are longer than p_bytes; started: how many tasks it started.
-- p_prefix reads p_event_name as the beginning of the name. A whole name is found by its index; any other search looks at so many events
-- as search_bound() says. searched_to: a last row with this alone when it ended there; go on with it as p_before_seq.
create or replace function absurd.page_of_events(
  p_queue_name text default null, p_event_name text default null, p_prefix boolean default false, p_before_seq bigint default null,
  p_limit integer default 50, p_bytes integer default 4000)
returns table (
  seq bigint, queue_name text, event_name text, payload text, payload_bytes integer, source text, emitted_at timestamptz,
  claimed_at timestamptz, delivered boolean, started integer, searched_to bigint)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_by_index boolean := p_event_name is not null and not coalesce(p_prefix, false);
  v_to bigint;
  v_seqs bigint[];
begin
  if v_by_index then
    v_seqs := array(
      select f.seq
      from absurd.queues q
      cross join lateral (
        select e.seq from absurd.events e
        where e.queue_name = q.queue_name and e.event_name = p_event_name and (p_before_seq is null or e.seq < p_before_seq)
        order by e.seq desc limit v_limit) f
      where p_queue_name is null or q.queue_name = p_queue_name
      order by f.seq desc limit v_limit);
  else
    select min(l.seq) into v_to from (
      select e.seq from absurd.events e where p_before_seq is null or e.seq < p_before_seq
      order by e.seq desc limit absurd.search_bound()) l;
    v_seqs := array(
      select e.seq from absurd.events e
      where e.seq >= v_to and (p_before_seq is null or e.seq < p_before_seq)
        and (p_queue_name is null or e.queue_name = p_queue_name)
        and (p_event_name is null or starts_with(e.event_name, p_event_name))
      order by e.seq desc limit v_limit);
  end if;
  return query
    select e.seq, e.queue_name, e.event_name, case when octet_length(e.payload::text) <= p_bytes then absurd.hide_secrets(e.payload::text) end,
      octet_length(e.payload::text), case when octet_length(e.source::text) <= p_bytes then absurd.hide_secrets(e.source::text) end, e.emitted_at, e.claimed_at,
      e.delivered, (select count(t.task_id)::integer from absurd.event_tasks t where t.seq = e.seq), null::bigint
    from unnest(v_seqs) as s(seq) join absurd.events e on e.seq = s.seq
    order by e.seq desc;
  if cardinality(v_seqs) < v_limit and exists (select from absurd.events e where e.seq < v_to) then
    return query select null::bigint, null, null, null, null::integer, null, null::timestamptz, null::timestamptz, null::boolean,
      null::integer, v_to;
  end if;
end $$;

-- The tasks that an event has started, one row for each subscriber in their order: status ok, or why there is none. state: of the task
-- now; null when it is gone.
create or replace function absurd.tasks_of_event(p_seq bigint, p_limit integer default 200)
returns table (subscription_id bigint, task_name text, task_id uuid, status text, message text, state text, finished_at timestamptz)
language sql stable
set jit = off set enable_seqscan = off
as $$
  select s.subscription_id, s.task_name, s.task_id, s.status, s.message,
    case when t.task_id is not null then coalesce(t.outcome, r.state, 'pending') end, t.finished_at
  from (
    select e.* from absurd.event_tasks e where e.seq = p_seq order by e.subscription_id limit absurd.page_size(p_limit)) s
  left join absurd.tasks t on t.task_id = s.task_id
  left join absurd.runs r on r.task_id = s.task_id
  order by s.subscription_id
$$;

-- The tasks that got an event from a wait, and by which step. No index leads from an event to them: the checkpoints of tasks are walked,
-- of those that had been spawned when it was emitted the newest first; with p_later of those spawned since, the oldest first. A call looks
-- for 0.1 s. next: a last row with this alone when it ended before the walk did, for p_after of the call that goes on; searched_at: to
-- the tasks of which moment it came.
create or replace function absurd.takers_of_event(
  p_seq bigint, p_later boolean default false, p_after text default null, p_limit integer default 50)
returns table (
  task_id uuid, task_name text, queue_name text, step_name text, state text, spawned_at timestamptz, taken_at timestamptz,
  searched_at timestamptz, next text)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_stop_at timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_chunk integer := 1000;
  v_id uuid := left(p_after, 36)::uuid;
  v_step text := substr(p_after, 38);
  v_read integer;
  v_ids uuid[];
  v_steps text[];
  v_found_ids uuid[] := array[]::uuid[];
  v_found_steps text[] := array[]::text[];
begin
  if v_id is null then
    -- While the clock is moved ids say nothing of moments: all are earlier.
    select coalesce(absurd.id_floor(e.emitted_at + interval '1 second'), 'ffffffff-ffff-ffff-ffff-ffffffffffff') into v_id
    from absurd.events e where e.seq = p_seq;
    v_step := '';
  end if;
  loop
    select count(*)::integer, (array_agg(c.task_id order by c.place desc))[1], (array_agg(c.step_name order by c.place desc))[1],
      coalesce(array_agg(c.task_id order by c.place) filter (where c.taken), '{}'),
      coalesce(array_agg(c.step_name order by c.place) filter (where c.taken), '{}')
    into v_read, v_id, v_step, v_ids, v_steps
    from (
      (select k.task_id, k.step_name, k.kind = 'event' and k.event_seq = p_seq as taken,
         row_number() over (order by k.task_id desc, k.step_name desc) as place
       from absurd.checkpoints k
       where not p_later and (k.task_id, k.step_name) < (v_id, v_step)
       order by k.task_id desc, k.step_name desc limit v_chunk)
      union all
      (select k.task_id, k.step_name, k.kind = 'event' and k.event_seq = p_seq,
         row_number() over (order by k.task_id, k.step_name)
       from absurd.checkpoints k
       where p_later and (k.task_id, k.step_name) > (v_id, v_step)
       order by k.task_id, k.step_name limit v_chunk)
    ) c;
    v_found_ids := v_found_ids || v_ids;
    v_found_steps := v_found_steps || v_steps;
    if cardinality(v_found_ids) > v_limit then
      v_found_ids := v_found_ids[:v_limit];
      v_found_steps := v_found_steps[:v_limit];
      v_id := v_found_ids[v_limit];
      v_step := v_found_steps[v_limit];
      v_read := v_chunk;
      exit;
    end if;
    exit when v_read < v_chunk or clock_timestamp() > v_stop_at;
  end loop;
  return query
    select f.task_id, t.task_name, t.queue_name, absurd.hide_secrets(f.step_name), coalesce(t.outcome, r.state, 'pending'), t.spawned_at,
      c.completed_at, null::timestamptz, null::text
    from unnest(v_found_ids, v_found_steps) with ordinality as f(task_id, step_name, ord)
    join absurd.tasks t on t.task_id = f.task_id
    join absurd.checkpoints c on c.task_id = f.task_id and c.step_name = f.step_name
    left join absurd.runs r on r.task_id = f.task_id
    order by f.ord;
  if v_read = v_chunk then
    return query
      select null::uuid, null, null, null, null, null::timestamptz, null::timestamptz,
        (select t.spawned_at from absurd.tasks t where t.task_id = v_id), v_id || '/' || v_step;
  end if;
end $$;

-- What sleeping runs wait for, the longest waiting first; kind as in list_waits(). p_event_name: waits for that event alone, by its index;
-- any other search looks at a quarter of so many waits as search_bound() says, for with each it looks at its run. searched_to: as in
-- page_of_events(), for p_after_wait_id.
create or replace function absurd.page_of_waits_for(
  p_queue_name text default null, p_event_name text default null, p_kind text default null, p_after_wait_id bigint default null,
  p_limit integer default 50)
returns table (
  wait_id bigint, kind text, queue_name text, task_id uuid, task_name text, step_name text, event_queue_name text, event_name text,
  awaited_task_id uuid, waiting_since timestamptz, until timestamptz, searched_to bigint)
language plpgsql stable
set jit = off set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_limit integer := absurd.page_size(p_limit);
  v_to bigint;
  v_ids bigint[];
begin
  if p_event_name is not null then
    v_ids := array(
      select f.wait_id
      from absurd.queues q
      cross join lateral (
        select w.wait_id from absurd.waits w
        where w.queue_name = q.queue_name and w.event_name = p_event_name and w.run_id is not null
        limit absurd.search_bound()) f
      where (p_queue_name is null or q.queue_name = p_queue_name) and (p_after_wait_id is null or f.wait_id > p_after_wait_id)
      order by f.wait_id limit v_limit);
  else
    select max(l.wait_id) into v_to from (
      select w.wait_id from absurd.waits w where p_after_wait_id is null or w.wait_id > p_after_wait_id
      order by w.wait_id limit absurd.search_bound() / 4) l;
    v_ids := array(
      select w.wait_id
      from absurd.waits w
      join absurd.runs r on r.run_id = w.run_id
      where w.wait_id <= v_to and (p_after_wait_id is null or w.wait_id > p_after_wait_id)
        and (w.kind in ('event', 'task', 'token') or (w.kind = 'timer' and w.detail = 'sleep'))
        and (p_kind is null or case when w.kind = 'timer' then w.detail else w.kind end = p_kind)
        and (p_queue_name is null or r.queue_name = p_queue_name)
      order by w.wait_id limit v_limit);
  end if;
  return query
    select w.wait_id, case when w.kind = 'timer' then w.detail else w.kind end, r.queue_name, r.task_id, t.task_name, w.step_name,
      case when w.kind = 'event' then w.queue_name end, w.event_name, w.awaited_task_id, w.created_at, r.available_at, null::bigint
    from unnest(v_ids) as i(wait_id)
    join absurd.waits w on w.wait_id = i.wait_id
    join absurd.runs r on r.run_id = w.run_id
    join absurd.tasks t on t.task_id = r.task_id
    order by w.wait_id;
  if cardinality(v_ids) < v_limit and exists (select from absurd.waits w where w.wait_id > v_to) then
    return query select null::bigint, null, null, null::uuid, null, null, null, null, null::uuid, null::timestamptz, null::timestamptz, v_to;
  end if;
end $$;

-- The names of schedules in order, those that hold a text in their name or in what they start; the next page: pass the last name.
create or replace function absurd.page_of_schedules(p_text text default null, p_after text default null, p_limit integer default 50)
returns setof text
language sql stable
set jit = off
as $$
  select s.schedule_name
  from absurd.schedules s
  where (p_after is null or s.schedule_name > p_after)
    and (p_text is null or strpos(lower(concat_ws(' ', s.schedule_name, s.task_name, s.event_name)), lower(p_text)) > 0)
  order by s.schedule_name
  limit absurd.page_size(p_limit)
$$;

-- Subscriptions in the order in which they were made, those that hold a text in their pattern or the name of their task; the next page:
-- pass the last id.
create or replace function absurd.page_of_subscriptions(
  p_queue_name text default null, p_text text default null, p_after bigint default null, p_limit integer default 50)
returns table (
  subscription_id bigint, queue_name text, pattern text, task_name text, target_queue text, config text, created_at timestamptz,
  last_error text, last_error_at timestamptz)
language sql stable
set jit = off
as $$
  select s.subscription_id, s.queue_name, s.pattern, s.task_name, s.target_queue,
    case when octet_length(s.config::text) <= 4000 then s.config::text end, s.created_at, s.last_error, s.last_error_at
  from absurd.subscriptions s
  where (p_queue_name is null or s.queue_name = p_queue_name) and (p_after is null or s.subscription_id > p_after)
    and (p_text is null or strpos(lower(s.pattern || ' ' || s.task_name), lower(p_text)) > 0)
  order by s.subscription_id
  limit absurd.page_size(p_limit)
$$;
