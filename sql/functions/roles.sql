-- Who may call what. Three group roles, made by create_roles(), for people to grant to the roles that their programs log in as:
--   absurd_producer  spawns, emits, reads results, answers tokens, and says of a listener that it lives
--   absurd_worker    the same, and all that running tasks, schedules, triggers and subscriptions take
--   absurd_reader    lists and shows everything, changes nothing
-- The tables are closed to all three: each function of theirs that reads or writes a table runs as its owner (security definer), with a
-- search_path in which nobody else can put anything. Nobody has a right by being in `public`.

-- Every function of the schema stands here once; a test holds that. What is forgotten is the owner's alone.
-- In place of a role: `owner` for what only the owner of the schema may call; `helper` for what only other functions call.
create or replace function absurd.function_roles() returns table (role_names text[], as_owner boolean, function_names text[])
language sql immutable as $$
  values
    -- They read no table, and some are inlined for speed: they run as whoever calls them.
    ('{producer,worker,reader}'::text[], false, array['current_time', 'fake_time', 'queue_channel', 'schedule_status']),
    ('{worker}', false, array['worker_lock_key']),

    ('{producer,worker,reader}', true, array['get_schema_version', 'get_oldest_served_version', 'list_queues', 'read_result', 'get_task_result']),

    -- Spawn, emit, wait for a result, answer a token
    ('{producer,worker}', true, array['spawn_quietly', 'spawn_one', 'spawn_tasks', 'spawn_task', 'append_event', 'dispatch_event', 'emit_event',
      'watch_task', 'unwatch_task', 'read_token', 'use_token']),
    -- A listener turns what it hears into tasks and events
    ('{producer,worker}', true, array['heartbeat_listener', 'unregister_listener']),

    -- The life of a run
    ('{worker}', true, array['claim_runs', 'read_checkpoints', 'promote_due', 'record_checkpoints', 'verify_checkpoint', 'check_waits',
      'suspend_runs', 'emit_events', 'spawn_children', 'create_token', 'complete_runs', 'fail_runs', 'release_runs', 'release_forgotten',
      'extend_leases', 'extend_worker_leases']),
    -- The same, one item at a time, for clients in other languages
    ('{worker}', true, array['claim_task', 'extend_claim', 'set_task_checkpoint_state', 'get_task_checkpoint_state',
      'get_task_checkpoint_states', 'await_event', 'schedule_run', 'complete_run', 'fail_run']),
    -- The life of a worker
    ('{worker}', true, array['register_worker', 'heartbeat_worker', 'set_worker_idle', 'unregister_worker', 'workers_may_return', 'sweep',
      'queue_limits', 'apply_retention']),
    -- What its code declares, and takes back
    ('{worker}', true, array['create_queue', 'make_queue', 'subscribe', 'store_subscription', 'unsubscribe', 'create_schedule', 'reconcile_schedules',
      'plan_schedule', 'fire_schedule', 'pause_schedule', 'resume_schedule', 'trigger_schedule', 'backfill_schedule', 'delete_schedule',
      'register_trigger', 'missing_triggers', 'claim_trigger_polls', 'settle_trigger_poll', 'release_triggers', 'set_trigger_enabled',
      'delete_trigger']),
    -- It may end and begin every task as it is, so these are nothing new to it
    ('{worker}', true, array['cancel_task', 'retry_task', 'fork_task', 'run_task_now', 'queue_of_task']),

    -- What is declared, how much there is to do, one task as the HTTP API shows it
    ('{worker,reader}', true, array['list_subscriptions', 'list_schedules', 'list_triggers', 'list_trigger_executions', 'list_listeners',
      'get_queue_policy', 'queue_options', 'queue_age', 'queue_stats', 'count_ready', 'read_task']),
    ('{reader}', true, array['find_tasks', 'known_task_names', 'task_details', 'task_value']),
    -- History and payloads of everybody, through hide_secrets(): who reads them may not answer tokens
    ('{reader}', true, array['list_tasks', 'show_task', 'list_checkpoints', 'task_names', 'list_events', 'list_waits', 'list_workers', 'find_unclaimable',
      'doctor_queues', 'doctor_work']),
    ('{reader}', true, array['page_of_queues', 'throughput', 'page_of_workers', 'due_schedules', 'last_failures', 'page_of_events',
      'tasks_of_event', 'takers_of_event', 'page_of_waits_for', 'page_of_schedules', 'page_of_subscriptions']),
    ('{helper}', false, array['count_bound', 'search_bound', 'oldest_ready', 'sample_spawned', 'tasks_spawned', 'failure_text']),

    -- What cannot be taken back, or is for all
    ('{owner}', true, array['drop_queue', 'pause_queue', 'resume_queue', 'set_queue_policy', 'set_queue_options', 'cleanup_tasks', 'cleanup_events',
      'cleanup_all_queues', 'purge_events']),
    ('{owner}', false, array['create_roles', 'apply_roles', 'adopt_objects', 'granted_roles', 'grant_functions', 'function_roles']),

    -- Who watches: metrics, traces, absurdctl top and tail
    ('{worker,reader}', true, array['queue_metrics']),
    ('{worker}', true, array['event_sources']),
    ('{reader}', true, array['activity_counters', 'events_after', 'task_activity', 'tasks_to_follow']),

    -- They run with the rights of the function that calls them.
    ('{helper}', false, array['ended_ids', 'copy_key_error', 'find_fork', 'find_step', 'fork_options_error', 'forked_headers', 'found_tasks', 'id_around',
      'id_digits', 'keyed_ids', 'live_ids', 'matching_ids', 'open_token_error', 'page_of_attempts', 'checkpoints_of',
      'page_of_children', 'page_of_waits', 'parents_of', 'read_place', 'searched_names', 'shows_text', 'walk_live', 'walk_spawned']),
    ('{helper}', false, array['are_usual_options', 'attempt_of', 'awaited_words', 'bounded_value', 'change_queue', 'change_schedule', 'claim_event_key', 'claim_idempotency_keys',
      'claim_places', 'clean_tasks', 'close_trigger_executions', 'confirm_queue', 'count_kept', 'cron_error', 'delete_event_rows', 'delete_events', 'delete_tasks', 'deliver_arrivals', 'deliver_event',
      'deliver_late', 'deliver_undelivered', 'drop_round', 'drop_runs', 'drop_triggers', 'end_attempts', 'end_swept', 'end_waits', 'ended_before', 'event_lock_key',
      'expire_deadlines', 'expire_leases', 'fence_runs', 'find_arrival', 'find_followers', 'find_subscribers', 'fire_trigger',
      'first_checkpoints', 'first_overdue', 'fitting_patterns', 'forget_listeners', 'forget_started', 'has_active_execution', 'headers_error', 'hide_secrets', 'hold_run', 'id_floor', 'idle_lease', 'kept_headers_error', 'limit_looks',
      'json_error', 'keep_option', 'kept_from', 'kept_reason', 'last_before', 'limits_tasks', 'list_ended_ids', 'list_live_ids', 'list_spawned_ids', 'lock_ready', 'lock_schedule', 'lock_subscriptions',
      'lost_status', 'make_id', 'moment_ago', 'name_error', 'next_walk', 'notify_queues', 'notify_schedulers', 'number_error', 'number_problem',
      'object_error', 'object_problem', 'option_number', 'page_size', 'pattern_error', 'put_back', 'queue_lock_key', 'raise_lost',
      'read_policy_interval', 'read_policy_word', 'read_schedule', 'read_spawn_options', 'readable_jsonb', 'reap_workers',
      'record_arrivals', 'record_event', 'reopen_trigger_execution', 'require_cleanup', 'require_moment', 'require_queue',
      'require_read_committed', 'require_schedule', 'require_size', 'require_trigger', 'retain_events', 'retain_queue', 'retain_tasks', 'retains_at', 'retry_delay', 'retry_strategy_error',
      'run_schedule', 'run_slots', 'schedule_changes', 'schedule_error', 'schedule_options_error', 'schedule_payload', 'show_attempts',
      'shortened', 'show_checkpoints', 'show_children', 'show_waits', 'slot_key', 'slot_text', 'spawn_problem', 'start_some_subscribers',
      'start_subscribers', 'stored_seconds', 'subscriptions_lock_key', 'suspend_run', 'take_retention', 'target_queues', 'task_outcome', 'token_hash', 'token_status',
      'trigger_lease', 'trigger_params', 'trigger_problem', 'try_lock_emit', 'wake_task_waiters', 'walk_events', 'walk_tasks', 'with_source',
      'woken_by'])
