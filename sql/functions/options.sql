-- What is wrong with a number inside options, or null. Inlined where it is called, so that a good number costs no call.
create or replace function absurd.number_error(p_name text, p_value jsonb, p_min numeric, p_max numeric, p_whole boolean default false)
returns text
language sql immutable parallel safe as $$
  select case when
    case jsonb_typeof(p_value)
      when 'number' then p_value::numeric between p_min and p_max and (not p_whole or p_value::numeric % 1 = 0)
      when 'null' then true
      else p_value is null
    end
  then null else absurd.number_problem(p_name, p_value, p_min, p_max, p_whole) end
$$;

-- Puts into words why a number is refused.
create or replace function absurd.number_problem(p_name text, p_value jsonb, p_min numeric, p_max numeric, p_whole boolean)
returns text
language plpgsql immutable parallel safe as $$
begin
  if jsonb_typeof(p_value) <> 'number' then
    return format('%s must be a number, not %s', p_name, left(p_value::text, 100));
  elsif p_whole and p_value::numeric % 1 <> 0 then
    return format('%s must be a whole number, not %s', p_name, left(p_value::text, 100));
  end if;
  return format('%s must be between %s and %s, not %s', p_name, p_min, p_max, left(p_value::text, 100));
end $$;

-- A number inside options, to nine places: finer ones mean nothing here, and the finest are more than a double precision can hold.
-- Null for what is no number. Never raises.
create or replace function absurd.option_number(p_value jsonb) returns double precision
language sql immutable parallel safe as $$
  select case when jsonb_typeof(p_value) = 'number' then
    round(least(greatest((p_value #>> '{}')::numeric, -1e15), 1e15), 9)::double precision
  end
$$;

-- What is wrong with the keys of an object inside options, or null. Inlined like number_error().
create or replace function absurd.object_error(p_name text, p_value jsonb, p_known text[]) returns text
language sql immutable parallel safe as $$
  select case when
    case jsonb_typeof(p_value)
      when 'object' then p_value - p_known = '{}'
      when 'null' then true
      else p_value is null
    end
  then null else absurd.object_problem(p_name, p_value, p_known) end
$$;

-- Puts into words why an object is refused.
create or replace function absurd.object_problem(p_name text, p_value jsonb, p_known text[]) returns text
language plpgsql immutable parallel safe as $$
begin
  if jsonb_typeof(p_value) <> 'object' then
    return format('%s must be an object, not %s', p_name, left(p_value::text, 100));
  end if;
  return format('%s has no option "%s"; known are %s', p_name,
    left((select k from jsonb_object_keys(p_value - p_known) k limit 1), 100), array_to_string(p_known, ', '));
end $$;

-- What is wrong with headers, or null: they travel with every claim and every log line, so they are small.
create or replace function absurd.headers_error(p_headers json) returns text
language sql immutable parallel safe as $$
  select case when octet_length(p_headers::text) > 65536 then
    format('headers have %s bytes; 65536 are allowed', octet_length(p_headers::text)) end
$$;

-- The same for headers that a schedule, a trigger or a subscription gives to its tasks. What started a task comes to them, with the
-- source of an event inside: so these and that source have a quarter each, and no start is refused for what the library adds.
create or replace function absurd.kept_headers_error(p_headers json) returns text
language sql immutable parallel safe as $$
  select case when octet_length(p_headers::text) > 16384 then
    format('headers have %s bytes; 16384 are allowed', octet_length(p_headers::text)) end
$$;

-- What is wrong with a retry strategy, or null.
create or replace function absurd.retry_strategy_error(p_value jsonb) returns text
language plpgsql immutable parallel safe as $$
declare
  v_error text := absurd.object_error('retry_strategy', p_value, array['kind', 'base_seconds', 'factor', 'max_seconds', 'jitter']);
begin
  if v_error is not null or p_value is null or jsonb_typeof(p_value) = 'null' then
    return v_error;
  elsif jsonb_typeof(p_value -> 'kind') is distinct from 'string' or (p_value ->> 'kind') not in ('fixed', 'exponential', 'none') then
    return format('retry_strategy.kind must be fixed, exponential or none, not %s', coalesce(left((p_value -> 'kind')::text, 100), 'missing'));
  end if;
  return coalesce(
    absurd.number_error('retry_strategy.base_seconds', p_value -> 'base_seconds', 0, 315360000),
    absurd.number_error('retry_strategy.factor', p_value -> 'factor', 1, 1000),
    absurd.number_error('retry_strategy.max_seconds', p_value -> 'max_seconds', 0, 315360000),
    absurd.number_error('retry_strategy.jitter', p_value -> 'jitter', 0, 1));
end $$;

-- Whether options are what the library sends with most spawns: max_attempts and a retry strategy, all given and all good. One test instead
-- of the dozens of read_spawn_options(), for each expression of PL/pgSQL is prepared again in each transaction. Inlined where it is called.
create or replace function absurd.are_usual_options(p_options jsonb) returns boolean
language sql immutable parallel safe as $$
  select p_options @@ 'strict $.max_attempts >= 1 && $.max_attempts <= 1000000 && $.max_attempts % 1 == 0
      && ($.retry_strategy.kind == "exponential" || $.retry_strategy.kind == "fixed" || $.retry_strategy.kind == "none")
      && $.retry_strategy.base_seconds >= 0 && $.retry_strategy.base_seconds <= 315360000
      && $.retry_strategy.factor >= 1 && $.retry_strategy.factor <= 1000
      && $.retry_strategy.max_seconds >= 0 && $.retry_strategy.max_seconds <= 315360000
      && $.retry_strategy.jitter >= 0 && $.retry_strategy.jitter <= 1
      && !exists($.keyvalue() ? (@.key != "max_attempts" && @.key != "retry_strategy"))
      && !exists($.retry_strategy.keyvalue() ? (@.key != "kind" && @.key != "base_seconds" && @.key != "factor"
        && @.key != "max_seconds" && @.key != "jitter"))'
$$;

-- Reads the options of a spawn; error says what is wrong with them, so that no bad value is ever stored.
create or replace function absurd.read_spawn_options(p_options jsonb) returns absurd.spawn_options
language plpgsql stable as $$
declare
  v absurd.spawn_options;
  v_limits jsonb := p_options -> 'cancellation';
  v_option text := 'available_at';
begin
  if absurd.are_usual_options(p_options) then
    v.retry_strategy := p_options -> 'retry_strategy';
    v.max_attempts := (p_options -> 'max_attempts')::integer;
    return v;
  end if;
  v.error := absurd.object_error('options', p_options, array['headers', 'retry_strategy', 'max_attempts', 'cancellation',
    'idempotency_key', 'priority', 'delay', 'available_at', 'parent_task_id']);
  if v.error is not null or p_options is null or jsonb_typeof(p_options) = 'null' then
    return v;
  end if;
  v.error := coalesce(
    absurd.retry_strategy_error(p_options -> 'retry_strategy'),
    absurd.number_error('max_attempts', p_options -> 'max_attempts', 1, 1000000, true),
    absurd.object_error('cancellation', v_limits, array['max_delay', 'max_duration']),
    absurd.number_error('cancellation.max_delay', v_limits -> 'max_delay', 0, 315360000),
    absurd.number_error('cancellation.max_duration', v_limits -> 'max_duration', 0, 315360000),
    absurd.number_error('priority', p_options -> 'priority', -32768, 32767, true),
    absurd.number_error('delay', p_options -> 'delay', 0, 315360000));
  if v.error is not null then
    return v;
  end if;
  if jsonb_typeof(p_options -> 'headers') not in ('object', 'null') then
    v.error := format('headers must be an object, not %s', left((p_options -> 'headers')::text, 100));
    return v;
  end if;
  v.error := absurd.headers_error((p_options -> 'headers')::json);
  if v.error is not null then
    return v;
  end if;
  v.headers := nullif(p_options -> 'headers', 'null');
  v.retry_strategy := nullif(p_options -> 'retry_strategy', 'null');
  v.max_attempts := (p_options ->> 'max_attempts')::numeric;
  v.max_delay := absurd.option_number(v_limits -> 'max_delay');
  v.max_duration := absurd.option_number(v_limits -> 'max_duration');
  v.priority := (p_options ->> 'priority')::numeric;
  if jsonb_typeof(p_options -> 'idempotency_key') <> 'null' then
    if jsonb_typeof(p_options -> 'idempotency_key') <> 'string' then
      v.error := format('idempotency_key must be a string, not %s', left((p_options -> 'idempotency_key')::text, 100));
      return v;
    end if;
    v.idempotency_key := p_options ->> 'idempotency_key';
  end if;
  v.available_at := absurd.current_time() + make_interval(secs => nullif(absurd.option_number(p_options -> 'delay'), 0));
  -- The block that catches what cannot be read has its price, and few spawns need it.
  if p_options ?| array['available_at', 'parent_task_id'] then
    begin
      v.available_at := coalesce((p_options ->> 'available_at')::timestamptz, v.available_at);
      v_option := 'parent_task_id';
      v.parent_task_id := (p_options ->> 'parent_task_id')::uuid;
      if v.available_at not between '1970-01-01' and absurd.current_time() + interval '10 years' then
        v.error := format('available_at must lie within the next ten years, not %s', p_options ->> 'available_at');
      end if;
    exception when data_exception then
      v.error := format('%s cannot be read: %s', v_option, sqlerrm);
    end;
  end if;
  return v;
end $$;

-- Seconds until the attempt after p_attempt, by the strategy stored with the task. Never raises, whatever is stored.
-- No strategy: at once. fixed: base_seconds (60). exponential: base_seconds (30) * factor (2) ^ (attempt - 1), at most max_seconds.
-- jitter takes away a random part of the delay, up to that fraction. Everything is capped at ten years.
create or replace function absurd.retry_delay(p_strategy jsonb, p_attempt integer) returns double precision
language sql volatile as $$
  select case p_strategy ->> 'kind'
    when 'fixed' then least(greatest(coalesce(o.base_seconds, 60), 0), 315360000)
    when 'exponential' then
      case
        when coalesce(o.base_seconds, 30) <= 0 then 0
        else exp(least(
          ln(coalesce(o.base_seconds, 30)) + (greatest(p_attempt, 1) - 1) * ln(greatest(coalesce(o.factor, 2), 1)),
          ln(greatest(least(coalesce(o.max_seconds, 315360000), 315360000), 1e-6))))
      end
    else 0
  end * (1 - random() * least(greatest(coalesce(o.jitter, 0), 0), 1))
  from (
    select absurd.option_number(p_strategy -> 'base_seconds') as base_seconds, absurd.option_number(p_strategy -> 'factor') as factor,
      absurd.option_number(p_strategy -> 'max_seconds') as max_seconds, absurd.option_number(p_strategy -> 'jitter') as jitter
  ) o
$$;
