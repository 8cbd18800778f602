-- Headers of a task with what started it: {"absurd-source": {"kind": …, "name": …, …}}. The same header is written by every source.
create or replace function absurd.with_source(p_headers json, p_kind text, p_name text, p_details jsonb default '{}') returns json
language sql immutable parallel safe as $$
  select (jsonb_build_object('absurd-source', jsonb_build_object('kind', p_kind, 'name', p_name) || coalesce(p_details, '{}'))
    || case when json_typeof(p_headers) = 'object' then p_headers::jsonb else '{}' end)::json
$$;
