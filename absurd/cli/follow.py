"""What happens to tasks, in the order of time, for those who follow it: asked for again and again, in bounded pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from absurd.queries import activity
from absurd.queries.activity import Activity
from absurd.queries.inspect import current_time
from absurd.queries.query import Query

T = TypeVar("T")
Run = Callable[[Query[Any]], Any]

# What is committed so long after its moment is still seen: a batch that waited for a lock, a transaction of somebody's.
LOOK_BACK = timedelta(seconds=5)
# Places in the log of events that are looked at again, for the same reason.
SEQ_BACK = 500
PAGE = 1000
ENDINGS = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Happening:
    """One line."""

    at: datetime
    task_id: UUID | None
    queue_name: str
    task_name: str | None
    kind: str
    name: str | None
    detail: str | None
    attempt: int | None = None
    worker_id: str | None = None


class Pages:
    """Happenings of tasks, each once; ``since`` is the moment from which on they count, ``None`` for all."""

    def __init__(self, run: Run, since: datetime | None) -> None:
        self._run = run
        self._since = since
        self._seen: dict[tuple[str, datetime], None] = {}

    def new(self, task_ids: list[UUID]) -> Iterator[Happening]:
        """What has happened since the last call, and became visible meanwhile."""
        began: datetime = self._run(current_time())
        since, place = self._since, ""
        for start in range(0, len(task_ids), PAGE):
            since, place = self._since, ""
            while True:
                rows: list[Activity] = self._run(activity.task_activity(task_ids[start : start + PAGE], since, place, PAGE))
                for row in rows:
                    key = (row.place, row.happened_at)
                    if key not in self._seen:
                        self._seen[key] = None
                        yield _happening(row)
                if len(rows) < PAGE:
                    break
                since, place = rows[-1].happened_at, rows[-1].place
        horizon = began - LOOK_BACK
        self._since = horizon if self._since is None else max(self._since, horizon)
        self._seen = {key: None for key in self._seen if key[1] >= self._since}


def _happening(row: Activity) -> Happening:
    return Happening(
        row.happened_at,
        row.task_id,
        row.queue_name,
        row.task_name,
        row.kind,
        row.name,
        row.detail,
        row.attempt,
        row.worker_id,
    )


class TaskFollower:
    """All that has happened to one task, then what happens; ``over`` when it has ended."""

    def __init__(self, run: Run, task_id: UUID) -> None:
        self._run = run
        self._ids = [task_id]
        self._pages = Pages(run, None)
        self.over = False

    def new(self) -> list[Happening]:
        """What is new."""
        # Asked first: what the end of the task brings is then in the rows that are read after it.
        self.over = self._run(activity.has_ended(self._ids[0]))
        return list(self._pages.new(self._ids))


class QueueFollower:
    """What happens in one queue, or in all, from now on."""

    over = False

    def __init__(self, run: Run, queue_name: str | None) -> None:
        self._run = run
        self._queue_name = queue_name
        self._began: datetime = run(current_time())
        self._looked = self._began
        self._pages = Pages(run, self._began)
        last = run(activity.events_after(None, None))
        self._first_seq = self._last_seq = last[-1].seq if last else 0
        self._seen_seqs: set[int] = set()
        self._followed: dict[UUID, datetime] = {}

    def new(self) -> list[Happening]:
        """What is new, in the order of time."""
        now: datetime = self._run(current_time())
        # Since the last look, however long ago that was: what began and ended since then is alive at neither.
        since = max(self._began, min(self._looked, now) - LOOK_BACK)
        for task_id in self._run(activity.tasks_to_follow(self._queue_name, since)):
            self._followed[task_id] = now
        self._looked = now
        found = [*self._pages.new(list(self._followed)), *self._events()]
        # Those that live no longer have written their last line before long.
        self._followed = {task_id: seen for task_id, seen in self._followed.items() if seen >= now - LOOK_BACK}
        return sorted(found, key=lambda happening: happening.at)

    def _events(self) -> Iterator[Happening]:
        after = max(self._first_seq, self._last_seq - SEQ_BACK)
        while True:
            rows = self._run(activity.events_after(self._queue_name, after))
            for row in rows:
                if row.seq not in self._seen_seqs:
                    self._seen_seqs.add(row.seq)
                    yield Happening(row.emitted_at, None, row.queue_name, None, "event", row.event_name, row.payload)
            if rows:
                after = self._last_seq = max(self._last_seq, rows[-1].seq)
            if len(rows) < PAGE:
                break
        self._seen_seqs = {seq for seq in self._seen_seqs if seq > self._last_seq - SEQ_BACK}
