-- The database's clock; tests move it with the setting absurd.fake_now. Never the worker's clock.
-- Volatile, like the clock in it, for only so is it inlined: as a call it costs a spawn up to 40 µs. So an index is asked for a time
-- that was read into a variable before.
create or replace function absurd.current_time() returns timestamptz
language sql volatile parallel safe as $$
  select coalesce(nullif(current_setting('absurd.fake_now', true), '')::timestamptz, clock_timestamp())
$$;

-- The version of the installed schema.
create or replace function absurd.get_schema_version() returns text
language sql stable as $$
  select version from absurd.schema_version
$$;
