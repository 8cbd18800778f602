-- The router: which server has which queue. PL/Proxy sends each call there; see functions.sql. May be applied again.
set client_min_messages = warning;
create extension if not exists plproxy;
create schema if not exists plproxy;
create schema if not exists absurd;
create schema if not exists absurd_router;

-- One row per server. The numbers are those of PL/Proxy: 0, 1, 2, … without a gap, and never another's.
create table if not exists absurd_router.shards (
  shard_no integer primary key,
  shard_name text not null unique,
  -- "host=… dbname=… user=…", as PL/Proxy takes it
  conninfo text not null,
  -- whether new queues may come to it
  takes_queues boolean not null default true
);

-- One row per queue. A queue that has a row is never looked for anywhere else.
create table if not exists absurd_router.routes (
  queue_name text primary key,
  shard_no integer not null references absurd_router.shards,
  routed_at timestamptz not null default now()
);

-- One row: grows with each change of the servers, so that sessions read them again.
create table if not exists absurd_router.version (only_row boolean primary key default true check (only_row), number integer not null);
insert into absurd_router.version (number) values (1) on conflict do nothing;

-- What PL/Proxy asks: the version at each call, the rest when that has grown.
create or replace function plproxy.get_cluster_version(cluster_name text) returns integer
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select number from absurd_router.version
$$;

create or replace function plproxy.get_cluster_partitions(cluster_name text) returns setof text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select s.conninfo from absurd_router.shards s order by s.shard_no
$$;

create or replace function plproxy.get_cluster_config(in cluster_name text, out key text, out val text) returns setof record
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  values ('modular_mapping', '1'), ('connection_lifetime', '1800')
$$;

-- Adds a server, or tells where one is now (after a failover).
create or replace function absurd_router.set_shard(p_shard_name text, p_conninfo text) returns integer
language plpgsql volatile as $$
declare
  v_shard_no integer;
begin
  if p_conninfo like '%://%' then
    raise exception 'PL/Proxy takes no URLs: say "host=… port=… dbname=… user=…", not %', regexp_replace(p_conninfo, '//[^@/]*@', '//…@')
      using errcode = 'AB012';
  end if;
  lock table absurd_router.shards in share row exclusive mode;
  insert into absurd_router.shards as s (shard_no, shard_name, conninfo)
  values ((select count(*) from absurd_router.shards), p_shard_name, p_conninfo)
  on conflict (shard_name) do update set conninfo = excluded.conninfo
  returning s.shard_no into v_shard_no;
  update absurd_router.version set number = number + 1;
  return v_shard_no;
end $$;

-- The key of the advisory lock on the route of a queue: calls share it to the end of their transaction, a move takes it alone.
create or replace function absurd_router.route_key(p_queue_name text) returns bigint
language sql immutable as $$
  select hashtextextended('absurd route ' || p_queue_name, 0)
$$;

-- Keeps calls for these queues waiting to the end of the transaction; waits for those that are under way.
create or replace function absurd_router.hold(p_queue_names text[]) returns void
language sql volatile as $$
  select pg_advisory_xact_lock(absurd_router.route_key(u.q)) from (select distinct n as q from unnest(p_queue_names) as n order by 1) u
$$;

-- The servers that answer. One that does not is left out, with a warning.
create or replace function absurd_router.living_shards() returns setof integer
language plpgsql volatile as $$
declare
  v_shard record;
begin
  for v_shard in select s.shard_no, s.shard_name from absurd_router.shards s order by s.shard_no loop
    begin
      perform absurd_router.ask_version(v_shard.shard_no);
      return next v_shard.shard_no;
    exception when others then
      raise warning 'shard "%" does not answer and is left out: %', v_shard.shard_name, split_part(sqlerrm, E'\n', 1);
    end;
  end loop;
end $$;

-- Whether a server answers. A cluster of its own, the same servers: PL/Proxy asks none while it is asking it already.
create or replace function absurd_router.ask_version(p_shard_no integer) returns text
language plproxy as $$
  cluster 'absurd_questions';
  run on p_shard_no;
  select absurd.get_schema_version();
$$;

-- Questions to one server.
create or replace function absurd_router.ask_queue(p_shard_no integer, p_queue_name text) returns boolean
language plproxy as $$
  cluster 'absurd_questions';
  run on p_shard_no;
  select count(*) > 0 from absurd.queue_limits(array[p_queue_name]);
$$;

create or replace function absurd_router.ask_task(p_shard_no integer, p_task_id uuid) returns boolean
language plproxy as $$
  cluster 'absurd_questions';
  run on p_shard_no;
  select count(*) > 0 from absurd.read_result(p_task_id);
$$;

create or replace function absurd_router.ask_token(p_shard_no integer, p_secret text) returns boolean
language plproxy as $$
  cluster 'absurd_questions';
  run on p_shard_no;
  select count(*) > 0 from absurd.read_token(p_secret);
