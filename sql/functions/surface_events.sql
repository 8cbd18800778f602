-- Waits for an event from a running task. should_suspend: the run sleeps now; stop, and claim it again when the event or the timeout
-- (seconds) has come. Else payload is the event's, json null if it has none; SQL null says that the timeout came first, now and on
-- every replay.
-- Locks: the event's name, shared, before the run, as everybody who takes both. An emit of that name in an open transaction is
-- waited for.
create or replace function absurd.await_event(
  p_queue_name text, p_task_id uuid, p_run_id uuid, p_step_name text, p_event_name text, p_timeout integer default null)
returns table (should_suspend boolean, payload jsonb)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_problem text := coalesce(absurd.name_error('step name', p_step_name), absurd.name_error('event name', p_event_name),
    case when p_timeout < 0 then format('timeout must be 0 or more seconds, not %s', p_timeout) end);
  v_run absurd.runs;
  v_checkpoint absurd.checkpoints;
  v_arrival record;
  v_status text;
  v_wait json := json_build_object('step', p_step_name, 'queue', p_queue_name, 'event', p_event_name);
begin
  perform absurd.require_read_committed('await_event');
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  perform absurd.require_queue(p_queue_name);
  perform pg_advisory_xact_lock_shared(absurd.event_lock_key(p_queue_name, p_event_name));
  v_run := absurd.hold_run('await_event', p_queue_name, p_run_id, p_task_id);
  select * into v_checkpoint from absurd.checkpoints c where c.task_id = p_task_id and c.step_name = p_step_name;
  if found then
    return query select false, case when v_checkpoint.kind <> 'timeout' then absurd.readable_jsonb(v_checkpoint.state) end;
    return;
  end if;
  select * into v_arrival from absurd.find_arrival(v_wait);
  if v_arrival.status = 'found' then
    perform absurd.record_arrivals(p_task_id, p_run_id, 0,
      array[(p_step_name, v_arrival.kind, v_arrival.state, v_arrival.event_seq)::absurd.arrival]);
    return query select false, absurd.readable_jsonb(v_arrival.state);
    return;
  end if;
  v_status := absurd.suspend_run(p_task_id, p_run_id, 0, 1, json_build_array(v_wait),
    absurd.current_time() + make_interval(secs => p_timeout), p_step_name, 'timeout');
  if v_status <> 'ok' then
    raise exception 'event "%" of queue "%" cannot be awaited: %', p_event_name, p_queue_name, v_status using errcode = 'AB012';
  end if;
  return query select true, null::jsonb;
end $$;

-- Emits an event in the caller's transaction: a rollback takes it back. Waits see the first emission of a name.
create or replace function absurd.emit_event(p_queue_name text, p_event_name text, p_payload jsonb default null) returns void
language plpgsql volatile as $$
begin
  perform absurd.record_event(p_queue_name, p_event_name, p_payload::json, null, null);
end $$;
