"""The search of tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from absurd.errors import AbsurdError, InvalidOptionError
from absurd.queries import inspect
from absurd.queries.tasks import FoundTask, FoundTasks, TaskSearch, find_tasks, known_task_names
from absurd.web.dashboard.page import PAGE_ROWS, Page, Visit

STATES = ("pending", "running", "sleeping", "completed", "failed", "cancelled")
FILTERS = ("queue", "name", "state", "from", "to", "key", "id", "text")
# Those behind "More filters".
RARE = ("from", "to", "key", "id")
# Characters of a failure in a row.
FAILURE_CHARACTERS = 200

_WHOLE_ID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


async def show(visit: Visit) -> Mapping[str, Any]:
    """A page of the tasks that are searched for."""
    given = {name: visit.arg(name) for name in FILTERS}
    problem = None
    try:
        found = await visit.run(find_tasks(_search(given), visit.arg("after"), PAGE_ROWS))
    except AbsurdError as error:
        if not isinstance(error, InvalidOptionError):
            raise
        found, problem = FoundTasks([], 0, None), str(error)
    # What there is to choose from does not change every two seconds.
    live = visit.live
    chosen = [(name, value) for name, value in given.items() if value is not None]
    return {
        "found": found,
        "rows": [_row(visit, task) for task in found.tasks],
        "wrong": problem,
        "chosen": given,
        "filtered": bool(chosen),
        "rarely": any(given[name] for name in RARE),
        "states": STATES,
        "queues": [] if live else await visit.run(inspect.queue_names()),
        "names": [] if live else await visit.run(known_task_names(given["queue"])),
        "start": urlencode(chosen),
        "later": visit.arg("after") is not None,
        "next": None if found.next is None else urlencode([*chosen, ("after", found.next)]),
    }


def _search(given: Mapping[str, str | None]) -> TaskSearch:
    name, text, task_id = given["name"], given["text"], given["id"]
    prefix = name is not None and name.endswith("*")
    if text is not None and task_id is None and _WHOLE_ID.fullmatch(text):
        text, task_id = None, text
    return TaskSearch(
        queue_name=given["queue"],
        task_name=name[:-1] if name is not None and prefix else name,
        prefix=prefix,
        state=given["state"],
        spawned_from=_moment("from", given["from"]),
        spawned_to=_moment("to", given["to"]),
        idempotency_key=given["key"],
        task_id=task_id,
        text=text,
    )


def _moment(name: str, text: str | None) -> datetime | None:
    """A moment as browsers send it, ``2026-01-31T12:00``; in UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidOptionError(f'"{name}" must be a moment like 2026-01-31T12:00, not "{text[:80]}"') from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _row(visit: Visit, task: FoundTask) -> Mapping[str, Any]:
    """A task and what is most worth knowing of it."""
    return {"task": task, "failure": None if task.failure is None else failure_line(visit, task.failure)}


def failure_line(visit: Visit, text: str) -> str:
    """Name and message of a failure, or its JSON if it has none. Any JSON may stand there: SQL callers write it too."""
    shown = visit.redaction.shown(text, indent=None)
    try:
        failure = json.loads(shown.text)
    except (ValueError, RecursionError):
        failure = None
    if isinstance(failure, dict):
        parts = [str(failure[key]) for key in ("name", "message") if failure.get(key) is not None]
        line = ": ".join(parts) or shown.text
    else:
        line = failure if isinstance(failure, str) else shown.text
    line = " ".join(line.split())
    return line if len(line) <= FAILURE_CHARACTERS else f"{line[:FAILURE_CHARACTERS]}…"


PAGE = Page("tasks", "/tasks", "Tasks", show)
