"""The RabbitMQ of the tests: ``ABSURD_TEST_AMQP_URL``, else the one of this machine. In CI there must be one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError

AMQP_URL = os.environ.get("ABSURD_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")


def require_broker() -> None:
    """Skips the test where no broker answers; fails it in CI."""
    try:
        pika.BlockingConnection(pika.URLParameters(AMQP_URL)).close()
    except (AMQPError, OSError) as error:
        reason = f"no RabbitMQ at ABSURD_TEST_AMQP_URL or 127.0.0.1:5672: {error!r}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


class Broker:
    """A queue of the test's own, with its dead letters."""

    def __init__(self) -> None:
        self.queue = f"absurd-test-{uuid.uuid4().hex}"
        self._connection = pika.BlockingConnection(pika.URLParameters(AMQP_URL))
        self.channel = self._connection.channel()

    def declare(self, **arguments: Any) -> None:
        """Makes the queue before the listener does."""
        self.channel.queue_declare(self.queue, durable=True, arguments=arguments or None)

    def publish(self, body: Any, **properties: Any) -> None:
        """Sends a message: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.channel.basic_publish("", self.queue, content, pika.BasicProperties(delivery_mode=2, **properties))

    def count(self, suffix: str = "") -> int:
        """The messages that nobody holds."""
        found = self.channel.queue_declare(self.queue + suffix, passive=True)
        return int(found.method.message_count)

    def take_dead(self) -> tuple[bytes, dict[str, Any]] | None:
        """A dead letter and its headers, if there is one."""
        method, properties, body = self.channel.basic_get(f"{self.queue}.dead-letter", auto_ack=True)
        return None if method is None else (body, dict(properties.headers))

    def close(self) -> None:
        """Deletes the queues."""
        for suffix in ("", ".dead-letter"):
            self.channel.queue_delete(self.queue + suffix)
        self._connection.close()


@contextmanager
def own_queue() -> Iterator[Broker]:
    """A queue that is deleted at the end of the block."""
    broker = Broker()
    try:
        yield broker
    finally:
        broker.close()
