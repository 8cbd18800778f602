"""Faults against workers, connections and the server."""

from __future__ import annotations

import contextlib
import random
import signal
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import psycopg

from tests.faults.programs import ASYNC, SYNC
from tests.faults.programs.field import Field
from tests.faults.programs.generator import MANY
from tests.faults.programs.workers import WorkerSlot


class Fault(ABC):
    """Something that goes wrong, and is mended after a while."""

    name: ClassVar[str]
    lasts: ClassVar[tuple[float, float]] = (0.1, 0.5)
    """Seconds until it is healed."""
    group: ClassVar[str] = ""
    """Only one fault of a group at a time."""

    def __init__(self, field: Field, rng: random.Random) -> None:
        self.field = field
        self.rng = rng

    @abstractmethod
    def strike(self) -> int:
        """Does it; how many things it hit."""

    def heal(self) -> None:  # noqa: B027 - many need no healing
        """Mends it."""


# -- workers ------------------------------------------------------------------------------------------------------------------


class _WorkerFault(Fault):
    """Takes one worker into its hands."""

    any_worker: ClassVar[bool] = False
    slot: WorkerSlot | None = None

    def strike(self) -> int:
        free = [slot for slot in self.field.slots if not slot.busy and not slot.down and (slot.mortal or self.any_worker)]
        if not free:
            return 0
        self.slot = self.rng.choice(free)
        self.slot.busy = True
        self.hit(self.slot)
        return 1

    def heal(self) -> None:
        if self.slot is not None:
            self.mend(self.slot)
            self.slot.busy = False
            self.slot = None

    @abstractmethod
    def hit(self, slot: WorkerSlot) -> None:
        """What happens to it."""

    @abstractmethod
    def mend(self, slot: WorkerSlot) -> None:
        """What brings it back."""


class Kill(_WorkerFault):
    """A worker is killed and another one started."""

    name = "worker killed (SIGKILL)"

    def hit(self, slot: WorkerSlot) -> None:
        slot.kill()

    def mend(self, slot: WorkerSlot) -> None:
        slot.start()


class Stop(_WorkerFault):
    """A worker is asked to stop, has no time to finish, and is replaced."""

    name = "worker asked to stop (SIGTERM)"

    def hit(self, slot: WorkerSlot) -> None:
        slot.ask_to_stop()

    def mend(self, slot: WorkerSlot) -> None:
        try:
            slot.wait(30)
        except Exception:
            slot.kill()
        slot.start()


class Freeze(_WorkerFault):
    """A worker stands still for longer than its lease, and goes on as if nothing had been."""

    name = "worker frozen (SIGSTOP, SIGCONT)"
    lasts = (2.0, 4.0)
    any_worker = True

    def hit(self, slot: WorkerSlot) -> None:
        slot.send(signal.SIGSTOP)

    def mend(self, slot: WorkerSlot) -> None:
        slot.send(signal.SIGCONT)


class WrongClock(_WorkerFault):
    """A worker whose clocks are off by hours."""

    name = "clock of a worker off by hours"

    def hit(self, slot: WorkerSlot) -> None:
        slot.kill()
        slot.start(offset=self.rng.choice((-1, 1)) * self.rng.uniform(3600, 72 * 3600))

    def mend(self, slot: WorkerSlot) -> None:
        """It stays so, until the next one takes its place."""


class Block(Fault):
    """Handlers that block the event loop, and a thread, for longer than their lease."""

    name = "event loop blocked for longer than a lease"
    _count = 0

    def strike(self) -> int:
        self._count += 1
        key = f"block{id(self.field):x}.{self._count}.{self.rng.random()}"
        nodes = [
            {"op": "step", "id": "n1"},
            {"op": "block", "id": "n2", "seconds": self.rng.uniform(2.0, 3.0)},
            {"op": "transaction", "id": "n3"},
        ]
        options = {"max_attempts": MANY, "retry": {"kind": "fixed", "base_seconds": 0.05}, "priority": 3}
        self.field.add(
            {
                "key": key,
                "task": self.rng.choice((ASYNC, ASYNC, SYNC)),
                "queue": "alpha",
                "nodes": nodes,
                "options": options,
                "outside": [],
            }
        )
        return 1


# -- connections --------------------------------------------------------------------------------------------------------------


class _SqlFault(Fault):
    """Something another session does."""

    def connect(self) -> psycopg.Connection[Any] | None:
        try:
            return psycopg.connect(self.field.url, connect_timeout=5, application_name="striker")
        except psycopg.OperationalError:
            return None  # the server is away


