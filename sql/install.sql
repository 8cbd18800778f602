-- Contents page of the schema `absurd`. It installs everything into a database that has no such schema:
--
--     psql -f sql/install.sql
--
-- One file per line: what it holds stands behind it. Tables change by migrations/NNNN_name.sql;
-- all files in functions/ are applied again at every upgrade. `make sql` joins the files into absurd.sql.

\set ON_ERROR_STOP on
begin;
\ir start.sql                     \\ -- lock, settings, the schema itself

-- Tables: what is decided by people
\ir tables/schema_version.sql     \\ -- the version of the schema, one row
\ir tables/queues.sql             \\ -- queues with policy and limits
\ir tables/retention.sql          \\ -- how long queues keep what has ended
\ir tables/schedules.sql          \\ -- schedules: what starts when

-- Tables: tasks, and the queue of their live attempts
\ir tables/types.sql              \\ -- composite types that functions pass to each other
\ir tables/tasks.sql              \\ -- tasks, from spawn to result
\ir tables/runs.sql               \\ -- live attempts: this is the queue
\ir tables/attempts.sql           \\ -- attempts that ended without completing their task
\ir tables/idempotency_keys.sql   \\ -- keys that make a repeated spawn harmless

-- Tables: what a task has done and waits for
\ir tables/checkpoints.sql        \\ -- completed steps
\ir tables/events.sql             \\ -- emitted events
\ir tables/event_keys.sql         \\ -- keys that make a repeated emit harmless
\ir tables/subscriptions.sql      \\ -- which tasks events start
\ir tables/event_tasks.sql        \\ -- which tasks an event has started
\ir tables/waits.sql              \\ -- what sleeping runs and clients wait for
\ir tables/tokens.sql             \\ -- resume tokens: what a person answers, once

-- Tables: who is working
\ir tables/workers.sql            \\ -- living worker processes
\ir tables/listeners.sql          \\ -- living listener processes

-- Tables: what starts tasks when something is so
\ir tables/triggers.sql           \\ -- polled triggers
\ir tables/trigger_executions.sql \\ -- their fires

-- Functions: what the others stand on
\ir functions/clock.sql           \\ -- the database's clock, the version
\ir functions/ids.sql             \\ -- UUIDv7 for SQL callers
\ir functions/names.sql           \\ -- limits of names and sizes, keys of advisory locks
\ir functions/notify.sql          \\ -- channels that workers and clients listen on
\ir functions/fence.sql           \\ -- who holds a run: ok, lost, cancelled
\ir functions/sources.sql         \\ -- the header that says what started a task

-- Functions: queues and spawning
\ir functions/queues.sql          \\ -- create, drop, pause, policy
\ir functions/options.sql         \\ -- options of a spawn, validated
\ir functions/spawn.sql           \\ -- tasks and their first runs

-- Functions: the life of a run
\ir functions/claim.sql           \\ -- ready runs to a worker, with a lease
\ir functions/leases.sql          \\ -- renewal of leases
\ir functions/checkpoints.sql     \\ -- completed steps, written and read
\ir functions/suspend.sql         \\ -- runs that go to sleep until something happens
\ir functions/complete.sql        \\ -- runs that end with a result
\ir functions/fail.sql            \\ -- attempts that end with a failure
\ir functions/cancel.sql          \\ -- cancellation of a task
\ir functions/retry.sql           \\ -- another attempt for a task that has ended
\ir functions/fork.sql            \\ -- a copy of a task, from one of its steps
\ir functions/run_now.sql         \\ -- the time of a sleeping task is now

-- Functions: what starts tasks when something is so
\ir functions/triggers.sql        \\ -- registration, polls, fires and their history

-- Functions: events and results
\ir functions/deliver.sql         \\ -- arrivals to the waits that were registered for them
\ir functions/subscriptions.sql   \\ -- who is started by an event
\ir functions/emit.sql            \\ -- events, their waiters and subscribers
\ir functions/results.sql         \\ -- state, result and failure of a task
\ir functions/schedules.sql       \\ -- schedules: what starts when
\ir functions/fire_schedules.sql  \\ -- each slot of a schedule, once
\ir functions/tokens.sql          \\ -- resume tokens: made, read, used

-- Functions: upkeep
\ir functions/sweep.sql           \\ -- expired leases, deadlines, dead workers, due sleepers
\ir functions/workers.sql         \\ -- registration of workers
\ir functions/listeners.sql       \\ -- registration of listeners

-- Functions: policy and clean-up
\ir functions/policy.sql          \\ -- what people decide about a queue
\ir functions/queue_options.sql   \\ -- what a queue keeps and for how long, how large values may be
\ir functions/retention_walks.sql \\ -- the walks that find what need not be kept
\ir functions/retention.sql       \\ -- the batches that delete it
\ir functions/cleanup.sql         \\ -- old tasks and events, in bounded pieces, by hand

-- Functions: one item at a time, for plain SQL and clients in other languages
\ir functions/surface_tasks.sql   \\ -- spawn, result
\ir functions/surface_runs.sql    \\ -- claim, complete, fail, schedule, extend
\ir functions/surface_checkpoints.sql \\ -- steps, written and read
\ir functions/surface_events.sql  \\ -- await, emit

-- Functions: reading, for people
\ir functions/inspect_tasks.sql   \\ -- lists of tasks
\ir functions/find_tasks.sql      \\ -- search of tasks, in bounded pages
\ir functions/inspect_task.sql    \\ -- one task with all that is known of it
\ir functions/task_details.sql    \\ -- one task in bounded pieces, for pages
\ir functions/inspect_queues.sql  \\ -- events, waits, workers, counts
\ir functions/inspect_overview.sql \\ -- how queues and workers fare, for pages
\ir functions/inspect_dashboard.sql \\ -- lists in bounded pages
\ir functions/metrics.sql         \\ -- counts for metrics, activity for those who follow it
\ir functions/queue_age.sql       \\ -- how long ready tasks wait, to scale by
\ir functions/doctor.sql          \\ -- what should be otherwise

-- Functions: who may call them
\ir functions/roles.sql           \\ -- the roles, and what each may call

\ir finish.sql                    \\ -- version row, queue `default`, privileges
commit;
