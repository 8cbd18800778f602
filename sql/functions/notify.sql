-- The channel on which workers of a queue hear that a run became ready. Hashed: channel names are identifiers of at most 63 bytes.
create or replace function absurd.queue_channel(p_queue_name text) returns text
language sql immutable parallel safe as $$
  select 'absurd_' || md5(p_queue_name)
$$;

-- Tells idle workers of these queues that there is work. NOTIFY serialises commits, so busy workers are not told.
create or replace function absurd.notify_queues(p_queue_names text[]) returns void
language plpgsql volatile as $$
begin
  perform pg_notify(absurd.queue_channel(q.queue_name), '')
  from (select distinct u.queue_name from unnest(p_queue_names) as u(queue_name)) q
  where exists (select from absurd.workers w where w.idle and q.queue_name = any (w.queue_names));
end $$;