class Terminate(_SqlFault):
    """The server ends connections, of every kind."""

    name = "connections ended (pg_terminate_backend)"

    def strike(self) -> int:
        conn = self.connect()
        if conn is None:
            return 0
        with contextlib.suppress(psycopg.OperationalError), conn:
            kinds = [
                kind
                for (kind,) in conn.execute(
                    "select distinct application_name from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid() and application_name <> 'striker'"
                ).fetchall()
            ]
            chosen = self.rng.sample(sorted(kinds), self.rng.randint(1, len(kinds))) if kinds else []
            row = conn.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and application_name = any(%s)",
                (chosen,),
            ).fetchone()
            return int(row[0]) if row else 0
        return 0


class HoldLocks(_SqlFault):
    """A session is idle in a transaction that has locked runs and the name of an event."""

    name = "locks held by an idle transaction"
    lasts = (1.0, 4.0)
    group = "locks"
    _conn: psycopg.Connection[Any] | None = None

    def strike(self) -> int:
        self._conn = self.connect()
        if self._conn is None:
            return 0
        with contextlib.suppress(psycopg.OperationalError):
            self._conn.execute("set lock_timeout = '300ms'")
            locked = self._conn.execute(
                "select run_id from absurd.runs order by random() limit 4 for update skip locked"
            ).fetchall()
            events = [act for root in self.field.roots for act in root["outside"] if act["act"] == "emit"]
            if events:
                event = self.rng.choice(events)
                with self._conn.transaction():
                    self._conn.execute("select absurd.emit_event(%s, %s)", (event["queue"], event["event"]))
            return len(locked) + bool(events)
        return 0

    def heal(self) -> None:
        if self._conn is not None:
            self._conn.close()  # rolls back
            self._conn = None


# -- the server ---------------------------------------------------------------------------------------------------------------


class Restart(Fault):
    """PostgreSQL crashes and recovers."""

    name = "PostgreSQL restarted (immediate shutdown)"
    group = "server"

    def strike(self) -> int:
        self.field.server.restart("immediate")
        return 1


class Down(Fault):
    """PostgreSQL is away for some seconds."""

    name = "PostgreSQL away for longer than a lease"
    lasts = (3.0, 6.0)
    group = "server"

    def strike(self) -> int:
        self.field.server.stop(self.rng.choice(("immediate", "fast")))
        return 1

    def heal(self) -> None:
        self.field.server.start()


class DownLong(Down):
    """PostgreSQL is away for longer than anybody has patience for."""

    name = "PostgreSQL away for a minute"
    lasts = (45.0, 65.0)


# -- the network --------------------------------------------------------------------------------------------------------------


class Cut(Fault):
    """Connections break."""

    name = "connections cut by the network"

    def strike(self) -> int:
        return self.field.proxy.cut(self.rng, self.rng.choice((0.2, 0.5, 1.0)))


class HalfClose(Fault):
    """Connections are closed in one direction."""

    name = "connections half-closed"

    def strike(self) -> int:
        return self.field.proxy.half_close(self.rng, self.rng.choice((0.2, 0.5)))


class LoseAnswers(Fault):
    """Statements arrive, their answers are lost, then the connections break."""

    name = "connections cut, their answers lost"
    lasts = (0.05, 1.0)
    group = "answers"

    def strike(self) -> int:
        return self.field.proxy.lose_answers(self.rng, self.rng.choice((0.3, 1.0)))

    def heal(self) -> None:
        self.field.proxy.cut_losing()


class Delay(Fault):
    """The network is slow."""

    name = "network slow"
    lasts = (1.0, 3.0)
    group = "delay"

    def strike(self) -> int:
        self.field.proxy.delay = self.rng.uniform(0.02, 0.3)
        return len(self.field.proxy.links)

    def heal(self) -> None:
        self.field.proxy.delay = 0.0


class Silence(Fault):
    """Nothing passes the network for longer than a lease, and nobody is told."""

    name = "network silent"
    lasts = (1.0, 5.0)
    group = "silence"

    def strike(self) -> int:
        self.field.proxy.freeze()
        return len(self.field.proxy.links)

    def heal(self) -> None:
        self.field.proxy.thaw()


FAULTS: tuple[type[Fault], ...] = (
    Kill, Stop, Freeze, WrongClock, Block, Terminate, HoldLocks, Restart, Down, Cut, HalfClose, LoseAnswers, Delay, Silence,
)  # fmt: skip
