-- For how many seconds the longest waiting ready task of a queue has been ready: what to scale workers by. 0 while nothing waits, or the
-- queue is paused. As quick before ten million tasks as before ten: it looks at one row of each priority that occurs.
create or replace function absurd.queue_age(p_queue_name text) returns double precision
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
begin
  perform absurd.require_queue(p_queue_name);
  return (
    with recursive first as (
      (select r.priority, r.available_at from absurd.runs r
       where r.queue_name = p_queue_name and r.state = 'pending'
       order by r.priority desc, r.available_at limit 1)
      union all
      select n.priority, n.available_at
      from first f
      cross join lateral (
        select r.priority, r.available_at from absurd.runs r
        where r.queue_name = p_queue_name and r.state = 'pending' and r.priority < f.priority
        order by r.priority desc, r.available_at limit 1) n
    )
    select coalesce(greatest(extract(epoch from absurd.current_time() - min(f.available_at)), 0), 0)::double precision
    from first f
    where exists (select from absurd.queues q where q.queue_name = p_queue_name and q.paused_at is null));
end $$;
