-- The search of people, whatever they combine: every page is bounded. Candidates come in order from one index, in chunks; each is looked at,
-- until a page is full, p_search_limit of them have been looked at, or 0.2 s are over, for text 0.5 s. What is left is reached by `next`.

-- Tasks, the newest spawned first; failed and cancelled ones, the last ended first, unless an id, a key or p_spawned_to is given. Every
-- filter that is null means any.
--   p_task_name        with p_prefix, its beginning
--   p_spawned_from, p_spawned_to   from the first moment on, before the second
--   p_task_id          an id or the beginning of one, with or without its dashes
--   p_text             stands in params or in the failure of an attempt, ASCII letters in either case; values that are stored in more
--                      than 100 kB are not searched
-- Returns {"tasks": […], "searched": n, "next": place}: how many candidates were looked at; `next` is null at the end, else the p_after
-- of the call that goes on, also when this page is not full or empty.
create or replace function absurd.find_tasks(
  p_queue_name text default null, p_task_name text default null, p_prefix boolean default false, p_state text default null,
  p_spawned_from timestamptz default null, p_spawned_to timestamptz default null, p_idempotency_key text default null,
  p_task_id text default null, p_text text default null, p_after text default null, p_limit integer default 50,
  p_search_limit integer default 50000)
returns json
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_limit integer := absurd.page_size(p_limit);
  v_stop_at timestamptz := clock_timestamp() + case when p_text is not null then interval '500 milliseconds' else interval '200 milliseconds' end;
  v_digits text := absurd.id_digits(p_task_id);
  v_low uuid := greatest(rpad(v_digits, 32, '0')::uuid, absurd.id_around(p_spawned_from, '-10 seconds'));
  v_high uuid := least(rpad(v_digits, 32, 'f')::uuid, absurd.id_around(p_spawned_to, '10 seconds'));
  v_ended boolean := coalesce(p_state in ('failed', 'cancelled') and num_nulls(v_digits, p_idempotency_key, p_spawned_to) = 3, false);
  v_place record := absurd.read_place(p_after, v_ended);
  v_at timestamptz := v_place.at;
  v_id uuid := v_place.id;
  v_set uuid[];
  v_queue_names text[];
  v_task_names text[];
  v_size integer := v_limit + 1;
  -- Rows of a chunk at most, so that none takes long; those that are read beside their state are more than those looked at.
  v_largest integer := case when p_text is not null then 500 else 2000 end;
  -- The candidates of a chunk, of failed and cancelled ones with their ends; how many rows were read for them, and the last of these
  v_chunk uuid[];
  v_ats timestamptz[];
  v_read integer;
  v_last_id uuid;
  v_last_at timestamptz;
  v_found uuid[] := '{}'::uuid[];
  v_found_ats timestamptz[] := '{}'::timestamptz[];
  v_hits uuid[];
  v_searched integer := 0;
  v_looked integer := 0;
  v_more boolean := true;
