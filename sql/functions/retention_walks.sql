-- The walks that find what a queue need not keep.
-- A walk goes through the tasks of a queue in order of name and id, through its events in order of the log. It remembers its place, so
-- that no batch reads again what the ones before it have passed over: living tasks, failures that are kept, events nobody has taken.

-- One step of counting what keep_count keeps: ended tasks, the newest first, one range of ids after another. When it has come so far,
-- beyond_task_id is the oldest that is kept, or null if there are not so many, and counted_down_to is null. It reads twice p_rows tasks at
-- most and a few of each task name; where names are very many more tasks, too, so that it does not read them for little.
-- A range cannot be narrower than a 256th of a millisecond; of one that holds more, as many are counted as a step may read: too few.
create or replace function absurd.count_kept(inout p_queue absurd.retention, p_rows integer, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  v_span bigint := least(greatest(coalesce(p_queue.count_span, 0), 0), 1::bigint << 54);
  v_names text[];
  v_most integer;
  v_range record;
begin
  read := 0;
  if p_queue.counted_down_to is null then
    p_queue.counted := 0;
    p_queue.beyond_task_id := null;
    p_queue.counted_down_to := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  end if;
  if p_queue.keep_count > 0 then
    v_names := array(select n.task_name from absurd.task_names(p_queue.queue_name) n);
    v_most := greatest(p_rows, 4 * cardinality(v_names));
  else
    p_queue.counted_down_to := null;
  end if;
  while p_queue.counted_down_to is not null and read <= v_most / 2 loop
    v_range := absurd.ended_before(p_queue.queue_name, v_names, p_queue.counted_down_to, v_span, v_most);
    read := read + v_range.read + 2 * cardinality(v_names);
    if v_range.read > v_most and v_span > 0 then
      v_span := v_span / 2;
      continue;
    elsif p_queue.counted::bigint + cardinality(v_range.task_ids) >= p_queue.keep_count then
      p_queue.beyond_task_id := (v_range.task_ids)[p_queue.keep_count - p_queue.counted];
      p_queue.counted_down_to := null;
    else
      p_queue.counted := p_queue.counted + cardinality(v_range.task_ids);
      p_queue.counted_down_to := v_range.low;
    end if;
    v_span := case when v_range.read <= v_most / 2 then 2 * greatest(v_span, 1) else v_span end;
  end loop;
  p_queue.count_span := v_span;
end $$;

-- The ended tasks in a range of ids, the newest first: from the last task with one of the names before an id, as far back as p_span says,
-- in 256ths of a millisecond. low: where the range begins, null when there is no task before. read: how many were read, p_most + 1 if
-- there are more than p_most.
create or replace function absurd.ended_before(
  p_queue_name text, p_names text[], p_before uuid, p_span bigint, p_most integer, out task_ids uuid[], out low uuid, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  v_high uuid := absurd.last_before(p_queue_name, p_names, p_before);
  -- Its first 60 bits: 48 of milliseconds, the version, and 8 of whatever follows
  v_bits bigint := ('x' || left(replace(v_high::text, '-', ''), 15))::bit(60)::bigint;
  v_name text;
  v_task record;
begin
  task_ids := '{}'::uuid[];
  read := 0;
  if v_high is null then
    return;
  end if;
  low := rpad(lpad(to_hex(greatest(v_bits - p_span, 0)), 15, '0'), 32, '0')::uuid;
  foreach v_name in array p_names loop
    for v_task in
      select t.task_name, t.task_id, t.outcome from absurd.tasks t
      where t.queue_name = p_queue_name and (t.task_name, t.task_id) >= (v_name, low)
      order by t.queue_name, t.task_name, t.task_id limit p_most + 1 - read
    loop
      exit when v_task.task_name <> v_name or v_task.task_id > v_high;
      read := read + 1;
      if v_task.outcome is not null then
        task_ids := task_ids || v_task.task_id;
      end if;
    end loop;
    exit when read > p_most;
  end loop;
  task_ids := array(select u.task_id from unnest(task_ids) as u(task_id) order by u.task_id desc);
end $$;

-- The last id before another one among the tasks with one of the names.
create or replace function absurd.last_before(p_queue_name text, p_names text[], p_before uuid) returns uuid
language sql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
  select l.task_id
  from unnest(p_names) as n(task_name)
  -- Written so that only the index of names will do: by that of ids, a name that is seldom used would cost a walk over all tasks.
  cross join lateral (
    select t.task_name, t.task_id from absurd.tasks t
    where t.queue_name = p_queue_name and (t.task_name, t.task_id) < (n.task_name, p_before)
    order by t.queue_name desc, t.task_name desc, t.task_id desc limit 1) l
  where l.task_name = n.task_name
  order by l.task_id desc limit 1
$$;

-- Walks over tasks of a queue behind a place, and finds those that may go: that ended before the moment for their outcome, or that are
-- too many (p_beyond) and ended before p_settled. It ends after p_rows tasks, or when those found and their steps are p_limit in all.
-- Of each name it skips what is younger than all these moments. Ids are made by the clocks of clients: what one has spawned whose clock is
-- more than five minutes fast may be found so much later. last_name is null when it has come to the end.
create or replace function absurd.walk_tasks(
  p_queue_name text, p_after_name text, p_after_id uuid, p_completed timestamptz, p_failed timestamptz, p_cancelled timestamptz,
  p_beyond uuid, p_settled timestamptz, p_limit integer, p_rows integer,
  out task_ids uuid[], out last_name text, out last_id uuid, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  v_latest timestamptz := greatest(p_completed, p_failed, p_cancelled);
  -- Null while the clock is moved
  v_young_id uuid := absurd.id_floor(v_latest + interval '5 minutes');
  v_task record;
  v_young integer := 0;
  v_weight integer := 0;
  v_skip boolean := true;
begin
  task_ids := '{}'::uuid[];
  read := 0;
  last_name := coalesce(p_after_name, '');
  last_id := coalesce(p_after_id, '00000000-0000-0000-0000-000000000000');
  while v_skip and read < p_rows loop
    v_skip := false;
    for v_task in
      select t.task_name, t.task_id, t.spawned_at, t.outcome, t.finished_at
      from absurd.tasks t
      where t.queue_name = p_queue_name and (t.task_name, t.task_id) > (last_name, last_id)
      order by t.queue_name, t.task_name, t.task_id
      limit p_rows - read
    loop
      read := read + 1;
      v_young := case when v_task.task_name <> last_name then 0 else v_young end;
      last_name := v_task.task_name;
      last_id := v_task.task_id;
      if v_task.task_id < p_beyond and v_task.outcome is not null and v_task.finished_at <= p_settled
          or v_task.finished_at <= (case v_task.outcome when 'completed' then p_completed when 'failed' then p_failed
            when 'cancelled' then p_cancelled end) then
        task_ids := task_ids || v_task.task_id;
        v_weight := v_weight + 1
          + (select count(*)::integer from (select from absurd.checkpoints c where c.task_id = v_task.task_id limit p_limit) s);
        if v_weight >= p_limit then
          return;
        end if;
      elsif v_task.spawned_at > v_latest is not false and v_task.task_id < greatest(p_beyond, v_young_id) is not true then
        -- What was spawned after the latest moment has not ended before it. More than one, for clocks are not the same.
        v_young := v_young + 1;
        if v_young >= 100 then
          last_id := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
          v_skip := true;
          exit;
        end if;
      else
        v_young := 0;
      end if;
    end loop;
  end loop;
  if read < p_rows and not v_skip then
    last_name := null;
    last_id := null;
  end if;
end $$;

-- Walks over the log behind a place, and finds the events of a queue that were taken (p_unclaimed: or emitted, if nobody has taken them)
-- before a moment. Spares those that are still to be delivered and every name that somebody waits for. last_seq is null at the end:
-- with the first event that is too young.
create or replace function absurd.walk_events(
  p_queue_name text, p_after_seq bigint, p_cutoff timestamptz, p_unclaimed boolean, p_limit integer, p_rows integer,
  out seqs bigint[], out last_seq bigint, out read integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_event record;
  v_weight integer := 0;
begin
  seqs := '{}'::bigint[];
  read := 0;
  for v_event in
    select e.seq, e.emitted_at, e.queue_name = p_queue_name and e.delivered
      and (p_unclaimed or coalesce(e.claimed_at <= p_cutoff, false)) as old, e.queue_name, e.event_name
    from absurd.events e
    where e.seq > coalesce(p_after_seq, 0)
    order by e.seq
    limit p_rows
  loop
    if v_event.emitted_at > p_cutoff then
      last_seq := null;
      return;
    end if;
    read := read + 1;
    last_seq := v_event.seq;
    if v_event.old and not exists (
        select from absurd.waits w where w.queue_name = v_event.queue_name and w.event_name = v_event.event_name) then
      seqs := seqs || v_event.seq;
      v_weight := v_weight + 1
        + (select count(*)::integer from (select from absurd.event_tasks t where t.seq = v_event.seq limit p_limit) s);
      if v_weight >= p_limit then
        return;
      end if;
    end if;
  end loop;
  if read < p_rows then
    last_seq := null;
  end if;
end $$;
