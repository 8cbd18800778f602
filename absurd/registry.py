"""Task definitions: name, handler, types, defaults; and the hooks around them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from absurd.codec import Codec, first_parameter_codec, return_codec
from absurd.errors import ConfigurationError, InvalidOptionError
from absurd.types import DEFAULT_QUEUE, Settled, SpawnOptions

Handler = Callable[..., Any]
MAX_NAME_BYTES = 1000


def check_name(what: str, name: object) -> str:
    """Returns the name if the database can index it.

    Raises:
        InvalidOptionError: it is empty, no string, longer than 1,000 bytes, or holds a NUL character or lone surrogate.
    """
    if not isinstance(name, str) or not name:
        raise InvalidOptionError(f"{what} must be a non-empty string, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidOptionError(f"{what} {name!a} holds a lone surrogate and is no Unicode text") from None
    if size > MAX_NAME_BYTES:
        raise InvalidOptionError(f"{what} {name[:40]!r}… has {size} bytes; the limit is {MAX_NAME_BYTES}")
    if "\x00" in name:
        raise InvalidOptionError(f"{what} {name!r} holds a NUL character")
    return name


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """A registered task: its handler, and what a spawn of it gets when the caller says nothing."""

    name: str
    handler: Handler
    is_async: bool
    params: Codec
    result: Codec
    defaults: SpawnOptions = field(default_factory=SpawnOptions)
    no_retry_on: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True, slots=True)
class DeclaredSchedule:
    """A schedule in the code of an application; ``name`` is its task's if it has none of its own."""

    handler: Handler
    name: str | None
    params: Any
    options: SpawnOptions
    timing: dict[str, Any]


class Registry:
    """The tasks and hooks of one application."""

    def __init__(self) -> None:
        self._by_name: dict[str, TaskDefinition] = {}
        self._by_handler: dict[Handler, TaskDefinition] = {}
        self.before_spawn: list[Callable[..., Any]] = []
        self.around_execution: list[Callable[..., Any]] = []
        # Of the whole application: what neither a spawn nor its task's definition says.
        self.defaults = SpawnOptions()
        # What spawns without options of their own come to, by the id of their task's defaults; see make_request().
        self.settled: dict[int, Settled] = {}
        # The application's own queue, by which the schedules that it declares are known as its own.
        self.queue_name = DEFAULT_QUEUE
        self.schedules: list[DeclaredSchedule] = []
        # What absurd.triggers.declared makes of the application's triggers, by name.
        self.triggers: dict[str, Any] = {}
        # The address under which the routes of absurd.web are reached, for links.
        self.public_url: str | None = None

    def register(
        self, handler: Handler, name: str | None, defaults: SpawnOptions, no_retry_on: tuple[type[BaseException], ...] = ()
    ) -> TaskDefinition:
        """Adds a task.

        Raises:
            ConfigurationError: the name is taken or unusable, or the handler does not take ``(params, ctx)``.
        """
        if not callable(handler):
            raise ConfigurationError(f"a task is a function with two arguments, (params, ctx), not {handler!r}")
        name = check_name("task name", name if name is not None else handler.__name__)
        known = self._by_name.get(name)
        if known is not None and known.handler is not handler:
            raise ConfigurationError(
                f'task "{name}" is registered twice: by {_where(known.handler)} and by {_where(handler)}; give one another name'
            )
        _check_signature(name, handler)
        definition = TaskDefinition(
            name=name,
            handler=handler,
            is_async=inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__),
            params=first_parameter_codec(handler),
            result=return_codec(handler),
            defaults=defaults,
            no_retry_on=no_retry_on,
        )
        self._by_name[name] = definition
        self._by_handler[handler] = definition
        return definition

    def find(self, task: str | Handler) -> TaskDefinition | None:
        """The definition of a task by its name or its handler; ``None`` when it is not registered here."""
        if isinstance(task, str):
            return self._by_name.get(task)
        try:
            return self._by_handler.get(task)
        except TypeError:  # it has no hash, so that it was not registered either
            return None

    def __iter__(self) -> Iterator[TaskDefinition]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def _where(handler: Handler) -> str:
    return f"{handler.__module__}.{getattr(handler, '__qualname__', handler)}"


def _check_signature(name: str, handler: Handler) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigurationError(f'task "{name}": {_where(handler)} is a generator; a handler is a function or an async function')
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        raise ConfigurationError(f'task "{name}": {_where(handler)} must take two arguments, (params, ctx)') from None
