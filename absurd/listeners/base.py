"""What a listener is: something outside that says "run this now", and the one call that makes it a task.

Nothing here relies on ``__init__`` having run, and no name that a subclass may want for itself is taken away: ``self.app`` may be
a web application, ``self.name`` or ``self.stopped`` anything.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from absurd import failpoints
from absurd.client import Absurd, AsyncAbsurd
from absurd.db import mask
from absurd.errors import ConfigurationError, InvalidOptionError, PayloadTooLargeError, SerializationError, ValidationError
from absurd.loops import LoopThread
from absurd.sources import with_source

logger = logging.getLogger("absurd.listeners")

Client = Absurd | AsyncAbsurd

# What is wrong with the call itself, and will be at every repetition.
_HOPELESS = (InvalidOptionError, SerializationError, ValidationError, PayloadTooLargeError)
# Characters of a listener's name; it goes into a header of each task that it starts.
LABEL_LENGTH = 200
# Seconds until what could not be started is tried again, doubled up to the second figure.
FIRST_RETRY = 0.5
LONGEST_RETRY = 30.0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a ``run_workflow``; true if the task is durable."""

    success: bool
    """Whether the task exists now: a worker will run it."""
    error: str | None = None
    """Why not, in words for people."""
    task_id: UUID | None = None
    run_id: UUID | None = None
    retryable: bool = False
    """Whether the same call may succeed later: the database was away, say. False: the message itself cannot become a task."""

    def __bool__(self) -> bool:
        return self.success


@dataclass(slots=True)
class Health:
    """What a listener has to tell of itself, from any of its threads: the heartbeat writes it into its row."""

    failures: int = 0
    last_error: str | None = None


