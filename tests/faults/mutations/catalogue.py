# ruff: noqa: E501  (SQL and tables are read better in long lines)
"""Breaks of single fences, each with the promise that goes with it and tests that have to notice."""

from __future__ import annotations

from dataclasses import dataclass

SURFACE_RUNS = "tests/sql/test_surface_runs.py"
SURFACE_EVENTS = "tests/sql/test_surface_events.py"
SURFACE_TASKS = "tests/sql/test_surface_tasks.py"
POLICY = "tests/sql/test_policy_and_cleanup.py"
RETENTION = "tests/sql/test_retention.py"
RACES = "tests/sql/test_races.py"
INTERLEAVINGS = "tests/integration/test_interleavings.py"
LEASES = "tests/integration/test_guarantees_leases.py"
LIFECYCLE = "tests/integration/test_guarantees_lifecycle.py"
ONCE = "tests/integration/test_guarantees_exactly_once.py"
TOKENS = "tests/sql/test_tokens.py"
TRIGGERS = "tests/sql/test_triggers.py"
TRIGGER_RACES = "tests/sql/test_trigger_races.py"
SUBSCRIPTIONS = "tests/sql/test_subscriptions.py"
SUBSCRIPTION_RACES = "tests/sql/test_subscription_races.py"
PLACES = "tests/sql/test_places.py"
ORDER = "tests/faults/test_orders.py::test_one_order"
"""With the operations behind it, and the order that has to be gone through, or "any"; "(gates)": also between the statements of functions."""


@dataclass(frozen=True)
class Mutation:
    """One change of one file."""

    name: str
    """What is taken away."""
    file: str
    old: str
    new: str
    test: str
    """The test that has to fail: a node id; for ``ORDER`` with ``@`` and the order behind it."""


