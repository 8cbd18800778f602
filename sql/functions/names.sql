-- What is wrong with a name or key that becomes part of an index, or null. PostgreSQL's B-trees take about 2,700 bytes an entry.
create or replace function absurd.name_error(p_what text, p_name text) returns text
language sql immutable parallel safe as $$
  select case
    when p_name is null or p_name = '' then format('%s must not be empty', p_what)
    when octet_length(p_name) > 1000 then format('%s "%s…" has %s bytes; the limit is 1000', p_what, left(p_name, 40), octet_length(p_name))
  end
$$;

-- Refuses a queue that does not exist, with the list of what to do.
create or replace function absurd.require_queue(p_queue_name text) returns void
language plpgsql stable as $$
begin
  if not exists (select from absurd.queues q where q.queue_name = p_queue_name) then
    raise exception 'queue "%" does not exist', p_queue_name
      using errcode = 'AB010', hint = 'Create it with absurdctl create-queue or select absurd.create_queue(…).';
  end if;
end $$;

-- For a transaction that sees the database as it was when it began (REPEATABLE READ and above): raises a serialization failure if the
-- queue was dropped since. It would seem to be there, and what is put into it would belong to nothing. The caller has its advisory lock.
create or replace function absurd.confirm_queue(p_queue_name text) returns void
language plpgsql volatile as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    perform from absurd.queues q where q.queue_name = p_queue_name for key share;
  end if;
end $$;

-- Refuses a payload that is larger than its queue allows.
create or replace function absurd.require_size(p_queue_name text, p_what text, p_value json) returns void
language plpgsql stable as $$
declare
  v_limit integer := (select q.max_payload_bytes from absurd.queues q where q.queue_name = p_queue_name);
begin
  if octet_length(p_value::text) > v_limit then
    raise exception '% has % bytes; queue "%" allows %', p_what, octet_length(p_value::text), p_queue_name, v_limit
      using errcode = 'AB013', hint = 'Store large data elsewhere and pass a reference, or raise max_payload_bytes of the queue.';
  end if;
end $$;

-- What of a JSON value clients cannot read, or null: PostgreSQL takes longer numbers and deeper nesting than Python and others do.
-- E'…' wherever there is a backslash: what '…' means is up to the caller's standard_conforming_strings.
create or replace function absurd.json_error(p_what text, p_value json) returns text
language plpgsql immutable parallel safe as $$
declare
  v_rest text := regexp_replace(p_value::text, E'"(\\\\.|[^"\\\\])*"', '', 'g');
begin
  if v_rest ~ '([0-9]{43}){100}[0-9]' then
    return format('%s hold a number of more than 4300 digits', p_what);
  end if;
  v_rest := regexp_replace(translate(v_rest, '{}', '[]'), '[^][]', '', 'g');
  for i in 1 .. 500 loop
    exit when v_rest = '';
    v_rest := replace(v_rest, '[]', '');
  end loop;
  return case when v_rest <> '' then format('%s are nested more than 500 deep', p_what) end;
end $$;

-- Refuses a call that must see what others commit meanwhile, when the caller's isolation level hides it.
create or replace function absurd.require_read_committed(p_what text) returns void
language plpgsql stable as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception '% needs READ COMMITTED, not %', p_what, upper(current_setting('transaction_isolation'))
      using errcode = 'feature_not_supported', hint = 'Call it in a transaction of its own.';
  end if;
end $$;

-- Keys of the advisory locks: one per queue (spawn and emit share it, drop_queue takes it alone) and one per event name.
create or replace function absurd.queue_lock_key(p_queue_name text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd queue ' || p_queue_name, 0)
$$;

-- The key of one event name of a queue.
create or replace function absurd.event_lock_key(p_queue_name text, p_event_name text) returns bigint
language sql immutable parallel safe as $$
  select hashtextextended('absurd event ' || octet_length(p_queue_name) || ' ' || p_queue_name || ' ' || p_event_name, 0)
$$;