$$;

create or replace function absurd_router.ask_schedule(p_shard_no integer, p_schedule_name text) returns boolean
language plproxy as $$
  cluster 'absurd_questions';
  run on p_shard_no;
  select count(*) > 0 from absurd.list_schedules(array[p_schedule_name]);
$$;

-- The servers that have something, and whether each could be asked. p_what: queue, task, token, schedule.
create or replace function absurd_router.who_has(p_what text, p_name text, out shard_nos integer[], out silent text[])
language plpgsql volatile as $$
declare
  v_shard record;
begin
  shard_nos := '{}';
  silent := '{}';
  for v_shard in select s.shard_no, s.shard_name from absurd_router.shards s order by s.shard_no loop
    begin
      if (case p_what
          when 'queue' then absurd_router.ask_queue(v_shard.shard_no, p_name)
          when 'task' then absurd_router.ask_task(v_shard.shard_no, p_name::uuid)
          when 'token' then absurd_router.ask_token(v_shard.shard_no, p_name)
          else absurd_router.ask_schedule(v_shard.shard_no, p_name) end) then
        shard_nos := shard_nos || v_shard.shard_no;
      end if;
    exception when others then
      silent := silent || format('"%s" does not (%s)', v_shard.shard_name, split_part(sqlerrm, E'\n', 1));
    end;
  end loop;
end $$;

-- The one server that has something; null if none has it. Raises when that cannot be known.
create or replace function absurd_router.find_shard(p_what text, p_name text) returns integer
language plpgsql volatile as $$
declare
  v_found record;
begin
  select * into v_found from absurd_router.who_has(p_what, p_name);
  if cardinality(v_found.shard_nos) > 1 then
    raise exception '% "%" is on more than one shard: %', p_what, left(p_name, 100), absurd_router.shard_names(v_found.shard_nos)
      using errcode = 'AB012', hint = case p_what when 'queue' then 'Was it being moved? Repeat absurdctl move-queue.' else 'Call that shard itself.' end;
  elsif cardinality(v_found.shard_nos) = 0 and cardinality(v_found.silent) > 0 then
    raise exception '% is on none of the shards that answer; %',
      case p_what when 'token' then 'the token' else format('%s "%s"', p_what, left(p_name, 100)) end, array_to_string(v_found.silent, ', ')
      using errcode = 'connection_failure';
  end if;
  return v_found.shard_nos[1];
end $$;

-- Their names, for messages.
create or replace function absurd_router.shard_names(p_shard_nos integer[]) returns text
language sql stable as $$
  select string_agg('"' || s.shard_name || '"', ', ' order by s.shard_no) from absurd_router.shards s where s.shard_no = any (p_shard_nos)
$$;

-- The server that has a queue; one that the router does not know yet is looked for once. Null: there is no such queue.
-- Lock: the route, shared, to the end of the transaction, so that a queue is not moved while somebody is calling it.
create or replace function absurd_router.known_shard(p_queue_name text) returns integer
language plpgsql volatile as $$
declare
  v_shard_no integer;
begin
  perform pg_advisory_xact_lock_shared(absurd_router.route_key(p_queue_name));
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    -- An older snapshot: a queue that has moved since is a serialization failure.
    perform from absurd_router.routes r where r.queue_name = p_queue_name for key share;
  end if;
  select r.shard_no into v_shard_no from absurd_router.routes r where r.queue_name = p_queue_name;
  if v_shard_no is null then
    v_shard_no := absurd_router.find_shard('queue', p_queue_name);
    if v_shard_no is not null then
      insert into absurd_router.routes (queue_name, shard_no) values (p_queue_name, v_shard_no) on conflict do nothing;
    end if;
  end if;
  return v_shard_no;
end $$;

-- What the functions of functions.sql run on. A queue that is nowhere: any server says so.
create or replace function absurd_router.shard_of(p_queue_name text) returns integer
language plpgsql volatile as $$
begin
  return coalesce(absurd_router.known_shard(coalesce(p_queue_name, '')), 0);
end $$;

-- The same where the queue may be left out on one server, but not before several.
create or replace function absurd_router.shard_of_named(p_queue_name text) returns integer
language plpgsql volatile as $$
begin
  if p_queue_name is null then
    raise exception 'name a queue: the answers of several servers cannot be made one' using errcode = 'AB012';
  end if;
  return absurd_router.shard_of(p_queue_name);
end $$;

-- One server, or all that answer.
create or replace function absurd_router.shards_of(p_queue_name text) returns setof integer
language plpgsql volatile as $$
begin
  if p_queue_name is null then
    return query select * from absurd_router.living_shards();
  else
    return next absurd_router.shard_of(p_queue_name);
  end if;
end $$;

