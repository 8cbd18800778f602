"""The base of background loops."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from absurd.errors import DatabaseUnavailableError
from absurd.loops import Loop, LoopThread
from tests.support import wait_until, wait_until_async


class Counting(Loop):
    def __init__(self, interval: float = 3600, fail_first: int = 0, error: Exception | None = None) -> None:
        super().__init__("counting", interval)
        self.ticks = 0
        self.fail_first = fail_first
        self.error = error or DatabaseUnavailableError("gone")

    async def tick(self) -> float | None:
        self.ticks += 1
        if self.ticks <= self.fail_first:
            raise self.error
        return None


async def test_it_ticks_at_once_then_when_woken() -> None:
    loop = Counting()
    loop.start()
    await wait_until_async(lambda: loop.ticks == 1)
    loop.wake()
    await wait_until_async(lambda: loop.ticks == 2)
    await loop.stop()
    assert not loop.running


async def test_starting_twice_runs_one_loop() -> None:
    loop = Counting()
    loop.start()
    loop.start()
    await wait_until_async(lambda: loop.ticks > 0)
    await loop.stop()
    assert loop.ticks == 1


async def test_it_ticks_again_after_its_interval() -> None:
    loop = Counting(interval=0.001)
    loop.start()
    await wait_until_async(lambda: loop.ticks >= 5)
    await loop.stop()


async def test_errors_are_logged_and_do_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    loop = Counting(fail_first=2)
    with caplog.at_level(logging.WARNING, "absurd.loops"):
        loop.start()
        await wait_until_async(lambda: loop.ticks == 3)
    await loop.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "counting: gone; again in 0.1 s",
        "counting: gone; again in 0.2 s",
    ]
    assert all(record.exc_info is None for record in caplog.records)


async def test_an_error_that_is_a_bug_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    loop = Counting(fail_first=1, error=ZeroDivisionError())
    loop.start()
    await wait_until_async(lambda: loop.ticks == 2)
    await loop.stop()
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


async def test_stop_leaves_a_tick_its_grace_and_cancels_it_then() -> None:
    class Slow(Loop):
        ended = ""
        go_on = asyncio.Event()

        async def tick(self) -> float | None:
            try:
                await self.go_on.wait()
                self.ended = "well"
            except asyncio.CancelledError:
                self.ended = "cancelled"
                raise
            return None

    graceful, abrupt = Slow("slow", 1), Slow("slow", 1)
    for loop in (graceful, abrupt):
        loop.start()
    await asyncio.sleep(0)
    await abrupt.stop()
    assert abrupt.ended == "cancelled"
    asyncio.get_running_loop().call_soon(Slow.go_on.set)
    await graceful.stop(grace=20)
    assert graceful.ended == "well"


def test_a_loop_without_tick_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Loop"):
        asyncio.run(Loop("bare", 1).tick())


def test_a_loop_thread_runs_coroutines_and_ends() -> None:
    thread = LoopThread("test loop")
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def answer() -> int:
        return 42

    assert not thread.alive
    thread.submit(forever())
    assert thread.submit(answer()).result(10) == 42
    assert thread.alive
    thread.stop()
    assert cancelled.is_set()
    wait_until(lambda: not thread.alive)
    assert thread.submit(answer()).result(10) == 42
    thread.stop()
