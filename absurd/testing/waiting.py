"""``handle.result()`` in a test: it gives up soon, for nobody works in the background, and says what the task waits for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import Any
from uuid import UUID

from absurd import errors
from absurd.client.base import BaseClient

# Seconds of real time after which a wait without a timeout of its own is given up. A test that waits for nobody would hang.
RESULT_SECONDS = 10.0


class Patience:
    """Replaces the wait of one client for the end of a task, for the length of a test."""

    def __init__(self, client: BaseClient, describe: Callable[[UUID], str]) -> None:
        self._client: Any = client
        self._describe = describe
        self._outer: Callable[..., Any] | None = None

    def __enter__(self) -> None:
        # The client's own wait: in a test within a test, such as crash_everywhere, the outer one's database is not asked.
        self._outer = vars(self._client).get("_await_end")
        wait = MethodType(type(self._client)._await_end, self._client)
        asynchronous = inspect.iscoroutinefunction(wait)
        self._client._await_end = self._async(wait) if asynchronous else self._sync(wait)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._outer is None:
            del self._client._await_end
        else:
            self._client._await_end = self._outer

    def _sync(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        def await_end(task_id: UUID, timeout: float | None, spawned_on: Any) -> Any:
            __tracebackhide__ = True
            try:
                return wait(task_id, RESULT_SECONDS if timeout is None else timeout, spawned_on)
            except errors.TimeoutError as error:
                raise self._explained(task_id, error) from None

        return await_end

    def _async(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        async def await_end(task_id: UUID, timeout: float | None, spawned_on: Any) -> Any:
            __tracebackhide__ = True
            try:
                return await wait(task_id, RESULT_SECONDS if timeout is None else timeout, spawned_on)
            except errors.TimeoutError as error:
                raise self._explained(task_id, error) from None

        return await_end

    def _explained(self, task_id: UUID, error: errors.TimeoutError) -> errors.TimeoutError:
        return errors.TimeoutError(
            f"{error}: nothing runs in a test unless drain() is called, also after an event or a move of the clock.\n"
            f"{self._describe(task_id)}"
        )
