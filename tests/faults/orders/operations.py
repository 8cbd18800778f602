# ruff: noqa: E501  (SQL and tables are read better in long lines)
"""What the actors do: each operation of the library that touches the tasks and events of the scene, as one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from uuid import UUID

from tests.faults.orders.scene import EACH_MINUTE, actor, at, run_id, suspend, task_id, token_id
from tests.faults.orders.scheduler import Actor

T, TR = task_id("T"), run_id("T")
FENCE = f"array['{TR}']::uuid[], '{{1}}'"
TASK_FENCE = f"array['{T}']::uuid[], {FENCE}"
GO = {"step": "wait", "queue": "default", "event": "go"}


@dataclass(frozen=True)
class Operation:
    """An operation, and what it may leave to a later one."""

    actor: Actor
    skips: bool = False
    """It passes over what somebody else has locked, so that it may come to nothing: a claim, a sweep, a clean-up."""
    holder: bool = False
    """A write of T's holder. The writer sends one at a time for a run, so two of them are a holder and one that was cut off."""


def _spawn(name: str, key: str | None, number: int) -> str:
    ids = [UUID(int=0xC << 96 | number << 8 | kind) for kind in (1, 2)]
    said = "null" if key is None else f"'{key}'"
    return f"select created, status from absurd.spawn_one('default', '{ids[0]}', '{ids[1]}', '{name}', '1', null, '{{}}', {said})"


def _spawn_batch(number: int) -> str:
    ids = [UUID(int=0xE << 96 | number << 8 | kind) for kind in (1, 2, 3, 4)]
    return (
        "select created, status from absurd.spawn_tasks('{default,default}',"
        f" '{{{ids[0]},{ids[1]}}}', '{{{ids[2]},{ids[3]}}}', '{{keyed 1,keyed 2}}', '{{1,1}}', '{{null,null}}', '{{null,null}}', '{{c,a}}')"
    )


def _children(number: int) -> str:
    ids = [UUID(int=0xD << 96 | number << 8 | kind) for kind in (1, 2)]
    return (
        f"select status from absurd.spawn_children('{T}', '{TR}', 1, 'child', 1, '{{default}}', '{{{ids[0]}}}', '{{{ids[1]}}}',"
        " '{child}', '{1}', '{null}', '{null}', '{c}')"
    )


_HOLDER: dict[str, str] = {
    "checkpoint": f"select absurd.record_checkpoints({TASK_FENCE}, '{{s}}', '{{1}}', array['1'::json])",
    "complete": f"select absurd.complete_runs({TASK_FENCE}, array['1'::json])",
    "fail": f"""select absurd.fail_runs({FENCE}, array['{{"name": "E"}}'::json], '{{true}}')""",
    "fail for good": f"""select absurd.fail_runs({FENCE}, array['{{"name": "E"}}'::json], '{{false}}')""",
    "sleep": suspend("T", [], 0, 5, step="nap").replace("'timeout'", "'sleep'"),
    "wait": suspend("T", [GO], 1, 20),
    "wait for token": suspend("T", [{"step": "wait", "token": str(token_id("T"))}], 1, 20),
    "look": f"""select status from absurd.check_waits({TASK_FENCE}, '{{1}}', '{{1}}', array['[{{"step": "wait", "queue": "default", "event": "go"}}]'::json])""",
    "emit in task": f"select absurd.emit_events({TASK_FENCE}, '{{emit}}', '{{1}}', '{{default}}', '{{go}}', array['\"task\"'::json])",
    "spawn in task": _children(1),
    "make token": f"select status from absurd.create_token('{T}', '{TR}', 1, '$token#2', 1, 'second')",
    "extend": f"select absurd.extend_leases({FENCE}, 60)",
    "release": f"select absurd.release_runs({FENCE}, '{{0}}', '{{null}}')",
    "verify": f"select absurd.verify_checkpoint('{T}', '{TR}', 1, 's')",
}  # fmt: skip

_OTHERS: dict[str, str] = {
    "emit": "select absurd.append_event('default', 'go', '\"plain\"') is not null",
    "emit with key": "select created from absurd.record_event('default', 'go', '\"keyed\"', 'e', null)",
    "emit came with key": "select created from absurd.record_event('default', 'came', '\"keyed\"', 'e', null)",
    "cancel T": f"select absurd.cancel_task('default', '{T}')",
    "cancel P": f"select absurd.cancel_task('default', '{task_id('P')}')",
    "cancel W": f"select absurd.cancel_task('default', '{task_id('W')}')",
    "use token of T": "select absurd.use_token('T', '\"yes\"')",
    "use token of V": "select absurd.use_token('V', '\"yes\"')",
    "use token of V again": "select absurd.use_token('V', '\"no\"')",
    "unsubscribe": "select absurd.unsubscribe('default', 'go', 'sub')",
    "subscribe": "select absurd.subscribe('default', 'g*', 'sub2') is not null",
    "spawn with key": _spawn("keyed", "c", 1),
    "spawn batch with keys": _spawn_batch(1),
    "spawn with old key": _spawn("again", "D", 2),
    "pause": "select absurd.pause_queue('default')",
    "drop queue": "select absurd.drop_queue('default')",
    "drop other queue": "select absurd.drop_queue('other')",
    "retry F": f"select attempt from absurd.retry_task('default', '{task_id('F')}')",
    "watch T": f"select state from absurd.watch_task('{T}', 'channel', 60)",
    "fire": f"select status from absurd.fire_schedule('s', 1, '{at(0)}', array['{at(0)}'::timestamptz], '{at(60)}', '{at(60)}')",
    "change schedule": f"""select change from absurd.create_schedule('s', 'default', '{EACH_MINUTE.replace("60", "90")}', null, true)""",
}

