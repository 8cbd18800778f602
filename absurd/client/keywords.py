"""The options that spawns and registrations take as keywords."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from absurd.errors import InvalidOptionError
from absurd.types import NO_OPTIONS, Cancellation, RetryStrategy, SpawnOptions


class TaskDefaults(TypedDict, total=False):
    """What ``register_task`` takes: defaults for the spawns of a task, in the meaning of ``SpawnKeywords``."""

    queue: str | None
    max_attempts: int | None
    retry: RetryStrategy | Mapping[str, Any] | str | None
    cancellation: Cancellation | Mapping[str, float] | None
    priority: int | None
    headers: Mapping[str, Any] | None


class SpawnKeywords(TypedDict, total=False):
    """What ``spawn`` and ``spawn_many`` take.

    Attributes:
        queue: where the task goes; otherwise its definition's queue, otherwise the app's.
        delay: seconds until it may start.
        available_at: the moment from which it may start, with a time zone.
        priority: -32768 to 32767, higher ones first; 0 if nothing is said.
        max_attempts: 1 to 1,000,000.
        retry: ``"fixed"``, ``"exponential"``, ``"none"`` (a single attempt), a ``RetryStrategy`` or a dict.
        cancellation: limits past which the task is cancelled.
        headers: JSON that travels with the task.
        idempotency_key: a second spawn with a key that its queue has seen returns the first task, with ``created`` false.
    """

    queue: str | None
    delay: float | None
    available_at: datetime | None
    priority: int | None
    max_attempts: int | None
    retry: RetryStrategy | Mapping[str, Any] | str | None
    cancellation: Cancellation | Mapping[str, float] | None
    headers: Mapping[str, Any] | None
    idempotency_key: str | None


class SubscriptionKeywords(TypedDict, total=False):
    """What ``subscribe`` takes for the tasks to come, in the meaning of ``SpawnKeywords``; ``delay`` counts from the emission."""

    delay: float | None
    priority: int | None
    max_attempts: int | None
    retry: RetryStrategy | Mapping[str, Any] | str | None
    cancellation: Cancellation | Mapping[str, float] | None
    headers: Mapping[str, Any] | None


def spawn_options(keywords: Mapping[str, Any]) -> SpawnOptions:
    """Options from the keywords of a spawn."""
    return _options("spawn", keywords, SpawnKeywords.__annotations__)


def default_options(keywords: Mapping[str, Any]) -> SpawnOptions:
    """Options from the keywords of a registration."""
    return _options("register_task", keywords, (*TaskDefaults.__annotations__, "no_retry_on"))


def subscription_options(keywords: Mapping[str, Any]) -> SpawnOptions:
    """Options from the keywords of a subscription."""
    return _options("subscribe", keywords, SubscriptionKeywords.__annotations__)


def _options(what: str, keywords: Mapping[str, Any], known: Collection[str]) -> SpawnOptions:
    if not keywords:
        return NO_OPTIONS
    for name in keywords:
        if name not in known:
            raise InvalidOptionError(f"{what} has no option {name!r}; known are {', '.join(known)}")
    return SpawnOptions(**keywords)


def exception_types(given: object) -> tuple[type[BaseException], ...]:
    """``no_retry_on`` as a tuple."""
    found = (
        (given,)
        if isinstance(given, type)
        else tuple(given)
        if isinstance(given, Sequence) and not isinstance(given, str)
        else (given,)
    )
    for kind in found:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidOptionError(f"no_retry_on must be exception classes, not {kind!r}")
    return found
