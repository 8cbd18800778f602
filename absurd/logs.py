"""Logs of code that runs within a task: which task it is, and no line twice because of replay.

``absurdctl worker`` uses this by itself. Elsewhere: ``handler.addFilter(absurd.logs.TaskFilter())``; with structlog, put
``absurd.logs.add_task`` among its processors.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from absurd.context.base import BaseContext, current_context

FIELDS = ("task_name", "task_id", "run_id", "attempt", "queue_name")
# What a replay logs again is dropped below this level: a warning is worth more than a line too many.
KEPT_LEVEL = logging.WARNING

_NOTHING: AbstractContextManager[None] = nullcontext()


def task_fields(context: BaseContext) -> dict[str, Any]:
    """Which task, run, attempt and queue, as fields of a log record."""
    return {
        "task_name": context.task_name,
        "task_id": str(context.task_id),
        "run_id": str(context.run_id),
        "attempt": context.attempt,
        "queue_name": context.queue_name,
    }


class TaskFilter(logging.Filter):
    """For a handler: adds the fields of the task that logs, and drops what it logs again while it is replayed.

    Records of WARNING and above are kept, with the field ``replaying``; so are all with ``keep_replayed``.
    """

    def __init__(self, *, keep_replayed: bool = False) -> None:
        super().__init__()
        self._keep_replayed = keep_replayed

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        context = current_context()
        if context is None:
            return True
        for name, value in task_fields(context).items():
            if name not in record.__dict__:
                setattr(record, name, value)
        if context.is_replaying:
            record.replaying = True
            return self._keep_replayed or record.levelno >= KEPT_LEVEL
        return True


def add_task(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog that does the same. Put it first, so that what is dropped costs nothing."""
    context = current_context()
    if context is None:
        return event_dict
    for name, value in task_fields(context).items():
        event_dict.setdefault(name, value)
    if context.is_replaying:
        event_dict["replaying"] = True
        if method_name in ("debug", "info", "msg"):
            raise sys.modules["structlog"].DropEvent
    return event_dict


def bound(context: BaseContext) -> AbstractContextManager[None]:
    """Around a run: binds its fields to the context variables of structlog, if the application has imported that."""
    return _NOTHING if "structlog" not in sys.modules else _bound(context)


@contextmanager
def _bound(context: BaseContext) -> Iterator[None]:
    from structlog.contextvars import bound_contextvars

    with bound_contextvars(**task_fields(context)):
        yield
