-- What is wrong with an item of a spawn, or null. p_max_bytes is the queue's limit, null if there is no such queue.
create or replace function absurd.spawn_problem(
  p_queue_name text, p_max_bytes integer, p_task_name text, p_params json, p_idempotency_key text, p_option_error text)
returns text
language sql immutable parallel safe as $$
  select coalesce(
    case when p_max_bytes is null then format('queue "%s" does not exist', p_queue_name) end,
    absurd.name_error('task name', p_task_name),
    case when p_idempotency_key is not null then absurd.name_error('idempotency key', p_idempotency_key) end,
    p_option_error,
    case when octet_length(p_params::text) > p_max_bytes then format('params of task "%s" have %s bytes; queue "%s" allows %s',
      p_task_name, octet_length(p_params::text), p_queue_name, p_max_bytes) end)
$$;

-- Inserts tasks with their first runs. One answer per item, in the order given; a bad item says so and harms no other.
-- Ids come from the caller, so a call whose answer was lost can be repeated: a task that is there already is reported as before.
-- Locks: each queue's advisory lock, shared, in order of name (against drop_queue); idempotency keys in order of key.
create or replace function absurd.spawn_tasks(
  p_queue_names text[], p_task_ids uuid[], p_run_ids uuid[], p_task_names text[], p_params json[], p_headers json[],
  p_options jsonb[], p_idempotency_keys text[])
returns table (task_id uuid, run_id uuid, attempt integer, created boolean, status text, message text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_queues text[] := array(select distinct u.q from unnest(p_queue_names) as u(q) where u.q is not null order by 1);
  v_owners uuid[];
  v_owner_run_ids uuid[];
  v_owner_attempts integer[];
begin
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(u.q)), absurd.confirm_queue(u.q) from unnest(v_queues) as u(q);
  if exists (select from unnest(p_idempotency_keys) as u(k) where u.k is not null) then
    select c.owners, c.run_ids, c.attempts into v_owners, v_owner_run_ids, v_owner_attempts
    from absurd.claim_idempotency_keys(p_queue_names, p_idempotency_keys, p_task_ids, p_run_ids, array(
      select absurd.spawn_problem(u.queue_name, q.max_payload_bytes, u.task_name, u.params, u.key,
        coalesce(opt.error, absurd.headers_error(u.headers))) is null
      from unnest(p_queue_names, p_task_names, p_params, p_headers, p_options, p_idempotency_keys)
        with ordinality as u(queue_name, task_name, params, headers, options, key, ord)
      left join absurd.queues q on q.queue_name = u.queue_name
      left join (
        select d.options, (absurd.read_spawn_options(d.options)).error from (select distinct o as options from unnest(p_options) as o) d
      ) opt on opt.options = u.options
      order by u.ord)) c;
  end if;
  return query
  with item as materialized (
    select u.ord, u.queue_name, u.task_id, u.run_id, u.task_name, u.params, u.headers, u.options, u.owner, u.owner_run_id, u.owner_attempt,
      u.idempotency_key
    from unnest(p_queue_names, p_task_ids, p_run_ids, p_task_names, p_params, p_headers, p_options, v_owners, v_owner_run_ids,
        v_owner_attempts, p_idempotency_keys) with ordinality
      as u(queue_name, task_id, run_id, task_name, params, headers, options, owner, owner_run_id, owner_attempt, idempotency_key, ord)
  ), opt as materialized (
    select d.options, absurd.read_spawn_options(d.options) as o from (select distinct i.options from item i where i.options is not null) d
  ), judged as materialized (
    select i.*, opt.o, q.queue_name is null as no_queue,
      coalesce((opt.o).available_at, v_now) as available_at,
      -- The cheap test first: the function call is for items that fail it.
      case
        when octet_length(i.task_name) between 1 and 1000 and octet_length(coalesce(i.idempotency_key, 'x')) between 1 and 1000
          and octet_length(i.params::text) <= q.max_payload_bytes and (opt.o).error is null
          and coalesce(octet_length(i.headers::text), 0) <= 65536 then null
        else absurd.spawn_problem(i.queue_name, q.max_payload_bytes, i.task_name, i.params, i.idempotency_key,
          coalesce((opt.o).error, absurd.headers_error(i.headers)))
      end as problem,
      octet_length(i.params::text) > q.max_payload_bytes as too_large
    from item i
    left join absurd.queues q on q.queue_name = i.queue_name
    left join opt on opt.options = i.options
  ), new_task as (
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
      priority, idempotency_key, parent_task_id, spawned_at)
    select j.task_id, j.queue_name, j.task_name, coalesce(j.params, 'null'), coalesce(j.headers, (j.o).headers), (j.o).retry_strategy,
      (j.o).max_attempts, (j.o).max_delay, (j.o).max_duration, coalesce((j.o).priority, 0), j.idempotency_key, (j.o).parent_task_id, v_now
    from judged j
    where j.problem is null and (j.owner is null or j.owner = j.task_id)
    order by j.ord
    on conflict (task_id) do nothing
    returning tasks.task_id
  ), new_run as (
    insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, deadline_at, allowance)
    select j.run_id, j.task_id, j.queue_name, case when j.available_at > v_now then 'sleeping' else 'pending' end, 1,
      coalesce((j.o).priority, 0), j.available_at, j.available_at + make_interval(secs => (j.o).max_delay), (j.o).max_duration
    from judged j
    where j.task_id in (select n.task_id from new_task n)
    order by j.ord
    returning runs.queue_name, runs.state
  ), told as (
    select absurd.notify_queues(array_agg(distinct n.queue_name)) from new_run n where n.state = 'pending' having count(*) > 0
  )
  select
    case when j.problem is null then coalesce(j.owner, j.task_id) end,
    case when j.problem is null then coalesce(j.owner_run_id, j.run_id) end,
    coalesce(j.owner_attempt, 1),
    j.problem is null and (j.owner is null or j.owner = j.task_id),
    case when j.problem is null then 'ok' when j.no_queue then 'no_queue' when j.too_large then 'too_large' else 'invalid' end,
    j.problem
  from judged j
  -- Used, for a CTE that nobody reads is not run and nobody would be told.
  cross join (select count(*) as n from told) t
  where t.n >= 0
  order by j.ord;
