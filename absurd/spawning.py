"""From what a caller says to a ``SpawnRequest``: defaults filled in, options checked, params encoded."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any
from uuid import UUID

from absurd import telemetry
from absurd.codec import PLAIN, Codec, decode, encode
from absurd.errors import InvalidOptionError
from absurd.registry import Registry, check_name
from absurd.types import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_RETRY,
    NO_OPTIONS,
    Cancellation,
    RetryStrategy,
    Settled,
    SpawnOptions,
    SpawnRequest,
)

# The ranges of sql/functions/options.sql; a test holds both together.
MAX_SECONDS = 315_360_000
MAX_ATTEMPTS = 1_000_000
PRIORITIES = (-32768, 32767)
MAX_QUEUE_NAME_BYTES = 57
MAX_HEADERS_BYTES = 65_536
PAYLOAD_LIMITS = (1024, 268_435_456)

NOTHING = nullcontext()


# What the last id of this process was made at, in 1/4096 ms since 1970.
_last_tick = 0


def make_ids(count: int) -> list[UUID]:
    """New UUIDs of version 7, in the order in which they are made: tasks that are spawned together are claimed in their order.

    Milliseconds, 12 bits for their fraction, 62 random bits. (Counting in whole milliseconds, as others do, would date the ids of
    a batch of a thousand tasks two seconds ahead.)
    """
    global _last_tick
    # Threads that come here together may get the same ticks; the random bits keep their ids apart. A clock that was put back is
    # not followed.
    first = max(time.time_ns() * 4096 // 1_000_000, _last_tick + 1)
    _last_tick = first + count - 1
    lows = struct.unpack(f"!{count}Q", os.urandom(8 * count))
    return [
        UUID(int=((tick >> 12) << 16 | 0x7000 | tick & 0xFFF) << 64 | 1 << 63 | low >> 2) for tick, low in enumerate(lows, first)
    ]


def check_queue_name(name: object) -> str:
    """Returns a queue name that the database takes: 1 to 57 bytes of UTF-8."""
    check_name("queue name", name)
    if isinstance(name, str) and len(name.encode()) <= MAX_QUEUE_NAME_BYTES:
        return name
    raise InvalidOptionError(f"queue name {name!r} has more than {MAX_QUEUE_NAME_BYTES} bytes of UTF-8")


def check_payload_limit(value: object) -> int:
    """The largest size of a payload that a queue may be given, in bytes."""
    found = _whole("max_payload_bytes", value, *PAYLOAD_LIMITS)
    if found is None:
        raise InvalidOptionError(f"max_payload_bytes must be a whole number, not {value!r}")
    return found


def make_request(registry: Registry, task: Any, params: Any, options: SpawnOptions, *, queue: str) -> SpawnRequest:
    """One task to spawn.

    Args:
        registry: where the task's definition is looked up; a name that is not there may be known to a worker elsewhere.
        task: a registered handler, or a name.
        params: encoded through the task's declared type, if it has one.
        options: of this spawn; they win over the task's defaults.
        queue: where the task goes when neither the options nor its defaults say.

    Raises:
        InvalidOptionError, SerializationError, ValidationError: what was given cannot be used.
    """
    definition = registry.find(task)
    codec: Codec = PLAIN
    if definition is None:
        name, defaults = _foreign_name(task), NO_OPTIONS
    else:
        name, codec, defaults = definition.name, definition.params, definition.defaults
    settled = _settle(registry, defaults, options)
    task_id, run_id = make_ids(2)
    return SpawnRequest(
        check_queue_name(queue) if settled.queue is None else settled.queue,
        task_id,
        run_id,
        name,
        codec.encode(params, f'params of task "{name}"'),
        settled.headers if telemetry.tracing is None else _traced(settled.headers),
        settled.options,
        settled.idempotency_key,
    )


def _settle(registry: Registry, defaults: SpawnOptions, options: SpawnOptions) -> Settled:
    """The options of a spawn over those of its task and the application; remembered for spawns that say nothing of their own."""
    if options is not NO_OPTIONS:
        return _settle_anew(registry, defaults, options)
    known = registry.settled.get(id(defaults))
    if known is not None and known.defaults is defaults and known.of_all is registry.defaults:
        return known
    settled = _settle_anew(registry, defaults, options)
    if not _may_change(defaults) and not _may_change(registry.defaults):
        registry.settled[id(defaults)] = settled
    return settled


def _may_change(options: SpawnOptions) -> bool:
    """Whether they hold a dict, which its owner may change between two spawns."""
    return any(isinstance(value, Mapping) for value in (options.headers, options.retry, options.cancellation))


def _settle_anew(registry: Registry, defaults: SpawnOptions, options: SpawnOptions) -> Settled:
    merged = merge(options, merge(defaults, registry.defaults))
    key = merged.idempotency_key
    return Settled(
        defaults=defaults,
        of_all=registry.defaults,
        queue=None if merged.queue is None else check_queue_name(merged.queue),
        headers=None if merged.headers is None else _headers(merged.headers),
        options=encode(options_json(merged), "options"),
        idempotency_key=check_name("idempotency_key", key) if key is not None else None,
    )


def make_requests(
    registry: Registry, task: Any, all_params: Sequence[Any], options: SpawnOptions, *, queue: str
) -> list[SpawnRequest]:
    """Many tasks with the same options, which are checked and encoded once; otherwise like ``make_request``."""
    if not all_params:
        return []
    first = make_request(registry, task, all_params[0], options, queue=queue)
    definition = registry.find(task)
    encoded = (definition.params if definition is not None else PLAIN).encode
    what = f'params of task "{first.task_name}"'
    ids = iter(make_ids(2 * len(all_params) - 2))
    rest = [
        SpawnRequest(
            queue_name=first.queue_name,
            task_id=task_id,
            run_id=run_id,
            task_name=first.task_name,
            params=encoded(params, what),
            headers=first.headers,
            options=first.options,
            idempotency_key=first.idempotency_key,
        )
        for params, task_id, run_id in zip(all_params[1:], ids, ids, strict=False)
    ]
    return [first, *rest]


def around_spawn(
    registry: Registry, name: str, options: SpawnOptions, queue: str, count: int = 1
) -> AbstractContextManager[None]:
    """What a spawn of that many tasks happens in: a span and a count, if anybody wants them."""
    if telemetry.tracing is None and telemetry.metrics is None:
        return NOTHING
    definition = registry.find(name)
    default = None if definition is None else definition.defaults.queue
    return telemetry.spawning(str(options.queue or default or queue), name, count)


def _traced(headers: str | None) -> str | None:
    """The headers with the present trace; without it where there is no room."""
    text = encode(telemetry.with_trace(None if headers is None else decode(headers)), "headers")
    return text if text != "{}" and len(text.encode()) <= MAX_HEADERS_BYTES else headers


def _headers(headers: Mapping[str, Any]) -> str:
    text = encode(dict(headers), "headers")
    if len(text) * 4 > MAX_HEADERS_BYTES and len(text.encode()) > MAX_HEADERS_BYTES:
        raise InvalidOptionError(
            f"headers have {len(text.encode())} bytes; {MAX_HEADERS_BYTES} are allowed. Put large values into params"
        )
    return text


def _foreign_name(task: object) -> str:
    if callable(task):
        raise InvalidOptionError(
            f"{task!r} is not registered with this app; decorate it with @app.register_task or spawn it by name"
        )
    return check_name("task name", task)


def merge(options: SpawnOptions, defaults: SpawnOptions) -> SpawnOptions:
    """Options of a spawn over those of its task; headers are joined."""
    headers = {**check_headers(defaults.headers), **check_headers(options.headers)} or None
    values = {
        name: getattr(options, name) if getattr(options, name) is not None else getattr(defaults, name)
        for name in SpawnOptions.__dataclass_fields__
    }
    if options.delay is not None or options.available_at is not None:
        values["delay"], values["available_at"] = options.delay, options.available_at
    if options.max_attempts is None and _is_single(options.retry):
        # The wish for a single attempt overrules a number that was not meant for it.
        values["max_attempts"] = None
    return SpawnOptions(**{**values, "headers": headers})


def _is_single(retry: object) -> bool:
    kind = retry.kind if isinstance(retry, RetryStrategy) else retry.get("kind") if isinstance(retry, Mapping) else retry
    return kind == "none"


def options_json(options: SpawnOptions) -> dict[str, Any]:
    """The options object of the SQL functions.

    Raises:
        InvalidOptionError: an option is of the wrong type or out of its range; the message names it.
    """
    strategy = retry_json(options.retry)
    max_attempts = _max_attempts(options, strategy)
    found = {
        "max_attempts": max_attempts,
        "retry_strategy": strategy,
        "cancellation": _cancellation_json(options.cancellation),
        "priority": _whole("priority", options.priority, *PRIORITIES) or None,
        "delay": _number("delay", options.delay, 0, MAX_SECONDS) or None,
        "available_at": _moment(options.available_at),
        "parent_task_id": str(options.parent_task_id) if isinstance(options.parent_task_id, UUID) else None,
    }
    if options.delay is not None and options.available_at is not None:
        raise InvalidOptionError("delay and available_at say the same thing; give one of them")
    return {name: value for name, value in found.items() if value is not None}


def _max_attempts(options: SpawnOptions, strategy: Mapping[str, Any]) -> int:
    given = _whole("max_attempts", options.max_attempts, 1, MAX_ATTEMPTS)
    if strategy["kind"] != "none":
        return DEFAULT_MAX_ATTEMPTS if given is None else given
    if given not in (None, 1):
        raise InvalidOptionError(
            f"retry='none' means a single attempt, but max_attempts is {given}; use RetryStrategy.fixed(0) to retry at once"
        )
    return 1


def retry_json(retry: RetryStrategy | Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The retry strategy of the SQL functions, checked; ``None`` is the library's default."""
    if retry is None:
        retry = DEFAULT_RETRY
    if isinstance(retry, str):
        retry = {"kind": retry}
    found = retry.to_json() if isinstance(retry, RetryStrategy) else dict(retry) if isinstance(retry, Mapping) else None
    if found is None:
        raise InvalidOptionError(f"retry must be 'fixed', 'exponential', 'none', a RetryStrategy or a dict, not {retry!r}")
    unknown = set(found) - {"kind", "base_seconds", "factor", "max_seconds", "jitter"}
    if unknown:
        raise InvalidOptionError(
            f"retry has no option {sorted(map(str, unknown))}; known are kind, base_seconds, factor, max_seconds, jitter"
        )
    if found.get("kind") not in ("fixed", "exponential", "none"):
        raise InvalidOptionError(f"retry kind must be 'fixed', 'exponential' or 'none', not {found.get('kind')!r}")
    for name, low, high in (
        ("base_seconds", 0, MAX_SECONDS),
        ("factor", 1, 1000),
        ("max_seconds", 0, MAX_SECONDS),
        ("jitter", 0, 1),
    ):
        _number(f"retry {name}", found.get(name), low, high)
    return found


