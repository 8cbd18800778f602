"""Durable tasks on PostgreSQL: steps, waits and events that survive crashes.

The names are imported when they are first used, so that ``import absurd`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from absurd.client import Absurd, AsyncAbsurd, AsyncTaskHandle, TaskHandle
    from absurd.context import AsyncContext, ChildTask, Context, Token, get_current_context
    from absurd.dispatcher import AsyncEventDispatcher, EventDispatcher
    from absurd.errors import (
        AbsurdError,
        ConfigurationError,
        ContextError,
        DatabaseError,
        DatabaseUnavailableError,
        EmbeddedPostgresError,
        InvalidOptionError,
        NonRetryableError,
        PayloadTooLargeError,
        QueueNotFoundError,
        ReplayMismatchError,
        ScheduleConflictError,
        ScheduleNotFoundError,
        SchemaError,
        SerializationError,
        TaskCancelledError,
        TaskFailedError,
        TaskNotFoundError,
        TimeoutError,
        TokenError,
        ValidationError,
    )
    from absurd.listeners import AsyncEventListener, EventListener, Principal, Result, Scheduler
    from absurd.queries.events import Dispatch, DispatchedTask
    from absurd.queries.schedules import Schedule, ScheduleChange, ScheduleRun
    from absurd.queries.subscriptions import Subscription
    from absurd.queries.tokens import TokenInfo
    from absurd.queries.triggers import TriggerExecution, TriggerInfo
    from absurd.triggers import FileTrigger, Fire, HealthCheckTrigger, QueueDepthTrigger, Skip, Trigger
    from absurd.types import Cancellation, Event, Json, RetryStrategy, SpawnOptions, TaskResult, TaskState

_HOMES = {
    "client": ("Absurd", "AsyncAbsurd", "AsyncTaskHandle", "TaskHandle"),
    "context": ("AsyncContext", "ChildTask", "Context", "Token", "get_current_context"),
    "dispatcher": ("AsyncEventDispatcher", "EventDispatcher"),
    "errors": (
        "AbsurdError",
        "ConfigurationError",
        "ContextError",
        "DatabaseError",
        "DatabaseUnavailableError",
        "EmbeddedPostgresError",
        "InvalidOptionError",
        "NonRetryableError",
        "PayloadTooLargeError",
        "QueueNotFoundError",
        "ReplayMismatchError",
        "ScheduleConflictError",
        "ScheduleNotFoundError",
        "SchemaError",
        "SerializationError",
        "TaskCancelledError",
        "TaskFailedError",
        "TaskNotFoundError",
        "TimeoutError",
        "TokenError",
        "ValidationError",
    ),
    "listeners": ("AsyncEventListener", "EventListener", "Principal", "Result", "Scheduler"),
    "queries.tokens": ("TokenInfo",),
    "queries.events": ("Dispatch", "DispatchedTask"),
    "queries.subscriptions": ("Subscription",),
    "queries.triggers": ("TriggerExecution", "TriggerInfo"),
    "triggers": ("FileTrigger", "Fire", "HealthCheckTrigger", "QueueDepthTrigger", "Skip", "Trigger"),
    "queries.schedules": ("Schedule", "ScheduleChange", "ScheduleRun"),
    "types": ("Cancellation", "Event", "Json", "RetryStrategy", "SpawnOptions", "TaskResult", "TaskState"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Absurd",
    "AbsurdError",
    "AsyncAbsurd",
    "AsyncContext",
    "AsyncEventDispatcher",
    "AsyncEventListener",
    "AsyncTaskHandle",
    "Cancellation",
    "ChildTask",
    "ConfigurationError",
    "Context",
    "ContextError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "Dispatch",
    "DispatchedTask",
    "EmbeddedPostgresError",
    "Event",
    "EventDispatcher",
    "EventListener",
    "FileTrigger",
    "Fire",
    "HealthCheckTrigger",
    "InvalidOptionError",
    "Json",
    "NonRetryableError",
    "PayloadTooLargeError",
    "Principal",
    "QueueDepthTrigger",
    "QueueNotFoundError",
    "ReplayMismatchError",
    "Result",
    "RetryStrategy",
    "Schedule",
    "ScheduleChange",
    "ScheduleConflictError",
    "ScheduleNotFoundError",
    "ScheduleRun",
    "Scheduler",
    "SchemaError",
    "SerializationError",
    "Skip",
    "SpawnOptions",
    "Subscription",
    "TaskCancelledError",
    "TaskFailedError",
    "TaskHandle",
    "TaskNotFoundError",
    "TaskResult",
    "TaskState",
    "TimeoutError",
    "Token",
    "TokenError",
    "TokenInfo",
    "Trigger",
    "TriggerExecution",
    "TriggerInfo",
    "ValidationError",
    "get_current_context",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'absurd' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"absurd.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
