-- Makes the time of a sleeping task now: a delay, a sleep or the pause before its next attempt is over, and a wait with a timeout has
-- timed out, for good, as if that moment had come. A task that sleeps without a time is refused: it has to get what it waits for.
create or replace function absurd.run_task_now(p_queue_name text, p_task_id uuid) returns void
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run absurd.runs;
  v_outcome text;
  v_looks integer := 0;
begin
  perform absurd.require_read_committed('run_task_now');
  -- Again until it holds: while we waited for the row, the attempt may have ended and another one begun.
  loop
    select * into v_run from absurd.runs r where r.task_id = p_task_id and r.queue_name = p_queue_name for update;
    exit when found;
    select t.outcome into v_outcome from absurd.tasks t where t.task_id = p_task_id and t.queue_name = p_queue_name;
    if not found then
      raise exception 'queue "%" has no task %', p_queue_name, p_task_id using errcode = 'AB011';
    elsif v_outcome is not null then
      raise exception 'task % is %: only a sleeping task can be run now', p_task_id, v_outcome
        using errcode = 'AB012', hint = 'retry_task() gives a failed or cancelled task another attempt.';
    end if;
    v_looks := v_looks + 1;
    perform absurd.limit_looks(p_task_id, v_looks);
  end loop;
  if v_run.state = 'running' then
    raise exception 'task % is running already', p_task_id using errcode = 'AB012';
  elsif v_run.state = 'pending' then
    raise exception 'task % is ready already: it waits for a worker', p_task_id using errcode = 'AB012';
  elsif v_run.available_at is null then
    raise exception 'task % has no time to move: it waits for %', p_task_id, coalesce(absurd.awaited_words(v_run.run_id), 'nothing that is known')
      using errcode = 'AB012', hint = 'Emit the event, answer the token, or cancel the task.';
  end if;
  update absurd.runs r set available_at = least(r.available_at, v_now) where r.run_id = v_run.run_id;
  perform absurd.end_waits(array[v_run.run_id], v_now);
  perform absurd.notify_queues(array[p_queue_name]);
end $$;

-- What a sleeping run waits for, in words; null: for a time alone.
create or replace function absurd.awaited_words(p_run_id uuid) returns text
language sql stable as $$
  select string_agg(w.words, ', ' order by w.wait_id)
  from (
    select w.wait_id, case w.kind when 'event' then format('event "%s"', left(w.event_name, 200)) when 'task' then 'task ' || w.awaited_task_id
      else 'the answer to a token' end as words
    from absurd.waits w
    where w.run_id = p_run_id and w.kind in ('event', 'task', 'token')
    order by w.wait_id
    limit 5
  ) w
$$;
