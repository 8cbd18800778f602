-- What the queues need not keep any longer: the batches that delete it, each with a step of the walks that find it (retention_walks.sql).

-- Deletes a batch of what the queues need not keep any longer: about p_limit rows of tasks, steps and events at most, a few milliseconds
-- of work. One session at a time does it, the others return at once and say busy; busy is also said when somebody holds a queue whose turn
-- it was. next_in: seconds until there may be more to do, 0 for now, null when no queue has a limit. seconds: how long this batch took
-- here. p_queue_name: for one queue alone; p_anew: its walks begin at the beginning, even if they rest.
-- For pg_cron: select cron.schedule('absurd retention', '10 seconds', 'select * from absurd.apply_retention(5000)').
create or replace function absurd.apply_retention(
  p_limit integer default 500, p_queue_name text default null, p_anew boolean default false)
returns table (tasks_deleted integer, events_deleted integer, next_in double precision, busy boolean, seconds double precision)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_began timestamptz := clock_timestamp();
  v_now timestamptz := absurd.current_time();
  v_limit integer := least(greatest(coalesce(p_limit, 500), 1), 100000);
  -- A walk reads more than it deletes: there is a limit to that too.
  v_rows integer := 4 * v_limit;
  v_queue absurd.retention;
  v_step record;
  v_tasks integer := 0;
  v_events integer := 0;
  v_visited text[] := array[]::text[];
begin
  if p_queue_name is not null then
    perform absurd.require_queue(p_queue_name);
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('absurd retention', 0)) then
    return query select 0, 0, 1::double precision, true, 0::double precision;
    return;
  end if;
  for v_queue in
    select r.* from absurd.retention r
    where (p_queue_name is null or r.queue_name = p_queue_name) and (p_anew or absurd.retains_at(r) <= v_now)
    order by r.visited_at nulls first, r.queue_name
    -- skip locked: somebody is cleaning up by hand
    for update skip locked
  loop
    exit when v_limit <= 0 or v_rows <= 0;
    -- Not while it is being dropped.
    continue when not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(v_queue.queue_name));
    v_step := absurd.retain_queue(v_queue, v_now, v_limit, v_rows, p_anew);
    v_tasks := v_tasks + v_step.tasks;
    v_events := v_events + v_step.events;
    v_limit := v_limit - v_step.tasks - v_step.events;
    v_rows := v_rows - v_step.read;
    v_visited := v_visited || v_queue.queue_name;
  end loop;
  return query
    select v_tasks, v_events, min(case when w.held then 1 else w.rest end), coalesce(bool_or(w.held), false),
      extract(epoch from clock_timestamp() - v_began)::double precision
    from (
      select (p_anew or absurd.retains_at(r) <= v_now) and v_limit > 0 and v_rows > 0 and r.queue_name <> all (v_visited) as held,
        -- Bounded, for it is computed from what rows hold: no walk rests for more than an hour.
        extract(epoch from least(greatest(absurd.retains_at(r), v_now), v_now + interval '1 hour') - v_now)::double precision as rest
      from absurd.retention r
      where (p_queue_name is null or r.queue_name = p_queue_name) and absurd.retains_at(r) is not null) w;
end $$;

-- When the walks of a queue go on, the first of them; null: it keeps everything.
create or replace function absurd.retains_at(p_queue absurd.retention) returns timestamptz
language sql immutable as $$
  select least(
    case when absurd.limits_tasks(p_queue) then coalesce(p_queue.next_tasks_at, '-infinity') end,
    case when p_queue.keep_events is not null then coalesce(p_queue.next_events_at, '-infinity') end)
$$;

-- Whether a queue does not keep all of its tasks.
create or replace function absurd.limits_tasks(p_queue absurd.retention) returns boolean
language sql immutable as $$
  select coalesce(p_queue.keep_completed, p_queue.keep_failed, p_queue.keep_cancelled, p_queue.keep_count) is not null
$$;

-- The moment from which on everything is kept for so many seconds. Null: for ever, also when the row says what nobody could have set: it
-- stops no other queue, and nothing is deleted by an error.
create or replace function absurd.kept_from(p_now timestamptz, p_seconds double precision) returns timestamptz
language sql immutable as $$
  select case when p_seconds between 0 and 3.2e9 then p_now - make_interval(secs => p_seconds) end
$$;

-- When a walk that has taken so many seconds is followed by the next one: so that reading what is kept never is more than a twentieth
-- of the time.
create or replace function absurd.next_walk(p_now timestamptz, p_seconds double precision) returns timestamptz
language sql immutable as $$
  select p_now + make_interval(secs => least(greatest(20 * least(p_seconds, 3600), 10), 3600))
$$;

