"""A trace or a number is never worth a task: what goes wrong with them is logged and goes no further."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("absurd.telemetry")

# Seconds between two warnings: it goes wrong for every task, or for none.
WARNING_INTERVAL = 60.0

_next_warning = 0.0


def _warn(error: Exception) -> None:
    global _next_warning
    if time.monotonic() >= _next_warning:
        _next_warning = time.monotonic() + WARNING_INTERVAL
        logger.warning("traces or metrics met an error and go on without: %s", error or type(error).__name__, exc_info=error)


def harmless(method: Callable[P, None]) -> Callable[P, None]:
    """The same, never raising."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            _warn(error)

    return call


def harmless_context(method: Callable[P, AbstractContextManager[T]]) -> Callable[P, AbstractContextManager[Any]]:
    """The same, whose block is entered and left whatever happens to it; only what the block raises passes."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[Any]:
        return _Harmless(method(*args, **kwargs))

    return call


class _Harmless(AbstractContextManager[Any]):
    __slots__ = ("_entered", "_inner")

    def __init__(self, inner: AbstractContextManager[Any]) -> None:
        self._inner = inner
        self._entered = False

    def __enter__(self) -> Any:
        try:
            found = self._inner.__enter__()
        except Exception as error:
            _warn(error)
            return None
        self._entered = True
        return found

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._entered:
            return
        try:
            self._inner.__exit__(kind, error, trace)
        except Exception as problem:
            if problem is not error:
                _warn(problem)