class ListenerBase:
    """What sync and async listeners have in common. All of its state is made when it is first needed."""

    app: Any = None
    """The ``Absurd`` or ``AsyncAbsurd`` to spawn with. Anything else here is the subclass's own; then it is ``Absurd()``."""
    target_queue: str | None = None
    """The queue of the tasks; ``None``: that of the task's definition, or else of the app."""
    name: Any = None
    """The listener's name in the headers of its tasks and in ``list-listeners``; the name of the class if it is no text."""
    principal: Any = None
    """The system that the listener talks to, for those who keep it here."""

    def __init__(self, app: Client | None = None, *, target_queue: str | None = None, name: str | None = None) -> None:
        """Makes a listener; a subclass need not call this.

        Args:
            app: whose tasks it starts; by default ``Absurd()``, the database of the environment.
            target_queue: the queue of the tasks, if not that of their definition or of the app.
            name: the listener's name, if not that of its class.
        """
        if app is not None and not isinstance(app, (Absurd, AsyncAbsurd)):
            raise ConfigurationError(f"a listener's app must be an Absurd or AsyncAbsurd, not {app!r}")
        for attribute, value in (("app", app), ("target_queue", target_queue), ("name", name)):
            if value is not None:
                setattr(self, attribute, value)

    def _make_app(self) -> Client:
        raise NotImplementedError

    @property
    def _client(self) -> Client:
        """The client that spawns: one that was bound, the listener's own, or one for the database of the environment."""
        kept = vars(self)
        for found in (kept.get("_bound_app"), self.app, kept.get("_default_app")):
            if isinstance(found, (Absurd, AsyncAbsurd)):
                return found
        made: Client = kept.setdefault("_default_app", self._make_app())
        return made

    def _bind(self, app: Client) -> None:
        """Has the listener spawn with this app, whatever it says itself."""
        vars(self)["_bound_app"] = app

    @property
    def _has_app(self) -> bool:
        """Whether the listener says itself which app it belongs to."""
        return isinstance(self.app, (Absurd, AsyncAbsurd))

    @property
    def _label(self) -> str:
        return self.name[:LABEL_LENGTH] if isinstance(self.name, str) and self.name else type(self).__name__

    @property
    def _health(self) -> Health:
        health: Health = vars(self).setdefault("_health_made", Health())
        return health

    def _report(self, problem: object, then: str = "", trace: BaseException | None = None) -> None:
        """Takes note of a problem that the listener survives: in the log, and in its row."""
        text = describe(problem)
        health = self._health
        health.last_error, health.failures = text, health.failures + 1
        logger.warning("%s: %s%s", self._label, text, then, exc_info=trace)

    def _options(self, idempotency_key: str | None, details: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {"headers": with_source(None, "listener", self._label, **details)}
        if self.target_queue is not None:
            options["queue"] = self.target_queue
        if idempotency_key is not None:
            options["idempotency_key"] = idempotency_key
        return options

    def _refused(self, workflow_id: object, error: Exception) -> Result:
        self._report(f"{_text_of(lambda: repr(workflow_id))} was not started: {describe(error)}")
        return Result(False, describe(error), retryable=not isinstance(error, _HOPELESS))


class EventListener(ListenerBase):
    """A source of tasks, for sync code: subclass it, listen to whatever it is, and call ``run_workflow``.

    ``python -m absurd listen module:Class``, or ``absurd.listeners.run_listener``, runs it.

    Example:

        class Mailbox(EventListener):
            def start_listening(self):
                while not self.stopped.wait(5):
                    for mail in fetch_mail():
                        if self.run_workflow("handle-mail", {"text": mail.text}, idempotency_key=mail.id).success:
                            mail.delete()
    """

    def start_listening(self) -> None:
        """Listens until it is stopped; to be written by the subclass. A listener that returns has ended by itself."""
        raise NotImplementedError("Subclasses must implement start_listening()")

    def run_workflow(self, workflow_id: Any, params: Any = None, idempotency_key: str | None = None) -> Result:
        """Starts a task, which is durable when this returns a success. Never raises.

        If the database was reached before and is away now, it is waited for, up to 30 seconds.

        Args:
            workflow_id: the name of the task, or a function registered with the app.
            params: of the task; JSON, or what the handler's declared type takes.
            idempotency_key: a second call with the same key, at any time, returns the first task and starts nothing.

        Returns:
            ``Result(success, error, task_id, run_id, retryable)``. After a failure that is ``retryable`` keep the message and
            try again later.
        """
        return self._run_workflow(workflow_id, params, idempotency_key)

    def _run_workflow(self, workflow_id: Any, params: Any, idempotency_key: str | None, **details: Any) -> Result:
        """The same, with more to say about the source."""
        try:
            client, options = self._client, self._options(idempotency_key, details)
            if isinstance(client, AsyncAbsurd):
                handle: Any = self._loop_thread.submit(client.spawn(workflow_id, params, **options)).result()
            else:
                handle = client.spawn(workflow_id, params, **options)
            if failpoints.hook is not None:
                failpoints.hook("listener.spawned", self)
        except Exception as error:
            return self._refused(workflow_id, error)
        return Result(True, None, handle.task_id, handle.run_id)

    def _insist(self, workflow_id: Any, params: Any, idempotency_key: str | None, **details: Any) -> Result:
        """The same until it succeeds, cannot succeed, or the listener ends: for what its source will not say again."""
        retry = Backoff(FIRST_RETRY, LONGEST_RETRY)
        while True:
            result = self._run_workflow(workflow_id, params, idempotency_key, **details)
            if result.success or not result.retryable or self.stopped.wait(retry.next()):
                return result

    def _make_app(self) -> Client:
        return Absurd()

    @property
    def _loop_thread(self) -> LoopThread:
        """Where an ``AsyncAbsurd`` spawns for this sync listener."""
        thread: LoopThread = vars(self).setdefault("_loop_thread_made", LoopThread("absurd listener"))
        return thread

    @functools.cached_property
    def stopped(self) -> threading.Event:
        """Is set when the listener shall end. A loop that looks at it is never interrupted between two messages."""
        event: threading.Event = vars(self).setdefault("_stop_event", threading.Event())
        return event

    def stop(self) -> None:
        """Asks the listener to end; from any thread."""
        vars(self).setdefault("_stop_event", threading.Event()).set()


class AsyncEventListener(ListenerBase):
    """A source of tasks, for async code; as ``EventListener``, with ``await``."""

    async def start_listening(self) -> None:
        """Listens until it is stopped; to be written by the subclass. A listener that returns has ended by itself."""
        raise NotImplementedError("Subclasses must implement start_listening()")

    async def run_workflow(self, workflow_id: Any, params: Any = None, idempotency_key: str | None = None) -> Result:
        """Starts a task, which is durable when this returns a success. Never raises; see ``EventListener.run_workflow``."""
        try:
            client, options = self._client, self._options(idempotency_key, {})
            if isinstance(client, AsyncAbsurd):
                handle: Any = await client.spawn(workflow_id, params, **options)
            else:
                handle = await asyncio.to_thread(lambda: client.spawn(workflow_id, params, **options))
            if failpoints.hook is not None:
                failpoints.hook("async-listener.spawned", self)
        except Exception as error:
            return self._refused(workflow_id, error)
        return Result(True, None, handle.task_id, handle.run_id)

    def _make_app(self) -> Client:
        return AsyncAbsurd()

    @functools.cached_property
    def stopped(self) -> asyncio.Event:
        """Is set when the listener shall end. A loop that looks at it is never interrupted between two messages."""
        event: asyncio.Event = vars(self).setdefault("_stop_event", asyncio.Event())
        return event

    def stop(self) -> None:
        """Asks the listener to end; to be called on its event loop."""
        vars(self).setdefault("_stop_event", asyncio.Event()).set()


class Backoff:
    """Delays that double, from the first to the longest, in seconds."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._following = first

    def next(self) -> float:
        """The next delay."""
        delay, self._following = self._following, min(self._following * 2, self._longest)
        return delay

    def reset(self) -> None:
        """Begins anew, after a success."""
        self._following = self._first


def describe(problem: object) -> str:
    """A problem in one text that can be stored, without passwords."""
    if isinstance(problem, BaseException):
        from_library = type(problem).__module__.startswith("absurd.")
        text = _text_of(lambda: str(problem))
        problem = text if from_library and text else f"{type(problem).__name__}: {text}" if text else type(problem).__name__
    # PostgreSQL stores neither NUL characters nor lone surrogates.
    return mask(_text_of(lambda: str(problem))).replace("\0", "\\0").encode(errors="backslashreplace").decode()


def _text_of(read: Callable[[], str]) -> str:
    try:
        return read()
    except Exception as error:
        return f"(its text could not be read: {type(error).__name__})"
