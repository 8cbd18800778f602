-- Headers of a task with what started it: {"absurd-source": {"kind": …, "name": …, …}}. The same header is written by every source.
create or replace function absurd.with_source(p_headers json, p_kind text, p_name text, p_details jsonb default '{}') returns json
language sql immutable parallel safe as $$
  select (jsonb_build_object('absurd-source', jsonb_build_object('kind', p_kind, 'name', p_name) || coalesce(p_details, '{}'))
    || case when json_typeof(p_headers) = 'object' then p_headers::jsonb else '{}' end)::json
$$;

-- What emitted these events, for the traces of those whom they woke. Events that have been cleaned up are missing; a thousand at most.
create or replace function absurd.event_sources(p_seqs bigint[]) returns table (seq bigint, event_name text, source jsonb)
language sql stable
set jit = off
as $$
  select e.seq, e.event_name, e.source
  from absurd.events e
  where e.seq = any (p_seqs[:1000])
  order by e.seq
$$;
