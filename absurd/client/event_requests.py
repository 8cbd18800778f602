"""From what a caller says of an event or a subscription to a query: names checked, values encoded, defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absurd import telemetry
from absurd.client.base import BaseClient
from absurd.client.keywords import subscription_options
from absurd.codec import encode
from absurd.errors import InvalidOptionError
from absurd.queries import subscriptions
from absurd.queries.events import Emission
from absurd.queries.query import Query
from absurd.queries.subscriptions import Subscription
from absurd.registry import check_name
from absurd.spawning import check_queue_name, merge, options_json


class EventRequests(BaseClient):
    """What the methods about events need before they ask the database."""

    def _emission(
        self, name: str, payload: Any, queue: str | None, key: str | None, source: Mapping[str, Any] | None
    ) -> Emission:
        check_name("event name", name)
        text = None if payload is None else encode(payload, f'payload of event "{name}"')
        if source is not None and not isinstance(source, Mapping):
            raise InvalidOptionError(f"source must be a dict such as {{'kind': 'http', 'name': 'api'}}, not {source!r}")
        return Emission(
            self._queue(queue),
            name,
            text,
            None if key is None else check_name("idempotency_key", key),
            self._source(name, source),
        )

    def _source(self, name: str, source: Mapping[str, Any] | None) -> str | None:
        """The source as JSON text, with the present trace."""
        if telemetry.tracing is not None:
            source = telemetry.with_trace(source) or source
        return None if source is None else encode(dict(source), f'source of event "{name}"')

    def _subscribe(
        self, pattern: str, task: Any, config: Any, queue: str | None, target_queue: str | None, keywords: Mapping[str, Any]
    ) -> Query[Subscription]:
        check_name("pattern", pattern)
        task_name = self._task_name(task)
        definition = self.registry.find(task)
        defaults = self.registry.defaults if definition is None else merge(definition.defaults, self.registry.defaults)
        options = merge(subscription_options(keywords), defaults)
        target = options.queue if target_queue is None else check_queue_name(target_queue)
        stored = {**options_json(options), "headers": options.headers, "target_queue": target}
        known = {name: value for name, value in stored.items() if value is not None}
        return subscriptions.subscribe(
            self._queue(queue),
            pattern,
            task_name,
            encode(known, f'options of subscription "{pattern}"'),
            None if config is None else encode(config, f'config of subscription "{pattern}"'),
        )

    def _unsubscribe(self, pattern: str, task: Any, queue: str | None) -> Query[bool]:
        return subscriptions.unsubscribe(self._queue(queue), check_name("pattern", pattern), self._task_name(task))

    def _list_subscriptions(self, pattern: str | None, queue: str | None) -> Query[list[Subscription]]:
        wanted = None if pattern is None else check_name("pattern", pattern)
        return subscriptions.list_subscriptions(self._queue(queue), wanted)
