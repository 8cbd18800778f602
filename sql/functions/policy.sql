-- What people decided about a queue's storage and retention. No row: no such queue.
create or replace function absurd.get_queue_policy(p_queue_name text)
returns table (
  queue_name text, storage_mode text, default_partition text, partition_lookahead interval, partition_lookback interval,
  cleanup_ttl interval, cleanup_limit integer, detach_mode text, detach_min_age interval)
language sql stable as $$
  select q.queue_name, q.storage_mode, q.default_partition, q.partition_lookahead, q.partition_lookback,
    q.cleanup_ttl, q.cleanup_limit, q.detach_mode, q.detach_min_age
  from absurd.queues q
  where q.queue_name = p_queue_name
$$;

-- An interval of a policy: text as PostgreSQL reads it, or a number of seconds; null if it is not there. At most a hundred years,
-- so that no moment computed with it lies outside of what a timestamp can hold.
create or replace function absurd.read_policy_interval(p_policy jsonb, p_name text) returns interval
language plpgsql stable as $$
declare
  v_value interval;
begin
  if jsonb_typeof(p_policy -> p_name) = 'number' then
    v_value := make_interval(secs => least(greatest((p_policy ->> p_name)::numeric, -1), 1e10)::double precision);
  elsif jsonb_typeof(p_policy -> p_name) = 'string' then
    v_value := (p_policy ->> p_name)::interval;
  elsif jsonb_typeof(p_policy -> p_name) <> 'null' then
    raise data_exception;
  end if;
  if v_value < interval '0' or v_value > interval '100 years' then
    raise data_exception;
  end if;
  return v_value;
exception when data_exception then
  raise exception '% must be an interval such as "30 days", or seconds, between 0 and 100 years, not %',
    p_name, left((p_policy -> p_name)::text, 100) using errcode = 'AB012';
end $$;

-- A word of a policy, one of those known; null if it is not there.
create or replace function absurd.read_policy_word(p_policy jsonb, p_name text, p_known text[]) returns text
language plpgsql stable as $$
begin
  if coalesce(jsonb_typeof(p_policy -> p_name), 'null') <> 'null' and (p_policy ->> p_name) <> all (p_known) then
    raise exception '% must be %, not %', p_name, array_to_string(p_known, ' or '), left((p_policy -> p_name)::text, 100)
      using errcode = 'AB012';
  end if;
  return p_policy ->> p_name;
end $$;

-- Changes a queue's policy: what the object names, and nothing else. max_payload_bytes limits params, results, states and payloads.
create or replace function absurd.set_queue_policy(p_queue_name text, p_policy jsonb) returns void
language plpgsql volatile as $$
declare
  v_problem text := coalesce(
    case when p_policy is null or jsonb_typeof(p_policy) = 'null' then 'policy must be an object, not null' end,
    absurd.object_error('policy', p_policy, array['default_partition', 'partition_lookahead', 'partition_lookback', 'cleanup_ttl',
      'cleanup_limit', 'detach_mode', 'detach_min_age', 'max_payload_bytes']),
    absurd.number_error('cleanup_limit', p_policy -> 'cleanup_limit', 1, 2147483647, true),
    absurd.number_error('max_payload_bytes', p_policy -> 'max_payload_bytes', 1024, 268435456, true));
begin
  perform absurd.require_queue(p_queue_name);
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'AB012';
  end if;
  update absurd.queues q
  set default_partition = coalesce(absurd.read_policy_word(p_policy, 'default_partition', array['enabled', 'disabled']), q.default_partition),
    partition_lookahead = coalesce(absurd.read_policy_interval(p_policy, 'partition_lookahead'), q.partition_lookahead),
    partition_lookback = coalesce(absurd.read_policy_interval(p_policy, 'partition_lookback'), q.partition_lookback),
    cleanup_ttl = coalesce(absurd.read_policy_interval(p_policy, 'cleanup_ttl'), q.cleanup_ttl),
    cleanup_limit = coalesce((p_policy ->> 'cleanup_limit')::numeric::integer, q.cleanup_limit),
    detach_mode = coalesce(absurd.read_policy_word(p_policy, 'detach_mode', array['none', 'empty']), q.detach_mode),
    detach_min_age = coalesce(absurd.read_policy_interval(p_policy, 'detach_min_age'), q.detach_min_age),
    max_payload_bytes = coalesce((p_policy ->> 'max_payload_bytes')::numeric::integer, q.max_payload_bytes)
  where q.queue_name = p_queue_name;
end $$;