def _sql(name: str, file: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(name, f"sql/functions/{file}.sql", old, new, test)


_STATUS_OK = "  where i.status = 'ok'\n"
_UNFENCED = "  where true\n"

MUTATIONS: tuple[Mutation, ...] = (
    # -- only the holder of a run writes
    _sql("the epoch of every write", "fence", "(i.epoch is null or r.epoch = i.epoch)", "true",
         f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the state of every write", "fence", "r.state = 'running' and (i.epoch", "(i.epoch",
         f"{LEASES}::test_a_holder_whose_run_sleeps_writes_nothing_more"),
    _sql("the row lock of every write", "fence", "order by r.run_id for update;", "order by r.run_id;",
         f"{RACES}::test_a_cancellation_in_progress_wins_over_a_completion"),
    _sql("the fence of a completion", "complete", "    where i.status = 'ok'\n", "",
         f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the fence of a failure", "fail", _STATUS_OK, _UNFENCED,
         f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the fence of a checkpoint", "checkpoints", _STATUS_OK, _UNFENCED,
         f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the fence of a suspension", "suspend", "    if v_status[i] = 'ok' then\n      v_status[i] := absurd.suspend_run(",
         "    if true then\n      v_status[i] := absurd.suspend_run(",
         f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the fence of children", "spawn", "  v_status := (absurd.fence_runs(array[p_owner_run_id], array[p_owner_epoch]))[1];",
         "  v_status := 'ok';", f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the fence of an emit in a task", "emit", "    continue when v_status[i] <> 'ok'\n      or exists",
         "    continue when exists", f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the fence of a token", "tokens", "  v_status := (absurd.fence_runs(array[p_run_id], array[p_epoch]))[1];", "  v_status := 'ok';",
         f"{TOKENS}::test_a_run_that_was_lost_makes_no_token"),
    _sql("the epoch of a renewed lease", "leases", "where r.run_id = i.run_id and r.epoch = i.epoch and r.run_id = any (v_free);",
         "where r.run_id = i.run_id and r.run_id = any (v_free);", f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    _sql("the epoch of a claim", "claim", "epoch = least(r.epoch, 2147483646) + 1,", "epoch = greatest(r.epoch, 1),",
         f"{LEASES}::test_a_late_write_changes_nothing_and_says_why"),
    # -- steps and effects happen once
    _sql("the first checkpoint of a name stands", "checkpoints", "  on conflict (task_id, step_name) do nothing;",
         "  on conflict (task_id, step_name) do update set state = excluded.state;",
         f"{LEASES}::test_a_step_that_is_recorded_twice_keeps_its_first_value"),
    _sql("an idempotency key is kept", "spawn", "    if task_id <> p_task_id then\n      created := false;\n      return;\n    end if;\n",
         "",
         f"{SURFACE_TASKS}::test_a_known_key_returns_the_first_task"),
    _sql("an emission with a key happens once", "emit", "  created := seq is null;", "  created := true;",
         f"{SUBSCRIPTIONS}::test_k9_an_emission_with_a_key_happens_once_for_ever"),
    _sql("a repeated emit in a task emits nothing", "emit",
         "\n      or exists (select from absurd.checkpoints c where c.task_id = p_task_ids[i] and c.step_name = p_step_names[i]);", ";",
         f"{LEASES}::test_a_write_that_is_repeated_takes_effect_once"),
    _sql("a repeated spawn in a task returns its first children", "spawn",
         "c.task_id = p_owner_task_id and c.step_name = p_step_name;\n  if found then",
         "c.task_id = p_owner_task_id and c.step_name = p_step_name;\n  if false then",
         f"{LEASES}::test_a_write_that_is_repeated_takes_effect_once"),
    _sql("a commit without answer is looked up", "checkpoints", "    return 'missing';", "    return 'ok';",
         f"{LEASES}::test_a_checkpoint_that_was_not_recorded_is_said_to_be_missing"),
    Mutation("a refused transaction is undone", "absurd/context/sync_shell.py",
             "                    Undo.unless_ok(run(conn, queries.record_checkpoints([write]))[0])",
             "                    run(conn, queries.record_checkpoints([write]))",
             f"{LEASES}::test_a_transaction_whose_run_was_lost_meanwhile_is_undone"),
    Mutation("a worker that stops begins nothing more", "absurd/worker/engine.py",
             "            if self._stopping:\n                self._refusals.stopped(run)",
             "            if False:\n                self._refusals.stopped(run)",
             f"{LIFECYCLE}::test_what_a_claim_brings_after_the_worker_was_told_to_stop_is_handed_back_and_not_begun"),
    Mutation("a step begins when what came before it is durable", "absurd/context/core.py",
             "            # A checkpoint that the database refuses has to be heard of now: after the sleep its step would run again.\n"
             "            yield SETTLE\n", "",
             "tests/integration/test_refused_checkpoint.py"),
    # -- events reach every wait and subscriber once
    _sql("an emit takes the lock of its name", "emit",
         "  perform pg_advisory_xact_lock(absurd.event_lock_key(p_queue_name, p_event_name));\n", "",
         f"{RACES}::test_a_wait_in_progress_is_waited_for_by_an_emit"),
    _sql("a wait of a worker takes the lock of the name", "suspend",
         "\n      or not pg_try_advisory_xact_lock_shared(absurd.event_lock_key(p_wait ->> 'queue', p_wait ->> 'event')) then", " then",
         f"{INTERLEAVINGS}::test_an_emit_in_an_open_transaction_makes_the_wait_ask_again"),
    _sql("a wait of a client takes the lock of the name", "surface_events",
         "  perform pg_advisory_xact_lock_shared(absurd.event_lock_key(p_queue_name, p_event_name));\n", "",
         f"{RACES}::test_an_emit_in_progress_is_waited_for_by_a_wait"),
    _sql("the first emission of a name wins", "suspend", "  order by e.seq limit 1;", "  order by e.seq desc limit 1;",
         f"{SURFACE_EVENTS}::test_every_waiter_gets_the_first_emission_for_ever"),
    _sql("a timeout is recorded", "claim", "from gone g where g.kind = 'timer'", "from gone g where false",
         f"{SURFACE_EVENTS}::test_a_timeout_answers_null_now_and_on_every_replay_also_after_the_event"),
    _sql("an arrival is counted", "deliver", "state = case when r.waits_left <= c.n then 'pending' else r.state end", "state = 'pending'",
         f"{RACES}::test_events_that_wake_the_same_runs_never_deadlock"),
    _sql("what has woken waits no longer", "deliver", "    delete from absurd.waits w where w.run_id = any (v_awake);\n", "",
         f"{ORDER}@emit | wait: any"),
    _sql("a delivery takes the runs before their waits", "deliver", "  order by r.run_id for update;", "  order by r.run_id;",
         f"{ORDER}@emit | promote: any (gates)"),
    _sql("an emit that sees no waits leaves them to a sweep", "emit", "absurd.current_time(), v_sees_waits)",
         "absurd.current_time(), true)", f"{SURFACE_EVENTS}::test_a_claim_delivers_what_an_emit_in_repeatable_read_could_not"),
    _sql("what must see others refuses REPEATABLE READ", "names", "  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then\n    raise",
         "  if false then\n    raise", f"{SURFACE_TASKS}::test_what_must_see_others_refuses_repeatable_read"),
    _sql("an emit shares the lock of subscriptions", "emit",
         ",\n    pg_advisory_xact_lock_shared(absurd.subscriptions_lock_key(p_queue_name));", ";",
         f"{SUBSCRIPTION_RACES}::test_g7_an_emit_waits_for_a_subscribe_in_progress_and_reaches_it"),
    _sql("a subscription begins after what was there", "subscriptions", "where p_seq is null or s.after_seq < p_seq;", "where true;",
         f"{SUBSCRIPTION_RACES}::test_k2_who_subscribes_after_a_repeatable_read_has_emitted_does_not_get_it"),
    _sql("the end of a task wakes who waits for it", "complete", "    perform absurd.wake_task_waiters(p_task_ids);\n", "    null;\n",
         f"{RACES}::test_a_parent_that_is_going_to_sleep_is_woken_by_the_end_of_its_child"),
    _sql("a wait for a task decides against its end", "suspend", "(p_wait ->> 'task')::uuid for share skip locked;",
         "(p_wait ->> 'task')::uuid;", f"{RACES}::test_a_child_that_is_ending_makes_its_parent_ask_again"),
    # -- tasks end once, and go on when they were interrupted
    _sql("a cancellation holds the run", "cancel", "r.queue_name = p_queue_name for update;", "r.queue_name = p_queue_name;",
         f"{RACES}::test_a_cancellation_follows_the_task_to_its_next_attempt"),
    _sql("a lost worker costs an attempt", "fail", "(t.max_attempts is null or g.attempt < t.max_attempts)", "true",
         f"{SURFACE_RUNS}::test_an_expired_lease_fails_the_attempt_by_name_and_the_next_claim_gets_the_next_attempt"),
    _sql("a lease expires", "sweep", "where r.state = 'running' and r.lease_expires_at <= v_now", "where false",
         f"{SURFACE_RUNS}::test_an_expired_lease_fails_the_attempt_by_name_and_the_next_claim_gets_the_next_attempt"),
    _sql("a lease that lives does not", "sweep", "where r.state = 'running' and r.lease_expires_at <= v_now", "where r.state = 'running'",
         f"{SURFACE_RUNS}::test_an_extended_lease_lasts_longer_and_is_never_made_shorter"),
    _sql("a claim takes what nobody has", "claim", "      for update skip locked\n    ) l", "    ) l",
         f"{ORDER}@claim | claim: any"),
    _sql("a forgotten claim is handed back, a known one is not", "leases",
         "where k.run_id = r.run_id and k.epoch = r.epoch)", "where k.run_id = r.run_id)",
         f"{LEASES}::test_a_run_that_is_known_by_an_older_claim_only_is_handed_back"),
    _sql("a paused queue gives nothing", "claim", "q.queue_name = p_queue_name and q.paused_at is null", "q.queue_name = p_queue_name",
         f"{SURFACE_RUNS}::test_a_paused_queue_gives_nothing_until_it_is_resumed"),
    # -- tokens, triggers, clean-up, limits
    _sql("a token is used once", "tokens", "    when k.used_at is not null then 'used'\n", "",
         f"{TOKENS}::test_a_second_answer_is_told_so_and_changes_nothing"),
    _sql("an answer holds the run of its task", "tokens", "where r.task_id = v_token.task_id for update;", "where r.task_id = v_token.task_id;",
         f"{TOKENS}::test_of_two_answers_at_once_exactly_one_is_told_ok"),
    _sql("an expired token takes no answer", "tokens", "    when k.expires_at <= absurd.current_time() or exists (", "    when exists (",
         f"{TOKENS}::test_an_answer_at_the_moment_of_expiry_is_too_late"),
    _sql("a poll that was taken over settles nothing", "triggers", "  if v_trigger.poll_id is distinct from p_poll_id or p_poll_id is null then",
         "  if p_poll_id is null then", f"{TRIGGERS}::test_l32_process_that_died_is_replaced_when_its_lease_has_run_out"),
    _sql("a firing is decided under the row's lock", "fire_schedules",
         "  elsif v.revision <> p_revision or v.next_slot is distinct from p_slot or v.paused_at is not null then\n", "  elsif false then\n",
         f"{ORDER}@fire | fire: any (gates)"),
    _sql("a clean-up spares what somebody is retrying", "cleanup", "      order by t.task_id for update of t skip locked) l);",
         "      order by t.task_id) l);", f"{POLICY}::test_a_task_that_is_being_retried_is_left_alone"),
    _sql("a clean-up spares the children of who may be retried", "cleanup", "p.outcome is distinct from 'completed'", "p.outcome is null",
         f"{RETENTION}::test_finished_children_stay_while_their_parent_can_be_retried"),
    _sql("wrong clocks hide nothing from a clean-up", "retention_walks", "greatest(p_beyond, v_young_id)", "p_beyond",
         f"{RETENTION}::test_ids_of_clocks_that_are_wrong_hide_nothing_that_may_go"),
    _sql("a queue that somebody holds is no work for now", "retention", "case when w.held then 1 else w.rest end", "w.rest",
         f"{RETENTION}::test_a_queue_that_somebody_holds_is_looked_at_again_in_a_second"),
    _sql("a clean-up spares events that nobody has got", "retention_walks", "(p_unclaimed or coalesce(e.claimed_at <= p_cutoff, false)) as old", "true as old",
         f"{POLICY}::test_cleanup_spares_events_that_nobody_claimed_or_somebody_waits_for"),
    _sql("a queue that is being dropped takes no task", "spawn",
         "perform pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')))", "perform 1",
         f"{RACES}::test_a_queue_that_is_being_dropped_takes_no_task_and_no_event"),
    _sql("a queue that is being dropped takes no quiet task", "spawn",
         ":= pg_advisory_xact_lock_shared(absurd.queue_lock_key(coalesce(p_queue_name, '')))", ":= ''",
         f"{RACES}::test_a_queue_that_is_being_dropped_takes_no_quiet_task"),
    _sql("a lease that a sweep has left is found by the next", "sweep",
         "    coalesce(absurd.first_overdue(v_now, v_from) - interval '1 microsecond', v_now);", "    v_now;",
         f"{PLACES}::test_a_lease_that_a_sweep_could_not_end_is_ended_by_the_next"),
    _sql("a sleeper that a promotion has left is found by the next", "claim", "least(v_next_due, v_now);", "v_now;",
         f"{PLACES}::test_a_sleeper_that_a_promotion_could_not_wake_is_woken_by_the_next"),
    _sql("a queue that was dropped takes no event of an older snapshot", "emit", ", absurd.confirm_queue(p_queue_name);", ";",
         f"{ORDER}@drop queue | emit in repeatable read: any"),
    _sql("a queue is dropped in the direction of its locks", "queues",
         "        where w.run_id = u.run_id and w.kind = 'task'));", "        where false));",
         f"{ORDER}@complete | drop queue: any (gates)"),
    _sql("a payload has a limit", "names", "  if octet_length(p_value::text) > v_limit then", "  if false then",
         "tests/sql/test_surface_checkpoints.py::test_a_state_beyond_the_limit_is_refused"),
)  # fmt: skip
