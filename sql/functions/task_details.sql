-- One task for a page about it, in bounded pieces: large values are cut and can be had whole, lists come in pages.

-- What is known of a task, as one document; null if there is no such task. Stored values come as {"text"}, their JSON in a string: whatever
-- it is, it does not keep the rest from being read. Larger ones than p_value_bytes come as {"bytes"}: task_value() has the whole. Pages, of p_limit: attempts, the last first, before p_before_attempt;
-- checkpoints in handler order after (p_after_position, p_after_step); children after p_after_child. *_count say how many there are.
-- Secrets of tokens are stars. marks: the last 300 checkpoints in order of time, without their values. parents: up to 20, the nearest first.
create or replace function absurd.task_details(
  p_task_id uuid, p_before_attempt integer default null, p_after_position integer default null, p_after_step text default null,
  p_after_child uuid default null, p_limit integer default 100, p_value_bytes integer default 8192)
returns json
language sql stable
set jit = off set enable_seqscan = off
as $$
  select absurd.hide_secrets(json_build_object(
    'now', absurd.current_time(),
    'task_id', t.task_id, 'run_id', coalesce(r.run_id, t.run_id), 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', coalesce(t.outcome, r.state, 'pending'), 'attempt', coalesce(r.attempt, t.attempt), 'max_attempts', t.max_attempts,
    'priority', t.priority, 'retry_strategy', t.retry_strategy, 'max_delay', t.max_delay, 'max_duration', t.max_duration,
    'idempotency_key', t.idempotency_key, 'parent_task_id', t.parent_task_id, 'spawned_at', t.spawned_at, 'available_at', r.available_at,
    'started_at', coalesce(r.started_at, t.started_at), 'finished_at', t.finished_at, 'worker_id', coalesce(r.worker_id, t.worker_id),
    'lease_expires_at', r.lease_expires_at, 'deadline_at', r.deadline_at, 'note', r.note,
    'params', absurd.bounded_value(t.params, p_value_bytes), 'headers', absurd.bounded_value(t.headers, p_value_bytes),
    'result', absurd.bounded_value(t.result, p_value_bytes),
    'source', case when json_typeof(t.headers) = 'object' then (t.headers -> 'absurd-source')::text end,
    'attempt_count', (select count(*) from absurd.attempts a where a.task_id = t.task_id)
      + (t.outcome is null or t.outcome = 'completed')::integer,
    'attempts', absurd.page_of_attempts(t.task_id, p_before_attempt, p_limit, p_value_bytes),
    'checkpoint_count', c.total, 'checkpoints', c.page, 'marks', c.marks,
    'waits', absurd.page_of_waits(t.task_id, p_limit),
    'child_count', (select count(*) from (select from absurd.tasks k where k.parent_task_id = t.task_id limit 10001) k),
    'children', absurd.page_of_children(t.task_id, p_after_child, p_limit),
    'parents', absurd.parents_of(t.task_id))::text)::json
  from absurd.tasks t
  left join absurd.runs r on r.task_id = t.task_id
  cross join absurd.checkpoints_of(p_task_id, p_after_position, p_after_step, p_limit, p_value_bytes, 300) c
  where t.task_id = p_task_id
$$;

-- One value of a task whole, as it was stored: params, headers, result; checkpoint by its step name; failure by the number of its attempt.
-- No value or no task: null. Secrets of tokens are stars. A value of more than p_max_bytes is refused: AB013.
create or replace function absurd.task_value(
  p_task_id uuid, p_what text, p_step_name text default null, p_attempt integer default null, p_max_bytes integer default 268435456)
returns json
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
declare
  v_value json;
begin
  case p_what
    when 'params' then
      v_value := (select t.params from absurd.tasks t where t.task_id = p_task_id);
    when 'headers' then
      v_value := (select t.headers from absurd.tasks t where t.task_id = p_task_id);
    when 'result' then
      v_value := (select t.result from absurd.tasks t where t.task_id = p_task_id);
    when 'checkpoint' then
      v_value := (select c.state from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name);
    when 'failure' then
      v_value := (select a.failure from absurd.attempts a
        where a.task_id = p_task_id and a.attempt = p_attempt order by a.ended_at desc limit 1);
    else
      raise exception 'what must be params, headers, result, checkpoint or failure, not "%"', left(p_what, 80) using errcode = 'AB012';
  end case;
  if octet_length(v_value::text) > p_max_bytes then
    raise exception 'the % of task % has % bytes, more than the % that were asked for', p_what, p_task_id, octet_length(v_value::text), p_max_bytes
      using errcode = 'AB013', hint = 'absurdctl export-task writes all of it into a file.';
  end if;
  return absurd.hide_secrets(v_value::text)::json;
end $$;

-- The text of a value, or its size. Null for null.
create or replace function absurd.bounded_value(p_value json, p_bytes integer) returns json
language sql immutable parallel safe as $$
  select case
    when p_value is null then null
    when octet_length(p_value::text) <= p_bytes then json_build_object('text', p_value::text)
    else json_build_object('bytes', octet_length(p_value::text))
  end
$$;

