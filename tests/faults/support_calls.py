"""One case per query function of the library: what has to be there, and the call. For tests that lose a call or its answer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from uuid6 import uuid7

from absurd.db import run
from absurd.queries import (
    activity,
    admin,
    dashboard,
    doctor,
    events,
    inspect,
    listeners,
    queues,
    results,
    retention,
    runs,
    schedules,
    spawn,
    subscriptions,
    task,
    tasks,
    tokens,
    triggers,
    workers,
)
from absurd.queries.query import Query
from absurd.types import SpawnRequest
from absurd.writes import (
    CheckWaits,
    Complete,
    CreateToken,
    EmitEvent,
    ExtendLease,
    Fail,
    Holder,
    RecordCheckpoint,
    Release,
    SpawnChildren,
    Suspend,
    Wait,
)

Case = Callable[["World", str], Query[Any]]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def request(name: str = "t", queue: str = "default", key: str | None = None) -> SpawnRequest:
    return SpawnRequest(queue, uuid7(), uuid7(), name, "1", None, None, key)


class World:
    """Makes what a call needs, on a connection that loses nothing."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self._queues = 0
        self.run(queues.create_queue("default"))

    def run(self, query: Query[Any]) -> Any:
        return run(self.conn, query)

    def spawned(self, queue: str = "default") -> UUID:
        return self.run(spawn.spawn_one(request(queue=queue))).task_id

    def holder(self, worker: str = "w", queue: str | None = None) -> Holder:
        """A run that has been claimed, in a queue where there is no other."""
        if queue is None:
            self._queues += 1
            queue = self.queue(f"queue {self._queues}")
        self.run(spawn.spawn_one(request(queue=queue)))
        (claimed,) = self.run(runs.claim_runs(queue, worker, 600, 1))
        return Holder(queue, claimed.task_id, claimed.run_id, claimed.epoch)

    def queue(self, name: str) -> str:
        self.run(queues.create_queue(name))
        return name

    def ended(self, queue: str | None = None) -> Holder:
        holder = self.holder(queue=queue)
        self.run(runs.fail_runs([Fail(holder, '{"name": "x", "message": "y"}', False)]))
        return holder

    def sleeper(self, queue: str) -> None:
        self.run(runs.suspend_runs([Suspend(self.holder(queue=queue), 0, 0, (), NOON, None, "sleep", "sleep")]))

    def napping(self) -> UUID:
        """A task that sleeps until a moment far away."""
        holder = self.holder()
        far = NOON + timedelta(days=36500)
        self.run(runs.suspend_runs([Suspend(holder, 0, 0, (), far, None, "sleep", "sleep")]))
        return holder.task_id

    def token(self) -> str:
        made = self.run(tokens.create_token(CreateToken(self.holder(), "$token:a", 0, "a", None, None, None, None)))
        return str(json.loads(made[0].detail)["secret"])

    def worker(self, tag: str) -> str:
        self.run(workers.register_worker(tag, ["default"], "host", 1, "1", 1, 30, None))
        return tag

    def listener(self, tag: str) -> str:
        self.run(_beat(tag))
        return tag

    def subscription(self, tag: str) -> str:
        self.run(subscriptions.subscribe("default", tag, "t", "{}", None))
        return tag

    def schedule(self, tag: str, *, planned: bool = False, **definition: Any) -> schedules.Schedule:
        made = self.run(schedules.create_schedule(_schedule(tag, **definition), False))
        if planned:
            self.run(schedules.plan_schedule(made, NOON, NOON, None))
            made = self.run(schedules.get_schedule(tag))
        assert isinstance(made, schedules.Schedule)
        return made

    def trigger(self, tag: str) -> str:
        self.run(triggers.register_trigger(triggers.TriggerDefinition(tag, "default", "t", 60, 10, True, None, None)))
        return tag

    def poll(self, tag: str) -> triggers.TriggerPoll:
        (poll,) = self.run(triggers.claim_trigger_polls("w", [self.trigger(tag)], []))
        assert isinstance(poll, triggers.TriggerPoll)
        return poll


def _fork(world: World) -> Query[Any]:
    holder = world.holder()
    world.run(runs.record_checkpoints([RecordCheckpoint(holder, "a", 0, "1")]))
    return tasks.fork_task(holder.task_id, "a", {"task_id": str(uuid7()), "run_id": str(uuid7())})


