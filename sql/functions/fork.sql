-- Starts a copy of a task from one of its steps: a new task with the same params and with the checkpoints that stand before that step, in
-- one transaction. What the step and those after it do is done once more, by present code; the task itself stays as it is, whatever
-- its state. A step is named as show_task() shows it; a wait that the task sleeps in may be named too.
-- Options: max_attempts (default: the task's); task_id and run_id of the copy, for callers who may have to ask again because the answer
-- was lost: a copy that is there already is reported, and created is false; or idempotency_key of the copy, to the same end.
-- Locks: the queue, shared (against drop_queue); the row of the task, against its clean-up alone: it may go on meanwhile.
create or replace function absurd.fork_task(p_queue_name text, p_task_id uuid, p_step_name text, p_options jsonb default '{}')
returns table (task_id uuid, run_id uuid, attempt integer, created boolean)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_task absurd.tasks;
  v_step record;
  v_new_task_id uuid;
  v_new_run_id uuid;
  v_key text := p_options ->> 'idempotency_key';
  v_owner record;
  v_problem text := absurd.fork_options_error(p_options);
begin
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name));
  select * into v_task from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name for key share;
  if not found then
    raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
  end if;
  select s.place, s.since into v_step from absurd.find_step(p_task_id, p_step_name) s;
  if not found then
    raise exception 'task % has no step "%"', p_task_id, left(coalesce(p_step_name, ''), 200)
      using errcode = 'AB012', hint = 'Steps that it has taken: absurdctl show-task, or absurd.show_task(). A task that has failed '
        'goes on from its last step with retry_task().';
  end if;
  v_problem := absurd.open_token_error(p_task_id, v_step.place, v_step.since);
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012', hint = 'Fork from the step in which the token is made, or from one before it.';
  end if;
  v_new_task_id := coalesce((p_options ->> 'task_id')::uuid, absurd.make_id());
  v_new_run_id := coalesce((p_options ->> 'run_id')::uuid, absurd.make_id());
  if v_key is not null then
    select c.owners[1] as task_id, c.run_ids[1] as run_id, c.attempts[1] as attempt into v_owner
    from absurd.claim_idempotency_keys(array[p_queue_name], array[v_key], array[v_new_task_id], array[v_new_run_id], array[true]) c;
    if v_owner.task_id <> v_new_task_id then
      return query select v_owner.task_id, v_owner.run_id, v_owner.attempt, false;
      return;
    end if;
  end if;
  insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
    priority, idempotency_key, parent_task_id, spawned_at)
  values (v_new_task_id, v_task.queue_name, v_task.task_name, v_task.params, absurd.forked_headers(v_task.headers, v_task.task_name, p_task_id, p_step_name),
    v_task.retry_strategy, coalesce((p_options ->> 'max_attempts')::numeric::integer, v_task.max_attempts), v_task.max_delay,
    v_task.max_duration, v_task.priority, v_key, v_task.parent_task_id, v_now)
  on conflict (task_id) do nothing;
  if not found then
    return query select f.task_id, f.run_id, f.attempt, false from absurd.find_fork(v_new_task_id, p_task_id, p_step_name) f;
    return;
  end if;
  -- As they are: who recorded them and when is the task's, whose effects they are.
  insert into absurd.checkpoints (task_id, step_name, position, kind, state, event_seq, owner_run_id, completed_at)
  select v_new_task_id, c.step_name, c.position, c.kind, c.state, c.event_seq, c.owner_run_id, c.completed_at
  from absurd.checkpoints c
  where c.task_id = p_task_id and (c.position, c.completed_at) < (v_step.place, v_step.since);
  -- The epoch: a claim looks for checkpoints from the second one on only.
  insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, epoch, deadline_at, allowance)
  values (v_new_run_id, v_new_task_id, v_task.queue_name, 'pending', 1, v_task.priority, v_now, 1,
    v_now + absurd.stored_seconds(v_task.max_delay), v_task.max_duration);
  perform absurd.notify_queues(array[p_queue_name]);
  return query select v_new_task_id, v_new_run_id, 1, true;
end $$;