begin
  if p_state not in ('pending', 'running', 'sleeping', 'completed', 'failed', 'cancelled') then
    raise exception 'state must be pending, running, sleeping, completed, failed or cancelled, not "%"', left(p_state, 80)
      using errcode = 'AB012';
  end if;
  if p_idempotency_key is not null then
    v_set := absurd.keyed_ids(p_queue_name, p_idempotency_key);
  elsif length(v_digits) = 32 then
    v_set := array[v_digits::uuid];
  elsif p_state in ('pending', 'running', 'sleeping') and v_digits is null then
    v_set := absurd.live_ids(p_queue_name, p_state, 10000);
  elsif not v_ended and v_digits is null then
    select n.queue_names, n.task_names into v_queue_names, v_task_names
    from absurd.searched_names(p_queue_name, p_task_name, p_prefix, 1000) n;
    -- A chunk reads so many rows for each name.
    v_largest := greatest(v_limit + 1, least(v_largest, 20000 / greatest(cardinality(v_task_names), 1)));
  end if;
  while v_more loop
    v_size := least(v_size, v_largest);
    if v_set is not null then
      v_chunk := array(
        select u.id from unnest(v_set) as u(id)
        where (v_id is null or u.id < v_id) and (v_low is null or u.id >= v_low) and (v_high is null or u.id <= v_high)
        order by u.id desc limit v_size);
      v_read := cardinality(v_chunk);
      v_last_id := v_chunk[v_read];
    elsif v_ended then
      select e.ids, e.ats into v_chunk, v_ats from absurd.ended_ids(
        p_queue_name, greatest(p_spawned_from, '1970-01-03') - interval '10 seconds', v_at, v_id, v_size) e;
      v_read := cardinality(v_chunk);
      v_last_id := v_chunk[v_read];
      v_last_at := v_ats[v_read];
    elsif p_state in ('pending', 'running', 'sleeping') and v_digits is null then
      select w.ids, w.last_id, w.n into v_chunk, v_last_id, v_read
      from absurd.walk_live(p_queue_name, p_state, v_low, v_high, v_id, v_size) w;
    else
      select w.ids, w.last_id, w.n into v_chunk, v_last_id, v_read
      from absurd.walk_spawned(v_queue_names, v_task_names, p_state, v_low, v_high, v_id, v_size) w;
    end if;
    v_searched := v_searched + v_read;
    v_looked := v_looked + cardinality(v_chunk);
    v_more := v_read = v_size;
    v_hits := absurd.matching_ids(v_chunk, p_queue_name, p_task_name, p_prefix, p_state, p_spawned_from, p_spawned_to, p_idempotency_key,
      p_text, v_limit + 1 - cardinality(v_found));
    v_found := v_found || v_hits;
    v_found_ats := v_found_ats || array(select v_ats[array_position(v_chunk, u.id)] from unnest(v_hits) with ordinality as u(id, ord) order by u.ord);
    if cardinality(v_found) > v_limit then
      v_more := true;
      v_id := v_found[v_limit];
      v_at := v_found_ats[v_limit];
      exit;
    elsif v_more then
      v_id := v_last_id;
      v_at := v_last_at;
      exit when v_looked >= p_search_limit or clock_timestamp() > v_stop_at;
    end if;
    v_size := v_size * 4;
  end loop;
  return json_build_object(
    'tasks', absurd.found_tasks(v_found[1:v_limit]), 'searched', v_searched,
    'next', case when v_more and v_ended then (extract(epoch from v_at) * 1000000)::bigint || '/' || v_id when v_more then v_id::text end);
end $$;

-- The digits of an id or of its beginning; null for null.
create or replace function absurd.id_digits(p_task_id text) returns text
language plpgsql immutable as $$
declare
  v_digits text := lower(replace(p_task_id, '-', ''));
begin
  if v_digits !~ '^[0-9a-f]{1,32}$' then
    raise exception 'task_id must be an id or the beginning of one, hexadecimal digits and dashes, not "%"', left(p_task_id, 80)
      using errcode = 'AB012';
  end if;
  return v_digits;
end $$;

-- The place of a moment among the ids, with some grace: they are made by the clocks of clients.
create or replace function absurd.id_around(p_at timestamptz, p_grace interval) returns uuid
language sql stable as $$
  select absurd.id_floor(least(greatest(p_at, '1970-01-03'), '9999-12-30') + p_grace) where p_at is not null
$$;

-- Where a page begins: after an id, or after an end and an id. Nulls for null.
create or replace function absurd.read_place(p_after text, p_ended boolean, out at timestamptz, out id uuid) returns record
language plpgsql immutable as $$
begin
  if p_after is null then
    return;
  elsif p_after !~ (case when p_ended then '^[0-9]{1,17}/[0-9a-f-]{36}$' else '^[0-9a-f-]{36}$' end) then
    raise exception 'after must be the "next" of a page with the same filters, not "%"', left(p_after, 80) using errcode = 'AB012';
  end if;
  id := right(p_after, 36)::uuid;
  if p_ended then
    at := timestamptz 'epoch' + split_part(p_after, '/', 1)::bigint * interval '1 microsecond';
  end if;
exception when invalid_text_representation then
  raise exception 'after must be the "next" of a page with the same filters, not "%"', left(p_after, 80) using errcode = 'AB012';
end $$;

-- Tasks that have this idempotency key, by a look for each queue.
create or replace function absurd.keyed_ids(p_queue_name text, p_idempotency_key text) returns uuid[]
language sql stable
set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select array(
    select k.task_id
    from absurd.queues q
    join absurd.idempotency_keys k on k.queue_name = q.queue_name and k.idempotency_key = p_idempotency_key
    where p_queue_name is null or q.queue_name = p_queue_name)
