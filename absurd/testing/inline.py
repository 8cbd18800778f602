"""Inline mode: code under test that spawns a task finds it done, without a worker."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import Any

from absurd.client.base import BaseClient
from absurd.context import get_current_context
from absurd.errors import ContextError

# What makes tasks ready.
METHODS = (
    "spawn",
    "spawn_many",
    "emit_event",
    "dispatch_event",
    "retry_task",
    "fork_task",
    "run_task_now",
    "complete_token",
    "trigger_schedule",
    "resume_queue",
)


class Inline:
    """Has one client run what is ready after each call that may have made something so.

    Not within a handler: that one's tasks run when it has ended or waits. And what is part of the caller's transaction runs with
    the first call after its commit.
    """

    def __init__(self, client: BaseClient, work: Callable[[], Any]) -> None:
        self._client: Any = client
        self._work = work
        self._outer: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._async_lock = asyncio.Lock()

    def __enter__(self) -> None:
        self._outer = {name: vars(self._client)[name] for name in METHODS if name in vars(self._client)}
        for name in METHODS:
            method = MethodType(getattr(type(self._client), name), self._client)
            wrapped = self._async(method) if inspect.iscoroutinefunction(method) else self._sync(method)
            setattr(self._client, name, wrapped)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in METHODS:
            delattr(self._client, name)
        vars(self._client).update(self._outer)

    def _sync(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **keywords: Any) -> Any:
            answer = method(*args, **keywords)
            if not in_handler():
                with self._lock:
                    self._work()
            return answer

        return call

    def _async(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        async def call(*args: Any, **keywords: Any) -> Any:
            answer = await method(*args, **keywords)
            if not in_handler():
                async with self._async_lock:
                    await self._work()
            return answer

        return call


def in_handler() -> bool:
    """Whether the caller is a task."""
    try:
        get_current_context()
    except ContextError:
        return False
    return True
