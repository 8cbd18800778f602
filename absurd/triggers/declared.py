"""The triggers that an application declares, checked when it does; and what is stored of them when a worker begins to poll."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from absurd.codec import encode
from absurd.context.durations import check_interval
from absurd.errors import ConfigurationError, InvalidOptionError
from absurd.queries.triggers import TriggerDefinition
from absurd.registry import Registry, check_name
from absurd.spawning import check_headers, check_queue_name, merge, options_json
from absurd.triggers.trigger import Trigger
from absurd.types import SpawnOptions

# Seconds; what the SQL functions take.
SHORTEST = 0.1
LONGEST_TIMEOUT = 86_400.0


@dataclass(frozen=True, slots=True)
class DeclaredTrigger:
    """A trigger of an application, its task found and its times in seconds."""

    trigger: Trigger
    name: str
    task: str
    poll_interval: float
    poll_timeout: float
    allow_concurrent: bool
    queue_name: str
    options: SpawnOptions


def declare(registry: Registry, trigger: object, options: SpawnOptions, *, queue: str) -> DeclaredTrigger:
    """Adds a trigger to an application.

    Args:
        registry: of the application.
        trigger: an instance.
        options: of the spawns; they win over those of the task.
        queue: where its tasks go when neither the options nor the task say.

    Raises:
        ConfigurationError: it is no trigger, has no ``poll``, or its name is taken.
        InvalidOptionError: an attribute or option cannot be used.
    """
    if not isinstance(trigger, Trigger):
        hint = "; give an instance of it" if isinstance(trigger, type) and issubclass(trigger, Trigger) else ""
        raise ConfigurationError(f"a trigger is an instance of a subclass of absurd.Trigger, not {trigger!r}{hint}")
    if type(trigger).poll is Trigger.poll and "poll" not in vars(trigger):
        raise ConfigurationError(f"{type(trigger).__name__} has no poll(); write one that says when it fires")
    name = check_name("trigger name", trigger.name or type(trigger).__name__)
    if not isinstance(trigger.allow_concurrent, bool):
        raise InvalidOptionError(f"allow_concurrent must be True or False, not {trigger.allow_concurrent!r}")
    timeout = check_interval("poll_timeout", trigger.poll_timeout, SHORTEST)
    if timeout > LONGEST_TIMEOUT:
        raise InvalidOptionError(f"poll_timeout must be at most {LONGEST_TIMEOUT:g} seconds (a day), not {timeout:g}")
    if options.queue is not None:
        check_queue_name(options.queue)
    options_json(options)
    check_headers(options.headers)
    declared = DeclaredTrigger(
        trigger=trigger,
        name=name,
        task=_task_name(registry, name, trigger),
        poll_interval=check_interval("poll_interval", trigger.poll_interval, SHORTEST),
        poll_timeout=timeout,
        allow_concurrent=trigger.allow_concurrent,
        queue_name=queue,
        options=options,
    )
    if name in registry.triggers:
        raise ConfigurationError(f'trigger "{name}" is declared twice; give one another name')
    trigger.name = name
    registry.triggers[name] = declared
    return declared


def declared_triggers(registry: Registry) -> Mapping[str, DeclaredTrigger]:
    """The triggers of an application by their names."""
    return cast(Mapping[str, DeclaredTrigger], registry.triggers)


def definition(registry: Registry, declared: DeclaredTrigger) -> TriggerDefinition:
    """What is stored of a trigger. The defaults of its task are looked up now: it may have been registered later."""
    task = registry.find(declared.task)
    defaults = registry.defaults if task is None else merge(task.defaults, registry.defaults)
    merged = merge(declared.options, defaults)
    return TriggerDefinition(
        name=declared.name,
        queue_name=check_queue_name(declared.queue_name if merged.queue is None else merged.queue),
        task_name=declared.task,
        poll_interval=declared.poll_interval,
        poll_timeout=declared.poll_timeout,
        allow_concurrent=declared.allow_concurrent,
        headers=None if merged.headers is None else encode(dict(merged.headers), "headers"),
        options=encode(options_json(merged), "options"),
        declared_by=registry.queue_name,
    )


def _task_name(registry: Registry, name: str, trigger: Trigger) -> str:
    # As it was written: a function in a class body would come as a bound method.
    task = inspect.getattr_static(trigger, "task")
    if isinstance(task, staticmethod):
        task = task.__func__
    elif not callable(task):
        task = trigger.task
    if task is None:
        raise ConfigurationError(f'trigger "{name}" does not say which task it starts; set task= to a function or a name')
    found = registry.find(task) if isinstance(task, str) or callable(task) else None
    if found is not None:
        return found.name
    if callable(task):
        raise InvalidOptionError(f'trigger "{name}": {task!r} is no task of this app; decorate it with @app.register_task first')
    return check_name("task name", task)
