-- The database's clock; tests move it with the setting absurd.fake_now. Never the worker's clock.
-- Volatile, like the clock in it, for only so is it inlined: as a call it costs a spawn up to 40 µs. So an index is asked for a time
-- that was read into a variable before.
create or replace function absurd.current_time() returns timestamptz
language sql volatile parallel safe as $$
  select coalesce(case when current_setting('absurd.fake_now', true) <> '' then absurd.fake_time() end, clock_timestamp())
$$;

-- The moved clock, for sessions of the owner of the schema alone: anybody may set the setting, and by it others' leases would run out.
create or replace function absurd.fake_time() returns timestamptz
language plpgsql volatile parallel safe as $$
begin
  if not pg_has_role(session_user, (select c.relowner from pg_class c where c.oid = 'absurd.schema_version'::regclass), 'member') then
    raise exception 'role "%" may not set absurd.fake_now: the clock is moved by the owner of the schema absurd', session_user
      using errcode = 'insufficient_privilege';
  end if;
  return current_setting('absurd.fake_now')::timestamptz;
end $$;

-- Seconds that a row holds, as an interval to compute a moment with: whatever is stored, between none and ten years, so that no row makes
-- the statement fail that it shares with others. Null stays null. Inlined where it is called.
create or replace function absurd.stored_seconds(p_seconds double precision) returns interval
language sql immutable parallel safe as $$
  select make_interval(secs => case when p_seconds between 0 and 315360000 then p_seconds
    when p_seconds > 0 then 315360000 when p_seconds < 0 then 0 end)
$$;

-- The version of the installed schema.
create or replace function absurd.get_schema_version() returns text
language sql stable as $$
  select version from absurd.schema_version
$$;

-- The oldest version for which a program may have been written that this schema serves: 1 until a migration takes away or changes
-- what such a program reads, writes or calls. Programs of a former release ask, so that they may start beside newer ones.
create or replace function absurd.get_oldest_served_version() returns text
language sql immutable parallel safe as $$ select '1' $$;