-- One step of each walk of a queue that is due: deletes, and writes down the places.
create or replace function absurd.retain_queue(
  p_queue absurd.retention, p_now timestamptz, p_limit integer, p_rows integer, p_anew boolean,
  out tasks integer, out events integer, out read integer)
language plpgsql volatile as $$
declare
  v_step record;
begin
  tasks := 0;
  events := 0;
  read := 0;
  if p_anew then
    p_queue.after_task_name := null;
    p_queue.counted_down_to := null;
    p_queue.next_tasks_at := null;
    p_queue.after_seq := null;
    p_queue.next_events_at := null;
  end if;
  if absurd.limits_tasks(p_queue) and p_queue.next_tasks_at > p_now is not true then
    v_step := absurd.retain_tasks(p_queue, p_now, p_limit, p_rows);
    p_queue := v_step.p_queue;
    tasks := v_step.deleted;
    read := v_step.read;
  end if;
  if p_queue.keep_events is not null and p_queue.next_events_at > p_now is not true and tasks < p_limit and read < p_rows then
    v_step := absurd.retain_events(p_queue, p_now, p_limit - tasks, p_rows - read);
    p_queue := v_step.p_queue;
    events := v_step.deleted;
    read := read + v_step.read;
  end if;
  update absurd.retention r
  set after_task_name = p_queue.after_task_name, after_task_id = p_queue.after_task_id, beyond_task_id = p_queue.beyond_task_id,
    counted = p_queue.counted, counted_down_to = p_queue.counted_down_to, count_span = p_queue.count_span,
    task_seconds = p_queue.task_seconds, next_tasks_at = p_queue.next_tasks_at, after_seq = p_queue.after_seq,
    event_seconds = p_queue.event_seconds, next_events_at = p_queue.next_events_at, visited_at = p_now,
    tasks_deleted = least(r.tasks_deleted, 9e18::bigint) + tasks, events_deleted = least(r.events_deleted, 9e18::bigint) + events
  where r.queue_name = p_queue.queue_name;
end $$;

-- One step of the walk over the tasks of a queue. Before it begins, what keep_count keeps is counted.
create or replace function absurd.retain_tasks(
  inout p_queue absurd.retention, p_now timestamptz, p_limit integer, p_rows integer, out deleted integer, out read integer)
language plpgsql volatile as $$
declare
  v_began timestamptz := clock_timestamp();
  v_step record;
begin
  deleted := 0;
  read := 0;
  if p_queue.after_task_name is null then
    p_queue.task_seconds := case when p_queue.counted_down_to is null then 0 else p_queue.task_seconds end;
    v_step := absurd.count_kept(p_queue, p_rows);
    p_queue := v_step.p_queue;
    read := v_step.read;
  end if;
  if p_queue.after_task_name is not null or p_queue.counted_down_to is null then
    v_step := absurd.walk_tasks(p_queue.queue_name, p_queue.after_task_name, p_queue.after_task_id,
      absurd.kept_from(p_now, p_queue.keep_completed), absurd.kept_from(p_now, p_queue.keep_failed),
      absurd.kept_from(p_now, p_queue.keep_cancelled), p_queue.beyond_task_id, p_now - interval '1 minute', p_limit,
      greatest(p_rows - read, 1));
    deleted := absurd.delete_tasks(v_step.task_ids);
    read := read + v_step.read;
    p_queue.after_task_name := v_step.last_name;
    p_queue.after_task_id := v_step.last_id;
    p_queue.counted_down_to := null;
  end if;
  p_queue.task_seconds := p_queue.task_seconds + extract(epoch from clock_timestamp() - v_began);
  p_queue.next_tasks_at := case when p_queue.after_task_name is null and p_queue.counted_down_to is null
    then absurd.next_walk(p_now, p_queue.task_seconds) end;
end $$;

-- One step of the walk over its events.
create or replace function absurd.retain_events(
  inout p_queue absurd.retention, p_now timestamptz, p_limit integer, p_rows integer, out deleted integer, out read integer)
language plpgsql volatile as $$
declare
  v_began timestamptz := clock_timestamp();
  v_before double precision := case when p_queue.after_seq is null then 0 else p_queue.event_seconds end;
  v_step record := absurd.walk_events(
    p_queue.queue_name, p_queue.after_seq, absurd.kept_from(p_now, p_queue.keep_events), false, p_limit, p_rows);
begin
  deleted := absurd.delete_event_rows(v_step.seqs);
  read := v_step.read;
  p_queue.after_seq := v_step.last_seq;
  p_queue.event_seconds := v_before + extract(epoch from clock_timestamp() - v_began);
  p_queue.next_events_at := case when v_step.last_seq is null then absurd.next_walk(p_now, p_queue.event_seconds) end;
end $$;