$$;

-- All tasks in a live state, in no order; null if there are more than p_most: they are met often enough on a walk over all live ones.
-- A small table is read whole. In a large one the ready are found by their index, the running by their leases, the sleeping by
-- their times and by what they wait for. (Running without a lease, by a client's choice, are found in a small table only.)
create or replace function absurd.live_ids(p_queue_name text, p_state text, p_most integer) returns uuid[]
language plpgsql stable
set jit = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_ids uuid[];
begin
  if pg_relation_size('absurd.runs') < 33554432 then
    v_ids := array(
      select r.task_id from absurd.runs r
      where r.state = p_state and (p_queue_name is null or r.queue_name = p_queue_name)
      limit p_most + 1);
  elsif p_state = 'pending' then
    v_ids := array(
      select l.task_id
      from absurd.queues q
      cross join lateral (
        select r.task_id from absurd.runs r where r.queue_name = q.queue_name and r.state = 'pending'
        order by r.priority desc, r.available_at, r.run_id limit p_most + 1) l
      where p_queue_name is null or q.queue_name = p_queue_name
      limit p_most + 1);
  elsif p_state = 'running' then
    v_ids := array(
      select r.task_id from absurd.runs r where r.state = 'running' and r.lease_expires_at is not null
      order by r.lease_expires_at limit p_most + 1);
  else
    v_ids := array(
      select l.task_id
      from absurd.queues q
      cross join lateral (
        select r.task_id from absurd.runs r
        where r.queue_name = q.queue_name and r.state = 'sleeping' and r.available_at is not null
        order by r.available_at limit p_most + 1) l
      where p_queue_name is null or q.queue_name = p_queue_name
      limit p_most + 1);
    if cardinality(v_ids) <= p_most then
      v_ids := array(
        select u.task_id from unnest(v_ids) as u(task_id)
        union
        (select w.task_id from absurd.waits w where w.run_id is not null and w.task_id is not null limit p_most + 1)
        limit p_most + 1);
    end if;
  end if;
  return case when cardinality(v_ids) <= p_most then v_ids end;
end $$;

-- Pairs of queue and task name that a search is for, at most p_most; nulls: any, or more than these, and a walk over all tasks serves better.
create or replace function absurd.searched_names(
  p_queue_name text, p_task_name text, p_prefix boolean, p_most integer, out queue_names text[], out task_names text[])
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set plan_cache_mode = force_custom_plan
as $$
begin
  if p_task_name is not null and not p_prefix then
    select array_agg(q.queue_name), array_agg(p_task_name) into queue_names, task_names
    from (select k.queue_name from absurd.queues k where p_queue_name is null or k.queue_name = p_queue_name limit p_most + 1) q;
    queue_names := coalesce(queue_names, '{}'::text[]);
    task_names := coalesce(task_names, '{}'::text[]);
  elsif p_queue_name is not null or p_task_name is not null then
    -- A loose scan of the index, as task_names() does it, that ends in time.
    select array_agg(n.queue_name), array_agg(n.task_name) into queue_names, task_names
    from (
      with recursive pair as (
        (select t.queue_name, t.task_name from absurd.tasks t
         where t.queue_name >= coalesce(p_queue_name, '') order by t.queue_name, t.task_name limit 1)
        union all
        select l.queue_name, l.task_name
        from pair p
        cross join lateral (
          select t.queue_name, t.task_name from absurd.tasks t
          where (t.queue_name, t.task_name) > (p.queue_name, p.task_name)
          order by t.queue_name, t.task_name limit 1) l
        where p_queue_name is null or p.queue_name = p_queue_name
      )
      select p.queue_name, p.task_name from pair p limit p_most + 1
    ) n;
    if cardinality(task_names) <= p_most then
      select coalesce(array_agg(u.q), '{}'::text[]), coalesce(array_agg(u.n), '{}'::text[]) into queue_names, task_names
      from unnest(queue_names, task_names) as u(q, n)
      where (p_queue_name is null or u.q = p_queue_name) and (p_task_name is null or starts_with(u.n, p_task_name));
    end if;
  end if;
  if cardinality(task_names) > p_most then
    queue_names := null;
    task_names := null;
  end if;
end $$;

-- The newest tasks in a range of ids, all or those of some names, the newest of each merged. n of them are read, up to p_limit, of which
-- ids are those that may be in p_state.
create or replace function absurd.walk_spawned(
  p_queue_names text[], p_task_names text[], p_state text, p_low uuid, p_high uuid, p_before uuid, p_limit integer,
  out ids uuid[], out last_id uuid, out n integer)
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  v_outcome text := case when p_state in ('completed', 'failed', 'cancelled') then p_state end;
begin
  if p_task_names is null then
    select coalesce(array_agg(w.task_id order by w.task_id desc) filter (where v_outcome is null or w.outcome = v_outcome), '{}'::uuid[]),
      (array_agg(w.task_id order by w.task_id))[1], count(*)::integer
    into ids, last_id, n
    from (
      -- Without a state the row itself is not read here.
      select t.task_id, case when v_outcome is not null then t.outcome end as outcome from absurd.tasks t
      where (p_before is null or t.task_id < p_before) and (p_low is null or t.task_id >= p_low) and (p_high is null or t.task_id <= p_high)
      order by t.task_id desc limit p_limit) w;
    return;
  end if;
  ids := array(
    select l.task_id
    from unnest(p_queue_names, p_task_names) as u(queue_name, task_name)
    cross join lateral (
      select t.task_id from absurd.tasks t
      where t.queue_name = u.queue_name and t.task_name = u.task_name
        and (p_before is null or t.task_id < p_before) and (p_low is null or t.task_id >= p_low) and (p_high is null or t.task_id <= p_high)
      order by t.task_id desc limit p_limit) l
    order by l.task_id desc limit p_limit);
  n := cardinality(ids);
  last_id := ids[n];
end $$;

-- The same for live tasks: of n that are read, those in a state.
create or replace function absurd.walk_live(
  p_queue_name text, p_state text, p_low uuid, p_high uuid, p_before uuid, p_limit integer, out ids uuid[], out last_id uuid, out n integer)
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan
as $$
begin
  select coalesce(array_agg(w.task_id order by w.task_id desc) filter (
      where w.state = p_state and (p_queue_name is null or w.queue_name = p_queue_name)), '{}'::uuid[]),
    (array_agg(w.task_id order by w.task_id))[1], count(*)::integer
  into ids, last_id, n
  from (
    select r.task_id, r.state, r.queue_name from absurd.runs r
    where (p_before is null or r.task_id < p_before) and (p_low is null or r.task_id >= p_low) and (p_high is null or r.task_id <= p_high)
    order by r.task_id desc limit p_limit) w;
end $$;

-- Tasks that failed or were cancelled since a moment, the last ended first, by the attempts that ended them.
create or replace function absurd.ended_ids(
  p_queue_name text, p_from timestamptz, p_before_at timestamptz, p_before_id uuid, p_limit integer, out ids uuid[], out ats timestamptz[])
returns record
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
begin
  select coalesce(array_agg(e.task_id order by e.ended_at desc, e.task_id desc), '{}'::uuid[]),
    coalesce(array_agg(e.ended_at order by e.ended_at desc, e.task_id desc), '{}'::timestamptz[])
  into ids, ats
  from (
    select l.task_id, l.ended_at
    from absurd.queues q
    cross join lateral (
      select a.task_id, a.ended_at
      from absurd.attempts a
      where a.final and a.queue_name = q.queue_name and (p_from is null or a.ended_at >= p_from)
        and (p_before_at is null or a.ended_at <= p_before_at)
        and (p_before_at is null or (a.ended_at, a.task_id) < (p_before_at, p_before_id))
      order by a.ended_at desc, a.task_id desc limit p_limit) l
    where p_queue_name is null or q.queue_name = p_queue_name
    order by l.ended_at desc, l.task_id desc limit p_limit
  ) e;
end $$;

-- Those of the candidates that pass every filter, in their order.
create or replace function absurd.matching_ids(
  p_ids uuid[], p_queue_name text, p_task_name text, p_prefix boolean, p_state text, p_spawned_from timestamptz, p_spawned_to timestamptz,
  p_idempotency_key text, p_text text, p_limit integer)
returns uuid[]
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan
as $$
declare
  -- As typed, and as it stands in a JSON string.
  v_plain text := lower(p_text collate "C");
  v_quoted text := lower(substr(to_json(p_text)::text, 2, length(to_json(p_text)::text) - 2) collate "C");
begin
  if p_ids = '{}'::uuid[] then
    return p_ids;
  end if;
  return array(
    select t.task_id
    from unnest(p_ids) with ordinality as c(task_id, ord)
    join absurd.tasks t on t.task_id = c.task_id
    where (p_queue_name is null or t.queue_name = p_queue_name)
      and (p_task_name is null or case when p_prefix then starts_with(t.task_name, p_task_name) else t.task_name = p_task_name end)
      and (p_spawned_from is null or t.spawned_at >= p_spawned_from) and (p_spawned_to is null or t.spawned_at < p_spawned_to)
      and (p_idempotency_key is null or t.idempotency_key = p_idempotency_key)
      and (p_state is null or p_state = coalesce(t.outcome, (select r.state from absurd.runs r where r.task_id = t.task_id), 'pending'))
      -- No function: called for each row, it would cost more than the search.
      and (p_text is null
        or case when pg_column_size(t.params) <= 100000 then case when strpos(lower(t.params::text collate "C"), v_plain) > 0
          or (v_quoted <> v_plain and strpos(lower(t.params::text collate "C"), v_quoted) > 0)
          then absurd.shows_text(t.params::text, v_plain, v_quoted) end end
        or exists (
          select from absurd.attempts a
          where a.task_id = t.task_id and case when pg_column_size(a.failure) <= 100000 then
            case when strpos(lower(a.failure::text collate "C"), v_plain) > 0
              or (v_quoted <> v_plain and strpos(lower(a.failure::text collate "C"), v_quoted) > 0)
            then absurd.shows_text(a.failure::text, v_plain, v_quoted) end end))
    order by c.ord
    limit p_limit);
end $$;

-- Whether words stand in a text as its readers see it. Without this, whoever may search but not answer would find the secret of a token,
-- digit by digit.
create or replace function absurd.shows_text(p_text text, p_plain text, p_quoted text) returns boolean
language sql stable as $$
  select strpos(s.shown, p_plain) > 0 or strpos(s.shown, p_quoted) > 0
  from (select lower(absurd.hide_secrets(p_text) collate "C") as shown) s
$$;

-- Rows of a list, in the order of the ids. failure: the JSON text of that of the last attempt, unless it is larger than 20 kB; waits_for: in
-- words.
create or replace function absurd.found_tasks(p_ids uuid[]) returns json
language sql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select coalesce(json_agg(json_build_object(
    'task_id', t.task_id, 'run_id', coalesce(r.run_id, t.run_id), 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', coalesce(t.outcome, r.state, 'pending'), 'attempt', coalesce(r.attempt, t.attempt), 'max_attempts', t.max_attempts,
    'priority', t.priority, 'spawned_at', t.spawned_at, 'available_at', r.available_at, 'started_at', coalesce(r.started_at, t.started_at),
    'finished_at', t.finished_at, 'worker_id', coalesce(r.worker_id, t.worker_id), 'parent_task_id', t.parent_task_id,
    'idempotency_key', absurd.hide_secrets(t.idempotency_key), 'note', r.note,
    'failure', case when t.outcome is distinct from 'completed' then (
      select case when pg_column_size(a.failure) <= 20000 then absurd.hide_secrets(a.failure::text) end
      from absurd.attempts a where a.task_id = t.task_id order by a.attempt desc limit 1) end,
    'waits_for', case when r.state = 'sleeping' then absurd.awaited_words(r.run_id) end) order by i.ord), '[]')
  from unnest(p_ids) with ordinality as i(task_id, ord)
  join absurd.tasks t on t.task_id = i.task_id
  left join absurd.runs r on r.task_id = t.task_id
$$;

-- Names of tasks to choose from, of one queue or of all; none if there are more than a thousand pairs of queue and name.
create or replace function absurd.known_task_names(p_queue_name text default null) returns text[]
language sql stable
set jit = off
as $$
  select array(
    select distinct u.name from unnest((absurd.searched_names(p_queue_name, '', true, 1000)).task_names) as u(name) order by u.name)
$$;