end $$;

-- The same for one task, which is what most calls bring.
create or replace function absurd.spawn_one(
  p_queue_name text, p_task_id uuid, p_run_id uuid, p_task_name text, p_params json, p_headers json, p_options jsonb, p_idempotency_key text,
  out task_id uuid, out run_id uuid, out attempt integer, out created boolean, out status text, out message text)
returns record
language plpgsql volatile
as $$
#variable_conflict use_column
declare
  v_tell boolean;
  v_now timestamptz;
  v_max_bytes integer;
  v_o absurd.spawn_options;
begin
  -- Before the look at the queue: drop_queue may have the lock.
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  v_now := absurd.current_time();
  select q.max_payload_bytes into v_max_bytes from absurd.queues q where q.queue_name = p_queue_name;
  perform absurd.confirm_queue(p_queue_name);
  if p_options is not null then
    v_o := absurd.read_spawn_options(p_options);
  end if;
  message := absurd.spawn_problem(p_queue_name, v_max_bytes, p_task_name, p_params, p_idempotency_key,
    coalesce(v_o.error, absurd.headers_error(p_headers)));
  attempt := 1;
  if message is not null then
    created := false;
    status := case when v_max_bytes is null then 'no_queue' when octet_length(p_params::text) > v_max_bytes then 'too_large' else 'invalid' end;
    return;
  end if;
  status := 'ok';
  if p_idempotency_key is not null then
    select c.owners[1], c.run_ids[1], c.attempts[1] into task_id, run_id, attempt
    from absurd.claim_idempotency_keys(array[p_queue_name], array[p_idempotency_key], array[p_task_id], array[p_run_id], array[true]) c;
    if task_id <> p_task_id then
      created := false;
      return;
    end if;
  end if;
  task_id := p_task_id;
  run_id := p_run_id;
  attempt := 1;
  created := true;
  with new_task as (
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, max_delay, max_duration,
      priority, idempotency_key, parent_task_id, spawned_at)
    values (p_task_id, p_queue_name, p_task_name, coalesce(p_params, 'null'), coalesce(p_headers, v_o.headers), v_o.retry_strategy,
      v_o.max_attempts, v_o.max_delay, v_o.max_duration, coalesce(v_o.priority, 0), p_idempotency_key, v_o.parent_task_id, v_now)
    on conflict (task_id) do nothing
    returning priority
  )
  insert into absurd.runs (run_id, task_id, queue_name, state, attempt, priority, available_at, deadline_at, allowance)
  select p_run_id, p_task_id, p_queue_name, case when v_o.available_at > v_now then 'sleeping' else 'pending' end, 1,
    n.priority, coalesce(v_o.available_at, v_now), coalesce(v_o.available_at, v_now) + make_interval(secs => v_o.max_delay), v_o.max_duration
  from new_task n
  returning state = 'pending' and exists (select from absurd.workers w where w.idle and p_queue_name = any (w.queue_names)) into v_tell;
  if v_tell then
    perform pg_notify(absurd.queue_channel(p_queue_name), '');
  end if;
