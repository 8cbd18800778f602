"""A task that does everything that a task can do, and what must be true of it afterwards, whatever was done to its database."""

from __future__ import annotations

import threading
from typing import Any

import psycopg

from tests.support import wait_until
from tests.support_tasks import Play, count

TABLE = "create table if not exists effects (name text, n integer)"
COMPLETED = "select count(*) from absurd.tasks where outcome = 'completed'"


def add_everything(play: Play) -> None:
    """Registers ``everything`` and its ``child``; steps are noted in ``play.seen``, transactions in the table ``effects``."""

    def act(conn: Any, n: int) -> int:
        conn.execute("insert into effects values ('transaction', %s)", (n,))
        return n

    async def act_async(conn: Any, n: int) -> int:
        await conn.execute("insert into effects values ('transaction', %s)", (n,))
        return n

    def answer(secret: str, n: Any) -> None:
        # A former attempt may have lost the answer to this.
        if play.app.read_token(secret).status == "open":
            play.app.complete_token(secret, n)

    @play.task("child", max_attempts=5)
    async def child(n: Any, ctx: Any) -> Any:
        return await ctx.step("child", lambda: play.seen.append(("child", n)) or n)

    @play.task("everything", max_attempts=50)
    async def everything(n: Any, ctx: Any) -> Any:
        await ctx.step("first", lambda: play.seen.append(("first", n)))
        await ctx.heartbeat()
        await ctx.transaction("act", act if play.kind == "sync" else act_async, n)
        if ctx.attempt == 1:
            raise ValueError("the first attempt fails")
        spawned = await ctx.spawn(play.handlers["child"], n)
        found = await ctx.await_task(spawned)
        token = await ctx.create_token("approval")
        await ctx.step("answer", lambda: answer(token.secret, n))
        await ctx.await_token(token)
        await ctx.sleep_for(0.05)
        await ctx.emit_event(f"event {n}", n)
        await ctx.await_event(f"event {n}")
        await ctx.step("last", lambda: play.seen.append(("last", n)))
        return found


def check_everything(play: Play, conn: psycopg.Connection[Any], numbers: list[int]) -> None:
    """Each step ran once, each transaction took effect once, each event is there once, and nothing is left."""
    for name in ("first", "child", "last"):
        assert sorted(n for step, n in play.seen if step == name) == numbers, name
    assert [n for (n,) in conn.execute("select n from effects order by n").fetchall()] == numbers
    assert count(conn, "select count(*) from absurd.events") == len(numbers)
    assert count(conn, "select count(*) from absurd.tasks") == 2 * len(numbers)
    assert count(conn, COMPLETED) == 2 * len(numbers)
    assert count(conn, "select count(*) from absurd.runs") == 0
    assert count(conn, "select count(*) from absurd.waits where kind <> 'client'") == 0


class Load:
    """Spawns ``everything`` again and again on a thread; ``acknowledged`` are the numbers whose spawn has returned."""

    def __init__(self, play: Play, pause: float = 0.05) -> None:
        self.play = play
        self.acknowledged: list[Any] = []
        self._pause = pause
        self._stop = threading.Event()
        self._problems: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                self.acknowledged.append(self.play.spawn("everything", len(self.acknowledged)))
        except BaseException as error:
            self._problems.append(error)

    def wait_for_more(self, number: int) -> None:
        wanted = len(self.acknowledged) + number
        wait_until(lambda: self._problems or len(self.acknowledged) >= wanted, 60, f"{number} more spawned tasks")
        assert not self._problems

    def results(self) -> list[Any]:
        self._stop.set()
        self._thread.join(60)
        assert not self._problems
        return [self._result(handle) for handle in self.acknowledged]

    def _result(self, handle: Any) -> Any:
        try:
            return handle.result(90)
        except TimeoutError as error:
            with psycopg.connect(self.play.url, autocommit=True) as conn:
                for table in ("runs", "waits", "attempts", "workers"):
                    error.add_note(f"{table}: {conn.execute(f'select * from absurd.{table}'.encode()).fetchall()}")
            raise
