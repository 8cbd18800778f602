-- The attempts of a task in order: those that failed, then the one that lives or completed the task.
create or replace function absurd.show_attempts(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('run_id', i.run_id, 'attempt', i.attempt, 'state', i.state, 'cause', i.cause,
    'worker_id', i.worker_id, 'started_at', i.started_at, 'ended_at', i.ended_at, 'retry_at', i.retry_at, 'failure', i.failure)
    order by i.attempt), '[]')
  from (
    select a.run_id, a.attempt, case when a.cause in ('cancel', 'delay', 'duration') then 'cancelled' else 'failed' end as state,
      a.cause, a.worker_id, a.started_at, a.ended_at, a.retry_at, a.failure
    from absurd.attempts a where a.task_id = p_task_id
    union all
    select r.run_id, r.attempt, r.state, null, r.worker_id, r.started_at, null, null, null
    from absurd.runs r where r.task_id = p_task_id
    union all
    select t.run_id, t.attempt, 'completed', null, t.worker_id, t.started_at, t.finished_at, null, null
    from absurd.tasks t where t.task_id = p_task_id and t.outcome = 'completed'
  ) i
$$;

-- The recorded effects of a task in handler order, the first 1,000.
create or replace function absurd.show_checkpoints(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('step_name', c.step_name, 'kind', c.kind, 'position', c.position, 'state', c.state,
    'event_seq', c.event_seq, 'owner_run_id', c.owner_run_id, 'completed_at', c.completed_at)
    order by c.position, c.completed_at, c.step_name), '[]')
  from (
    select s.* from absurd.checkpoints s where s.task_id = p_task_id order by s.position, s.completed_at, s.step_name limit 1000
  ) c
$$;

-- What a sleeping task waits for.
create or replace function absurd.show_waits(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('kind', case when w.kind = 'timer' then w.detail else w.kind end, 'step_name', w.step_name,
    'queue_name', w.queue_name, 'event_name', w.event_name, 'since_seq', w.since_seq, 'awaited_task_id', w.awaited_task_id,
    'waiting_since', w.created_at, 'until', r.available_at)
    order by w.wait_id), '[]')
  from absurd.runs r
  join absurd.waits w on w.run_id = r.run_id
  where r.task_id = p_task_id
$$;

-- The tasks that a task spawned, the first 1,000.
create or replace function absurd.show_children(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select coalesce(json_agg(json_build_object('task_id', k.task_id, 'queue_name', k.queue_name, 'task_name', k.task_name,
    'state', coalesce(k.outcome, r.state, 'pending'), 'spawned_at', k.spawned_at, 'finished_at', k.finished_at)
    order by k.task_id), '[]')
  from (select t.* from absurd.tasks t where t.parent_task_id = p_task_id order by t.task_id limit 1000) k
  left join absurd.runs r on r.task_id = k.task_id
$$;

-- Everything that is known of one task, as one document; null if there is no such task. Lists are bounded: at most 1,000 checkpoints
-- and 1,000 children, while checkpoint_count and child_count say how many there are. Secrets of tokens are hidden.
create or replace function absurd.show_task(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select absurd.hide_secrets(json_build_object(
    'task_id', t.task_id, 'run_id', coalesce(r.run_id, t.run_id), 'queue_name', t.queue_name, 'task_name', t.task_name,
    'state', coalesce(t.outcome, r.state, 'pending'), 'attempt', coalesce(r.attempt, t.attempt), 'max_attempts', t.max_attempts,
    'priority', t.priority, 'params', t.params, 'headers', t.headers, 'retry_strategy', t.retry_strategy,
    'max_delay', t.max_delay, 'max_duration', t.max_duration, 'idempotency_key', t.idempotency_key,
    'parent_task_id', t.parent_task_id, 'spawned_at', t.spawned_at, 'available_at', r.available_at,
    'started_at', coalesce(r.started_at, t.started_at), 'finished_at', t.finished_at,
    'worker_id', coalesce(r.worker_id, t.worker_id), 'lease_expires_at', r.lease_expires_at, 'deadline_at', r.deadline_at,
    'note', r.note, 'result', t.result,
    'failure', (select a.failure from absurd.attempts a where a.run_id = t.run_id and t.outcome is not null),
    'attempts', absurd.show_attempts(t.task_id),
    'checkpoint_count', (select count(*) from absurd.checkpoints c where c.task_id = t.task_id),
    'checkpoints', absurd.show_checkpoints(t.task_id),
    'waits', absurd.show_waits(t.task_id),
    'child_count', (select count(*) from absurd.tasks k where k.parent_task_id = t.task_id),
    'children', absurd.show_children(t.task_id))::text)::json
  from absurd.tasks t
  left join absurd.runs r on r.task_id = t.task_id
  where t.task_id = p_task_id
$$;

-- What a caller needs of a task, in a bounded number of fields; null if there is no such task. While it is retried, failure is that of
-- its last attempt. Secrets of tokens are hidden, but for a result: that is what the task gives, to whom it was given.
create or replace function absurd.read_task(p_task_id uuid) returns json
language sql stable
set jit = off
as $$
  select json_build_object(
    'task_id', t.task_id, 'state', coalesce(t.outcome, r.state, 'pending'), 'run_id', coalesce(r.run_id, t.run_id),
    'queue_name', t.queue_name, 'task_name', t.task_name, 'attempt', coalesce(r.attempt, t.attempt),
    'max_attempts', t.max_attempts, 'priority', t.priority, 'params', absurd.hide_secrets(t.params::text)::json,
    'headers', absurd.hide_secrets(t.headers::text)::json,
    'idempotency_key', absurd.hide_secrets(t.idempotency_key), 'parent_task_id', t.parent_task_id, 'spawned_at', t.spawned_at,
    'available_at', r.available_at, 'started_at', coalesce(r.started_at, t.started_at), 'finished_at', t.finished_at,
    'note', r.note, 'result', t.result,
    'failure', case when t.outcome is distinct from 'completed' then
      (select absurd.hide_secrets(a.failure::text)::json from absurd.attempts a where a.task_id = t.task_id order by a.attempt desc limit 1) end)
  from absurd.tasks t
  left join absurd.runs r on r.task_id = t.task_id
  where t.task_id = p_task_id
$$;

-- The next piece of a long history, as read_checkpoints() gives it to workers, with secrets of tokens hidden.
create or replace function absurd.list_checkpoints(p_task_id uuid, p_after_position integer, p_after_step text) returns text
language sql stable as $$
  select absurd.hide_secrets(absurd.read_checkpoints(p_task_id, p_after_position, p_after_step))
$$;

-- The queue of a task, for callers who know its id alone; null if there is no such task.
create or replace function absurd.queue_of_task(p_task_id uuid) returns text
language sql stable as $$
  select t.queue_name from absurd.tasks t where t.task_id = p_task_id
$$;
