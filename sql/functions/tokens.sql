-- Makes a token for a running task and records it as a checkpoint, in one transaction: exactly once. timeout: seconds, null for ever.
-- status: ok, lost, cancelled, invalid, too_large (then message says why).
-- state: {"id", "secret", "expires_at"}; when the step was done before, what it recorded then.
create or replace function absurd.create_token(
  p_task_id uuid, p_run_id uuid, p_epoch integer, p_step_name text, p_position integer, p_token_name text,
  p_timeout double precision default null, p_title text default null, p_description text default null, p_json_schema json default null)
returns table (status text, state json, message text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := absurd.current_time();
  v_status text;
  v_state json;
  v_problem text := coalesce(absurd.name_error('step name', p_step_name), absurd.name_error('token name', p_token_name),
    case when p_timeout is not null and not p_timeout between 0 and 315360000
      then format('timeout must be between 0 and 315360000 seconds (ten years), not %s', p_timeout) end);
  v_id uuid := absurd.make_id();
  -- 244 random bits, of the generator that PostgreSQL makes its own secrets with.
  v_secret text := replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
  v_expires_at timestamptz;
begin
  v_status := (absurd.fence_runs(array[p_run_id], array[p_epoch]))[1];
  if v_status = 'ok' then
    select c.state into v_state from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name;
    if found then
      return query select 'ok', v_state, null::text;
      return;
    end if;
    if v_problem is not null then
      v_status := 'invalid';
    else
      select 'too_large', format('title, description and type of token "%s" have %s bytes; queue "%s" allows %s', p_token_name, s.size,
        q.queue_name, q.max_payload_bytes)
      into v_status, v_problem
      from absurd.tasks t
      join absurd.queues q on q.queue_name = t.queue_name
      cross join lateral (select octet_length(concat(p_title, p_description, p_json_schema)) as size) s
      where t.task_id = p_task_id and s.size > q.max_payload_bytes;
    end if;
  end if;
  if v_status <> 'ok' then
    return query select v_status, null::json, v_problem;
    return;
  end if;
  v_expires_at := v_now + make_interval(secs => p_timeout);
  v_state := json_build_object('id', v_id, 'secret', v_secret, 'expires_at', v_expires_at);
  insert into absurd.tokens (token_id, secret_hash, task_id, token_name, title, description, json_schema, created_at, expires_at)
  values (v_id, absurd.token_hash(v_secret), p_task_id, p_token_name, p_title, p_description, p_json_schema, v_now, v_expires_at);
  insert into absurd.checkpoints (task_id, step_name, position, state, owner_run_id, completed_at)
  values (p_task_id, p_step_name, p_position, v_state, p_run_id, v_now);
  return query select 'ok', v_state, null::text;
end $$;

-- What a secret is known by. Tokens are found by it alone, so that how long the look takes says nothing about other secrets.
create or replace function absurd.token_hash(p_secret text) returns bytea
language sql immutable parallel safe as $$
  select sha256(convert_to(p_secret, 'UTF8'))
$$;

-- A text as those may read it who see everything and may answer nothing: secrets of tokens are stars in it, wherever they stand: the
-- step that made the token, the params of the task that mails its link, an event. A secret is the 64 digits of two UUIDs of version 4,
-- known by their hash. Other digits may stand right beside it, so each 64 in a row that have the bits of such UUIDs are looked at.
create or replace function absurd.hide_secrets(p_text text) returns text
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  v_text text := p_text;
  v_secret text;
begin
  for v_secret in
    select convert_from(substring(d.digits from o.place + 1 for 64), 'UTF8')
    -- Not {64}: PostgreSQL takes ten times as long for each match of a pattern with so many states.
    from (select distinct convert_to(m.found[1], 'UTF8') as digits from regexp_matches(p_text, '[0-9a-f]{12}[0-9a-f]*', 'g') as m(found)) d
    cross join generate_series(0, length(d.digits) - 64) as o(place)
    join absurd.tokens k on k.secret_hash = sha256(substring(d.digits from o.place + 1 for 64))
    -- '4' and one of '89ab'
    where get_byte(d.digits, o.place + 12) = 52 and get_byte(d.digits, o.place + 44) = 52
      and get_byte(d.digits, o.place + 16) in (56, 57, 97, 98) and get_byte(d.digits, o.place + 48) in (56, 57, 97, 98)
  loop
    v_text := replace(v_text, v_secret, '***');
  end loop;
  return v_text;
end $$;

-- Whether a token may still be used: open, used, expired, ended (its task has); null if there is no such token.
-- A wait that was told of the expiry has the last word over the clock, which a failover may have put back.
create or replace function absurd.token_status(p_token_id uuid) returns text
language sql stable as $$
  select case
    when k.used_at is not null then 'used'
    when k.expires_at <= absurd.current_time() or exists (
      select from absurd.checkpoints c
      where c.task_id = k.task_id and c.kind = 'timeout' and c.completed_at >= k.expires_at
        and starts_with(c.step_name, '$await_token:' || k.token_id)) then 'expired'
    when not exists (select from absurd.tasks t where t.task_id = k.task_id and t.outcome is null) then 'ended'
    else 'open'
  end
  from absurd.tokens k
  where k.token_id = p_token_id
$$;

-- What is known of a token, by its secret: no row if there is none. status: open, used, expired, ended (its task has). Changes nothing.
create or replace function absurd.read_token(p_secret text)
returns table (
  token_id uuid, token_name text, queue_name text, task_id uuid, task_name text, title text, description text, json_schema json,
  created_at timestamptz, expires_at timestamptz, used_at timestamptz, status text)
language sql stable as $$
  select k.token_id, k.token_name, t.queue_name, k.task_id, t.task_name, k.title, k.description, k.json_schema,
    k.created_at, k.expires_at, k.used_at, absurd.token_status(k.token_id)
  from absurd.tokens k
  join absurd.tasks t on t.task_id = k.task_id
  where k.secret_hash = absurd.token_hash(p_secret)
$$;

-- Answers a token, once: the task that waits for it, or will, gets the payload. In the caller's transaction: a rollback takes it back.
-- Returns ok; or used, expired, ended (the task has), unknown, and then nothing has changed. Only ok means that the task sees the answer.
-- Locks: the run of the token's task, first of all. Whatever is decided about a token (its making, a wait for it, the end of that
-- wait by time, its use) is decided by who holds that row: two answers, or an answer and the expiry, cannot both be right.
create or replace function absurd.use_token(p_secret text, p_payload json default null) returns text
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_token absurd.tokens;
  v_run_id uuid;
  v_status text;
  v_wait_ids bigint[];
