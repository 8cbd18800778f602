"""What clients do while programs run: spawn them, emit, roll back, cancel; on time, and as often as it takes."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from absurd import Absurd, DatabaseError
from tests.faults.programs import Node, Task
from tests.faults.programs.oracle import act_name

# Seconds between tries while PostgreSQL is away.
AGAIN = 0.1


class Outside:
    """Some clients on one thread; a context manager.

    Args:
        url: of the database, through whatever stands before it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._app = Absurd(url)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._lock = threading.Condition()
        self._open = 0
        self._ending = False
        self._ids: dict[str, UUID] = {}
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="outside", daemon=True)
        self._thread.start()

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._ending = True
            self._lock.notify()
        self._thread.join(60)
        self._app.close()

    @property
    def done(self) -> bool:
        """Whether everything asked for so far has been done."""
        if self.failure is not None:
            raise AssertionError("a client failed") from self.failure
        return self._open == 0

    def play(self, roots: Iterable[Task], spread: float) -> None:
        """Spawns programs evenly over ``spread`` seconds from now, and does what is to be done beside them."""
        roots = list(roots)
        self._ids.clear()
        for number, root in enumerate(roots):
            self.play_one(root, spread * number / len(roots))

    def play_one(self, root: Task, delay: float = 0.0) -> None:
        """Spawns a program in so many seconds."""
        start = time.monotonic() + delay - min([0.0, *(act["at"] for act in root["outside"])])
        self._add(start, lambda: self._spawn(root))
        for number, act in enumerate(root["outside"]):
            # A cancellation comes after its spawn, however late that is.
            self._add(start + act["at"], lambda act=act, number=number: self._act(root, act, act_name(root, number)))

    def _add(self, when: float, work: Callable[[], None]) -> None:
        with self._lock:
            self._open += 1
            heapq.heappush(self._due, (when, next(self._count), work))
            self._lock.notify()

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                _persist(work)
                with self._lock:
                    self._open -= 1
        except BaseException as error:
            self.failure = error

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            while not self._ending:
                patience = self._due[0][0] - time.monotonic() if self._due else None
                if patience is not None and patience <= 0:
                    return heapq.heappop(self._due)[2]
                self._lock.wait(patience)
        return None

    # -- acts; each may be begun again after any error ------------------------------------------------------------------------

    def _spawn(self, root: Task) -> None:
        handle = self._app.spawn(root["task"], root, queue=root["queue"], idempotency_key=root["key"], **root["options"])
        self._ids[root["key"]] = handle.task_id

    def _act(self, root: Task, act: Node, by: str) -> None:
        if act["act"] == "cancel":
            self._app.cancel_task(self._ids[root["key"]])
        elif act["act"] == "rollback":
            self._emit_in_transaction(act, by, commit=False)
        elif act["how"] == "client":
            self._app.emit_event(act["event"], {"by": by}, queue=act["queue"], idempotency_key=by)
        else:
            self._emit_in_transaction(act, by, commit=True)

    def _emit_in_transaction(self, act: Node, by: str, *, commit: bool) -> None:
        """With a row of the caller's own, by which it knows, after a lost answer, whether the transaction was committed."""
        with psycopg.connect(self._url, application_name="outside", connect_timeout=10) as conn:
            if act.get("how") == "repeatable read":
                conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            statement = "insert into public.acts values (%s, %s, %s, %s) on conflict do nothing"
            new = conn.execute(statement, (by, act["event"], act["queue"], act.get("how", act["act"]))).rowcount
            if new and act.get("how") == "sql":
                conn.execute("select absurd.emit_event(%s, %s, %s)", (act["queue"], act["event"], Jsonb({"by": by})))
            elif new:
                self._app.emit_event(act["event"], {"by": by}, queue=act["queue"], conn=conn)
            if commit:
                conn.commit()
            else:
                conn.rollback()


def _persist(work: Callable[..., Any]) -> None:
    """Does something as often as it takes."""
    while True:
        try:
            work()
            return
        except (DatabaseError, psycopg.Error) as error:
            if isinstance(error, psycopg.Error) and not isinstance(error, psycopg.OperationalError):
                raise
            time.sleep(AGAIN)
