-- Emits an event: appends it to the log, wakes its waiters and starts its subscribers' tasks, in the caller's transaction. Returns its
-- place in the log. With a key that the queue has seen nothing happens, and that emission's place is returned.
-- p_source: what emits it, {"kind", "name", …}, for the headers of the tasks that it starts.
create or replace function absurd.append_event(
  p_queue_name text, p_event_name text, p_payload json default null, p_idempotency_key text default null, p_source jsonb default null)
returns bigint
language plpgsql volatile as $$
begin
  return (absurd.record_event(p_queue_name, p_event_name, p_payload, p_idempotency_key, p_source)).seq;
end $$;

-- The same, and whether it was emitted now. What everybody calls who emits.
-- Locks, to the end of the transaction: the queue and its subscriptions, shared, so that nobody changes these; the queues of the
-- subscribers' tasks, shared; then the event's name, alone. A wait for that name takes the same lock shared, so whichever commits
-- second sees the other, and the first emission of a name is the same for everybody. Last, the key: who emits with the same one
-- waits for the outcome of the first.
create or replace function absurd.record_event(
  p_queue_name text, p_event_name text, p_payload json, p_idempotency_key text, p_source jsonb, out seq bigint, out created boolean)
language plpgsql volatile
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_sees_waits boolean := current_setting('transaction_isolation') in ('read committed', 'read uncommitted');
  v_problem text := absurd.name_error('event name', p_event_name);
begin
  if v_problem is null and p_idempotency_key is not null then
    v_problem := absurd.name_error('idempotency key', p_idempotency_key);
  end if;
  if v_problem is null and jsonb_typeof(p_source) <> 'object' then
    v_problem := format('source must be an object, not %s', left(p_source::text, 100));
  end if;
  -- A quarter of what headers may have, which it becomes part of.
  if v_problem is null and octet_length(p_source::text) > 16384 then
    v_problem := format('source has %s bytes; 16384 are allowed', octet_length(p_source::text));
  end if;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(p_queue_name)),
    pg_advisory_xact_lock_shared(absurd.subscriptions_lock_key(p_queue_name));
  perform absurd.require_queue(p_queue_name), absurd.confirm_queue(p_queue_name);
  perform absurd.require_size(p_queue_name, format('payload of event "%s"', p_event_name), p_payload);
  if exists (select from absurd.subscriptions s where s.queue_name = p_queue_name) then
    perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(t.q)) from absurd.target_queues(p_queue_name, p_event_name) as t(q);
  end if;
  perform pg_advisory_xact_lock(absurd.event_lock_key(p_queue_name, p_event_name));
  -- An earlier emission of the name that still has to be delivered comes first.
  if v_sees_waits and exists (select from absurd.events e where not e.delivered) then
    perform absurd.deliver_undelivered(p_queue_name, p_event_name);
  end if;
  if p_idempotency_key is not null then
    seq := absurd.claim_event_key(p_queue_name, p_idempotency_key);
  end if;
  created := seq is null;
  if not created then
    return;
  end if;
  insert into absurd.events as e (queue_name, event_name, payload, source, emitted_at, delivered)
  values (p_queue_name, p_event_name, p_payload, p_source, absurd.current_time(), v_sees_waits)
  returning e.seq into record_event.seq;
  if p_idempotency_key is not null then
    update absurd.event_keys k set seq = record_event.seq where k.queue_name = p_queue_name and k.idempotency_key = p_idempotency_key;
  end if;
  if v_sees_waits then
    perform absurd.deliver_event(seq);
  end if;
end $$;

-- Takes a key for an emission, or finds the place of the event that has it; null: it is the caller's now.
create or replace function absurd.claim_event_key(p_queue_name text, p_idempotency_key text) returns bigint
language plpgsql volatile as $$
declare
  v_seq bigint;
begin
  -- Again until either holds: a clean-up may delete a key between the insert that met it and the look at it.
  loop
    insert into absurd.event_keys (queue_name, idempotency_key, created_at)
    values (p_queue_name, p_idempotency_key, absurd.current_time())
    on conflict (queue_name, idempotency_key) do nothing;
    if found then
      return null;
    end if;
    select k.seq into v_seq from absurd.event_keys k where k.queue_name = p_queue_name and k.idempotency_key = p_idempotency_key;
    if found then
      return v_seq;
    end if;
  end loop;
end $$;

-- Emits an event and says whom it has started: a row for each subscriber, in the order in which they subscribed; one row without a task
-- when nobody has. status: ok; else why there is no task (no_queue, invalid, too_large), with a message. With a key that the queue
-- has seen: what the first emission with it has started, and created is false.
create or replace function absurd.dispatch_event(
  p_queue_name text, p_event_name text, p_payload json default null, p_idempotency_key text default null, p_source jsonb default null)