-- Where a queue is, or will be: a new one goes to the server that its name and the server's make the greatest hash. So another server
-- takes its share of new queues, and no queue changes its place.
create or replace function absurd_router.shard_for(p_queue_name text) returns integer
language plpgsql volatile as $$
declare
  v_shard_no integer := absurd_router.known_shard(coalesce(p_queue_name, ''));
begin
  if v_shard_no is null then
    select s.shard_no into v_shard_no from absurd_router.shards s where s.takes_queues
    order by hashtextextended(s.shard_name || ' ' || coalesce(p_queue_name, ''), 0) desc limit 1;
    if v_shard_no is null then
      raise exception 'no shard takes new queues' using errcode = 'AB012';
    end if;
    insert into absurd_router.routes (queue_name, shard_no) values (coalesce(p_queue_name, ''), v_shard_no) on conflict do nothing;
  end if;
  return v_shard_no;
end $$;

-- All queues of a call have to be on one server: it is one transaction there.
create or replace function absurd_router.shard_of_all(p_queue_names text[]) returns integer
language plpgsql volatile as $$
declare
  v_shard_nos integer[] := array(select distinct absurd_router.shard_of(u.q) from (select distinct n as q from unnest(p_queue_names) as n order by 1) u);
begin
  if cardinality(v_shard_nos) > 1 then
    raise exception 'the queues of one call are on several shards (%)', absurd_router.shard_names(v_shard_nos)
      using errcode = 'AB012', hint = 'Make a call for each queue.';
  end if;
  return coalesce(v_shard_nos[1], 0);
end $$;

-- Events start tasks on their own server only.
create or replace function absurd_router.shard_of_subscription(p_queue_name text, p_options jsonb) returns integer
language plpgsql volatile as $$
declare
  v_shard_no integer := absurd_router.shard_of(p_queue_name);
  v_target text := p_options ->> 'target_queue';
begin
  if v_target is not null and absurd_router.shard_of(v_target) <> v_shard_no then
    raise exception 'queue "%" is on shard % and target_queue "%" on %: an event starts tasks on its own server', p_queue_name,
      absurd_router.shard_names(array[v_shard_no]), v_target, absurd_router.shard_names(array[absurd_router.shard_of(v_target)])
      using errcode = 'AB012', hint = 'Move one of the queues, or let a task of the first queue spawn into the second in a step.';
  end if;
  return v_shard_no;
end $$;

-- By what a call names instead of a queue.
create or replace function absurd_router.shard_of_task(p_task_id uuid) returns integer
language sql volatile as $$
  select coalesce(absurd_router.find_shard('task', p_task_id::text), 0)
$$;

create or replace function absurd_router.shard_of_token(p_secret text) returns integer
language sql volatile as $$
  select coalesce(absurd_router.find_shard('token', p_secret), 0)
$$;

create or replace function absurd_router.shard_of_schedule(p_schedule_name text) returns integer
language sql volatile as $$
  select coalesce(absurd_router.find_shard('schedule', p_schedule_name), 0)
$$;

-- A schedule goes where its queue is, and no other server has one of its name.
create or replace function absurd_router.shard_of_new_schedule(p_schedule_name text, p_queue_name text) returns integer
language plpgsql volatile as $$
declare
  v_shard_no integer := absurd_router.shard_of(p_queue_name);
  v_has integer := absurd_router.find_shard('schedule', p_schedule_name);
begin
  if v_has <> v_shard_no then
    raise exception 'shard % has a schedule "%", and queue "%" is on shard %', absurd_router.shard_names(array[v_has]), p_schedule_name,
      p_queue_name, absurd_router.shard_names(array[v_shard_no])
      using errcode = 'AB012';
  end if;
  return v_shard_no;
end $$;

-- Looks where these queues are now: the end of a move, and the way to mend a route by hand.
create or replace function absurd_router.find_again(p_queue_names text[]) returns void
language plpgsql volatile as $$
declare
  v_queue_name text;
begin
  delete from absurd_router.routes r where r.queue_name = any (p_queue_names);
  foreach v_queue_name in array p_queue_names loop
    if absurd_router.known_shard(v_queue_name) is null then
      raise exception 'queue "%" is on none of the shards', v_queue_name
        using errcode = 'AB010', hint = 'Add the server it is on with install.sh or absurd_router.set_shard(), and repeat this.';
    end if;
  end loop;
end $$;

-- Group roles without login, as each server has them.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['absurd_producer', 'absurd_worker', 'absurd_reader'] loop
    if not exists (select from pg_roles r where r.rolname = v_role) then
      execute format('create role %I nologin', v_role);
    end if;
    execute format('grant usage on schema absurd to %I', v_role);
  end loop;
end $$;
revoke all on all functions in schema absurd_router, plproxy from public;
revoke all on all tables in schema absurd_router from public;
