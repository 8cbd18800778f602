-- Locks the runs that the caller believes to hold and says for each, in the order given: ok, lost or cancelled.
-- Every write for a run passes here first. Rows are locked in order of run_id, so that no two batches deadlock.
-- A null epoch (clients that know none) is fenced by the run id and its state alone.
create or replace function absurd.fence_runs(p_run_ids uuid[], p_epochs integer[]) returns text[]
language plpgsql volatile
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_hashjoin = off
as $$
begin
  perform from absurd.runs r where r.run_id = any (p_run_ids) order by r.run_id for update;
  return array(
    select case
      when r.state = 'running' and (i.epoch is null or r.epoch = i.epoch) then 'ok'
      else absurd.lost_status(i.run_id)
    end
    from unnest(p_run_ids, p_epochs) with ordinality as i(run_id, epoch, ord)
    left join absurd.runs r on r.run_id = i.run_id
    order by i.ord);
end $$;

-- Why a run is no longer the caller's: cancelled, if its task was cancelled; lost otherwise.
create or replace function absurd.lost_status(p_run_id uuid) returns text
language sql stable as $$
  select case when exists (
    select from absurd.attempts a where a.run_id = p_run_id and a.cause in ('cancel', 'delay', 'duration')
  ) then 'cancelled' else 'lost' end
$$;

-- Raises what a client of the single-item functions expects for a run that is no longer its own.
create or replace function absurd.raise_lost(p_run_id uuid, p_status text) returns void
language plpgsql stable as $$
begin
  if p_status = 'cancelled' then
    raise exception 'the task of run % has been cancelled', p_run_id using errcode = 'AB001';
  end if;
  raise exception 'run % has ended or lost its lease', p_run_id using errcode = 'AB002';
end $$;
