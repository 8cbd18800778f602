"""Tests that do not apply when every wait suspends and every run moves: they ask for the very thing that is taken away."""

from __future__ import annotations

RUNS = "it counts the runs of a task"
ALONE = "it asks what one worker does that is alone, by its name or its log"
STATEMENTS = "it asks what single statements read, beside many thousand rows, and runs next to nothing"
UNSUSPENDED = "it asks that the task was never suspended"
REASONS: dict[str, str] = {
    # The handler takes another way in each run, by how often it was called.
    "::test_code_that_changed_under_a_task_is_reported": RUNS,
    "::test_hooks_see_and_change_spawns_and_surround_each_run": RUNS,
    "::test_deterministic_helpers_give_the_same_on_every_replay": RUNS,
    "::test_a04_completed_step_never_runs_again_and_a_repeated_name_gets_a_number": RUNS,
    "::test_a23_event_emitted_before_the_wait_is_kept_for_it": RUNS,
    # The run that is forgotten is that of the worker of the pair whose claim was answered: its lease ends as it should.
    "::test_what_a_worker_has_forgotten_is_handed_back_though_a_blocked_loop_has_its_leases_renewed": ALONE,
    # The lease runs out while the row is locked; of two workers, the other one may be there sooner and end it.
    "::test_leases_are_renewed_while_one_run_is_locked": ALONE,
    "::test_a_full_disk_does_not_fill_the_log_too": ALONE,
    "::test_no_statement_of_the_claim_path_reads_more_rows_when_there_are_more": STATEMENTS,
    "::test_an_answer_that_comes_before_the_wait_is_there_at_once": UNSUSPENDED,
    "::test_an_event_emitted_before_the_wait_is_found_and_no_slot_is_given_up": UNSUSPENDED,
}
"""The end of a test's id (without its parameters), or of a module's name → why it is left out."""


def reason_against(nodeid: str) -> str | None:
    """Why a test is left out; ``None`` if it is not."""
    name = nodeid.partition("[")[0]
    module = name.partition("::")[0]
    return next((reason for key, reason in REASONS.items() if name.endswith(key) or module.endswith(key)), None)
