-- A UUIDv7 (RFC 9562, section 5.7) for SQL callers: 48 bits of milliseconds, then random bits.
-- It takes the real clock and not absurd.current_time(): an id must stay unique while the clock is moved.
create or replace function absurd.make_id() returns uuid
language sql volatile parallel safe as $$
  select encode(
    set_bit(
      set_bit(
        overlay(
          uuid_send(gen_random_uuid())
          placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
          from 1 for 6),
        52, 1),
      53, 1),
    'hex')::uuid
$$;
