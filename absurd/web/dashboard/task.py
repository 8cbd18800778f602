"""One task: what it did and when, what it waits for now, and what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from absurd.client.base import fork_options
from absurd.errors import InvalidOptionError, ValidationError
from absurd.queries.results import retry_task
from absurd.queries.tasks import Places, fork_task, read_moment, task_details, task_value
from absurd.registry import check_name
from absurd.web.dashboard.forms import choose, read_json, require
from absurd.web.dashboard.page import PAGE_ROWS, Done, NotFound, Page, Visit
from absurd.web.dashboard.tasks import failure_line
from absurd.web.dashboard.timeline import make_timeline

SOURCE = {"kind": "http", "name": "dashboard"}
ENDED = ("completed", "failed", "cancelled")
# Bytes of a value that has a page of its own, and characters of it that are shown.
VALUE_BYTES, VALUE_CHARACTERS = 10 * 1024 * 1024, 1_000_000
MOMENTS = ("now", "until", "waiting_since")

Document = dict[str, Any]


async def show(visit: Visit) -> Mapping[str, Any]:
    """The task with the pages of its lists that are asked for."""
    task_id = _task_id(visit)
    places = Places(_number(visit, "attempt"), _number(visit, "position"), visit.arg("step"), _uuid(visit.arg("child")))
    found = await visit.run(task_details(task_id, places, PAGE_ROWS))
    if found is None:
        raise _missing(task_id)
    timeline = make_timeline(found)
    task: Document = _moments(found)
    waits = [wait for wait in task["waits"] if wait["kind"] != "timeout"]
    for attempt in task["attempts"]:
        attempt["failure"] = _failure(visit, attempt["failure"])
    origin = visit.redaction.parsed(task["source"])
    return {
        "task": task,
        "waits": waits,
        "timeline": timeline,
        "forked_from": _forked_from(origin),
        "started_by": isinstance(origin, dict) and origin.get("kind") != "fork",
        "ended": task["state"] in ENDED,
        "last_failed": next((attempt for attempt in task["attempts"] if attempt["failure"]), None),
        # What "now" ends: a sleep, or a wait that nothing came for.
        "times_out": any(wait["kind"] != "sleep" for wait in waits),
        "next_attempts": _next(task["attempts"], places.before_attempt, task["attempt_count"]),
        "next_checkpoints": _next_checkpoints(task),
        "next_children": {"child": task["children"][-1]["task_id"]} if len(task["children"]) == PAGE_ROWS else None,
        "next": lambda place: urlencode(place),
        "paged": any(place is not None for place in (places.before_attempt, places.after_position, places.after_child)),
    }


def _next(attempts: list[Document], before: int | None, count: int) -> Mapping[str, Any] | None:
    full = len(attempts) == PAGE_ROWS and count > PAGE_ROWS
    return {"attempt": attempts[-1]["attempt"]} if full and attempts[-1]["attempt"] > 1 else None


def _next_checkpoints(task: Document) -> Mapping[str, Any] | None:
    points = task["checkpoints"]
    if len(points) < PAGE_ROWS or task["checkpoint_count"] <= PAGE_ROWS:
        return None
    return {"position": points[-1]["position"], "step": points[-1]["step_name"]}


def _forked_from(origin: Any) -> Mapping[str, str] | None:
    found = origin.get("forked_from") if isinstance(origin, dict) else None
    if not isinstance(found, dict) or _uuid(found.get("task_id")) is None or not isinstance(found.get("step"), str):
        return None
    return {"task_id": found["task_id"], "step": found["step"]}


def _failure(visit: Visit, failure: Document | None) -> Document | None:
    """A failure as a line, its traceback, and all of it; or its size."""
    if failure is None or "bytes" in failure:
        return failure
    whole = visit.redaction.parsed(failure["text"])
    trace = whole.get("traceback") if isinstance(whole, dict) else None
    return {"line": failure_line(visit, failure["text"]), "trace": trace if isinstance(trace, str) else None, **failure}


def _moments(value: Any, name: str = "") -> Any:
    """A copy of the document with its moments as such."""
    if isinstance(value, dict):
        return {key: _moments(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_moments(part) for part in value]
    if isinstance(value, str) and (name.endswith("_at") or name in MOMENTS):
        return read_moment(value)
    return value


async def show_value(visit: Visit) -> Mapping[str, Any]:
    """One value whole."""
    task_id, what = _task_id(visit), visit.arg("what") or "params"
    step, attempt = visit.request.query_params.get("step"), _number(visit, "attempt")
    text = await visit.run(task_value(task_id, what, step, attempt, VALUE_BYTES))
    if text is None:
        raise NotFound(f"Task {task_id} has no such value.")
    title = (
        f"Step {step}" if what == "checkpoint" else f"Failure of attempt {attempt}" if what == "failure" else what.capitalize()
    )
    return {"task_id": task_id, "title": title, "text": text, "limit": VALUE_CHARACTERS}


async def cancel(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Cancels the task."""
    task_id = _task_id(visit)
    state = (await visit.client.get_result(task_id)).state
    if state in ENDED:
        raise InvalidOptionError(f"there is nothing to cancel: the task is {state}")
    await visit.client.cancel_task(task_id)
    return Done("The task is cancelled. A worker that runs it learns of it at its next step.")