def _cancellation_json(cancellation: Cancellation | Mapping[str, float] | None) -> dict[str, float] | None:
    if cancellation is None:
        return None
    found = cancellation.to_json() if isinstance(cancellation, Cancellation) else cancellation
    if not isinstance(found, Mapping):
        raise InvalidOptionError(f"cancellation must be a Cancellation or a dict, not {cancellation!r}")
    unknown = set(found) - {"max_delay", "max_duration"}
    if unknown:
        raise InvalidOptionError(f"cancellation has no option {sorted(map(str, unknown))}; known are max_delay, max_duration")
    for name, value in found.items():
        _number(f"cancellation {name}", value, 0, MAX_SECONDS)
    return dict(found) or None


def check_headers(headers: object) -> Mapping[str, Any]:
    """Returns headers, ``None`` being none, if they are an object."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidOptionError(f"headers must be a dict, not {headers!r}")
    return headers


def _moment(value: datetime | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidOptionError(f"available_at must be a datetime with a time zone, not {value!r}")
    return value.isoformat()


def _number(name: str, value: object, low: float, high: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidOptionError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:  # NaN lies nowhere
        raise InvalidOptionError(f"{name} must be between {low} and {high}, not {value!r}")
    return value


def _whole(name: str, value: object, low: int, high: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOptionError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise InvalidOptionError(f"{name} must be between {low} and {high}, not {value!r}")
    return value