_SKIPPERS: dict[str, tuple[str, float]] = {
    "expire lease": ("select absurd.expire_leases()", 31),
    "expire deadline": ("select absurd.expire_deadlines()", 51),
    "promote": ("select promoted from absurd.promote_due('default')", 11),
    "claim": ("select count(*) from absurd.claim_runs('default', 'w2', 30, 1)", 5),
    "clean up tasks": ("select absurd.cleanup_tasks('default', 1800)", 5),
    "clean up events": ("select absurd.cleanup_events('default', 1800)", 5),
    "purge": ("select absurd.purge_events('default', 0)", 6),
    "forget": ("select absurd.release_forgotten('w1', '{}', '{}')", 5),
}

_SURFACE = {
    "await_event": f"select should_suspend from absurd.await_event('default', '{T}', '{TR}', 'wait', 'go', 20)",
    "complete_run": f"select absurd.complete_run('default', '{TR}', '1')",
    "set checkpoint": f"select absurd.set_task_checkpoint_state('default', '{T}', 's', '1', '{TR}', 60)",
}

REPEATABLE_READ = "begin isolation level repeatable read"


def _all() -> Iterator[Operation]:
    for name, call in _HOLDER.items():
        yield Operation(actor(name, call), holder=True)
    for name, call in _SURFACE.items():
        yield Operation(actor(name, call), holder=True)
    for name, call in _OTHERS.items():
        yield Operation(actor(name, call))
    for name, (call, seconds) in _SKIPPERS.items():
        yield Operation(actor(name, call, seconds=seconds), skips=True)
    yield Operation(
        actor("emit in repeatable read", "select 1 from absurd.queues limit 1", _OTHERS["emit"], begin=REPEATABLE_READ)
    )
    yield Operation(
        actor("spawn in repeatable read", "select 1 from absurd.queues limit 1", _spawn("alone", None, 3), begin=REPEATABLE_READ)
    )
    yield Operation(actor("emit in serializable", _OTHERS["emit"], begin="begin isolation level serializable"))
    # What one writer sends as one transaction: in the order of its kinds, with the claim last.
    yield Operation(actor("batch", _HOLDER["complete"], _SKIPPERS["claim"][0]), skips=False, holder=True)
    yield Operation(actor("batch with emit", _HOLDER["checkpoint"], _HOLDER["emit in task"], _HOLDER["wait"]), holder=True)


OPERATIONS = {operation.actor.name: operation for operation in _all()}
"""All operations by name."""


def undone(operation: Operation) -> Operation:
    """The same, rolled back at the end."""
    return replace(operation, actor=replace(operation.actor, name=f"{operation.actor.name} (rolled back)", end="rollback"))


def pairs() -> list[tuple[str, ...]]:
    """All pairs of operations, each with itself too."""
    names = list(OPERATIONS)
    return [*combinations(names, 2), *((name, name) for name in names)]


TRIPLES: tuple[tuple[str, ...], ...] = (
    ("wait", "emit", "expire lease"),
    ("wait", "emit", "cancel T"),
    ("wait", "emit", "emit with key"),
    ("wait", "emit in repeatable read", "emit"),
    ("await_event", "emit", "cancel T"),
    ("emit", "promote", "cancel W"),
    ("emit", "promote", "claim"),
    ("emit", "subscribe", "unsubscribe"),
    ("emit", "emit came with key", "cancel W"),
    ("emit with key", "emit came with key", "purge"),
    ("emit", "drop queue", "promote"),
    ("complete", "cancel T", "expire lease"),
    ("complete", "cancel P", "watch T"),
    ("complete", "drop queue", "spawn with key"),
    ("fail", "cancel T", "claim"),
    ("fail for good", "cancel P", "use token of T"),
    ("release", "forget", "claim"),
    ("spawn in task", "spawn with key", "spawn batch with keys"),
    ("spawn with old key", "clean up tasks", "drop queue"),
    ("use token of V", "use token of V again", "promote"),
    ("wait for token", "use token of T", "cancel T"),
    ("retry F", "clean up tasks", "drop queue"),
    ("batch", "expire lease", "cancel P"),
)
"""Three at once, where a third one could come between two."""
