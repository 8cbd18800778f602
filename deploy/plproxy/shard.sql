-- On each server, by install.sh: psql -v number=0 -f shard.sql. May be applied again.
-- Its events get numbers that no other server gives, so that a queue keeps them when it moves.
select format('alter sequence absurd.events_seq_seq increment by 64 restart with %s', (coalesce(s.last_value, 0) / 64 + 1) * 64 + :number)
from pg_sequences s
where s.schemaname = 'absurd' and s.sequencename = 'events_seq_seq' and s.increment_by <> 64 \gexec

-- A new schema has a queue "default". It stays on the first server, and where anything was ever done with it.
select absurd.drop_queue(q.queue_name)
from absurd.queues q
where q.queue_name = 'default' and :number > 0
  and not exists (select from absurd.tasks t where t.queue_name = 'default')
  and not exists (select from absurd.events e where e.queue_name = 'default')
  and not exists (select from absurd.subscriptions s where s.queue_name = 'default' or s.target_queue = 'default')
  and not exists (select from absurd.schedules s where s.queue_name = 'default')
  and not exists (select from absurd.triggers t where t.queue_name = 'default')
  and not exists (select from absurd.workers w where 'default' = any (w.queue_names));
