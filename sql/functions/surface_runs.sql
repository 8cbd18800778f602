-- Locks a run that the caller says to hold and returns it; raises AB001 or AB002 if it is no longer the caller's.
-- Clients of these functions know no epoch: the fence rests on the run's id and its state.
create or replace function absurd.hold_run(p_what text, p_queue_name text, p_run_id uuid, p_task_id uuid default null) returns absurd.runs
language plpgsql volatile as $$
declare
  v_status text;
  v_run absurd.runs;
begin
  perform absurd.require_read_committed(p_what);
  v_status := (absurd.fence_runs(array[p_run_id], array[null]::integer[]))[1];
  if v_status <> 'ok' then
    perform absurd.raise_lost(p_run_id, v_status);
  end if;
  select * into v_run from absurd.runs r where r.run_id = p_run_id;
  if v_run.queue_name is distinct from p_queue_name then
    raise exception 'queue "%" has no run %', p_queue_name, p_run_id using errcode = 'AB011';
  elsif v_run.task_id <> p_task_id then
    raise exception 'run % belongs to task %, not to task %', p_run_id, v_run.task_id, p_task_id using errcode = 'AB011';
  end if;
  return v_run;
end $$;

-- Refuses a moment that a client could not read back: most languages know no infinity and no year 10,000.
create or replace function absurd.require_moment(p_what text, p_at timestamptz) returns void
language plpgsql stable as $$
begin
  if p_at not between '1970-01-01 00:00:00+00' and '9999-12-30 00:00:00+00' then
    raise exception '% must be a moment between 1970 and 9999, not %', p_what, p_at using errcode = 'AB012';
  end if;
end $$;

-- Claims up to p_qty ready runs for p_claim_timeout seconds (0: until they end). Best priority first, then the longest ready.
-- Clients of this function may be the only ones here, so it first does what a sweeping worker would do: wakes sleepers, ends what
-- expired, in bounded pieces that cost an index look-up each when nothing is due.
-- wake_event: the event whose arrival or timeout woke the run; event_payload: what arrived, SQL null after a timeout.
create or replace function absurd.claim_task(p_queue_name text, p_worker_id text, p_claim_timeout integer default 30, p_qty integer default 1)
returns table (
  run_id uuid, task_id uuid, attempt integer, task_name text, params jsonb, retry_strategy jsonb, max_attempts integer, headers jsonb,
  wake_event text, event_payload jsonb)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_run_ids uuid[];
begin
  perform absurd.require_read_committed('claim_task');
  perform absurd.require_queue(p_queue_name);
  if coalesce(p_claim_timeout, 0) < 0 then
    raise exception 'claim_timeout must be 0 (no expiry) or more seconds, not %', p_claim_timeout using errcode = 'AB012';
  elsif p_qty < 1 then
    raise exception 'qty must be 1 or more, not %', p_qty using errcode = 'AB012';
  elsif octet_length(p_worker_id) > 1000 then
    raise exception 'worker_id "%…" has % bytes; the limit is 1000', left(p_worker_id, 40), octet_length(p_worker_id) using errcode = 'AB012';
  end if;
  perform absurd.deliver_late();
  perform absurd.expire_deadlines();
  perform absurd.expire_leases();
  perform absurd.promote_due(p_queue_name);
  v_run_ids := array(
    select c.run_id from absurd.claim_runs(p_queue_name, p_worker_id, nullif(coalesce(p_claim_timeout, 30), 0), coalesce(p_qty, 1)) c);
  return query
    select r.run_id, r.task_id, r.attempt, t.task_name, absurd.readable_jsonb(t.params), t.retry_strategy, t.max_attempts,
      absurd.readable_jsonb(t.headers), r.wake_event, absurd.woken_by(r)
    from absurd.runs r
    join absurd.tasks t on t.task_id = r.task_id
    where r.run_id = any (v_run_ids)
    order by r.priority desc, r.available_at, r.run_id;
end $$;