begin
  perform absurd.require_read_committed('use_token');
  select * into v_token from absurd.tokens k where k.secret_hash = absurd.token_hash(p_secret);
  if not found then
    return 'unknown';
  end if;
  -- Again until it holds: while we waited for the row, the attempt may have ended and another one begun.
  loop
    select r.run_id into v_run_id from absurd.runs r where r.task_id = v_token.task_id for update;
    v_status := coalesce(absurd.token_status(v_token.token_id), 'unknown');
    if v_status <> 'open' then
      return v_status;
    end if;
    exit when v_run_id is not null;
  end loop;
  perform absurd.require_size(r.queue_name, format('the answer to token "%s"', v_token.token_name), p_payload)
  from absurd.runs r where r.run_id = v_run_id;
  update absurd.tokens k set used_at = absurd.current_time(), payload = coalesce(p_payload, 'null') where k.token_id = v_token.token_id;
  v_wait_ids := array(
    select w.wait_id from absurd.waits w where w.run_id = v_run_id and w.kind = 'token' and w.detail = v_token.token_id::text);
  if cardinality(v_wait_ids) > 0 then
    perform absurd.deliver_arrivals(v_wait_ids, 'token', array_fill(p_payload, array[cardinality(v_wait_ids)]));
  end if;
  return 'ok';
end $$;