returns table (seq bigint, created boolean, task_name text, task_id uuid, run_id uuid, status text, message text)
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_event record;
begin
  perform absurd.require_read_committed('dispatch_event');
  select * into v_event from absurd.record_event(p_queue_name, p_event_name, p_payload, p_idempotency_key, p_source);
  return query
    select v_event.seq, v_event.created, t.task_name, t.task_id, t.run_id, t.status, t.message
    from (select) as one
    left join absurd.event_tasks t on t.seq = v_event.seq
    order by t.subscription_id;
end $$;

-- Hands the events of a name whose emit could not see the waits of others to those waits, in order; how many. The caller holds the
-- locks of an emit, so that nobody else delivers them. A row of theirs that somebody has locked is waited for: what comes after it
-- may not come first.
create or replace function absurd.deliver_undelivered(p_queue_name text, p_event_name text, p_limit integer default null) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_seq bigint;
  v_count integer := 0;
begin
  for v_seq in
    select e.seq from absurd.events e
    where not e.delivered and e.queue_name = p_queue_name and e.event_name = p_event_name
    order by e.seq limit p_limit for update
  loop
    perform absurd.deliver_event(v_seq);
    update absurd.events e set delivered = true where e.seq = v_seq;
    v_count := v_count + 1;
  end loop;
  return v_count;
end $$;

-- Hands an event to its subscribers and to the waits registered for its name. The caller holds the locks of an emit.
create or replace function absurd.deliver_event(p_seq bigint) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_event absurd.events;
  v_wait_ids bigint[];
  v_taken integer := 0;
begin
  select * into v_event from absurd.events e where e.seq = p_seq;
  if exists (select from absurd.subscriptions s where s.queue_name = v_event.queue_name) then
    v_taken := absurd.start_subscribers(v_event);
  end if;
  v_wait_ids := array(
    select w.wait_id from absurd.waits w
    where w.queue_name = v_event.queue_name and w.event_name = v_event.event_name and coalesce(w.since_seq, 0) < v_event.seq);
  if cardinality(v_wait_ids) > 0 then
    v_taken := v_taken + absurd.deliver_arrivals(v_wait_ids, 'event', array_fill(v_event.payload, array[cardinality(v_wait_ids)]),
      array_fill(v_event.seq, array[cardinality(v_wait_ids)]));
  end if;
  if v_taken > 0 then
    update absurd.events e set claimed_at = absurd.current_time() where e.seq = p_seq and e.claimed_at is null;
  end if;
end $$;

-- Emits events from running tasks, each with its checkpoint: exactly once, however often it is repeated.
-- One status per item: ok, lost, cancelled; busy: somebody is deciding on that name, ask again; no_queue, invalid, too_large.
-- p_traces: what the source of each event says of its trace, {"traceparent": …}.
-- It never waits for the locks of an emit, so an emit in a long transaction elsewhere holds up nobody but its namesakes.
create or replace function absurd.emit_events(
  p_task_ids uuid[], p_run_ids uuid[], p_epochs integer[], p_step_names text[], p_positions integer[],
  p_queue_names text[], p_event_names text[], p_payloads json[], p_traces jsonb[] default null)
returns text[]
language plpgsql volatile as $$
declare
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
  v_queue absurd.queues;
begin
  for i in 1 .. cardinality(p_run_ids) loop
    continue when v_status[i] <> 'ok'
      or exists (select from absurd.checkpoints c where c.task_id = p_task_ids[i] and c.step_name = p_step_names[i]);
    select * into v_queue from absurd.queues q where q.queue_name = p_queue_names[i];
    if not found then
      v_status[i] := 'no_queue';
    elsif absurd.name_error('event name', p_event_names[i]) is not null then
      v_status[i] := 'invalid';
    elsif octet_length(p_payloads[i]::text) > v_queue.max_payload_bytes then
      v_status[i] := 'too_large';
    elsif not absurd.try_lock_emit(p_queue_names[i], p_event_names[i]) then
      v_status[i] := 'busy';
    else
      insert into absurd.checkpoints (task_id, step_name, position, state, event_seq, owner_run_id, completed_at)
      values (p_task_ids[i], p_step_names[i], p_positions[i], 'null',
        absurd.append_event(p_queue_names[i], p_event_names[i], p_payloads[i],
          p_source => coalesce(p_traces[i], '{}') || jsonb_build_object('kind', 'task', 'name', p_task_ids[i])), p_run_ids[i], absurd.current_time());
    end if;
  end loop;
  return v_status;
end $$;
