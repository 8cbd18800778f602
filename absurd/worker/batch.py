"""What a batch of writes is in SQL: one call per kind, in the order in which they may share a transaction."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from absurd.queries import runs as queries
from absurd.queries.query import Query
from absurd.queries.tokens import create_token
from absurd.writes import (
    CheckWaits,
    Complete,
    CreateToken,
    EmitEvent,
    ExtendLease,
    Fail,
    RecordCheckpoint,
    Release,
    SpawnChildren,
    Suspend,
    Write,
    WriteResult,
)

# The order within a transaction. Whatever waits for row locks comes before whatever only tries for a lock, so that no two workers
# wait for each other; checkpoints come before the endings that follow from them.
_KINDS: tuple[tuple[type[Write], Callable[[Any], Query[list[WriteResult]]]], ...] = (
    (ExtendLease, queries.extend_lease_writes),
    (RecordCheckpoint, queries.record_checkpoints),
    (Complete, queries.complete_runs),
    (Fail, queries.fail_runs),
    (Release, queries.release_runs),
    (SpawnChildren, queries.spawn_children),
    (CreateToken, create_token),
    (EmitEvent, queries.emit_events),
    (CheckWaits, queries.check_waits),
    (Suspend, queries.suspend_runs),
)

# Items of one transaction at most: beyond this the cost per item no longer falls, while everybody waits longer.
MAX_BATCH = 500
# Events and tasks that the items of one batch wait for. Each event is a lock until the commit, and the server's table of locks,
# which is everybody's, has room for 6,400 by default: who fills it stops the others too.
MAX_WAITS = 2000

# Their queries take a single item.
_ONE_BY_ONE = (SpawnChildren, CreateToken)


class Queued(Protocol):
    """What stands in the writer's queue."""

    write: Write


Item = TypeVar("Item", bound=Queued)


def take_batch(queue: deque[Item]) -> list[Item]:
    """Takes what comes into the next batch: from the first on, one at least if there is one.

    Threads append meanwhile, so the queue is looked at in front only: to go through it would fail at the first of them.
    """
    batch: list[Item] = []
    waits = 0
    while queue and len(batch) < MAX_BATCH:
        write = queue[0].write
        if isinstance(write, (CheckWaits, Suspend)):
            waits += len(write.waits)
        if waits > MAX_WAITS and batch:
            break
        batch.append(queue.popleft())
    return batch


def plan_batch(writes: Sequence[Write]) -> list[tuple[Query[Any], list[int]]]:
    """The queries of a batch in their order, each with the places of the writes that its answers belong to."""
    plan: list[tuple[Query[Any], list[int]]] = []
    found_places: defaultdict[type[Write], list[int]] = defaultdict(list)
    for place, write in enumerate(writes):
        found_places[type(write)].append(place)
    for kind, make in _KINDS:
        places = found_places[kind]
        if kind in _ONE_BY_ONE:
            plan += [(make(writes[place]), [place]) for place in places]
        elif places:
            plan.append((make([writes[place] for place in places]), places))
    return plan
