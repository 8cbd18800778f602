"""Moves queues with all that belongs to them from one database to another.

Until its rows are deleted at the source, a queue belongs to the source; from then on to the target. That deletion is one commit,
so there is one owner at every moment, whatever dies. Until then the copy at the target is paused and worth nothing. A move that
died anywhere is repeated: it finds out by itself how far it got.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import tuple_row

from absurd import errors
from absurd.errors import ConfigurationError, QueueNotFoundError
from absurd.moving import marks, numbers, tables
from absurd.moving.ends import Ends
from absurd.moving.ties import require_no_ties

__all__ = ["Move", "Moved", "give_up_move", "move_queues"]

Connection = psycopg.Connection[Any]
Report = Callable[[str], None]
"""Called with what has just been done: paused, drained, copied, dropped, routed, resumed; disturbed when it drains once more,
again when it copies once more, kept when it was given up."""

POLL_SECONDS = 0.1
# A copy begins anew when somebody has changed a row of it meanwhile: a token answered, a task cancelled.
TRIES = 20


@dataclass(frozen=True, slots=True)
class Move:
    """What is to be moved, and where."""

    queues: Sequence[str]
    source: str
    target: str
    router: str | None = None
    # Seconds for running tasks, and for open transactions of others, to end.
    wait: float = 300.0
    renumber: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """How it went. ``moved`` is false when the queues were at the target already."""

    moved: bool
    rows: int = 0
    # Seconds during which spawns and emits had to wait.
    held_seconds: float = 0.0
    paused: Sequence[str] = ()


def move_queues(move: Move, report: Report = lambda step: None) -> Moved:
    """Moves queues from one database to another, or goes on with a move that died. Spawns and emits wait for the copy alone.

    Raises:
        QueueNotFoundError: neither database has such a queue.
        ConfigurationError: they cannot leave: ties to queues that stay, names that are taken at the target, numbers that are.
        TimeoutError: tasks were still running at the end of the wait; the queues go on at the source.
        SchemaError, DatabaseUnavailableError: of one of the databases.
    """
    with Ends(move.source, move.target, move.router) as ends:
        ends.require_fit()
        ends.lock_move(move.queues)
        return _Mover(move, ends, report).run()


def give_up_move(move: Move, report: Report = lambda step: None) -> None:
    """Gives up a move that died before the queues were the target's: the copy is deleted, and they go on at the source.

    Raises:
        ConfigurationError: they are at the target; no such move has begun.
        QueueNotFoundError, SchemaError, DatabaseUnavailableError: as in ``move_queues``.
    """
    with Ends(move.source, move.target, move.router) as ends:
        ends.require_fit()
        ends.lock_move(move.queues)
        _Mover(move, ends, report).give_up()


@dataclass(frozen=True, slots=True)
class _Present:
    """A queue that a database has."""

    paused: bool
    created_at: datetime


class _ClaimedMeanwhile(Exception):
    """A claim that had seen the queue before it was paused has committed after we had looked for running tasks."""


class _Mover:
    def __init__(self, move: Move, ends: Ends, report: Report) -> None:
        self._move = move
        self._queues = sorted(set(move.queues))
        self._ends = ends
        self._source = ends.source
        self._target = ends.target
        self._report = report
        self._deadline = time.monotonic() + move.wait

    def run(self) -> Moved:
        marked = marks.read_marks(self._target, self._queues)
        if self._whose(marked) == "source":
            self._begin()
            while True:
                self._drain()
                try:
                    rows, seconds = self._carry()
                except _ClaimedMeanwhile:
                    self._report("disturbed")
                    continue
                return Moved(True, rows, seconds, self._finish())
        with self._ends.held(self._queues, self._deadline):
            pass
        return Moved(bool(marked), paused=self._finish())

    def give_up(self) -> None:
        """Lets the queues go on at the source, if they are there still."""
        marked = marks.read_marks(self._target, self._queues)
        if self._whose(marked) != "source":
            raise ConfigurationError(
                f"{_quoted(self._queues)} is at the target already; repeat the command without --give-up, which finishes the move"
            )
        if not any(mark.source == self._ends.identity() for mark in marked.values()):
            raise ConfigurationError(f"no move of {_quoted(self._queues)} to this target has begun")
        self._give_up()

    def _whose(self, marked: dict[str, marks.Mark]) -> str:
        """Where the queues are now: at the source, or at the target by a move that only has to be finished, or was."""
        here, there = _present(self._source, self._queues), _present(self._target, self._queues)
        identity = self._ends.identity()
        if missing := [queue for queue in self._queues if queue not in here and queue not in there]:
            raise QueueNotFoundError(f"neither database has a queue {_quoted(missing)}")
        if not here:
            # What another source has copied is that one's still, for all that is known here: to finish it would make two owners.
            if strange := [queue for queue, mark in marked.items() if mark.source != identity]:
                raise ConfigurationError(f"{_quoted(strange)} is on its way to the target from another database than this source")
            return "target"
        if len(here) < len(self._queues):
            raise ConfigurationError(
                f"{_quoted(set(self._queues) - set(here))} is at the target already; move {_quoted(here)} alone"
            )
        if taken := [queue for queue in there if not _is_copy(marked.get(queue), identity, here[queue], there[queue])]:
            raise ConfigurationError(f"the target has a queue {_quoted(taken)} of its own")
        return "source"

    def _begin(self) -> None:
        """Pauses the queues, once it is certain that nothing stands in their way."""
        require_no_ties(self._source, self._queues)
        self._require_free_names()
        marks.make_table(self._target)
        identity = self._ends.identity()
        with self._target.transaction():
            self._discard_copy()
            for queue, present in _present(self._source, self._queues).items():
                marks.write_mark(self._target, queue, identity, present.paused)
        for queue in self._queues:
            self._source.execute("select absurd.pause_queue(%s)", (queue,))
        self._report("paused")

    def _require_free_names(self) -> None:
        """Schedules and triggers have names that are unique in a database."""
        arriving = list(marks.read_marks(self._target, self._queues))
        for table, column in (("schedules", "schedule_name"), ("triggers", "trigger_name")):
            names = _column(self._source, f"select {column} from absurd.{table} where queue_name = any(%s::text[])", self._queues)
            sql = f"select {column} from absurd.{table} where {column} = any(%s::text[]) and queue_name <> all(%s::text[])"
            if taken := _column(self._target, sql, names, arriving):
                raise ConfigurationError(
                    f"the target has {table} named {_quoted(taken)} already; rename or delete them at one end"
                )

    def _drain(self) -> None:
        """Waits until no task of theirs runs. Gives up in time: the queues go on where they are."""
        while running := _running(self._source, self._queues):
            if time.monotonic() > self._deadline:
                self._give_up()
                raise errors.TimeoutError(
                    f"{running} tasks still run after {self._move.wait:g} s; nothing was moved, the queues go on at the source. "
                    "Wait longer (--wait), or cancel them"
                )
            time.sleep(POLL_SECONDS)
        self._report("drained")

    def _carry(self) -> tuple[int, float]:
        """Copies and deletes, while calls for these queues wait; how many rows, and for how many seconds."""
        began = time.monotonic()
        try:
            with self._ends.held(self._queues, self._deadline), self._ends.frozen(self._queues, self._deadline):
                rows = self._transfer_undisturbed()
                seconds = time.monotonic() - began
        except (errors.TimeoutError, ConfigurationError):
            self._give_up()
            raise
        self._report("routed")
        return rows, seconds

    def _transfer_undisturbed(self) -> int:
        for attempt in range(TRIES):
            try:
                return self._transfer()
            except (psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                if attempt == TRIES - 1:
                    raise
                self._report("again")
                time.sleep(POLL_SECONDS)
        raise AssertionError

    def _transfer(self) -> int:
        """One snapshot of the source is copied and deleted; what somebody has changed since makes the deletion fail."""
        self._source.isolation_level = IsolationLevel.REPEATABLE_READ
        try:
            with self._source.transaction():
                tables.lock_rows(self._source, self._queues)
                if _running(self._source, self._queues):
                    raise _ClaimedMeanwhile
                require_no_ties(self._source, self._queues)
                rows = self._copy()
                self._report("copied")
                for queue in self._queues:
                    self._source.execute("select absurd.drop_queue(%s)", (queue,))
        finally:
            if not self._source.broken:
                self._source.isolation_level = None
        self._report("dropped")
        return rows

    def _copy(self) -> int:
        try:
            with self._target.transaction():
                self._discard_copy()
                shift = numbers.plan_shift(self._target, self._move.renumber)
                rows = tables.copy_rows(self._source, self._target, self._queues, shift)
                numbers.advance(self._source, self._target, shift)
                marks.set_copied(self._target, self._queues, True)
        except psycopg.errors.UniqueViolation as error:
            raise _taken(error) from error
        return rows

    def _discard_copy(self) -> None:
        """Deletes what an earlier try has copied: that, and nothing that has taken its place."""
        here, there = _present(self._source, self._queues), _present(self._target, self._queues)
        identity = self._ends.identity()
        marked = marks.read_marks(self._target, self._queues)
        for queue, present in there.items():
            if _is_copy(marked.get(queue), identity, here[queue], present):
                self._target.execute("select absurd.drop_queue(%s)", (queue,))
        marks.set_copied(self._target, self._queues, False)

    def _give_up(self) -> None:
        """Lets the queues go on at the source."""
        marked = marks.read_marks(self._target, self._queues)
        with self._target.transaction():
            self._discard_copy()
            marks.delete_marks(self._target, self._queues)
        for queue, mark in marked.items():
            if not mark.was_paused:
                self._source.execute("select absurd.resume_queue(%s)", (queue,))
        self._report("kept")

    def _finish(self) -> list[str]:
        """Lets the queues go on at the target; those that stay paused, because they were."""
        marked = marks.read_marks(self._target, self._queues)
        with self._target.transaction():
            for queue, mark in marked.items():
                if not mark.was_paused:
                    self._target.execute("select absurd.resume_queue(%s)", (queue,))
            if marked:
                marks.delete_marks(self._target, self._queues)
        self._report("resumed")
        return [queue for queue, mark in marked.items() if mark.was_paused]


def _is_copy(mark: marks.Mark | None, source: str, here: _Present, there: _Present) -> bool:
    """Whether what the target has is a copy that an earlier try has made, and not a queue that somebody has made in its place."""
    made = mark is not None and mark.copied and mark.source == source
    return made and there.paused and there.created_at == here.created_at


def _taken(error: psycopg.errors.UniqueViolation) -> ConfigurationError:
    """What to do about a row that the target has already."""
    if error.diag.table_name in ("events", "event_tasks"):
        return ConfigurationError(
            "the target has events with the same numbers; nothing was moved. Repeat the command with --renumber: events get new "
            "numbers in their order, and a number that your own data keeps for since= means another event then"
        )
    return ConfigurationError(f"the target has such a row already: {error.diag.message_detail}; nothing was moved")


def _present(conn: Connection, queues: Sequence[str]) -> dict[str, _Present]:
    """Which of these queues a database has."""
    sql = "select queue_name, paused_at is not null, created_at from absurd.queues where queue_name = any(%s::text[])"
    rows = conn.cursor(row_factory=tuple_row).execute(sql, (list(queues),))
    return {queue: _Present(paused, created_at) for queue, paused, created_at in rows}


def _running(source: Connection, queues: Sequence[str]) -> int:
    return len(_column(source, "select run_id from absurd.runs where queue_name = any(%s::text[]) and state = 'running'", queues))


def _column(conn: Connection, sql: str, *args: Sequence[str]) -> list[Any]:
    rows = conn.cursor(row_factory=tuple_row).execute(sql.encode(), tuple(list(arg) for arg in args))
    return [value for (value,) in rows]


def _quoted(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names))
