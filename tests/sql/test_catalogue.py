"""The published functions have exactly the published names, arguments, defaults and results."""

from __future__ import annotations

import pytest

from tests.sql.calls import Connection, row, rows

SURFACE = {
    "current_time": [("", "timestamp with time zone")],
    "get_schema_version": [("", "text")],
    "get_oldest_served_version": [("", "text")],
    "create_queue": [("p_queue_name text", "void"), ("p_queue_name text, p_storage_mode text", "void")],
    "drop_queue": [("p_queue_name text", "void")],
    "list_queues": [("", "TABLE(queue_name text)")],
    "get_queue_policy": [
        (
            "p_queue_name text",
            "TABLE(queue_name text, storage_mode text, default_partition text, partition_lookahead interval,"
            " partition_lookback interval, cleanup_ttl interval, cleanup_limit integer, detach_mode text,"
            " detach_min_age interval)",
        )
    ],
    "set_queue_policy": [("p_queue_name text, p_policy jsonb", "void")],
    "spawn_task": [
        (
            "p_queue_name text, p_task_name text, p_params jsonb, p_options jsonb DEFAULT '{}'::jsonb",
            "TABLE(task_id uuid, run_id uuid, attempt integer, created boolean)",
        )
    ],
    "claim_task": [
        (
            "p_queue_name text, p_worker_id text, p_claim_timeout integer DEFAULT 30, p_qty integer DEFAULT 1",
            "TABLE(run_id uuid, task_id uuid, attempt integer, task_name text, params jsonb, retry_strategy jsonb,"
            " max_attempts integer, headers jsonb, wake_event text, event_payload jsonb)",
        )
    ],
    "complete_run": [("p_queue_name text, p_run_id uuid, p_state jsonb DEFAULT NULL::jsonb", "void")],
    "fail_run": [
        (
            "p_queue_name text, p_run_id uuid, p_reason jsonb,"
            " p_retry_at timestamp with time zone DEFAULT NULL::timestamp with time zone",
            "void",
        )
    ],
    "schedule_run": [("p_queue_name text, p_run_id uuid, p_wake_at timestamp with time zone", "void")],
    "retry_task": [
        (
            "p_queue_name text, p_task_id uuid, p_options jsonb DEFAULT '{}'::jsonb",
            "TABLE(task_id uuid, run_id uuid, attempt integer, created boolean)",
        )
    ],
    "cancel_task": [("p_queue_name text, p_task_id uuid", "void")],
    "get_task_result": [
        ("p_queue_name text, p_task_id uuid", "TABLE(task_id uuid, state text, result jsonb, failure_reason jsonb)")
    ],
    "extend_claim": [("p_queue_name text, p_run_id uuid, p_extend_by integer", "void")],
    "set_task_checkpoint_state": [
        (
            "p_queue_name text, p_task_id uuid, p_step_name text, p_state jsonb, p_owner_run uuid,"
            " p_extend_claim_by integer DEFAULT NULL::integer",
            "void",
        )
    ],
    "get_task_checkpoint_state": [
        (
            "p_queue_name text, p_task_id uuid, p_step_name text, p_include_pending boolean DEFAULT false",
            "TABLE(checkpoint_name text, state jsonb, status text, owner_run_id uuid, updated_at timestamp with time zone)",
        )
    ],
    "get_task_checkpoint_states": [
        (
            "p_queue_name text, p_task_id uuid, p_run_id uuid",
            "TABLE(checkpoint_name text, state jsonb, status text, owner_run_id uuid, updated_at timestamp with time zone)",
        )
    ],
    "await_event": [
        (
            "p_queue_name text, p_task_id uuid, p_run_id uuid, p_step_name text, p_event_name text,"
            " p_timeout integer DEFAULT NULL::integer",
            "TABLE(should_suspend boolean, payload jsonb)",
        )
    ],
    "emit_event": [("p_queue_name text, p_event_name text, p_payload jsonb DEFAULT NULL::jsonb", "void")],
    "cleanup_tasks": [("p_queue_name text, p_ttl_seconds integer, p_limit integer DEFAULT 1000", "integer")],
    "cleanup_events": [("p_queue_name text, p_ttl_seconds integer, p_limit integer DEFAULT 1000", "integer")],
    "cleanup_all_queues": [
        ("p_queue_name text DEFAULT NULL::text", "TABLE(queue_name text, tasks_deleted integer, events_deleted integer)")
    ],
}


@pytest.mark.parametrize("name", SURFACE)
def test_a_published_function_has_its_published_signature(conn: Connection, name: str) -> None:
    installed = rows(
        conn,
        "select pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result"
        " from pg_proc p where p.pronamespace = 'absurd'::regnamespace and p.proname = %s order by p.pronargs",
        name,
    )
    assert [(f["arguments"], f["result"]) for f in installed] == SURFACE[name]


def test_every_function_and_table_is_in_the_schema_absurd_and_has_no_twin_by_accident(conn: Connection) -> None:
    twins = rows(
        conn,
        "select proname, count(*) as n from pg_proc where pronamespace = 'absurd'::regnamespace"
        " group by proname having count(*) > 1",
    )
    assert [t["proname"] for t in twins] == ["create_queue"]


def test_the_clock_can_be_set_for_a_session(conn: Connection) -> None:
    rows(conn, "set absurd.fake_now = '2024-02-29 12:00:00+00'")
    assert row(conn, "select absurd.current_time()::text as now, absurd.get_schema_version() as version")["now"].startswith(
        "2024-02-29"
    )
    rows(conn, "reset absurd.fake_now")
    assert row(conn, "select absurd.current_time() > now() - interval '1 minute' as ok")["ok"]