-- The payload of the event that woke a run: the checkpoint that its arrival wrote at the moment at which it made the run ready.
-- SQL null if no event did.
create or replace function absurd.woken_by(p_run absurd.runs) returns jsonb
language sql stable as $$
  select absurd.readable_jsonb(c.state)
  from absurd.checkpoints c
  left join absurd.events e on e.seq = c.event_seq
  where p_run.wake_event is not null and c.task_id = p_run.task_id and c.kind = 'event' and c.owner_run_id = p_run.run_id
    and c.completed_at = p_run.available_at and (e.seq is null or e.event_name = p_run.wake_event)
  order by c.event_seq desc
  limit 1
$$;

-- Ends a run with a result: its task is completed.
create or replace function absurd.complete_run(p_queue_name text, p_run_id uuid, p_state jsonb default null) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('complete_run', p_queue_name, p_run_id);
begin
  perform absurd.require_size(p_queue_name, format('result of task %s', v_run.task_id), p_state::json);
  perform absurd.complete_runs(array[v_run.task_id], array[p_run_id], array[v_run.epoch], array[p_state::json]);
end $$;

-- Ends an attempt with a failure. The next one follows the task's strategy, or comes at p_retry_at; without attempts left the task
-- has failed.
create or replace function absurd.fail_run(p_queue_name text, p_run_id uuid, p_reason jsonb, p_retry_at timestamptz default null) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('fail_run', p_queue_name, p_run_id);
begin
  perform absurd.require_moment('retry_at', p_retry_at);
  perform absurd.fail_runs(array[p_run_id], array[v_run.epoch], array[absurd.kept_reason(p_queue_name, p_reason)], array[true],
    array[p_retry_at]);
end $$;

-- What is stored of a reason: all of it up to the queue's limit for payloads, and up to 64 kB whatever that limit is, for a traceback is
-- longer than what a queue of small values allows. Of a longer one its name and the beginning and end of its message and traceback:
-- a failure that was refused for its length would be lost, and the run would hold its lease until that ran out.
create or replace function absurd.kept_reason(p_queue_name text, p_reason jsonb) returns json
language plpgsql stable as $$
declare
  v_bytes integer := octet_length(p_reason::text);
begin
  if v_bytes is null or v_bytes <= greatest(65536, (select q.max_payload_bytes from absurd.queues q where q.queue_name = p_queue_name)) then
    return p_reason::json;
  end if;
  return json_build_object(
    'name', left(coalesce(p_reason ->> 'name', '$LongReason'), 500),
    'message', absurd.shortened(coalesce(p_reason ->> 'message', p_reason::text), 8000),
    'traceback', absurd.shortened(p_reason ->> 'traceback', 8000),
    'bytes', v_bytes);
end $$;

-- A text of at most about so many characters: its beginning and its end.
create or replace function absurd.shortened(p_text text, p_length integer) returns text
language sql immutable parallel safe as $$
  select case when length(p_text) <= p_length then p_text
    else format('%s… %s characters left out …%s', left(p_text, p_length / 2), length(p_text) - p_length / 2 * 2, right(p_text, p_length / 2)) end
$$;

-- Puts a running run to sleep until a moment. A moment that has passed makes it ready at once.
create or replace function absurd.schedule_run(p_queue_name text, p_run_id uuid, p_wake_at timestamptz) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('schedule_run', p_queue_name, p_run_id);
begin
  if p_wake_at is null then
    raise exception 'wake_at must be a moment, not null' using errcode = 'AB012';
  end if;
  perform absurd.require_moment('wake_at', p_wake_at);
  perform absurd.put_back(v_run.run_id, case when p_wake_at > absurd.current_time() then 'sleeping' else 'pending' end, p_wake_at, 0);
end $$;

-- Renews a lease: it ends not before so many seconds from now. One without expiry stays so.
create or replace function absurd.extend_claim(p_queue_name text, p_run_id uuid, p_extend_by integer) returns void
language plpgsql volatile as $$
declare
  v_run absurd.runs := absurd.hold_run('extend_claim', p_queue_name, p_run_id);
begin
  if p_extend_by is null or p_extend_by < 1 then
    raise exception 'extend_by must be 1 or more seconds, not %', coalesce(p_extend_by::text, 'null') using errcode = 'AB012';
  end if;
  update absurd.runs r
  set lease_expires_at = greatest(r.lease_expires_at, absurd.current_time() + make_interval(secs => p_extend_by))
  where r.run_id = v_run.run_id and r.lease_expires_at is not null;
end $$;