-- What is wrong with the options of a fork, or null.
create or replace function absurd.fork_options_error(p_options jsonb) returns text
language sql immutable as $$
  select coalesce(
    absurd.object_error('options', p_options, array['max_attempts', 'task_id', 'run_id', 'idempotency_key']),
    absurd.copy_key_error(p_options -> 'idempotency_key'),
    absurd.number_error('max_attempts', p_options -> 'max_attempts', 1, 1000000, true),
    (select format('%s must be a UUID, not %s', u.name, left((p_options -> u.name)::text, 100))
     from (values ('task_id'), ('run_id')) as u(name)
     where jsonb_typeof(p_options -> u.name) <> 'null'
       and coalesce(p_options ->> u.name, '') !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
     limit 1))
$$;

-- The place of a step in its task: one that is recorded, or one in which the task waits.
create or replace function absurd.find_step(p_task_id uuid, p_step_name text) returns table (place integer, since timestamptz)
language sql stable as $$
  select s.place, s.since
  from (
    select 1 as part, c.position as place, c.completed_at as since
    from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name
    union all
    select 2, w.position, w.created_at
    from absurd.runs r
    join absurd.waits w on w.run_id = r.run_id
    where r.task_id = p_task_id and w.step_name = p_step_name
  ) s
  order by s.part, s.place
  limit 1
$$;

-- Why a copy would wait for a token for ever, or null: only the task that made a token is told of its answer.
create or replace function absurd.open_token_error(p_task_id uuid, p_place integer, p_since timestamptz) returns text
language sql stable as $$
  select format('token "%s" was made in step "%s", before the one to fork from, and nobody has answered it: its answer goes to task %s alone',
    k.token_name, c.step_name, p_task_id)
  from absurd.tokens k
  join absurd.checkpoints c on c.task_id = k.task_id and starts_with(c.step_name, '$token:') and strpos(c.state::text, k.token_id::text) > 0
  where k.task_id = p_task_id and k.used_at is null and (k.expires_at is null or k.expires_at > absurd.current_time())
    and (c.position, c.completed_at) < (p_place, p_since)
    and not exists (
      select from absurd.checkpoints a
      where a.task_id = k.task_id and starts_with(a.step_name, '$await_token:' || k.token_id) and (a.position, a.completed_at) < (p_place, p_since))
  order by k.token_id
  limit 1
$$;

-- The headers of a copy: those of the task, whose handler reads them again, with the origin added to its source.
create or replace function absurd.forked_headers(p_headers json, p_task_name text, p_task_id uuid, p_step_name text) returns json
language sql stable as $$
  select case
    when jsonb_typeof(coalesce(h.headers, '{}')) <> 'object' or h.headers ? '$unreadable' then p_headers
    else (coalesce(h.headers, '{}') || jsonb_build_object('absurd-source',
      case when jsonb_typeof(h.headers -> 'absurd-source') = 'object' then h.headers -> 'absurd-source'
        else jsonb_build_object('kind', 'fork', 'name', p_task_name) end
      || jsonb_build_object('forked_from', jsonb_build_object('task_id', p_task_id, 'step', p_step_name))))::json
  end
  from (select case when json_typeof(p_headers) <> 'null' then absurd.readable_jsonb(p_headers) end as headers) h
$$;

-- A copy that an earlier call has made, whose answer was lost. Anything else that has its id is not the caller's.
create or replace function absurd.find_fork(p_new_task_id uuid, p_task_id uuid, p_step_name text)
returns table (task_id uuid, run_id uuid, attempt integer)
language plpgsql stable as $$
#variable_conflict use_column
begin
  return query
    select t.task_id, coalesce(r.run_id, t.run_id), coalesce(r.attempt, t.attempt)
    from absurd.tasks t
    left join absurd.runs r on r.task_id = t.task_id
    where t.task_id = p_new_task_id
      and absurd.readable_jsonb(t.headers) #> '{absurd-source,forked_from}' = jsonb_build_object('task_id', p_task_id, 'step', p_step_name);
  if not found then
    raise exception 'task_id % is that of another task', p_new_task_id using errcode = 'AB012';
  end if;
end $$;
