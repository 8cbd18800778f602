-- Makes ready runs of a queue the caller's for the length of the lease, best priority first, then by the time they became ready.
-- Reads as many rows as it returns, whatever the backlog: the ready index is in claim order. Checkpoints come along;
-- a first claim has none and reads none. Large histories come in pieces: see read_checkpoints().
-- checkpoints: [[step_name, position, kind, state, event_seq], …] in handler order; checkpoint_count says how many there are in all.
-- next_after, in one of the rows: how far this claim got, for p_after of the next one. While somebody holds an old snapshot, claimed
-- rows stay in the index as dead entries at its head, and a claim without p_after walks past all of them. One with it does not see
-- rows that became ready long before its place (a long transaction spawned them, a worker handed them back), so a caller has
-- to look without it now and then. If it finds less than was asked for, it goes back a second by itself: rows are not
-- committed in the order of their times. waited_seconds: from the moment a run became ready to this claim.
create or replace function absurd.claim_runs(
  p_queue_name text, p_worker_id text, p_lease_seconds double precision, p_limit integer, p_after absurd.claim_place[] default null)
returns table (
  task_id uuid, run_id uuid, epoch integer, attempt integer, task_name text, params text, headers text, max_attempts integer,
  parent_task_id uuid, deadline_at timestamptz, checkpoint_count integer, checkpoints text,
  waited_seconds double precision, next_after text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_ready absurd.claim_place[];
  v_after text;
  v_last uuid;
begin
  if not exists (select from absurd.queues q where q.queue_name = p_queue_name and q.paused_at is null) then
    return;
  end if;
  v_ready := absurd.lock_ready(p_queue_name, p_limit, p_after, interval '0');
  if p_after is not null and cardinality(v_ready) < p_limit then
    v_ready := absurd.lock_ready(p_queue_name, p_limit, p_after, interval '1 second');
  end if;
  if cardinality(v_ready) = 0 then
    return;
  end if;
  v_after := absurd.claim_places(p_after, v_ready)::text;
  v_last := v_ready[cardinality(v_ready)].run_id;
  return query
  with taken as (
    update absurd.runs r
    set state = 'running', epoch = least(r.epoch, 2147483646) + 1, worker_id = p_worker_id,
      lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
      started_at = coalesce(r.started_at, v_now),
      deadline_at = v_now + absurd.stored_seconds(r.allowance), allowance = null, note = null
    from unnest(v_ready) as ready
    where r.run_id = ready.run_id
    returning r.task_id, r.run_id, r.epoch, r.attempt, r.deadline_at, r.available_at
  )
  select c.task_id, c.run_id, c.epoch, c.attempt, c.task_name, c.params, c.headers, c.max_attempts, c.parent_task_id, c.deadline_at,
    coalesce((c.head).total, 0), (c.head).checkpoints, (extract(epoch from v_now) - extract(epoch from c.available_at))::double precision,
    case when c.run_id = v_last then v_after end
  from (
    select k.*, t.task_name, t.params::text as params, t.headers::text as headers, t.max_attempts, t.parent_task_id,
      -- A case and no join: the condition of a lateral join is tested after the look, for every row.
      case when k.epoch > 1 or k.attempt > 1 then absurd.first_checkpoints(k.task_id) end as head
    from taken k
    join absurd.tasks t on t.task_id = k.task_id
    offset 0  -- keeps the head from being computed once per column
  ) c;
end $$;

-- Locks ready runs in claim order, those after the given places only, or up to p_back before them. Priorities without a place are
-- looked at from their beginning, so a new row of a better priority comes first, as it should. Rows that are locked are left out.
create or replace function absurd.lock_ready(p_queue_name text, p_limit integer, p_after absurd.claim_place[], p_back interval)
returns absurd.claim_place[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
  return array(
    select (l.priority, l.available_at, l.run_id)::absurd.claim_place
    from (
      -- The priorities above each place, then that of the place itself; a last place of nulls leaves all below.
      select g.low, g.high, g.available_at, g.run_id
      from (
        select p.*, lag(p.priority) over (order by p.ord) as above
        from unnest(p_after || null::absurd.claim_place) with ordinality as p(priority, available_at, run_id, ord)
      ) p
      cross join lateral (values
        (1, coalesce(p.priority + (p.priority < 2147483647)::integer, -2147483648),
          coalesce(p.above - (p.above > -2147483648)::integer, 2147483647),
          timestamptz '-infinity', uuid '00000000-0000-0000-0000-000000000000'),
        (2, p.priority, p.priority, p.available_at - p_back, p.run_id)
      ) as g(part, low, high, available_at, run_id)
      order by p.ord, g.part
    ) g
    -- One walk of the index for each, from its place on; it ends with the limit.
    cross join lateral (
      select r.priority, r.available_at, r.run_id
      from absurd.runs r
      where r.queue_name = p_queue_name and r.state = 'pending'
        and r.priority between g.low and g.high and (r.available_at, r.run_id) > (g.available_at, g.run_id)
      order by r.priority desc, r.available_at, r.run_id
      limit p_limit
      for update skip locked
    ) l
    limit p_limit);
end $$;

-- The places that claims have got to: the last row of each priority, best first. More priorities than sixteen are not worth their walks.
create or replace function absurd.claim_places(p_before absurd.claim_place[], p_ready absurd.claim_place[]) returns absurd.claim_place[]
language sql immutable as $$
  select array_agg((b.priority, b.available_at, b.run_id)::absurd.claim_place order by b.priority desc)
  from (
    select distinct on (p.priority) p.priority, p.available_at, p.run_id
    from (
      select u.priority, u.available_at, u.run_id, lead(u.priority) over (order by u.ord) as next_priority
      from unnest(p_ready) with ordinality as u(priority, available_at, run_id, ord)
      union all
      select u.priority, u.available_at, u.run_id, null from unnest(p_before) as u
    ) p
    where p.priority is distinct from p.next_priority
    order by p.priority desc, p.available_at desc, p.run_id desc
    limit 16
  ) b
$$;

-- The head of a task's history: at most 1,000 checkpoints and about 1 MB, and how many there are in all.
create or replace function absurd.first_checkpoints(p_task_id uuid) returns absurd.history_head
language sql stable as $$
  select max(c.total)::integer,
    json_agg(json_build_array(c.step_name, c.position, c.kind, c.state, c.event_seq) order by c.position, c.step_name)
      filter (where c.n <= 1000 and c.size_before < 1000000)::text
  from (
    select s.step_name, s.position, s.kind, s.state, s.event_seq,
      count(*) over () as total,
      row_number() over w as n,
      coalesce(sum(pg_column_size(s.state)) over (w rows between unbounded preceding and 1 preceding), 0) as size_before
    from absurd.checkpoints s
    where s.task_id = p_task_id
    window w as (order by s.position, s.step_name)
  ) c
$$;

-- The next piece of a long history: up to 1,000 checkpoints after a place in handler order, and about 4 MB but at least one of them,
-- in the form of claim_runs().
create or replace function absurd.read_checkpoints(p_task_id uuid, p_after_position integer, p_after_step text) returns text
language sql stable as $$
  select json_agg(json_build_array(c.step_name, c.position, c.kind, c.state, c.event_seq) order by c.position, c.step_name)::text
  from (
    select n.*, coalesce(sum(pg_column_size(n.state)) over (order by n.position, n.step_name rows between unbounded preceding and 1 preceding), 0)
      as size_before
    from (
      select s.* from absurd.checkpoints s
      where s.task_id = p_task_id and (s.position, s.step_name) > (p_after_position, p_after_step)
      order by s.position, s.step_name
      limit 1000
    ) n
  ) c
  where c.size_before < 4000000
$$;

-- Makes sleepers whose time has come ready, and records what that means for them: a sleep that is over, a wait that timed out.
-- Returns how many, and when the next one is due. Bounded; rows that somebody else is changing are left to him.
-- looked_until: nobody that was due before it is left, for p_after of the next call, which then begins a second before that place: sleepers
-- are not committed in the order of their times. While somebody holds an old snapshot, those that have woken stay in the index as dead
-- entries, and a call without p_after walks past all of them; a caller has to make one now and then.
create or replace function absurd.promote_due(p_queue_name text, p_limit integer default 500, p_after timestamptz default null)
returns table (promoted integer, next_due timestamptz, looked_until timestamptz)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_from timestamptz := coalesce(p_after - interval '1 second', '-infinity');
  v_run_ids uuid[];
  v_next_due timestamptz;
begin
  v_run_ids := array(
    select d.run_id from (
      select r.run_id from absurd.runs r
      where r.queue_name = p_queue_name and r.state = 'sleeping' and r.available_at <= v_now and r.available_at >= v_from
      order by r.available_at
      limit p_limit
      for update skip locked) d);
  if cardinality(v_run_ids) > 0 then
    perform absurd.end_waits(v_run_ids, v_now);
    perform absurd.notify_queues(array[p_queue_name]);
  end if;
  v_next_due := (
    select r.available_at from absurd.runs r
    where r.queue_name = p_queue_name and r.state = 'sleeping' and r.available_at >= v_from
    order by r.available_at limit 1);
  return query select cardinality(v_run_ids), v_next_due, least(v_next_due, v_now);
end $$;

-- Ends the waits of locked sleepers by time: writes what their timers say, drops the rest, makes them ready.
create or replace function absurd.end_waits(p_run_ids uuid[], p_now timestamptz) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  with gone as (
    delete from absurd.waits w where w.run_id = any (p_run_ids)
    returning w.run_id, w.task_id, w.kind, w.step_name, w.position, w.detail, w.event_name
  ), recorded as (
    insert into absurd.checkpoints (task_id, step_name, position, kind, state, owner_run_id, completed_at)
    select g.task_id, g.step_name, g.position, g.detail, 'null', g.run_id, p_now
    from gone g where g.kind = 'timer' and g.task_id is not null and g.step_name is not null
    on conflict (task_id, step_name) do nothing
  )
  update absurd.runs r
  set state = 'pending', waits_left = 0,
    wake_event = (select min(g.event_name) from gone g where g.run_id = r.run_id and g.kind = 'event')
  where r.run_id = any (p_run_ids);
end $$;
