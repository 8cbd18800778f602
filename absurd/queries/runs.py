"""Queries of the worker about runs: claim, record, wait, end. Items go in as arrays, one status per item comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from absurd.queries.arrays import Ints, Jsonbs, Jsons, Texts, Uuids
from absurd.queries.query import Query, Row, scalar
from absurd.queries.workers import STANDBY_HAS_ALL
from absurd.types import ClaimedRun
from absurd.writes import (
    OK,
    CheckWaits,
    Complete,
    EmitEvent,
    ExtendLease,
    Fail,
    Holder,
    RecordCheckpoint,
    Release,
    SpawnChildren,
    Suspend,
    WriteResult,
)

_CLAIM = """
select task_id, run_id, epoch, attempt, task_name, params, headers, max_attempts, parent_task_id, deadline_at,
  checkpoint_count, checkpoints, next_after, waited_seconds
from absurd.claim_runs(%s, %s, %s::float8, %s::int, %s::text::absurd.claim_place[])"""


def claim_runs(
    queue_name: str, worker_id: str, lease_seconds: float, limit: int, after: str | None = None
) -> Query[list[ClaimedRun]]:
    """Up to ``limit`` ready runs of a queue, now this worker's; with the ``next_after`` of an earlier claim, from there on."""

    def decode(rows: list[Row]) -> list[ClaimedRun]:
        return [ClaimedRun(queue_name, *row) for row in rows]

    return Query(_CLAIM, (queue_name, worker_id, lease_seconds, limit, after), decode)


def read_checkpoints(task_id: UUID, after_position: int, after_step: str) -> Query[str | None]:
    """The next piece of a long history, as JSON text."""
    return Query("select absurd.read_checkpoints(%s, %s::int, %s)", (task_id, after_position, after_step), scalar)


def promote_due(queue_name: str, after: datetime | None = None) -> Query[tuple[int, float | None, datetime | None]]:
    """Makes due sleepers ready: how many, in how many seconds the next is due, and ``after`` for the next call."""
    sql = """
        select promoted, extract(epoch from next_due - absurd.current_time())::float8, looked_until
        from absurd.promote_due(%s, p_after => %s)"""
    return Query(sql, (queue_name, after), lambda rows: (rows[0][0], rows[0][1], rows[0][2]))


def _statuses(rows: list[Row]) -> list[WriteResult]:
    return [OK if status == "ok" else WriteResult(status) for status in rows[0][0]]


def _fences(holders: Sequence[Holder]) -> tuple[Uuids, Ints]:
    return Uuids(h.run_id for h in holders), Ints(h.epoch for h in holders)


def _task_fences(holders: Sequence[Holder]) -> tuple[Uuids, Uuids, Ints]:
    return Uuids(h.task_id for h in holders), *_fences(holders)


def record_checkpoints(items: Sequence[RecordCheckpoint]) -> Query[list[WriteResult]]:
    """Records completed steps."""
    args = (
        *_task_fences([i.holder for i in items]),
        Texts(i.step_name for i in items),
        Ints(i.position for i in items),
        Jsons(i.state for i in items),
    )
    return Query(
        "select absurd.record_checkpoints(%s::uuid[], %s::uuid[], %s::int[], %s::text[], %s::int[], %s::json[])", args, _statuses
    )


def verify_checkpoint(holder: Holder, step_name: str) -> Query[str]:
    """Whether a step whose commit was never answered has been recorded: ``ok``, ``missing``, ``lost`` or ``cancelled``.

    The answer comes when the standby has what it tells of, as in ``await_standby``.
    """
    return Query(
        f"select absurd.verify_checkpoint(%s, %s, %s::int, %s), {STANDBY_HAS_ALL}",
        (holder.task_id, holder.run_id, holder.epoch, step_name),
        scalar,
    )


def complete_runs(items: Sequence[Complete]) -> Query[list[WriteResult]]:
    """Ends runs with a result."""
    args = (*_task_fences([i.holder for i in items]), Jsons(i.result for i in items))
    return Query("select absurd.complete_runs(%s::uuid[], %s::uuid[], %s::int[], %s::json[])", args, _statuses)


def fail_runs(items: Sequence[Fail]) -> Query[list[WriteResult]]:
    """Ends attempts with a failure."""
    args = (
        *_fences([i.holder for i in items]),
        Jsons(i.failure for i in items),
        [i.retryable for i in items],
        [i.retry_at for i in items],
    )
    return Query("select absurd.fail_runs(%s::uuid[], %s::int[], %s::json[], %s::bool[], %s::timestamptz[])", args, _statuses)


