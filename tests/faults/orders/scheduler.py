# ruff: noqa: E501  (SQL and tables are read better in long lines)
"""A scheduler over real connections: it decides which session goes on, sees which ones wait for a lock, and finds all orders.

An actor is a list of statements on a connection of its own. At each point of an execution some actors can go on (their statement
is over, or they stand at a gate inside of one), others wait for a lock of the database and are passed over until it is free. An order
is the list of the actors that went on; ``explore`` goes through all of them, or all with a bounded number of changes between
actors that could have gone on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq

from tests.faults.orders.gates import LOCK_CLASS

# Seconds that a statement may run or wait for a lock before an execution counts as stuck. Far more than PostgreSQL needs to find a
# deadlock, on a loaded machine too.
PATIENCE = 60.0
# Seconds that an actor whose statement is busy waits before it looks again, and for how many looks it does not wait at all.
NAP, EAGER_LOOKS = 0.0005, 20
# A call that was answered "busy" is repeated as the writer does it: in a transaction of its own, so many times at most.
MAX_REPEATS = 50

_WAITING = """
select a.pid, l.classid, l.objid
from pg_stat_activity a
left join pg_locks l on l.pid = a.pid and not l.granted
where a.pid = any ('{%s}') and (l.pid is not null or a.wait_event = 'PgSleep')
"""


@dataclass(frozen=True)
class Actor:
    """One transaction: its name in orders, the calls in it, how it begins and ends, and what its clock says."""

    name: str
    calls: Sequence[str]
    clock: str
    begin: str = "begin"
    end: str = "commit"

    @property
    def statements(self) -> list[str]:
        """What is sent, step by step. The beginning takes no lock and no snapshot: it goes with the first call."""
        return [*self.calls, self.end]


@dataclass
class Outcome:
    """What came of an execution: the order that was taken, who else could have gone on, and each actor's answers."""

    order: list[int] = field(default_factory=list)
    enabled: list[list[int]] = field(default_factory=list)
    answers: list[list[str]] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """The answers that are errors."""
        return [answer for answers in self.answers for answer in answers if answer.startswith("error ")]


