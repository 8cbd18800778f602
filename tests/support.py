"""What tests share."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

DEFAULT_TIMEOUT = 20.0  # seconds; generous, because it is only reached by a test that fails
POLL_INTERVAL = 0.005  # seconds


def wait_until(condition: Callable[[], T], timeout: float = DEFAULT_TIMEOUT, what: str = "the condition") -> T:
    """Return the first true value of ``condition()``; fail when there is none within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        _check(deadline, timeout, what, value)
        time.sleep(POLL_INTERVAL)
    return value


async def wait_until_async(
    condition: Callable[[], T | Awaitable[T]], timeout: float = DEFAULT_TIMEOUT, what: str = "the condition"
) -> T:
    """The same on an event loop, which goes on meanwhile; ``condition`` may be asynchronous."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return cast(T, value)
        _check(deadline, timeout, what, value)
        await asyncio.sleep(POLL_INTERVAL)


def _check(deadline: float, timeout: float, what: str, value: object) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(f"{what} was still {value!r} after {timeout} s")