async def retry(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Another attempt, from the last checkpoint; not another one yet, if the attempt that the page has shown has been retried."""
    task_id, shown = _task_id(visit), fields.get("attempt", "")
    found = await visit.run(task_details(task_id, Places(), 1))
    if found is not None and shown.isascii() and shown.isdigit() and found["attempt"] > int(shown):
        return Done(f"Attempt {found['attempt']} had been started before.")
    spawned = await visit.run(retry_task(task_id, {}))
    return Done(f"Attempt {spawned.attempt} is ready: it goes on after the last recorded step.")


async def copy(visit: Visit, fields: Mapping[str, str]) -> Done:
    """A copy from the beginning."""
    spawned = await visit.run(retry_task(_task_id(visit), _copying(visit, "copy") | {"spawn_new": True}))
    return Done("This is the copy; it begins at the beginning.", f"tasks/{spawned.task_id}")


async def fork(visit: Visit, fields: Mapping[str, str]) -> Done:
    """A copy from a step."""
    # Not stripped: a step may be called " ".
    step = fields.get("step", "")
    options = fork_options(None) | _copying(visit, "fork", step)
    spawned = await visit.run(fork_task(_task_id(visit), check_name("step name", step), options))
    return Done(f"This is the copy; it goes on from step {step}.", f"tasks/{spawned.task_id}")


def _copying(visit: Visit, action: str, *parts: str) -> dict[str, Any]:
    """The options of a copy, of which there shall be one though its form is sent twice."""
    return choose(idempotency_key=visit.key(action, *parts))


async def run(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Makes the time of the sleeping task now."""
    await visit.client.run_task_now(_task_id(visit))
    return Done("The task is ready: its time is now.")


async def emit(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Emits an event that the task waits for."""
    name, queue = fields.get("event", ""), require(fields, "queue", "the queue of the event")
    payload = read_json(fields.get("payload", ""), "the payload")
    task_id = _task_id(visit)
    found = await visit.run(task_details(task_id, Places(), 1000))
    if found is None:
        raise _missing(task_id)
    if not any(wait["event_name"] == name and wait["queue_name"] == queue for wait in found["waits"]):
        raise ValidationError(f'the task does not wait for event "{name}" any more; nothing was emitted')
    done = await visit.client.dispatch_event(
        name, payload, queue=queue, idempotency_key=visit.key("emit", name, queue, fields.get("payload", "")), source=SOURCE
    )
    return Done(f"Event {name} has been emitted: number {done.seq}.")


def _task_id(visit: Visit) -> UUID:
    text = str(visit.request.path_params["task_id"])
    task_id = _uuid(text)
    if task_id is None:
        raise NotFound(f"“{text[:60]}” is not the id of a task.")
    return task_id


def _number(visit: Visit, name: str) -> int | None:
    """A parameter that is an integer of the database."""
    number = visit.number(name)
    return number if number is not None and number < 2**31 else None


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _missing(task_id: UUID) -> NotFound:
    return NotFound(f"There is no task {task_id}: it was never committed, or has been cleaned up.")


ACTIONS = {"cancel": cancel, "retry": retry, "copy": copy, "fork": fork, "run": run, "emit": emit}
PAGE = Page("task", "/tasks/{task_id}", "Task", show, ACTIONS, section="tasks")
VALUE_PAGE = Page("task_value", "/tasks/{task_id}/value", "Value", show_value, section="tasks")