$$;

-- Makes the functions and their privileges what function_roles() says: at the end of each installation and upgrade, and in create_roles().
-- What people have granted stays, except to the three roles, whose rights are these and no others.
create or replace function absurd.apply_roles() returns void
language plpgsql volatile as $$
declare
  v_item record;
begin
  perform absurd.adopt_objects((select c.relowner from pg_class c where c.oid = 'absurd.schema_version'::regclass));
  -- Where public had the right to call, somebody's own said nothing (release 0.1.0, default privileges): the function ran as its caller,
  -- or is new. It would say much from now on.
  for v_item in
    select p.oid::regprocedure as routine, pg_get_userbyid(a.grantee) as role_name
    from pg_proc p
    cross join lateral (select distinct x.grantee from aclexplode(p.proacl) x) a
    where p.pronamespace = 'absurd'::regnamespace and a.grantee not in (0, p.proowner)
      and exists (select from aclexplode(p.proacl) x where x.grantee = 0)
  loop
    execute format('revoke all on routine %s from %I cascade', v_item.routine, v_item.role_name);
  end loop;
  revoke all on all routines in schema absurd from public;
  for v_item in
    select p.oid::regprocedure as routine
    from absurd.function_roles() f
    cross join lateral unnest(f.function_names) as u(name)
    join pg_proc p on p.pronamespace = 'absurd'::regnamespace and p.proname = u.name
    where f.as_owner
  loop
    execute format('alter routine %s security definer set search_path = pg_catalog, pg_temp', v_item.routine);
  end loop;
  for v_item in select g.role_name, g.word from absurd.granted_roles() g loop
    if v_item.role_name = 'absurd_' || v_item.word then
      execute format('revoke all on all routines in schema absurd from %I', v_item.role_name);
    end if;
    perform absurd.grant_functions(v_item.role_name, v_item.word);
  end loop;
