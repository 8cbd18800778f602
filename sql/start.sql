-- One installation at a time in a database; the names of ours are found whatever the caller's settings are.
do $$ begin perform pg_advisory_xact_lock(hashtextextended('absurd schema', 0)); end $$;
set local search_path = pg_catalog;
set local client_min_messages = warning;
-- A function may call one that is created after it.
set local check_function_bodies = off;
create schema if not exists absurd;