end $$;

-- The same for a client that needs no answer where all is as it asked for: null, then; else the columns of spawn_one() as an array.
-- Most tasks have no key, and options that have to be looked at, not through. It inserts nothing where anything is not as usual, and
-- leaves it to spawn_one() to find out what that is. An application waits for it at each spawn, so it is made of as few parts as
-- there can be: a statement of two INSERTs, or an answer of several columns, would take as long as an INSERT more.
-- It sets nothing for its planner: it meets no large table but by insertion.
create or replace function absurd.spawn_quietly(
  p_queue_name text, p_task_id uuid, p_run_id uuid, p_task_name text, p_params json, p_headers json, p_options jsonb, p_idempotency_key text)
returns json
language plpgsql volatile
as $$
declare
  -- An assignment, for a PERFORM costs five times as much. Before the look at the queue: drop_queue may have the lock.
  v_locked text := pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')));
  v_now timestamptz;
  v_tell boolean;
begin
  -- The options of an application that has chosen none are known to be good.
  if p_idempotency_key is null and (
      p_options = '{"max_attempts": 5,
        "retry_strategy": {"kind": "exponential", "base_seconds": 1, "factor": 2, "max_seconds": 300, "jitter": 0.2}}'
      or absurd.are_usual_options(p_options)) then
    insert into absurd.tasks (task_id, queue_name, task_name, params, headers, retry_strategy, max_attempts, spawned_at)
    select p_task_id, p_queue_name, p_task_name, coalesce(p_params, 'null'), p_headers, p_options -> 'retry_strategy',
      (p_options -> 'max_attempts')::integer, absurd.current_time()
    from absurd.queues q
    where q.queue_name = p_queue_name
      and octet_length(p_task_name) between 1 and 1000 and coalesce(octet_length(p_params::text), 0) <= q.max_payload_bytes
      and coalesce(octet_length(p_headers::text), 0) <= 65536
      -- else the queue has to be confirmed
      and current_setting('transaction_isolation') = 'read committed'
    on conflict (task_id) do nothing
    returning spawned_at into v_now;
    if v_now is not null then
      insert into absurd.runs (run_id, task_id, queue_name, state, attempt, available_at)
      values (p_run_id, p_task_id, p_queue_name, 'pending', 1, v_now)
      -- notify_queues() without the call
      returning exists (select from absurd.workers w where w.idle and p_queue_name = any (w.queue_names)) into v_tell;
      if v_tell then
        perform pg_notify(absurd.queue_channel(p_queue_name), '');
      end if;
      return null;
    end if;
  end if;
  return (
    select json_build_array(s.task_id, s.run_id, s.attempt, s.created, s.status, s.message)
    from absurd.spawn_one(p_queue_name, p_task_id, p_run_id, p_task_name, p_params, p_headers, p_options, p_idempotency_key) s
    where not s.created);
end $$;

-- Takes the keys for these tasks, or finds who has them: per item the task that owns its key, the present or last run of that task and
-- its attempt; null without a key. Only acceptable items take a key: one that is refused leaves it to those that come after it.
create or replace function absurd.claim_idempotency_keys(
  p_queue_names text[], p_keys text[], p_task_ids uuid[], p_run_ids uuid[], p_acceptable boolean[],
  out owners uuid[], out run_ids uuid[], out attempts integer[])