-- Attempts, the last first: those that ended, and the one that lives or completed the task.
create or replace function absurd.page_of_attempts(p_task_id uuid, p_before_attempt integer, p_limit integer, p_value_bytes integer)
returns json
language sql stable as $$
  select coalesce(json_agg(json_build_object('run_id', p.run_id, 'attempt', p.attempt, 'state', p.state, 'cause', p.cause,
    'worker_id', p.worker_id, 'started_at', p.started_at, 'ended_at', p.ended_at, 'retry_at', p.retry_at,
    'failure', absurd.bounded_value(p.failure, p_value_bytes)) order by p.attempt desc, p.ended_at desc nulls first), '[]')
  from (
    select * from (
      (select a.run_id, a.attempt, case when a.cause in ('cancel', 'delay', 'duration') then 'cancelled' else 'failed' end as state,
        a.cause, a.worker_id, a.started_at, a.ended_at, a.retry_at, a.failure
      from absurd.attempts a
      where a.task_id = p_task_id and (p_before_attempt is null or a.attempt < p_before_attempt)
      order by a.attempt desc limit absurd.page_size(p_limit))
      union all
      select r.run_id, r.attempt, r.state, null, r.worker_id, r.started_at, null, null, null
      from absurd.runs r where r.task_id = p_task_id
      union all
      select t.run_id, t.attempt, 'completed', null, t.worker_id, t.started_at, t.finished_at, null, null
      from absurd.tasks t where t.task_id = p_task_id and t.outcome = 'completed'
    ) i
    where p_before_attempt is null or i.attempt < p_before_attempt
    order by i.attempt desc
    limit absurd.page_size(p_limit)
  ) p
$$;

-- A page of the checkpoints in handler order, how many there are, and when the last ones were recorded, by which run. They are walked once,
-- without their values: no index knows their order.
create or replace function absurd.checkpoints_of(
  p_task_id uuid, p_after_position integer, p_after_step text, p_limit integer, p_value_bytes integer, p_marks integer,
  out total bigint, out page json, out marks json)
returns record
language sql stable
set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  with every as materialized (
    select s.step_name, s.position, s.kind, s.owner_run_id, s.completed_at from absurd.checkpoints s where s.task_id = p_task_id
  )
  select (select count(*) from every),
    (select coalesce(json_agg(json_build_object('step_name', c.step_name, 'kind', c.kind, 'position', c.position,
        'state', absurd.bounded_value(c.state, p_value_bytes), 'event_seq', c.event_seq,
        'owner_run_id', c.owner_run_id, 'completed_at', c.completed_at) order by c.position, c.step_name collate "C"), '[]')
      from (
        select e.step_name from every e
        where p_after_position is null or (e.position, e.step_name collate "C") > (p_after_position, coalesce(p_after_step, '') collate "C")
        order by e.position, e.step_name collate "C"
        limit absurd.page_size(p_limit)
      ) k
      join absurd.checkpoints c on c.task_id = p_task_id and c.step_name = k.step_name),
    (select coalesce(json_agg(json_build_object('step_name', m.step_name, 'kind', m.kind, 'owner_run_id', m.owner_run_id,
        'completed_at', m.completed_at) order by m.completed_at, m.position, m.step_name), '[]')
      from (select * from every e order by e.completed_at desc, e.position desc, e.step_name desc limit p_marks) m)
$$;

-- What a sleeping task waits for. token_name: of the token whose answer it is.
create or replace function absurd.page_of_waits(p_task_id uuid, p_limit integer) returns json
language sql stable as $$
  select coalesce(json_agg(json_build_object('kind', case when w.kind = 'timer' then w.detail else w.kind end, 'step_name', w.step_name,
    'queue_name', w.queue_name, 'event_name', w.event_name, 'since_seq', w.since_seq, 'awaited_task_id', w.awaited_task_id,
    'token_name', (select k.token_name from absurd.tokens k where w.kind = 'token' and k.token_id::text = w.detail and k.task_id = p_task_id),
    'waiting_since', w.created_at, 'until', w.available_at) order by w.wait_id), '[]')
  from (
    select v.*, r.available_at
    from absurd.runs r
    join absurd.waits v on v.run_id = r.run_id
    where r.task_id = p_task_id
    order by v.wait_id
    limit absurd.page_size(p_limit)
  ) w
$$;

-- The tasks that a task spawned, in order. child_count: whether there is more below.
create or replace function absurd.page_of_children(p_task_id uuid, p_after_child uuid, p_limit integer) returns json
language sql stable as $$
  select coalesce(json_agg(json_build_object('task_id', k.task_id, 'queue_name', k.queue_name, 'task_name', k.task_name,
    'state', coalesce(k.outcome, r.state, 'pending'), 'spawned_at', k.spawned_at, 'finished_at', k.finished_at,
    'has_children', exists (select from absurd.tasks g where g.parent_task_id = k.task_id)) order by k.task_id), '[]')
  from (
    select t.task_id, t.queue_name, t.task_name, t.outcome, t.spawned_at, t.finished_at
    from absurd.tasks t
    where t.parent_task_id = p_task_id and (p_after_child is null or t.task_id > p_after_child)
    order by t.task_id limit absurd.page_size(p_limit)
  ) k
  left join absurd.runs r on r.task_id = k.task_id
$$;

-- The task that spawned a task, the one that spawned that, and so on; one that has been cleaned up is the last.
create or replace function absurd.parents_of(p_task_id uuid) returns json
language sql stable as $$
  with recursive chain as (
    select t.parent_task_id as task_id, 1 as distance
    from absurd.tasks t where t.task_id = p_task_id and t.parent_task_id is not null
    union all
    select t.parent_task_id, c.distance + 1
    from chain c
    join absurd.tasks t on t.task_id = c.task_id
    where t.parent_task_id is not null and c.distance < 20
  )
  select coalesce(json_agg(json_build_object('task_id', c.task_id, 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', case when t.task_id is not null then coalesce(t.outcome, r.state, 'pending') end) order by c.distance), '[]')
  from chain c
  left join absurd.tasks t on t.task_id = c.task_id
  left join absurd.runs r on r.task_id = c.task_id
$$;
