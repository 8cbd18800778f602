"""From what people say of a schedule to what the database stores, checked on the way."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import orjson

from absurd.codec import PLAIN, encode
from absurd.context.durations import check_interval, check_moment
from absurd.errors import InvalidOptionError
from absurd.queries.schedules import ScheduleRequest
from absurd.registry import Registry, check_name
from absurd.schedules.cron import parse_cron
from absurd.schedules.zone import read_zone
from absurd.spawning import check_queue_name, make_request
from absurd.types import SpawnOptions

# The ranges of sql/functions/schedules.sql; a test holds both together.
MAX_NAME_BYTES = 900
MAX_JITTER_SECONDS = 3600.0
MAX_CATCHUP_LIMIT = 1000
MIN_EVERY_SECONDS = 1.0

CATCHUPS = ("skip", "one", "all")
OVERLAPS = ("allow", "skip")


def make_schedule(
    registry: Registry,
    name: str,
    *,
    task: Any = None,
    event: str | None = None,
    params: Any = None,
    queue: str,
    options: SpawnOptions,
    **timing: Any,
) -> ScheduleRequest:
    """A schedule to make; the arguments are those of ``create_schedule``, and ``queue`` is that of the app.

    Raises:
        InvalidOptionError, SerializationError, ValidationError: what was given cannot be used.
    """
    definition = timing_json(**timing)
    check_schedule_name(name)
    if (task is None) == (event is None):
        raise InvalidOptionError(f'schedule "{name}": give the task that it starts or the event that it emits, one of them')
    if options.idempotency_key is not None or options.available_at is not None:
        raise InvalidOptionError(f'schedule "{name}" takes no idempotency_key and no available_at: each slot has its own')
    if event is not None:
        if definition["overlap"] == "skip":
            raise InvalidOptionError(
                f'schedule "{name}": overlap="skip" is for a schedule that starts a task; an event is over when it is emitted'
            )
        return _emitting(name, check_name("event name", event), params, queue, options, definition)
    request = make_request(registry, task, params, options, queue=queue)
    given: dict[str, Any] = {} if request.options is None else orjson.loads(request.options)
    if request.headers is not None:
        given["headers"] = orjson.loads(request.headers)
    definition |= {"task": request.task_name, "options": given}
    return ScheduleRequest(name, request.queue_name, encode(definition, f'schedule "{name}"'), request.params)


def _emitting(
    name: str, event: str, params: Any, queue: str, options: SpawnOptions, definition: dict[str, Any]
) -> ScheduleRequest:
    if options != SpawnOptions(queue=options.queue):
        raise InvalidOptionError(f'schedule "{name}" emits an event, which takes no options; give them to its subscriptions')
    if params is not None and not isinstance(params, dict):
        raise InvalidOptionError(f'schedule "{name}": the payload of an event must be a dict, not {params!r}')
    where = check_queue_name(queue if options.queue is None else options.queue)
    definition["event"] = event
    return ScheduleRequest(
        name, where, encode(definition, f'schedule "{name}"'), PLAIN.encode(params, f'params of schedule "{name}"')
    )


def check_schedule_name(name: object) -> str:
    """The name, if a schedule may have it: 1 to 900 bytes, which leaves room for a slot in a key.

    Raises:
        InvalidOptionError: it is no such name.
    """
    checked = check_name("schedule name", name)
    if len(checked.encode()) > MAX_NAME_BYTES:
        raise InvalidOptionError(
            f"schedule name {checked[:40]!r}… has {len(checked.encode())} bytes; the limit is {MAX_NAME_BYTES}"
        )
    return checked


def timing_json(
    *,
    cron: str | None = None,
    every: float | str | timedelta | None = None,
    timezone: str = "UTC",
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    jitter: float | str | timedelta = 0,
    catchup: str = "skip",
    catchup_limit: int = 100,
    overlap: str = "allow",
    run_immediately: bool | None = None,
) -> dict[str, Any]:
    """When a schedule fires, in the form that the SQL functions take. Raises ``InvalidOptionError``."""
    if (cron is None) == (every is None):
        raise InvalidOptionError('give cron (such as "0 9 * * MON-FRI") or every (seconds, a timedelta or "5m"), one of them')
    if cron is not None:
        parse_cron(cron)
    read_zone(timezone)
    starts = None if starts_at is None else check_moment("starts_at", starts_at)
    ends = None if ends_at is None else check_moment("ends_at", ends_at)
    if starts is not None and ends is not None and ends <= starts:
        raise InvalidOptionError(f"ends_at must be after starts_at, but {ends.isoformat()} is not after {starts.isoformat()}")
    _one_of("catchup", catchup, CATCHUPS)
    _one_of("overlap", overlap, OVERLAPS)
    if isinstance(catchup_limit, bool) or not isinstance(catchup_limit, int) or not 1 <= catchup_limit <= MAX_CATCHUP_LIMIT:
        raise InvalidOptionError(f"catchup_limit must be a whole number from 1 to {MAX_CATCHUP_LIMIT}, not {catchup_limit!r}")
    if run_immediately is not None and not isinstance(run_immediately, bool):
        raise InvalidOptionError(f"run_immediately must be True or False, not {run_immediately!r}")
    found = {
        "cron": cron,
        "every": None if every is None else check_interval("every", every, MIN_EVERY_SECONDS),
        "timezone": timezone,
        "starts_at": None if starts is None else starts.isoformat(),
        "ends_at": None if ends is None else ends.isoformat(),
        "jitter": _jitter(jitter),
        "catchup": catchup,
        "catchup_limit": catchup_limit,
        "overlap": overlap,
        "run_immediately": run_immediately,
    }
    return {name: value for name, value in found.items() if value is not None}


def _jitter(jitter: float | str | timedelta) -> float:
    seconds = check_interval("jitter", jitter)
    if seconds > MAX_JITTER_SECONDS:
        raise InvalidOptionError(f"jitter must be at most {MAX_JITTER_SECONDS:.0f} seconds, not {seconds}")
    return seconds


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidOptionError(f"{name} must be {', '.join(map(repr, known))}, not {value!r}")