returns record
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_missing boolean;
begin
  -- Again until each has an owner that is there: a clean-up may delete it between the insert that met its key and the look at it.
  -- One look tells key, task and run, so that none of them can be gone when the others are read.
  loop
    insert into absurd.idempotency_keys (queue_name, idempotency_key, task_id)
    select u.queue_name, u.key, u.task_id
    from unnest(p_queue_names, p_keys, p_task_ids, p_acceptable) with ordinality as u(queue_name, key, task_id, acceptable, ord)
    where u.key is not null and u.acceptable
    order by u.queue_name, u.key, u.ord
    on conflict (queue_name, idempotency_key) do nothing;
    select array_agg(o.task_id order by u.ord), array_agg(o.run_id order by u.ord), array_agg(o.attempt order by u.ord),
      bool_or(u.key is not null and u.acceptable and o.known is not true)
    into owners, run_ids, attempts, v_missing
    from unnest(p_queue_names, p_keys, p_task_ids, p_run_ids, p_acceptable) with ordinality
      as u(queue_name, key, task_id, run_id, acceptable, ord)
    left join lateral (
      select k.task_id, coalesce(r.attempt, t.attempt, 1) as attempt,
        case
          when k.task_id = u.task_id then u.run_id
          when t.task_id is not null then coalesce(r.run_id, t.run_id)
          -- another item of this call, which is inserted later
          else p_run_ids[array_position(p_task_ids, k.task_id)]
        end as run_id,
        t.task_id is not null or k.task_id = any (p_task_ids) as known
      from absurd.idempotency_keys k
      left join absurd.tasks t on t.task_id = k.task_id
      left join absurd.runs r on r.task_id = k.task_id
      where k.queue_name = u.queue_name and k.idempotency_key = u.key
      limit 1
    ) o on true;
    exit when v_missing is not true;
    -- A key goes with its task; one that has none belongs to nobody.
    delete from absurd.idempotency_keys k
    using unnest(p_queue_names, p_keys) as u(queue_name, key)
    where k.queue_name = u.queue_name and k.idempotency_key = u.key and k.task_id <> all (p_task_ids)
      and not exists (select from absurd.tasks t where t.task_id = k.task_id);
  end loop;
end $$;

-- Spawns children of a running task and records who they are as one checkpoint of it, in one transaction: exactly once.
-- status: ok, lost, cancelled; busy: a queue is being dropped, ask again; else the first item's problem, and then nothing was spawned.
-- state: [{"task_id", "run_id", "created"}, …] in the order given; when the step was done before, what it recorded then.
create or replace function absurd.spawn_children(
  p_owner_task_id uuid, p_owner_run_id uuid, p_owner_epoch integer, p_step_name text, p_position integer,
  p_queue_names text[], p_task_ids uuid[], p_run_ids uuid[], p_task_names text[], p_params json[], p_headers json[],
  p_options jsonb[], p_idempotency_keys text[])
returns table (status text, message text, state json)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_status text;
  v_message text;
  v_state json;
begin
  v_status := (absurd.fence_runs(array[p_owner_run_id], array[p_owner_epoch]))[1];
  if v_status <> 'ok' then
    return query select v_status, null::text, null::json;
    return;
  end if;
  select c.state into v_state from absurd.checkpoints c where c.task_id = p_owner_task_id and c.step_name = p_step_name;
  if found then
    return query select 'ok', null::text, v_state;
    return;
  end if;
  -- Everybody else takes the lock of a queue before that of a run, so it is not waited for here.
  if exists (
      select from unnest(p_queue_names) as u(q)
      where u.q is not null and not pg_try_advisory_xact_lock_shared(absurd.queue_lock_key(u.q))) then
    return query select 'busy', null::text, null::json;
    return;
  end if;
  -- All or none: the items go in inside a block, and a refused one rolls the block back.
  begin
    select min(s.status) filter (where s.status <> 'ok'), min(s.message) filter (where s.status <> 'ok'),
      json_agg(json_build_object('task_id', s.task_id, 'run_id', s.run_id, 'created', s.created) order by s.ord)
    into v_status, v_message, v_state
    from absurd.spawn_tasks(p_queue_names, p_task_ids, p_run_ids, p_task_names, p_params, p_headers, p_options, p_idempotency_keys)
      with ordinality as s(task_id, run_id, attempt, created, status, message, ord);
    if v_status is not null then
      raise exception using errcode = 'AB012';
    end if;
  exception when sqlstate 'AB012' then
    return query select v_status, v_message, null::json;
    return;
  end;
  insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)
  values (p_owner_task_id, p_step_name, p_position, v_state, p_owner_run_id, absurd.current_time());
  return query select 'ok', null::text, v_state;
end $$;
