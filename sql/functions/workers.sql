-- Makes a worker known, or known again after its row was swept away.
create or replace function absurd.register_worker(
  p_worker_id text, p_queue_names text[], p_hostname text, p_pid integer, p_version text, p_concurrency integer,
  p_lease_seconds double precision, p_session_key bigint default null)
returns void
language sql volatile as $$
  insert into absurd.workers (worker_id, queue_names, hostname, pid, version, concurrency, lease_seconds, session_key, started_at, heartbeat_at)
  values (p_worker_id, p_queue_names, p_hostname, p_pid, p_version, p_concurrency, p_lease_seconds, p_session_key,
    absurd.current_time(), absurd.current_time())
  on conflict (worker_id) do update
  set heartbeat_at = excluded.heartbeat_at, session_key = excluded.session_key, missing_since = null
$$;

-- The advisory lock by which the others see that a worker's session lives.
create or replace function absurd.worker_lock_key(p_worker_id text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd worker ' || p_worker_id, 0)
$$;

-- Says that a worker lives. False: its row is gone, register again.
create or replace function absurd.heartbeat_worker(p_worker_id text, p_running integer) returns boolean
language sql volatile as $$
  with beat as (
    update absurd.workers w set heartbeat_at = absurd.current_time(), running = p_running, missing_since = null
    where w.worker_id = p_worker_id
    returning 1
  )
  select exists (select from beat)
$$;

-- Says whether a worker has free slots and waits for notifications.
create or replace function absurd.set_worker_idle(p_worker_id text, p_idle boolean) returns void
language sql volatile as $$
  update absurd.workers w set idle = p_idle where w.worker_id = p_worker_id and w.idle <> p_idle
$$;

-- Forgets a worker that stops.
create or replace function absurd.unregister_worker(p_worker_id text) returns void
language sql volatile as $$
  delete from absurd.workers w where w.worker_id = p_worker_id
$$;

-- Whether there are workers that have not been back since the database was away: it was restarted, it crashed, or a standby was promoted.
-- A worker renews its leases before it says that it lives, so that whoever has said so since is not among them.
create or replace function absurd.workers_may_return(p_worker_id text) returns boolean
language sql volatile as $$
  select exists (
    select from absurd.workers w
    where w.worker_id <> p_worker_id
      -- A crash of one process restarts all but the postmaster, which forgets its statistics then. A promoted standby keeps the time of
      -- the last commit that its primary sent.
      and w.heartbeat_at < greatest(pg_postmaster_start_time(), pg_stat_get_bgwriter_stat_reset_time(), pg_last_xact_replay_timestamp())
      -- A clock that a test has moved is not the server's.
      and absurd.current_time() between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute')
$$;

-- Finds workers whose session has been gone for three seconds (a reconnect takes less) and ends the attempts they held;
-- forgets rows without a heartbeat. Returns how many attempts were ended.
create or replace function absurd.reap_workers(p_limit integer default 200) returns integer
language plpgsql volatile as $$
declare
  v_now timestamptz := absurd.current_time();
  v_dead text[];
  v_run_ids uuid[];
  v_ended integer := 0;
begin
  update absurd.workers w
  set missing_since = case when s.alive then null else coalesce(w.missing_since, v_now) end
  from (
    select k.worker_id, exists (
      select from pg_locks l
      where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
        and l.database = (select d.oid from pg_database d where d.datname = current_database())
        and l.classid::bigint = (k.session_key >> 32) & 4294967295 and l.objid::bigint = k.session_key & 4294967295) as alive
    from absurd.workers k
    where k.session_key is not null
  ) s
  where w.worker_id = s.worker_id and s.alive = (w.missing_since is not null);
  -- Whoever is dead first: to look for runs reads the index of leases whole, with the entries that an old snapshot keeps in it.
  v_dead := array(select w.worker_id from absurd.workers w where w.missing_since < v_now - interval '3 seconds');
  if cardinality(v_dead) > 0 then
    v_run_ids := array(
      select d.run_id from (
        select r.run_id
        from absurd.runs r
        where r.state = 'running' and r.lease_expires_at is not null and r.worker_id = any (v_dead)
        order by r.run_id
        limit p_limit
        for update skip locked) d);
  end if;
  if cardinality(v_run_ids) > 0 then
    v_ended := absurd.end_swept(v_run_ids, array_fill('worker'::text, array[cardinality(v_run_ids)]), array(
      select json_build_object('name', '$WorkerLost', 'message', format('worker %s vanished while it held this run', r.worker_id))
      from unnest(v_run_ids) with ordinality as u(run_id, ord) join absurd.runs r on r.run_id = u.run_id order by u.ord));
  end if;
  delete from absurd.workers w
  where (w.missing_since < v_now - interval '3 seconds'
      or w.heartbeat_at < v_now - absurd.stored_seconds(greatest(2 * least(greatest(w.lease_seconds, 0), 315360000), 60)))
    and not exists (select from absurd.runs r where r.worker_id = w.worker_id and r.state = 'running' and r.lease_expires_at is not null);
  return v_ended;
end $$;