class Session:
    """A connection whose statements are sent without waiting for their end."""

    def __init__(self, url: str, number: int) -> None:
        self.number = number
        self._conn = psycopg.connect(url, autocommit=True)
        self._pg = self._conn.pgconn
        self.pid = self._pg.backend_pid
        self._conn.execute("set deadlock_timeout = '100ms'")
        self._conn.execute("set client_min_messages = 'error'")
        self.busy = False
        self.result: str = ""

    def send(self, statement: str) -> None:
        """Sends a statement and returns at once."""
        self.result = ""
        self._pg.send_query(statement.encode())
        self.busy = True

    def look(self) -> bool:
        """Whether the statement is over; then ``result`` has its rows, or its error."""
        if self.busy:
            self._pg.consume_input()
            while self.busy and not self._pg.is_busy():
                found = self._pg.get_result()
                if found is None:
                    self.busy = False
                else:
                    self._take(found)
        return not self.busy

    def run(self, statement: str) -> str:
        """Sends a statement and waits for its end."""
        self.send(statement)
        deadline = time.monotonic() + PATIENCE
        while not self.look():
            assert time.monotonic() < deadline, f"did not end: {statement}"
            time.sleep(NAP)
        return self.result

    def close(self) -> None:
        """Ends the connection."""
        self._conn.close()

    def _take(self, found: pq.abc.PGresult) -> None:
        if found.status == pq.ExecStatus.TUPLES_OK:
            table = ["|".join(_text(found.get_value(i, j)) for j in range(found.nfields)) for i in range(found.ntuples)]
            self.result = "\n".join(table)
        elif found.status == pq.ExecStatus.FATAL_ERROR:
            state = (found.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            message = (found.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
            self.result = f"error {state} {message}"


def _text(value: bytes | None) -> str:
    return "null" if value is None else value.decode()


class Scheduler:
    """Executes actors in an order that is given step by step."""

    def __init__(self, url: str, sessions: int = 3) -> None:
        self._sessions = [Session(url, number) for number in range(1, sessions + 1)]
        self._watcher = psycopg.connect(url, autocommit=True)
        self._gate = [0] * sessions
        self._next: list[int] = []
        self._actors: Sequence[Actor] = ()
        self._repeats: list[int] = []
        self._last_move: list[int] = []
        self._at_gate: list[bool] = []
        self._outcome = Outcome()

    def close(self) -> None:
        """Ends all connections."""
        for session in self._sessions:
            session.close()
        self._watcher.close()

    def execute(self, actors: Sequence[Actor], prefix: Sequence[int], *, gates: bool) -> Outcome:
        """Executes the actors in this order, and from its end on each of them as long as it can go on.

        With ``gates`` an actor also stops between the statements of the functions that it calls.
        """
        self._begin(actors, gates)
        moves = 0
        while any(place < len(actor.statements) for place, actor in zip(self._next, actors, strict=True)):
            enabled = self._enabled(moves)
            if not enabled:
                # All wait for locks: for a deadlock to be found, or for a call that looks again by itself.
                self._settle(wait_for_change=True)
                continue
            if moves < len(prefix):
                chosen = prefix[moves]
                assert chosen in enabled, f"actor {chosen} cannot go on at step {moves} of {list(prefix)}; {enabled} can"
            else:
                last = self._outcome.order[-1] if self._outcome.order else -1
                chosen = last if last in enabled else enabled[0]
            self._outcome.order.append(chosen)
            self._outcome.enabled.append(enabled)
            moves += 1
            self._move(chosen, moves)
            self._settle()
        self._end()
        return self._outcome

    def _begin(self, actors: Sequence[Actor], gates: bool) -> None:
        count = len(actors)
        self._actors, self._next, self._at_gate = actors, [0] * count, [False] * count
        self._repeats, self._last_move = [0] * count, [-1] * count
        self._outcome = Outcome(answers=[[] for _ in actors])
        for number, actor in enumerate(actors):
            session = self._sessions[number]
            named = str(number + 1) if gates else ""
            session.run(f"set absurd.fake_now = '{actor.clock}'; set absurd_orders.actor = '{named}'")
            session.run(actor.begin)
            if gates:
                self._gate[number] = 1
                self._watcher.execute(
                    f"select setval('absurd_orders.gate_{number + 1}', 1, false),"
                    f" pg_advisory_lock({LOCK_CLASS + number + 1}, 1), pg_advisory_lock({LOCK_CLASS + number + 1}, 2)"
                )

    def _end(self) -> None:
        self._watcher.execute("select pg_advisory_unlock_all()")

    def _enabled(self, moves: int) -> list[int]:
        return [
            number
            for number, actor in enumerate(self._actors)
            if (self._at_gate[number] or (not self._sessions[number].busy and self._next[number] < len(actor.statements)))
            # One that was told "busy" asks again when somebody else has moved; when nobody else can, at once.
            and (self._last_move[number] != moves or len(self._actors) == 1 or self._alone(number))
        ]

    def _alone(self, number: int) -> bool:
        """Whether no other actor can go on."""
        return not any(
            other != number
            and (self._at_gate[other] or (not self._sessions[other].busy and self._next[other] < len(actor.statements)))
            for other, actor in enumerate(self._actors)
        )

    def _move(self, number: int, moves: int) -> None:
        if self._at_gate[number]:
            self._at_gate[number] = False
            gate = self._gate[number]
            self._gate[number] = gate + 1
            key = LOCK_CLASS + number + 1
            self._watcher.execute(f"select pg_advisory_lock({key}, {gate + 2}), pg_advisory_unlock({key}, {gate})")
            return
        actor, session = self._actors[number], self._sessions[number]
        session.send(actor.statements[self._next[number]])

    def _settle(self, wait_for_change: bool = False) -> None:
        """Waits until each actor is at the end of its statement, at a gate, or in a wait for a lock."""
        deadline = time.monotonic() + PATIENCE
        looks = 0
        busy = [n for n, session in enumerate(self._sessions[: len(self._actors)]) if session.busy]
        while True:
            for number in list(busy):
                if self._sessions[number].look():
                    busy.remove(number)
                    self._take(number)
                    wait_for_change = False
            if not busy:
                return
            if looks > 1 and not wait_for_change:
                stopped = self._stopped(busy)
                if all(number in stopped for number in busy):
                    return
            looks += 1
            assert time.monotonic() < deadline, f"stuck: {self.describe()}"
            if looks > EAGER_LOOKS or wait_for_change:
                time.sleep(NAP)
                if wait_for_change and self._any_at_gate(busy):
                    return

    def _any_at_gate(self, busy: list[int]) -> bool:
        self._stopped(busy)
        return any(self._at_gate[number] for number in busy)

    def _stopped(self, busy: list[int]) -> set[int]:
        """Who of the busy waits for a lock, sleeps, or stands at a gate; notes the latter."""
        pids = {self._sessions[number].pid: number for number in busy}
        found = self._watcher.execute((_WAITING % ",".join(map(str, pids))).encode()).fetchall()
        stopped = set()
        for pid, lock_class, gate in found:
            number = pids[pid]
            at_gate = lock_class == LOCK_CLASS + number + 1
            # A gate that has just been opened is no gate any more, though the look may be older than that.
            if not at_gate or gate == self._gate[number]:
                self._at_gate[number] = at_gate
                stopped.add(number)
        return stopped

    def _take(self, number: int) -> None:
        session, actor = self._sessions[number], self._actors[number]
        place = self._next[number]
        if place < len(actor.calls) and "busy" in session.result and self._repeats[number] < MAX_REPEATS:
            self._repeats[number] += 1
            session.run("rollback")
            session.run(actor.begin)
            self._next[number] = 0
            self._outcome.answers[number].clear()
            self._last_move[number] = len(self._outcome.order)
            return
        if place < len(actor.calls) or session.result.startswith("error "):
            self._outcome.answers[number].append(session.result)
        self._next[number] = place + 1
        if session.result.startswith("error ") and place < len(actor.calls):
            session.run("rollback")
            self._next[number] = len(actor.statements)

    def describe(self) -> str:
        """Where everybody is, for a person who looks at an execution that is stuck."""
        found: list[Any] = self._watcher.execute(
            "select pid, pg_blocking_pids(pid), wait_event_type, wait_event, state, left(query, 200) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchall()
        return "\n".join(map(str, [(session.number, session.pid) for session in self._sessions] + found))


def explore(execute: Callable[[Sequence[int]], Outcome], changes: int | None = None) -> Iterator[Outcome]:
    """Executes all orders, each once.

    Args:
        execute: executes an order whose beginning is given.
        changes: how often at most an order leaves an actor that could go on for another one; ``None``: as often as there are orders.

    Yields:
        What came of each.
    """
    prefixes: list[list[int]] = [[]]
    while prefixes:
        prefix = prefixes.pop()
        outcome = execute(prefix)
        yield outcome
        for place in range(len(prefix), len(outcome.order)):
            for other in outcome.enabled[place]:
                if other == outcome.order[place]:
                    continue
                candidate = [*outcome.order[:place], other]
                if changes is None or count_changes(candidate, outcome.enabled) <= changes:
                    prefixes.append(candidate)


def count_changes(order: Sequence[int], enabled: Sequence[Sequence[int]]) -> int:
    """How often an order leaves an actor that could have gone on."""
    return sum(order[place] != order[place - 1] and order[place - 1] in enabled[place] for place in range(1, len(order)))
