-- Renews the leases of runs that a worker holds. One status per item: ok, lost, cancelled; busy: somebody is changing the run.
-- It never waits for a row: while one run is locked elsewhere, the leases of the others must not run out.
create or replace function absurd.extend_leases(p_run_ids uuid[], p_epochs integer[], p_lease_seconds double precision)
returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_free uuid[] := array(
    select f.run_id from (
      select r.run_id from absurd.runs r where r.run_id = any (p_run_ids) and r.state = 'running' for update skip locked) f);
begin
  update absurd.runs r
  -- never sooner than it would have: a heartbeat that asks for little must not cost the lease
  set lease_expires_at = greatest(r.lease_expires_at, absurd.current_time() + make_interval(secs => p_lease_seconds))
  from unnest(p_run_ids, p_epochs) as i(run_id, epoch)
  where r.run_id = i.run_id and r.epoch = i.epoch and r.run_id = any (v_free);
  return array(
    select case
      when r.state = 'running' and r.epoch = i.epoch then case when r.run_id = any (v_free) then 'ok' else 'busy' end
      else absurd.lost_status(i.run_id)
    end
    from unnest(p_run_ids, p_epochs) with ordinality as i(run_id, epoch, ord)
    left join absurd.runs r on r.run_id = i.run_id
    order by i.ord);
end $$;

-- Renews the leases of all runs of a worker of which less than three quarters are left, also of those that it does not know of yet: they
-- are claimed, and the answer waits for an event loop that user code blocks. Returns how many. It waits for no row.
create or replace function absurd.extend_worker_leases(p_worker_id text, p_lease_seconds double precision) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_run_ids uuid[] := array(
    select f.run_id from (
      select r.run_id from absurd.runs r
      where r.worker_id = p_worker_id and r.state = 'running' and r.lease_expires_at < v_now + make_interval(secs => p_lease_seconds * 0.75)
      order by r.run_id
      for update skip locked) f);
begin
  update absurd.runs r set lease_expires_at = v_now + make_interval(secs => p_lease_seconds) where r.run_id = any (v_run_ids);
  return cardinality(v_run_ids);
end $$;

-- Hands runs back to their queue without charging an attempt: at once, or after a delay when nobody here can run them.
-- One status per item: ok, lost, cancelled. Repeated after a lost answer it says lost, which the caller may ignore.
create or replace function absurd.release_runs(p_run_ids uuid[], p_epochs integer[], p_delays double precision[], p_notes text[])
returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
declare
  v_now timestamptz := absurd.current_time();
  v_status text[] := absurd.fence_runs(p_run_ids, p_epochs);
begin
  perform absurd.put_back(i.run_id, case when i.delay > 0 then 'sleeping' else 'pending' end,
    v_now + make_interval(secs => coalesce(i.delay, 0)), 0, i.note)
  from unnest(p_run_ids, p_delays, p_notes, v_status) as i(run_id, delay, note, status)
  where i.status = 'ok';
  -- What nobody could run has not been started: its max_delay goes on, from the first time that somebody took it.
  update absurd.runs r
  set deadline_at = least(r.started_at, v_now) + absurd.stored_seconds(t.max_delay)
  from unnest(p_run_ids, p_delays, v_status) as i(run_id, delay, status), absurd.tasks t
  where i.status = 'ok' and i.delay > 0 and r.run_id = i.run_id and r.attempt = 1 and t.task_id = r.task_id and t.max_delay is not null
    and not exists (select from absurd.checkpoints c where c.task_id = r.task_id);
  return v_status;
end $$;

-- Hands back what a worker claimed without ever learning of it, because the answer of its claim was lost. Returns how many.
create or replace function absurd.release_forgotten(p_worker_id text, p_known_run_ids uuid[], p_known_epochs integer[]) returns integer
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_run_ids uuid[] := array(
    select f.run_id from (
      select r.run_id from absurd.runs r
      -- Through the index of leases: it holds what runs at this moment, of all workers, and no more.
      where r.worker_id = p_worker_id and r.state = 'running' and r.lease_expires_at is not null
        -- Known by its epoch: the lost batch may have put a run to sleep and claimed it again.
        and not exists (
          select from unnest(p_known_run_ids, p_known_epochs) as k(run_id, epoch) where k.run_id = r.run_id and k.epoch = r.epoch)
      order by r.run_id
      for update skip locked) f);
begin
  perform absurd.put_back(u.run_id, 'pending', absurd.current_time(), 0) from unnest(v_run_ids) as u(run_id);
  return cardinality(v_run_ids);
end $$;