def release_runs(items: Sequence[Release]) -> Query[list[WriteResult]]:
    """Hands runs back without charging an attempt."""
    args = (*_fences([i.holder for i in items]), [i.delay for i in items], Texts(i.note for i in items))
    return Query("select absurd.release_runs(%s::uuid[], %s::int[], %s::float8[], %s::text[])", args, _statuses)


def release_forgotten(worker_id: str, known: Sequence[Holder]) -> Query[int]:
    """Hands back what this worker claimed without learning of it."""
    return Query("select absurd.release_forgotten(%s, %s::uuid[], %s::int[])", (worker_id, *_fences(known)), scalar)


def extend_leases(holders: Sequence[Holder], seconds: float) -> Query[list[WriteResult]]:
    """Renews leases."""
    return Query("select absurd.extend_leases(%s::uuid[], %s::int[], %s::float8)", (*_fences(holders), seconds), _statuses)


def extend_worker_leases(worker_id: str, seconds: float) -> Query[int]:
    """Renews the leases of all runs of a worker, also of those that it does not know of yet; how many it renewed."""
    return Query("select absurd.extend_worker_leases(%s, %s::float8)", (worker_id, seconds), scalar)


def extend_lease_writes(items: Sequence[ExtendLease]) -> Query[list[WriteResult]]:
    """Renews the leases of runs that asked for it, for the longest time that one of them asked for."""
    return extend_leases([i.holder for i in items], max(i.seconds for i in items))


def check_waits(items: Sequence[CheckWaits]) -> Query[list[WriteResult]]:
    """Decides waits that can be decided at once; ``detail`` is the JSON text of the arrivals."""
    args = (
        *_task_fences([i.holder for i in items]),
        Ints(i.position for i in items),
        Ints(i.needed for i in items),
        Jsons(_waits_json(i.waits) for i in items),
    )
    sql = """
        select status, arrivals
        from absurd.check_waits(%s::uuid[], %s::uuid[], %s::int[], %s::int[], %s::int[], %s::json[])"""
    return Query(sql, args, lambda rows: [WriteResult(status, arrivals) for status, arrivals in rows])


def suspend_runs(items: Sequence[Suspend]) -> Query[list[WriteResult]]:
    """Puts runs to sleep."""
    args = (
        *_task_fences([i.holder for i in items]),
        Ints(i.position for i in items),
        Ints(i.needed for i in items),
        Jsons(_waits_json(i.waits) for i in items),
        [i.wake_at for i in items],
        [i.timeout for i in items],
        Texts(i.timer_step for i in items),
        Texts(i.timer_kind for i in items),
    )
    sql = """
        select absurd.suspend_runs(%s::uuid[], %s::uuid[], %s::int[], %s::int[], %s::int[], %s::json[],
          %s::timestamptz[], %s::float8[], %s::text[], %s::text[])"""
    return Query(sql, args, _statuses)


def emit_events(items: Sequence[EmitEvent]) -> Query[list[WriteResult]]:
    """Emits events from tasks, each with its checkpoint."""
    args = (
        *_task_fences([i.holder for i in items]),
        Texts(i.step_name for i in items),
        Ints(i.position for i in items),
        Texts(i.event_queue for i in items),
        Texts(i.event_name for i in items),
        Jsons(i.payload for i in items),
        Jsonbs(i.trace for i in items),
    )
    sql = """
        select absurd.emit_events(
          %s::uuid[], %s::uuid[], %s::int[], %s::text[], %s::int[], %s::text[], %s::text[], %s::json[], %s::jsonb[])"""
    return Query(sql, args, _statuses)


def spawn_children(item: SpawnChildren) -> Query[list[WriteResult]]:
    """Spawns children of a task and records them; ``detail`` is the JSON text of what was recorded, or the problem."""
    requests = item.requests
    args = (
        item.holder.task_id,
        item.holder.run_id,
        item.holder.epoch,
        item.step_name,
        item.position,
        Texts(r.queue_name for r in requests),
        Uuids(r.task_id for r in requests),
        Uuids(r.run_id for r in requests),
        Texts(r.task_name for r in requests),
        Jsons(r.params for r in requests),
        Jsons(r.headers for r in requests),
        Jsonbs(r.options for r in requests),
        Texts(r.idempotency_key for r in requests),
    )
    sql = """
        select status, coalesce(state::text, message)
        from absurd.spawn_children(%s, %s, %s::int, %s, %s::int,
          %s::text[], %s::uuid[], %s::uuid[], %s::text[], %s::json[], %s::json[], %s::jsonb[], %s::text[])"""
    return Query(sql, args, lambda rows: [WriteResult(rows[0][0], rows[0][1])])


def _waits_json(waits: Sequence[Any]) -> str:
    return json.dumps([wait.to_json() for wait in waits])
