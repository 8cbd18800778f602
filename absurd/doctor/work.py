"""Workers, queues, and what should have happened and has not."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from absurd.doctor.finding import Finding, ago, error, ok, warning
from absurd.queries.doctor import Late, QueueFacts, ServerFacts
from absurd.queries.inspect import WorkerRow

# Connections of a worker process: leases, writer, notifications, scheduler; more for ctx.transaction.
WORKER_CONNECTIONS = 4
# Seconds that a ready task may wait where workers serve its queue, before they count as too few.
LONG_WAIT = 300.0
# Ended tasks, or events that nobody takes, from which on a queue that deletes nothing is worth a word.
MANY_ENDED, MANY_UNTAKEN = 50_000, 10_000
# Seconds: a queue that somebody has cleaned up by hand since is taken care of.
CLEANED_SECONDS = 8 * 86_400.0


def check_workers(workers: Sequence[WorkerRow], facts: ServerFacts, version: str) -> Iterator[Finding]:
    """Those that live."""
    alive = [worker for worker in workers if not worker.stale]
    others = sorted({worker.version for worker in alive} - {version})
    if others:
        older = sum(worker.version != version for worker in alive)
        yield warning(
            "workers",
            f"{older} of {len(alive)} workers run absurd {', '.join(others)}, this is {version}",
            "Releases may run side by side for the length of a deployment; what is new here, they do not do.",
            "Deploy the same release everywhere.",
        )
    room = facts.max_connections - facts.reserved
    if len(alive) * WORKER_CONNECTIONS > room:
        yield warning(
            "workers",
            f"{len(alive)} worker processes need {len(alive) * WORKER_CONNECTIONS} connections, and there are {room}",
            "After a restart of PostgreSQL not all of them get theirs.",
            "Fewer processes with more --concurrency, or: alter system set max_connections = …; and restart PostgreSQL",
        )
    if not others:
        yield ok("workers", f"{len(alive)} alive, running {sum(w.running for w in alive)} tasks")


def check_queues(queues: Sequence[QueueFacts], now: datetime) -> Iterator[Finding]:
    """Whether each queue is served, and does not grow without end."""
    problems = [finding for queue in queues for finding in (*_served(queue, now), *_growing(queue, now))]
    yield from problems
    if not problems:
        yield ok("queues", f"{len(queues)}: no ready task waits in vain, none grows without end")


def _served(queue: QueueFacts, now: datetime) -> Iterator[Finding]:
    waited = 0.0 if queue.oldest_ready_at is None else (now - queue.oldest_ready_at).total_seconds()
    name = shlex.quote(queue.queue_name)
    if queue.paused_at is not None:
        since = ago((now - queue.paused_at).total_seconds())
        if queue.oldest_ready_at is not None:
            yield warning(
                "queues",
                f'queue "{queue.queue_name}" has been paused for {since}, and tasks wait in it',
                "Nobody claims from a paused queue.",
                f"absurdctl resume-queue {name}",
            )
    elif queue.oldest_ready_at is not None and not queue.workers:
        yield error(
            "queues",
            f'no worker serves queue "{queue.queue_name}", and a task in it has been ready for {ago(waited)}',
            "It never runs.",
            f"absurdctl worker --app module:app --queue {name}",
        )
    elif waited > LONG_WAIT:
        yield warning(
            "queues",
            f'a task in queue "{queue.queue_name}" has been ready for {ago(waited)}, though {queue.workers} worker(s) serve it',
            "They are busy with others, or tasks of a higher priority come first.",
            f"More processes or --concurrency; absurdctl list-tasks --queue {name} --state running shows what they do",
        )


def _growing(queue: QueueFacts, now: datetime) -> Iterator[Finding]:
    name = shlex.quote(queue.queue_name)
    cleaned = queue.cleaned_at is not None and (now - queue.cleaned_at).total_seconds() < CLEANED_SECONDS
    if queue.ended >= MANY_ENDED and queue.keeps_tasks and not cleaned:
        yield warning(
            "retention",
            f'queue "{queue.queue_name}" holds more than {MANY_ENDED:,} tasks that have ended, and deletes none',
            "The disk fills up, backups and vacuum take longer each week.",
            f"absurdctl set-queue {name} --keep-completed 30d --keep-failed 90d --keep-cancelled 30d",
        )
    if queue.untaken >= MANY_UNTAKEN:
        yield warning(
            "retention",
            f'nobody took more than {MANY_UNTAKEN:,} events of queue "{queue.queue_name}" that are older than a month',
            "They are kept for ever, for a wait may still come.",
            f"Emit what somebody waits for, or delete them: select absurd.purge_events('{queue.queue_name}', 2592000);",
        )


def check_late(found: Sequence[Late], now: datetime) -> Iterator[Finding]:
    """What should have happened and has not."""
    for late in found:
        since = ago(max((now - late.since).total_seconds(), 0.0)) if late.since is not None else "some time"
        yield _LATE[late.what](late, since)
    if not found:
        yield ok("late", "no expired lease, unknown task, undelivered event, late schedule or failing trigger")


def _lease(late: Late, since: str) -> Finding:
    return error(
        "leases",
        f"{late.count} run(s) are past their lease, the oldest for {since}",
        "Their tasks stand still: some worker must sweep, and none does.",
        "Start a worker; any one sweeps for all. If there are some, their log says why they cannot",
    )


def _unknown(late: Late, since: str) -> Finding:
    return error(
        "tasks",
        f'no worker of queue "{late.queue_name}" knows the task "{late.name}": {late.count} wait, the oldest for {since}',
        "They are handed back each time that somebody claims them.",
        f"Deploy code with @app.register_task({late.name!r}), or give such tasks a queue of their own",
    )


def _undelivered(late: Late, since: str) -> Finding:
    return error(
        "events",
        f"{late.count} event(s) have not been delivered, the oldest for {since}",
        "They were emitted in REPEATABLE READ, which cannot see waits; a worker has to deliver them.",
        "Start a worker; if there are some, somebody holds a lock: absurdctl doctor shows old transactions",
    )


def _schedule_late(late: Late, since: str) -> Finding:
    return error(
        "schedules",
        f'schedule "{late.name}" should have fired {since} ago',
        "Nobody fires schedules.",
        "Start a worker without --no-scheduler, or: absurdctl scheduler",
    )


def _schedule_problem(late: Late, since: str) -> Finding:
    todo = f"absurdctl delete-schedule {shlex.quote(late.name or '')}, and create it anew"
    return error("schedules", f'schedule "{late.name}" cannot be used: {late.detail}', "It never fires.", todo)


def _schedule_failing(late: Late, since: str) -> Finding:
    todo = "Mend what it says: a queue that is gone, options that are refused"
    return warning("schedules", f'schedule "{late.name}" could not start its task: {late.detail}', "That slot is lost.", todo)


def _trigger_late(late: Late, since: str) -> Finding:
    holder = f"; {late.detail} has it" if late.detail else ""
    return warning(
        "triggers",
        f'trigger "{late.name}" should have been polled {since} ago{holder}',
        "What it watches goes unseen.",
        f"Start a worker whose app declares it, or: absurdctl delete-trigger {shlex.quote(late.name or '')}",
    )


def _trigger_failing(late: Late, since: str) -> Finding:
    return warning(
        "triggers",
        f'trigger "{late.name}" has failed {late.count} times in a row: {late.detail}',
        "What it watches goes unseen, and it is asked less often.",
        "Mend what it says; a worker polls it again by itself",
    )


def _subscription_failing(late: Late, since: str) -> Finding:
    return warning(
        "subscriptions",
        f'an event of queue "{late.queue_name}" could not start task "{late.name}" {since} ago: {late.detail}',
        "Its subscriber has missed it.",
        "absurdctl list-subscriptions; spawn what was missed by hand",
    )


def _worker_stale(late: Late, since: str) -> Finding:
    return warning(
        "workers",
        f"worker {late.name} on {late.detail} has not been heard of for {since}",
        "It died, hangs, or cannot reach the database. Others take over what it held when its leases end.",
        f"Look at its log and restart it; its row goes by itself once another worker sweeps (queues: {late.queue_name})",
    )


def _listener_stale(late: Late, since: str) -> Finding:
    return warning(
        "listeners",
        f'listener "{late.name}" on {late.detail} has not been heard of for {since}',
        "What it listens to starts no tasks.",
        "Look at its log and restart it",
    )


_LATE: dict[str, Callable[[Late, str], Finding]] = {
    "lease": _lease,
    "unknown_task": _unknown,
    "undelivered": _undelivered,
    "schedule_late": _schedule_late,
    "schedule_problem": _schedule_problem,
    "schedule_failing": _schedule_failing,
    "trigger_late": _trigger_late,
    "trigger_failing": _trigger_failing,
    "subscription_failing": _subscription_failing,
    "worker_stale": _worker_stale,
    "listener_stale": _listener_stale,
}