end $$;

-- Gives tables, types and functions that another role's upgrade has made, a superuser's, to whom the rest belongs: a function runs as its
-- owner and needs his tables. Sequences and indexes go with their tables.
create or replace function absurd.adopt_objects(p_owner oid) returns void
language plpgsql volatile as $$
declare
  v_item record;
begin
  for v_item in
    select c.oid::regclass as relation from pg_class c
    where c.relnamespace = 'absurd'::regnamespace and c.relkind = 'r' and c.relowner <> p_owner
  loop
    execute format('alter table %s owner to %I', v_item.relation, pg_get_userbyid(p_owner));
  end loop;
  for v_item in
    select t.oid::regtype as type from pg_type t
    join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
    where t.typnamespace = 'absurd'::regnamespace and t.typowner <> p_owner
  loop
    execute format('alter type %s owner to %I', v_item.type, pg_get_userbyid(p_owner));
  end loop;
  for v_item in
    select p.oid::regprocedure as routine from pg_proc p
    where p.pronamespace = 'absurd'::regnamespace and p.proowner <> p_owner
  loop
    execute format('alter routine %s owner to %I', v_item.routine, pg_get_userbyid(p_owner));
  end loop;
end $$;

-- The roles that have rights here, and which. The three, if create_roles() has opened this database to them: roles are the whole server's,
-- and those that another database has made get nothing here. Besides, roles that were given the tables themselves, as was usual before
-- there were these. The functions run as their owner, so nobody may call by them what his tables did not let him do: everything is for
-- whoever may do everything with all tables of release 0.1.0 that matter, what a reader may for whoever may read all these, what a
-- producer may for whoever may read and insert tasks and their runs.
create or replace function absurd.granted_roles() returns table (role_name name, word text)
language sql stable as $$
  with needed as (
    select array['queues', 'tasks', 'runs', 'attempts', 'checkpoints', 'events', 'waits', 'idempotency_keys', 'subscriptions', 'schedules',
      'triggers', 'tokens', 'workers', 'listeners'] as table_names
  ), granted as (
    select pg_get_userbyid(a.grantee) as role_name,
      count(*) filter (where a.privilege_type = 'SELECT') as selects,
      count(*) filter (where a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')) as everything,
      count(*) filter (where a.privilege_type in ('SELECT', 'INSERT') and c.relname in ('tasks', 'runs')) as spawns
    from needed n
    join pg_class c on c.relnamespace = 'absurd'::regnamespace and c.relname = any (n.table_names)
    cross join lateral (select distinct x.grantee, x.privilege_type from aclexplode(c.relacl) x) a
    where a.grantee not in (0, c.relowner)
    group by a.grantee
  )
  select pg_get_userbyid(a.grantee), substr(pg_get_userbyid(a.grantee), 8)
  from pg_namespace n
  cross join lateral aclexplode(n.nspacl) a
  where n.oid = 'absurd'::regnamespace and a.privilege_type = 'USAGE'
    and pg_get_userbyid(a.grantee) in ('absurd_producer', 'absurd_worker', 'absurd_reader')
  union all
  select g.role_name, w.word
  from granted g
  cross join needed n
  cross join lateral (values
    ('all', g.everything = 4 * cardinality(n.table_names)),
    ('reader', g.selects = cardinality(n.table_names)),
    ('producer', g.spawns = 4)) as w(word, has)
  where w.has
$$;

-- Lets a role call what a producer, a worker or a reader calls, or all.
create or replace function absurd.grant_functions(p_role_name name, p_word text) returns void
language plpgsql volatile as $$
declare
  v_item record;
begin
  for v_item in
    select p.oid::regprocedure as routine
    from absurd.function_roles() f
    cross join lateral unnest(f.function_names) as u(name)
    join pg_proc p on p.pronamespace = 'absurd'::regnamespace and p.proname = u.name
    where p_word = 'all' or p_word = any (f.role_names)
  loop
    execute format('grant execute on routine %s to %I', v_item.routine, p_role_name);
  end loop;
end $$;

-- Makes the three roles where the server does not have them, opens this database's schema to them, and gives them their rights. May be
-- repeated. They are group roles, without login: grant them to the roles that programs log in as.
create or replace function absurd.create_roles() returns void
language plpgsql volatile as $$
declare
  v_role_name text;
begin
  foreach v_role_name in array array['absurd_producer', 'absurd_worker', 'absurd_reader'] loop
    begin
      if not exists (select from pg_roles r where r.rolname = v_role_name) then
        execute format('create role %I nologin', v_role_name);
      end if;
    exception
      -- Somebody makes it for another database at this moment.
      when duplicate_object or unique_violation then
        null;
      when insufficient_privilege then
        raise exception 'role "%" cannot make the role %', current_user, v_role_name
          using errcode = 'insufficient_privilege', hint = 'Have somebody with CREATEROLE say: create role absurd_producer nologin; '
            'create role absurd_worker nologin; create role absurd_reader nologin; then repeat this.';
    end;
    execute format('grant usage on schema absurd to %I', v_role_name);
  end loop;
  perform absurd.apply_roles();
end $$;