def _beat(tag: str) -> Query[None]:
    return listeners.heartbeat_listener(tag, "name", None, "host", 1, "listening", 1, 0, None)


def _schedule(tag: str, **definition: Any) -> schedules.ScheduleRequest:
    return schedules.ScheduleRequest(tag, "default", json.dumps({"task": "t", "every": 3600, **definition}), "1")


def _emission(tag: str, key: str | None = None) -> events.Emission:
    return events.Emission("default", tag, "1", key, None)


_wait = (Wait("$event:e", "default", "e", 0),)

CASES: dict[str, Case] = {
    "admin.retention": lambda w, t: admin.retention("default"),
    "admin.cleanup_tasks": lambda w, t: (w.ended(w.queue(t)), admin.cleanup_tasks(t, 0, 10))[1],
    "admin.cleanup_events": lambda w, t: (w.run(events.append_event(_emission(t))), admin.cleanup_events("default", 0, 10))[1],
    "dashboard.limit_session": lambda w, t: dashboard.limit_session(read_only=False),
    "dashboard.may_pause": lambda w, t: dashboard.may_pause(),
    "dashboard.page_of_queues": lambda w, t: dashboard.page_of_queues(NOON, None, 10),
    "dashboard.throughput": lambda w, t: dashboard.throughput(3600, 6),
    "dashboard.page_of_workers": lambda w, t: dashboard.page_of_workers(10, 10),
    "dashboard.due_schedules": lambda w, t: dashboard.due_schedules(10),
    "dashboard.last_failures": lambda w, t: dashboard.last_failures(10),
    "dashboard.stuck_runs": lambda w, t: dashboard.stuck_runs(5),
    "dashboard.page_of_events": lambda w, t: dashboard.page_of_events(None, None, False, None, 10),
    "dashboard.tasks_of_event": lambda w, t: dashboard.tasks_of_event(1, 10),
    "dashboard.takers_of_event": lambda w, t: dashboard.takers_of_event(1, False, None, 10),
    "dashboard.page_of_waits": lambda w, t: dashboard.page_of_waits(None, None, None, None, 10),
    "dashboard.page_of_schedules": lambda w, t: dashboard.page_of_schedules(None, None, 10),
    "dashboard.page_of_subscriptions": lambda w, t: dashboard.page_of_subscriptions(None, None, None, 10),
    "doctor.server_facts": lambda w, t: doctor.server_facts(),
    "doctor.settings": lambda w, t: doctor.settings(),
    "doctor.table_facts": lambda w, t: doctor.table_facts(),
    "doctor.old_holders": lambda w, t: doctor.old_holders(60),
    "doctor.queue_facts": lambda w, t: doctor.queue_facts(),
    "doctor.late_work": lambda w, t: doctor.late_work(),
    "activity.queue_metrics": lambda w, t: activity.queue_metrics(),
    "activity.activity_counters": lambda w, t: activity.activity_counters(),
    "activity.tasks_to_follow": lambda w, t: activity.tasks_to_follow("default", datetime.now(UTC)),
    "activity.events_after": lambda w, t: activity.events_after("default", 0),
    "activity.has_ended": lambda w, t: activity.has_ended(w.spawned()),
    "activity.task_activity": lambda w, t: activity.task_activity([w.spawned()], None),
    "events.event_sources": lambda w, t: events.event_sources([w.run(events.append_event(_emission(t)))]),
    "events.append_event": lambda w, t: events.append_event(_emission(t)),
    "events.append_event with a key": lambda w, t: events.append_event(_emission(t, t)),
    "events.dispatch_event": lambda w, t: events.dispatch_event(_emission(w.subscription(t))),
    "events.dispatch_event with a key": lambda w, t: events.dispatch_event(_emission(w.subscription(t), t)),
    "inspect.current_time": lambda w, t: inspect.current_time(),
    "inspect.list_tasks": lambda w, t: inspect.list_tasks(inspect.TaskFilter(), None, 10),
    "inspect.show_task": lambda w, t: inspect.show_task(w.spawned()),
    "inspect.list_checkpoints": lambda w, t: inspect.list_checkpoints(w.holder().task_id, 0, ""),
    "inspect.list_events": lambda w, t: inspect.list_events(None, None, False, None, None, 10),
    "inspect.list_waits": lambda w, t: inspect.list_waits(None, None, 10),
    "inspect.list_workers": lambda w, t: inspect.list_workers(),
    "inspect.queue_stats": lambda w, t: inspect.queue_stats(),
    "inspect.queue_names": lambda w, t: inspect.queue_names(),
    "inspect.task_names": lambda w, t: inspect.task_names(),
    "listeners.heartbeat_listener": lambda w, t: _beat(t),
    "listeners.unregister_listener": lambda w, t: listeners.unregister_listener(w.listener(t)),
    "listeners.list_listeners": lambda w, t: listeners.list_listeners(),
    "listeners.hold_listener_lock": lambda w, t: listeners.hold_listener_lock(t),
    "queues.create_queue": lambda w, t: queues.create_queue(t),
    "queues.drop_queue": lambda w, t: (w.spawned(w.queue(t)), queues.drop_queue(t))[1],
    "queues.list_queues": lambda w, t: queues.list_queues(),
    "queues.pause_queue": lambda w, t: queues.pause_queue(w.queue(t)),
    "queues.resume_queue": lambda w, t: (w.run(queues.pause_queue(w.queue(t))), queues.resume_queue(t))[1],
    "queues.set_max_payload_bytes": lambda w, t: queues.set_max_payload_bytes(w.queue(t), 5000),
    "results.read_result": lambda w, t: results.read_result(w.spawned()),
    "results.watch_task": lambda w, t: results.watch_task(w.spawned(), "absurd_client_" + t, 60),
    "results.unwatch_task": lambda w, t: _unwatch(w, t),
    "results.cancel_task": lambda w, t: results.cancel_task(w.spawned()),
    "results.retry_task": lambda w, t: results.retry_task(w.ended().task_id, {}),
    "tasks.find_tasks": lambda w, t: tasks.find_tasks(tasks.TaskSearch(), None, 10),
    "tasks.known_task_names": lambda w, t: tasks.known_task_names(None),
    "tasks.task_details": lambda w, t: tasks.task_details(w.spawned(), tasks.Places(), 10),
    "tasks.task_value": lambda w, t: tasks.task_value(w.spawned(), "params", None, None, 1000),
    "tasks.fork_task": lambda w, t: _fork(w),
    "tasks.run_task_now": lambda w, t: tasks.run_task_now(w.napping()),
    "runs.claim_runs": lambda w, t: (w.spawned(w.queue(t)), runs.claim_runs(t, "w", 60, 1))[1],
    "runs.read_checkpoints": lambda w, t: runs.read_checkpoints(w.spawned(), 0, ""),
    "runs.promote_due": lambda w, t: (w.sleeper(w.queue(t)), runs.promote_due(t))[1],
    "runs.record_checkpoints": lambda w, t: runs.record_checkpoints([RecordCheckpoint(w.holder(), "a", 0, "1")]),
    "runs.verify_checkpoint": lambda w, t: runs.verify_checkpoint(w.holder(), "a"),
    "runs.complete_runs": lambda w, t: runs.complete_runs([Complete(w.holder(), "1")]),
    "runs.fail_runs": lambda w, t: runs.fail_runs([Fail(w.holder(), '{"name": "x"}')]),
    "runs.release_runs": lambda w, t: runs.release_runs([Release(w.holder())]),
    "runs.release_forgotten": lambda w, t: (w.holder(t), runs.release_forgotten(t, []))[1],
    "runs.extend_leases": lambda w, t: runs.extend_leases([w.holder()], 900),
    "runs.extend_worker_leases": lambda w, t: (w.holder(t), runs.extend_worker_leases(t, 900))[1],
    "runs.extend_lease_writes": lambda w, t: runs.extend_lease_writes([ExtendLease(w.holder(), 900)]),
    "runs.check_waits": lambda w, t: runs.check_waits([CheckWaits(w.holder(), 0, 1, _wait)]),
    "runs.suspend_runs": lambda w, t: runs.suspend_runs([Suspend(w.holder(), 0, 1, _wait)]),
    "runs.emit_events": lambda w, t: runs.emit_events([EmitEvent(w.holder(), "$emit:x", 0, "default", t, "1")]),
    "runs.spawn_children": lambda w, t: runs.spawn_children(SpawnChildren(w.holder(), "$spawn:t", 0, [request()])),
    "schedules.create_schedule": lambda w, t: schedules.create_schedule(_schedule(t), False),
    "schedules.get_schedule": lambda w, t: schedules.get_schedule(w.schedule(t).schedule_name),
    "schedules.list_schedules": lambda w, t: schedules.list_schedules(),
    "schedules.list_times": lambda w, t: schedules.list_times(),
    "schedules.reconcile_schedules": lambda w, t: schedules.reconcile_schedules(t, [_schedule(t)]),
    "schedules.pause_schedule": lambda w, t: schedules.pause_schedule(w.schedule(t).schedule_name),
    "schedules.resume_schedule": lambda w, t: (
        w.run(schedules.pause_schedule(w.schedule(t).schedule_name)),
        schedules.resume_schedule(t),
    )[1],
    "schedules.delete_schedule": lambda w, t: schedules.delete_schedule(w.schedule(t).schedule_name),
    "schedules.trigger_schedule": lambda w, t: schedules.trigger_schedule(w.schedule(t).schedule_name),
    "schedules.backfill_schedule": lambda w, t: schedules.backfill_schedule(t, w.schedule(t).revision, [NOON]),
    "schedules.plan_schedule": lambda w, t: schedules.plan_schedule(w.schedule(t), NOON, NOON, None),
    "schedules.fire_schedule": lambda w, t: schedules.fire_schedule(
        w.schedule(t, planned=True), [NOON], NOON + timedelta(days=9999), NOON + timedelta(days=9999)
    ),
    "retention.make_queue": lambda w, t: retention.make_queue(t, {"keep_completed": 60}),
    "retention.set_queue_options": lambda w, t: retention.set_queue_options(w.queue(t), {"keep_count": 5}),
    "retention.hold_retention_lock": lambda w, t: retention.hold_retention_lock(),
    "retention.queue_options": lambda w, t: retention.queue_options(),
    "retention.apply_retention": lambda w, t: (
        w.run(retention.set_queue_options(w.queue(t), {"keep_count": 1})),
        retention.apply_retention(10, t),
    )[1],
    "spawn.spawn_one": lambda w, t: spawn.spawn_one(request()),
    "spawn.spawn_one with a key": lambda w, t: spawn.spawn_one(request(key=t)),
    "spawn.spawn_tasks": lambda w, t: spawn.spawn_tasks([request(), request(key=t)]),
    "subscriptions.subscribe": lambda w, t: subscriptions.subscribe("default", t, "t", "{}", None),
    "subscriptions.unsubscribe": lambda w, t: subscriptions.unsubscribe("default", w.subscription(t), "t"),
    "subscriptions.list_subscriptions": lambda w, t: subscriptions.list_subscriptions(None, None),
    "task.read_task": lambda w, t: task.read_task(w.spawned()),
    "tokens.create_token": lambda w, t: tokens.create_token(CreateToken(w.holder(), "$token:a", 0, "a", None, None, None, None)),
    "tokens.read_token": lambda w, t: tokens.read_token(w.token()),
    "tokens.use_token": lambda w, t: tokens.use_token(w.token(), "1"),
    "triggers.register_trigger": lambda w, t: triggers.register_trigger(
        triggers.TriggerDefinition(t, "default", "t", 60, 10, True, None, None)
    ),
    "triggers.missing_triggers": lambda w, t: triggers.missing_triggers([t]),
    "triggers.claim_trigger_polls": lambda w, t: triggers.claim_trigger_polls("w", [w.trigger(t)], []),
    "triggers.settle_trigger_poll": lambda w, t: triggers.settle_trigger_poll(
        w.poll(t), [triggers.PreparedFire('{"a": 1}', t, uuid7(), uuid7())], "{}", None
    ),
    "triggers.release_triggers": lambda w, t: (w.poll(t), triggers.release_triggers("w"))[1],
    "triggers.list_triggers": lambda w, t: triggers.list_triggers(),
    "triggers.trigger_names": lambda w, t: triggers.trigger_names(),
    "triggers.set_trigger_enabled": lambda w, t: triggers.set_trigger_enabled(w.trigger(t), False),
    "triggers.delete_trigger": lambda w, t: triggers.delete_trigger(w.trigger(t)),
    "triggers.list_trigger_executions": lambda w, t: triggers.list_trigger_executions(w.trigger(t), None, 10),
    "triggers.count_ready": lambda w, t: triggers.count_ready("default", 10),
    "workers.register_worker": lambda w, t: workers.register_worker(t, ["default"], "host", 1, "1", 1, 30, None),
    "workers.hold_session_lock": lambda w, t: workers.hold_session_lock(t),
    "workers.heartbeat_worker": lambda w, t: workers.heartbeat_worker(w.worker(t), 3),
    "workers.set_worker_idle": lambda w, t: workers.set_worker_idle(w.worker(t), True),
    "workers.unregister_worker": lambda w, t: workers.unregister_worker(w.worker(t)),
    "workers.workers_may_return": lambda w, t: workers.workers_may_return(w.worker(t)),
    "workers.sweep": lambda w, t: (_expired(w), workers.sweep())[1],
    "workers.queue_limits": lambda w, t: workers.queue_limits(["default"]),
    "workers.queue_channel": lambda w, t: workers.queue_channel("default"),
    "workers.listen": lambda w, t: workers.listen("channel of " + t),
    "workers.await_standby": lambda w, t: workers.await_standby(),
    "workers.set_lock_timeout": lambda w, t: workers.set_lock_timeout(3),
}


