"""What a task has done, as one document: exported from a database, kept in a file, replayed against new code."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from absurd import schema
from absurd.db import run
from absurd.errors import ConfigurationError, TaskNotFoundError
from absurd.queries import inspect
from absurd.types import Checkpoint
from absurd.worker.runner import package_version

FORMAT = "absurd-history"
VERSION = 1
REDACTED = "***"

UNFINISHED = ("pending", "running", "sleeping")
_STATES = (*UNFINISHED, "completed", "failed", "cancelled")
_OPTIONS = ("max_attempts", "retry_strategy", "priority", "max_delay", "max_duration", "idempotency_key")
_TASK = ("state", "parent_task_id", "spawned_at", "started_at", "finished_at")
_ATTEMPT = ("attempt", "state", "cause", "started_at", "ended_at", "failure")
_CHECKPOINT = ("step_name", "position", "kind", "state", "event_seq", "completed_at")
_WAIT = ("step_name", "kind", "queue_name", "event_name", "awaited_task_id", "until")


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """A task and what it has done. ``document`` is the whole of what was exported; the rest is what replay needs of it."""

    task_id: UUID
    run_id: UUID
    task_name: str
    queue_name: str
    state: str
    params: Any
    headers: Any
    attempt: int
    max_attempts: int | None
    parent_task_id: UUID | None
    checkpoints: Sequence[Checkpoint]
    waits: Sequence[str]
    """Names of the steps in which it sleeps."""
    failures: Sequence[str]
    """Names of the errors that its attempts ended with."""
    result: Any
    document: Mapping[str, Any]

    def __str__(self) -> str:
        return f'task "{self.task_name}" {self.task_id}'


def export_task(conn: psycopg.Connection[Any], task_id: UUID | str, redact: Collection[str] = ()) -> dict[str, Any]:
    """The history of a task as a document for ``json.dumps``: reads only, and changes nothing.

    Where a token's secret stood, it has ``***``: who may read may not answer.

    Args:
        conn: a connection to the database of the task.
        task_id: which task.
        redact: keys whose values are replaced by ``***``, wherever in params, headers, options, results, checkpoints and
            failures an object has them. Code that reads such a value replays with the stars.

    Raises:
        TaskNotFoundError: there is no such task.
    """
    task_id = UUID(str(task_id))
    text = run(conn, inspect.show_task(task_id))
    if text is None:
        raise TaskNotFoundError(f"there is no task {task_id} in this database; absurdctl list-tasks shows those that are")
    task = json.loads(text)
    if task["checkpoint_count"] > len(task["checkpoints"]):
        task["checkpoints"] = _all_checkpoints(conn, task_id)
    return _document(task, run(conn, inspect.current_time()), frozenset(redact))


def _all_checkpoints(conn: psycopg.Connection[Any], task_id: UUID) -> list[dict[str, Any]]:
    """Those of a long history, which ``show_task`` cuts; without their times."""
    found: list[dict[str, Any]] = []
    place = (-1, "")
    while (text := run(conn, inspect.list_checkpoints(task_id, *place))) is not None:
        names = ("step_name", "position", "kind", "state", "event_seq")
        found += [dict(zip(names, row, strict=True)) for row in json.loads(text)]
        place = (found[-1]["position"], found[-1]["step_name"])
    return found


def _document(task: Mapping[str, Any], now: datetime, redact: frozenset[str]) -> dict[str, Any]:
    def clean(value: Any) -> Any:
        return _redact(value, redact) if redact else value

    return {
        "format": FORMAT,
        "version": VERSION,
        "exported_at": now.isoformat(),
        "library_version": package_version(),
        "schema_version": schema.REQUIRED_VERSION,
        "task_id": task["task_id"],
        "run_id": task["run_id"],
        "task_name": task["task_name"],
        "queue_name": task["queue_name"],
        **_pick(task, _TASK),
        "attempt": task["attempt"] or 1,
        "params": clean(task["params"]),
        "headers": clean(task["headers"]),
        "options": clean(_pick(task, _OPTIONS)),
        "attempts": [clean(_pick(attempt, _ATTEMPT)) for attempt in task["attempts"]],
        "checkpoints": [_pick(point, _CHECKPOINT) | {"state": clean(point["state"])} for point in task["checkpoints"]],
        "waits": [_pick(wait, _WAIT) for wait in task["waits"]],
        "result": clean(task["result"]),
        "failure": clean(task["failure"]),
    }


def _pick(whole: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: whole.get(name) for name in names}


def _redact(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: REDACTED if key in keys else _redact(item, keys) for key, item in value.items()}
    return [_redact(item, keys) for item in value] if isinstance(value, list) else value


def load_history(source: str | Path | Mapping[str, Any] | TaskHistory) -> TaskHistory:
    """The history of a task, from the file that ``absurdctl export-task`` wrote, or from its content as a dict.

    Raises:
        ConfigurationError: it is no such document; the message names the file and what is wrong with it.
        OSError: the file cannot be read.
    """
    if isinstance(source, TaskHistory):
        return source
    if isinstance(source, Mapping):
        return _read(source, "the document")
    if not isinstance(source, (str, Path)):
        raise ConfigurationError(f"a history is a path, a dict or what load_history returned, not {type(source).__name__}")
    path = Path(source)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no history of a task: it is no JSON ({error})") from None
    return _read(document, str(path))


def load_histories(directory: str | Path) -> Iterator[tuple[Path, TaskHistory]]:
    """All histories in a directory and those below it: the files that end in ``.json``, in order of their names.

    Raises:
        ConfigurationError: there is none, or one is no history. A test over no histories would be green for nothing.
    """
    paths = sorted(Path(directory).rglob("*.json"))
    if not paths:
        raise ConfigurationError(
            f"{directory} holds no histories (*.json)" if Path(directory).is_dir() else f"{directory} is no directory"
        )
    for path in paths:
        yield path, load_history(path)


def _read(document: Any, where: str) -> TaskHistory:
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ConfigurationError(
            f'{where} is no history of a task: it has no "format": "{FORMAT}"; write one with absurdctl export-task'
        )
    if document.get("version") != VERSION:
        raise ConfigurationError(
            f"{where} has version {document.get('version')!r} of the format; this release reads version {VERSION}. "
            "Use the release that wrote it, or export the task again"
        )
    try:
        return _history(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{where} is no whole history of a task: {type(error).__name__}: {error}") from None


def _history(document: Mapping[str, Any]) -> TaskHistory:
    state, name, parent = document["state"], document["task_name"], document["parent_task_id"]
    if state not in _STATES:
        raise ValueError(f"state {state!r} is none of {', '.join(_STATES)}")
    if not isinstance(name, str):
        raise TypeError(f"task_name must be a string, not {name!r}")
    checkpoints = [
        Checkpoint(str(point["step_name"]), int(point["position"]), str(point["kind"]), point["state"], point.get("event_seq"))
        for point in document["checkpoints"]
    ]
    failures = [attempt["failure"] for attempt in document["attempts"]]
    return TaskHistory(
        task_id=UUID(document["task_id"]),
        run_id=UUID(document["run_id"]),
        task_name=name,
        queue_name=str(document["queue_name"]),
        state=state,
        params=document["params"],
        headers=document["headers"],
        attempt=int(document["attempt"]),
        max_attempts=document["options"]["max_attempts"],
        parent_task_id=None if parent is None else UUID(parent),
        checkpoints=sorted(checkpoints, key=lambda point: (point.position, point.step_name)),
        waits=[wait["step_name"] for wait in document["waits"] if wait["step_name"] is not None],
        failures=[str(failure.get("name")) for failure in failures if isinstance(failure, Mapping)],
        result=document["result"],
        document=document,
    )
