-- The database's clock; tests move it with the setting absurd.fake_now. Never the worker's clock.
create or replace function absurd.current_time() returns timestamptz
language sql stable parallel safe as $$
  select coalesce(nullif(current_setting('absurd.fake_now', true), '')::timestamptz, clock_timestamp())
$$;

-- The version of the installed schema.
create or replace function absurd.get_schema_version() returns text
language sql stable as $$
  select version from absurd.schema_version
$$;
