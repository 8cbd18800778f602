"""Tasks that a task spawned."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from absurd.errors import ContextError, InvalidOptionError
from absurd.registry import Registry
from absurd.spawning import make_request
from absurd.types import SpawnOptions, SpawnRequest

# Children of one step: they are made, and recorded, in one statement.
MAX_CHILDREN = 100_000


@dataclass(frozen=True, slots=True)
class ChildTask:
    """A spawned child: give it to ``ctx.await_task`` or ``ctx.gather``."""

    task_id: UUID
    run_id: UUID
    task_name: str | None
    created: bool


def request_maker(
    registry: Registry, task: Any, all_params: Sequence[Any], options: SpawnOptions, queue: str
) -> tuple[str, Callable[[], list[SpawnRequest]]]:
    """The task's name, and what makes the requests once it is certain that they are new."""
    definition = registry.find(task)
    name = definition.name if definition is not None else task
    if isinstance(all_params, (str, bytes, Mapping)) or not isinstance(all_params, Iterable):
        raise InvalidOptionError(f"all_params must be a list of params, one for each task, not {all_params!r}")

    def make() -> list[SpawnRequest]:
        many = list(all_params)
        if len(many) > MAX_CHILDREN:
            raise InvalidOptionError(f"all_params hold the params of {len(many)} tasks; one step spawns {MAX_CHILDREN} at most")
        if len(many) > 1 and options.idempotency_key is not None:
            raise InvalidOptionError(f"idempotency_key {options.idempotency_key!r} would make one task of {len(many)}")
        return [_request(registry, name, params, options, queue) for params in many]

    if not isinstance(name, str):
        raise InvalidOptionError(
            f"{task!r} is not registered with this app; decorate it with @app.register_task or spawn it by name"
        )
    return name, make


def _request(registry: Registry, name: str, params: Any, options: SpawnOptions, queue: str) -> SpawnRequest:
    for hook in registry.before_spawn:
        changed = hook(name, params, options)
        if inspect.iscoroutine(changed):
            changed.close()
            raise ContextError(f"the before_spawn hook {hook!r} is async; ctx.spawn calls plain functions only")
        options = changed if changed is not None else options
    return make_request(registry, name, params, options, queue=queue)


def children(recorded: Sequence[Any], task_name: str | None) -> list[ChildTask]:
    """Children from what the parent recorded of them."""
    return [ChildTask(UUID(c["task_id"]), UUID(c["run_id"]), task_name, c["created"]) for c in recorded]


def as_task_id(task: Any) -> UUID:
    """The id of a child, of a handle, or given as such."""
    found = getattr(task, "task_id", task)
    if isinstance(found, UUID):
        return found
    try:
        return UUID(found)
    except (ValueError, TypeError, AttributeError):
        raise InvalidOptionError(f"a child task, a handle or a task id is needed, not {task!r}") from None
