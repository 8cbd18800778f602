"""Schedulers for tests, and a clock of the whole database that a test moves."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Any

import psycopg

from absurd.loops import LoopThread
from absurd.queries.schedules import CHANNEL
from absurd.schedules import ScheduleLoop
from tests.support import wait_until


class DatabaseClock:
    """Makes ``absurd.current_time()`` say what the test says, in every session."""

    def __init__(self, conn: psycopg.Connection[Any], at: datetime) -> None:
        self._conn = conn
        conn.execute("create table test_clock (now timestamptz)")
        conn.execute("insert into test_clock values (%s)", (at,))
        conn.execute(
            "create or replace function absurd.current_time() returns timestamptz language sql stable as"
            " 'select now from public.test_clock'"
        )

    def move(self, at: datetime) -> None:
        """Sets it, and has schedulers read it."""
        self._conn.execute("update test_clock set now = %s", (at,))
        self._conn.execute(f"notify {CHANNEL}")

    def move_and_settle(self, at: datetime) -> None:
        """The same, and waits until nothing is due any more."""
        self.move(at)
        wait_until(lambda: not due(self._conn), what="schedules that are due and not fired")


def due(conn: psycopg.Connection[Any]) -> list[Any]:
    """The schedules that should have fired, or have no slot yet."""
    return conn.execute(
        "select schedule_name from absurd.schedules where paused_at is null and ended_at is null and problem is null"
        " and coalesce(due_at <= absurd.current_time(), true)"
    ).fetchall()


class Schedulers:
    """Some schedule loops, each on a thread and a connection of its own."""

    def __init__(self, *urls: str) -> None:
        self.loops = [ScheduleLoop(url) for url in urls]
        self._threads = [LoopThread(f"test scheduler {number}") for number in range(len(urls))]

    def __enter__(self) -> Schedulers:
        for loop, thread in zip(self.loops, self._threads, strict=True):
            thread.submit(_start(loop)).result()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for loop, thread in zip(self.loops, self._threads, strict=True):
            thread.submit(loop.stop()).result()
            thread.stop()


async def _start(loop: ScheduleLoop) -> None:
    loop.start()


def slots_of(conn: psycopg.Connection[Any], name: str) -> list[str]:
    """The slots for which tasks of a schedule exist, one entry per task, in order."""
    found = conn.execute(
        "select headers #>> '{absurd-source,slot}' from absurd.tasks where headers #>> '{absurd-source,name}' = %s order by 1",
        (name,),
    ).fetchall()
    return [slot for (slot,) in found]