def _unwatch(w: World, tag: str) -> Query[None]:
    task_id = w.spawned()
    w.run(results.watch_task(task_id, "absurd_client_" + tag, 60))
    return results.unwatch_task(task_id, "absurd_client_" + tag)


def _expired(w: World) -> None:
    """A run whose lease has run out."""
    holder = w.holder(str(uuid.uuid4()))
    w.conn.execute(
        "update absurd.runs set lease_expires_at = absurd.current_time() - interval '1 second' where run_id = %s",
        (holder.run_id,),
    )


DIGEST = """
  select 'tasks ' || coalesce(outcome, 'alive'), count(*) from absurd.tasks group by 1
  union all select 'runs ' || state || ' ' || attempt || coalesce(' until ' || (lease_expires_at > now() + interval '800 s'), ''),
    count(*) from absurd.runs group by 1
  union all select 'epochs', coalesce(sum(epoch), 0) from absurd.runs
  union all select 'attempts ' || cause, count(*) from absurd.attempts group by 1
  union all select 'checkpoints', count(*) from absurd.checkpoints
  union all select 'events', count(*) from absurd.events
  union all select 'event tasks', count(*) from absurd.event_tasks
  union all select 'event keys', count(*) from absurd.event_keys
  union all select 'waits ' || kind, count(*) from absurd.waits group by 1
  union all select 'tokens', count(*) + 1000 * count(used_at) from absurd.tokens
  union all select 'keys', count(*) from absurd.idempotency_keys
  union all select 'queues', count(*) + 1000 * count(paused_at) from absurd.queues
  union all select 'subscriptions', count(*) from absurd.subscriptions
  union all select 'schedules', count(*) + 1000 * count(paused_at) + 1000000 * coalesce(sum(fired_count), 0) from absurd.schedules
  union all select 'slots', count(next_slot) from absurd.schedules
  union all select 'triggers', count(*) + 1000 * count(*) filter (where enabled) from absurd.triggers
  union all select 'polls', count(poll_id) from absurd.triggers
  union all select 'executions', count(*) from absurd.trigger_executions
  union all select 'workers', count(*) + 1000 * count(*) filter (where idle) from absurd.workers
  union all select 'beats', coalesce(sum(running), 0) from absurd.workers
  union all select 'listeners', count(*) from absurd.listeners"""


def digest(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Everything that a call may change, counted."""
    return {name: int(number) for name, number in conn.execute(DIGEST).fetchall()}


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What has changed."""
    names = before.keys() | after.keys()
    return {name: after.get(name, 0) - before.get(name, 0) for name in names if after.get(name, 0) != before.get(name, 0)}
