"""What awaited tasks and events come back as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from absurd.errors import TaskCancelledError, TaskFailedError
from absurd.registry import Registry
from absurd.types import Checkpoint, Event


def outcome_value(outcome: Mapping[str, Any], registry: Registry, task_name: str | None) -> Any:
    """What an awaited task returned.

    Raises:
        TaskFailedError, TaskCancelledError: it did not.
    """
    if outcome["state"] == "completed":
        definition = registry.find(task_name) if task_name is not None else None
        if definition is None:
            return outcome["result"]
        return definition.result.load(outcome["result"], f'result of task "{task_name}"')
    failure = outcome.get("failure")
    if outcome["state"] == "cancelled":
        raise TaskCancelledError(f"task {outcome['task_id']} was cancelled")
    detail = f"{failure.get('name')}: {failure.get('message')}" if isinstance(failure, Mapping) else str(failure)
    raise TaskFailedError(f"task {outcome['task_id']} failed: {detail}", failure)


def outcome_values(
    outcomes: Sequence[Mapping[str, Any]], registry: Registry, names: Sequence[str | None], return_exceptions: bool
) -> list[Any]:
    """What awaited tasks returned; an error raises, or stands in its place."""
    values: list[Any] = []
    for outcome, name in zip(outcomes, names, strict=True):
        try:
            values.append(outcome_value(outcome, registry, name))
        except (TaskFailedError, TaskCancelledError) as error:
            if not return_exceptions:
                raise
            values.append(error)
    return values


def event_of(name: str, arrival: Checkpoint) -> Event:
    """The event that an arrival recorded."""
    return Event(name, arrival.state, arrival.event_seq or 0)
