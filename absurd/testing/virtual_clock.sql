-- What a test's database has and no other: a table that holds the time. While it is empty, the time is the real one.
create schema absurd_testing;
create table absurd_testing.clock (stopped_at timestamptz not null);
create unique index clock_one_row on absurd_testing.clock ((true));
grant usage on schema absurd_testing to public;
grant select on absurd_testing.clock to public;

-- In the place of the function of the same name, for all that the schema does.
create or replace function absurd.current_time() returns timestamptz
language sql volatile parallel safe as $$
  select coalesce(nullif(current_setting('absurd.fake_now', true), '')::timestamptz, (select c.stopped_at from absurd_testing.clock c),
    clock_timestamp())
$$;
