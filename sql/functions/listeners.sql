-- Says that a listener lives and how it fares; makes it known if its row is not there. p_failures counts its errors: the last one is
-- dated when the number grows. Whatever a listener says is taken, cut to a length that a list can show.
create or replace function absurd.heartbeat_listener(
  p_listener_id text, p_name text, p_queue_name text, p_hostname text, p_pid integer, p_status text, p_started_count integer,
  p_failures integer, p_last_error text)
returns void
language sql volatile as $$
  insert into absurd.listeners as l (listener_id, name, queue_name, hostname, pid, status, started_at, heartbeat_at, started_count,
    failures, last_error, last_error_at)
  values (left(p_listener_id, 255), left(p_name, 1000), left(p_queue_name, 255), left(p_hostname, 255), p_pid, left(p_status, 20),
    absurd.current_time(), absurd.current_time(),
    p_started_count, p_failures, left(p_last_error, 2000), case when p_last_error is not null then absurd.current_time() end)
  on conflict (listener_id) do update
  set status = excluded.status, heartbeat_at = excluded.heartbeat_at, started_count = excluded.started_count,
    failures = excluded.failures, last_error = excluded.last_error,
    last_error_at = case when l.failures = excluded.failures then l.last_error_at else excluded.last_error_at end
$$;

-- Forgets a listener that ends.
create or replace function absurd.unregister_listener(p_listener_id text) returns void
language sql volatile as $$
  delete from absurd.listeners l where l.listener_id = left(p_listener_id, 255)
$$;

-- Forgets listeners without a heartbeat for a day.
create or replace function absurd.forget_listeners() returns void
language sql volatile as $$
  delete from absurd.listeners l where l.listener_id in (
    select d.listener_id from absurd.listeners d where d.heartbeat_at < absurd.current_time() - interval '1 day' for update skip locked)
$$;

-- Listeners, the oldest first, a thousand at most. A status of dead: no heartbeat for a minute.
create or replace function absurd.list_listeners(p_name text default null)
returns table (
  listener_id text, name text, queue_name text, hostname text, pid integer, status text, started_at timestamptz,
  heartbeat_at timestamptz, started_count integer, failures integer, last_error text, last_error_at timestamptz)
language sql stable as $$
  select l.listener_id, l.name, l.queue_name, l.hostname, l.pid,
    case when l.heartbeat_at < absurd.current_time() - interval '1 minute' then 'dead' else l.status end,
    l.started_at, l.heartbeat_at, l.started_count, l.failures, l.last_error, l.last_error_at
  from absurd.listeners l
  where p_name is null or l.name = p_name
  order by l.started_at, l.listener_id
  limit 1000
$$;
