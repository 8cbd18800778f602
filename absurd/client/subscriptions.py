"""Events, as methods of clients; ``aio_subscriptions.py`` is generated from this file by ``scripts/build_async.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from absurd import telemetry
from absurd.client.event_requests import EventRequests
from absurd.client.keywords import SubscriptionKeywords
from absurd.client.shells import SyncShell
from absurd.queries.events import Dispatch, append_event, dispatch_event
from absurd.queries.subscriptions import Subscription


class SubscriptionMethods(EventRequests, SyncShell):
    """What ``Absurd`` does with events and subscriptions."""

    def emit_event(
        self,
        name: str,
        payload: Any = None,
        *,
        queue: str | None = None,
        idempotency_key: str | None = None,
        source: Mapping[str, Any] | None = None,
        conn: Any = None,
    ) -> int:
        """Emits an event: it wakes its waiters, starts the tasks of its subscribers, and is kept for waits to come.

        All of that is one transaction.

        Args:
            name: of the event, 1 to 1,000 bytes.
            payload: JSON.
            queue: where it is emitted; the app's, if none is named.
            idempotency_key: an emission with a key that the queue has seen does nothing and returns the place of the first.
            source: what emits it, such as ``{"kind": "http", "name": "api"}``: stands in the headers of the tasks that it starts.
            conn: an open connection of the caller's: the emission is part of its transaction, which is not committed here.

        Returns:
            Its place in the log, to await later ones with ``since=``.

        Raises:
            InvalidOptionError, SerializationError: what was given cannot be used; nothing was sent.
            QueueNotFoundError, PayloadTooLargeError: the database refused it.
            DatabaseUnavailableError: the database cannot be reached; without a key also when the connection breaks before the
                answer, for twice would be two events. With a key it is sent again.
        """
        with telemetry.emitting(self._queue(queue), name):
            return self._run(append_event(self._emission(name, payload, queue, idempotency_key, source)), conn)

    def dispatch_event(
        self,
        name: str,
        payload: Any = None,
        *,
        queue: str | None = None,
        idempotency_key: str | None = None,
        source: Mapping[str, Any] | None = None,
        conn: Any = None,
    ) -> Dispatch:
        """Emits an event like ``emit_event`` and says which tasks it has started, one for each subscriber, in their order.

        The tasks are durable when this returns; nobody has waited for them to run. With a key that the queue has seen: the
        tasks of the first emission. Needs READ COMMITTED, which is PostgreSQL's default. Arguments and errors are those of
        ``emit_event``.

        Example:

            dispatch = app.dispatch_event("order.placed", {"order": 17})
            for task in dispatch.tasks:
                print(task.task_name, task.task_id)
        """
        with telemetry.emitting(self._queue(queue), name):
            return self._run(dispatch_event(self._emission(name, payload, queue, idempotency_key, source)), conn)

    def subscribe(
        self,
        pattern: str,
        task: Callable[..., Any] | str,
        *,
        config: Any = None,
        queue: str | None = None,
        target_queue: str | None = None,
        conn: Any = None,
        **options: Unpack[SubscriptionKeywords],
    ) -> Subscription:
        """Has a task started for each event from now on whose name fits, exactly once for each emission.

        Its params are ``{"event_type": name, "event_payload": …, "event_config": config, "event_time": ISO 8601}``. To say the
        same again changes nothing, so that programs may subscribe whenever they start; other values replace the former.

        Args:
            pattern: the name of an event, or the beginning of names with a ``*`` behind it (``payment.*``); ``*`` alone is every
                event.
            task: a function registered with this app, or the name of a task.
            config: JSON that is given to each task.
            queue: whose events are meant; the app's, if none is named.
            target_queue: where the tasks go; otherwise the queue of the task's definition, otherwise that of the event.
            conn: as for ``emit_event``.
            options: of the spawns, see ``SubscriptionKeywords``. What is not given comes from the task's definition, then from
                the app, as they are now.

        Raises:
            InvalidOptionError, SerializationError: what was given cannot be used.
            QueueNotFoundError, PayloadTooLargeError: the database refused it.
        """
        return self._run(self._subscribe(pattern, task, config, queue, target_queue, options), conn)

    def unsubscribe(self, pattern: str, task: Callable[..., Any] | str, *, queue: str | None = None, conn: Any = None) -> bool:
        """Ends a subscription: when this has returned nothing more is started by it, and what was started goes on.

        Returns whether there was one. Raises ``QueueNotFoundError``.
        """
        return self._run(self._unsubscribe(pattern, task, queue), conn)

    def list_subscriptions(self, pattern: str | None = None, *, queue: str | None = None, conn: Any = None) -> list[Subscription]:
        """The subscriptions to events of a queue (the app's, if none is named), in the order in which they were made.

        ``pattern`` shows those of exactly this pattern only.
        """
        return self._run(self._list_subscriptions(pattern, queue), conn)
