"""Events that start workflows, for programs that think in event types and workflow ids: a face of the client's subscriptions."""

from __future__ import annotations

from typing import Any, TypeAlias, overload

from absurd.client import Absurd, AsyncAbsurd
from absurd.queries.events import Dispatch
from absurd.queries.subscriptions import Subscription

Record: TypeAlias = dict[str, Any]


class EventDispatcher:
    """Subscribes workflows to types of events and dispatches events to them; durable, and shared by all processes.

    An event type is the name of an event, or its beginning with a ``*`` behind; a workflow id is the name of a task. A
    workflow gets the params ``event_type``, ``event_payload``, ``event_config`` and ``event_time``, in this order.

    Example:

        dispatcher = EventDispatcher()
        dispatcher.subscribe("order.placed", "send-invoice", {"copies": 2})
        dispatcher.dispatch("order.placed", {"order": 17})
    """

    def __init__(self, app: Absurd | None = None, queue: str | None = None) -> None:
        """Makes a dispatcher.

        Args:
            app: whose database and tasks are meant; one of its own, as ``Absurd()`` makes it, if none is given.
            queue: where the events are; the app's queue, if none is named.
        """
        self.app = Absurd() if app is None else app
        self.queue = queue

    def subscribe(self, event_type: str, workflow_id: str, config: Any = None) -> Record:
        """Has a workflow started for each event of a type. The same again changes nothing, another config replaces the former.

        Returns the record: ``{"workflow_id", "config", "created_at"}``, the last in ISO 8601.
        """
        return _record(self.app.subscribe(event_type, workflow_id, config=config, queue=self.queue))

    def unsubscribe(self, event_type: str, workflow_id: str) -> bool:
        """Ends a subscription; whether there was one."""
        return self.app.unsubscribe(event_type, workflow_id, queue=self.queue)

    @overload
    def get_subscriptions(self, event_type: None = None) -> dict[str, list[Record]]: ...

    @overload
    def get_subscriptions(self, event_type: str) -> list[Record]: ...

    def get_subscriptions(self, event_type: str | None = None) -> dict[str, list[Record]] | list[Record]:
        """The records of all event types, by type; or those of one, in the order in which they subscribed."""
        return _records(self.app.list_subscriptions(event_type, queue=self.queue), event_type)

    def dispatch(self, event_type: str, payload: Any = None) -> list[Record]:
        """Emits an event and returns as soon as the tasks of its subscribers are durable.

        Returns, for each of them, ``{"workflow_id", "run_id", "status": "PENDING"}`` in the order in which they subscribed;
        nothing if nobody has. One whose task cannot be started has ``"status": "FAILED"``, no run id, and an ``error``; its
        neighbours start.
        """
        return _started(self.app.dispatch_event(event_type, payload, queue=self.queue))


class AsyncEventDispatcher:
    """The same for asyncio, with an ``AsyncAbsurd``."""

    def __init__(self, app: AsyncAbsurd | None = None, queue: str | None = None) -> None:
        """Makes a dispatcher, as ``EventDispatcher``."""
        self.app = AsyncAbsurd() if app is None else app
        self.queue = queue

    async def subscribe(self, event_type: str, workflow_id: str, config: Any = None) -> Record:
        """As ``EventDispatcher.subscribe``."""
        return _record(await self.app.subscribe(event_type, workflow_id, config=config, queue=self.queue))

    async def unsubscribe(self, event_type: str, workflow_id: str) -> bool:
        """As ``EventDispatcher.unsubscribe``."""
        return await self.app.unsubscribe(event_type, workflow_id, queue=self.queue)

    @overload
    async def get_subscriptions(self, event_type: None = None) -> dict[str, list[Record]]: ...

    @overload
    async def get_subscriptions(self, event_type: str) -> list[Record]: ...

    async def get_subscriptions(self, event_type: str | None = None) -> dict[str, list[Record]] | list[Record]:
        """As ``EventDispatcher.get_subscriptions``."""
        return _records(await self.app.list_subscriptions(event_type, queue=self.queue), event_type)

    async def dispatch(self, event_type: str, payload: Any = None) -> list[Record]:
        """As ``EventDispatcher.dispatch``."""
        return _started(await self.app.dispatch_event(event_type, payload, queue=self.queue))


def _record(subscription: Subscription) -> Record:
    return {
        "workflow_id": subscription.task_name,
        "config": subscription.config,
        "created_at": subscription.created_at.isoformat(),
    }


def _records(subscriptions: list[Subscription], event_type: str | None) -> dict[str, list[Record]] | list[Record]:
    if event_type is not None:
        return [_record(subscription) for subscription in subscriptions]
    found: dict[str, list[Record]] = {}
    for subscription in subscriptions:
        found.setdefault(subscription.pattern, []).append(_record(subscription))
    return found


def _started(dispatch: Dispatch) -> list[Record]:
    return [
        {"workflow_id": task.task_name, "run_id": str(task.run_id), "status": "PENDING"}
        if task.run_id is not None
        else {"workflow_id": task.task_name, "run_id": None, "status": "FAILED", "error": task.message}
        for task in dispatch.tasks
    ]
