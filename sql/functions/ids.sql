-- A UUIDv7 (RFC 9562, section 5.7) for SQL callers: 48 bits of milliseconds, 12 bits of their fraction (section 6.2, method 3), then
-- random bits. Ids that one server makes one after another are in that order, also within a millisecond.
-- It takes the real clock and not absurd.current_time(): an id must stay unique while the clock is moved.
create or replace function absurd.make_id() returns uuid
language sql volatile parallel safe as $$
  select encode(
    overlay(
      uuid_send(gen_random_uuid())
      placing int8send((micros / 1000) << 16 | x'7000'::bigint | (micros % 1000) * 4096 / 1000)
      from 1 for 8),
    'hex')::uuid
  from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as micros) as clock
$$;
