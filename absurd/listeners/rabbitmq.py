"""Starts tasks for messages of a RabbitMQ queue."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from absurd import failpoints
from absurd.db import mask
from absurd.errors import ConfigurationError, InvalidOptionError
from absurd.listeners.base import FIRST_RETRY, LONGEST_RETRY, Backoff, EventListener, Result
from absurd.listeners.order import MalformedMessageError, Order, read_order

if TYPE_CHECKING:
    from pika import BlockingConnection
    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import BasicProperties

T = TypeVar("T")

logger = logging.getLogger("absurd.listeners")

URL_VARIABLE = "ABSURD_AMQP_URL"
DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
QUEUE = "cdktr-workflows"
DEAD_LETTERS = ".dead-letter"
# Bytes that AMQP allows in the name of a queue.
LONGEST_QUEUE = 255
MAX_BODY_BYTES = 1_000_000
# Bytes of the reason that travels with a dead letter.
LONGEST_REASON = 1_000
# Seconds between two looks whether the listener shall end.
LOOK_SECONDS = 0.5
# Seconds until the next connection after one broke, doubled up to the second figure.
FIRST_RECONNECT = 0.5
LONGEST_RECONNECT = 30.0


class RabbitMQListener(EventListener):
    """Starts a task for each message of a durable queue: ``{"workflow_id": …, "params"?: …, "idempotency_key"?: …}``.

    A message is acknowledged when its task is durable, so none is lost. One whose acknowledgement gets lost, or whose listener
    is killed, comes again: with a ``message_id`` property, or an ``idempotency_key``, it still starts one task; without either
    it may start a second.

    While a task cannot be started (the database is away) the message is kept, and put back after a while. A message that can
    never become a task goes to the queue ``NAME.dead-letter``, with the reason in its header ``absurd-reason``.
    """

    def __init__(
        self,
        url: str | None = None,
        queue: str = QUEUE,
        *,
        prefetch: int = 1,
        max_body_bytes: int = MAX_BODY_BYTES,
        **settings: Any,
    ) -> None:
        """Makes the listener.

        Args:
            url: of the broker; ``ABSURD_AMQP_URL`` if nothing is said, else the broker of this machine.
            queue: where the messages are; declared durable if it is not there, and taken as it is otherwise.
            prefetch: how many messages the broker hands out ahead. They are handled one after another all the same.
            max_body_bytes: larger messages are dead letters.
            settings: ``app``, ``target_queue`` and ``name`` of ``EventListener``.

        Raises:
            ConfigurationError: pika is not installed, or an argument cannot be used.
        """
        super().__init__(**settings)
        self._url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
        _check_url(self._url)
        if not isinstance(queue, str) or not queue or len((queue + DEAD_LETTERS).encode()) > LONGEST_QUEUE:
            raise InvalidOptionError(f"queue must be the name of a queue, of at most 243 bytes, not {queue!r}")
        self._queue = queue
        self._dead_letter_queue = queue + DEAD_LETTERS
        self._prefetch = _whole("prefetch", prefetch, 65_535)
        self._max_body_bytes = _whole("max_body_bytes", max_body_bytes, 2**31 - 1)
        self._retry = Backoff(FIRST_RETRY, LONGEST_RETRY)
        self._warned = False

    def start_listening(self) -> None:
        """Consumes until it is stopped; connects again when the connection breaks."""
        from pika import BlockingConnection, URLParameters
        from pika.exceptions import AMQPError

        reconnect = Backoff(FIRST_RECONNECT, LONGEST_RECONNECT)
        # One thread for the spawns: this one answers the broker's heartbeats meanwhile.
        with ThreadPoolExecutor(1, "absurd-rabbitmq") as spawner:
            while not self.stopped.is_set():
                try:
                    with BlockingConnection(URLParameters(self._url)) as connection:
                        consumer = _Consumer(self, connection, spawner)
                        reconnect.reset()
                        consumer.consume()
                except (AMQPError, OSError) as error:
                    self._report(f"the broker cannot be reached, trying again: {error!r}")
                    self.stopped.wait(reconnect.next())

    def _key(self, order: Order, properties: BasicProperties) -> str | None:
        if order.idempotency_key is not None:
            return order.idempotency_key
        if properties.message_id:
            return f"rabbitmq:{self._queue}:{order.workflow_id}:{properties.message_id}"
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: a message has neither a message_id nor an idempotency_key; if it is delivered twice, it starts two tasks",
                self._label,
            )
        return None


class _Consumer:
    """The listener's work on one connection."""

    def __init__(self, listener: RabbitMQListener, connection: BlockingConnection, spawner: ThreadPoolExecutor) -> None:
        self._listener = listener
        self._connection = connection
        self._spawner = spawner
        self._publisher: BlockingChannel | None = None
        self._declare(listener._queue)

    def consume(self) -> None:
        """Handles messages until the listener ends; raises when the connection breaks."""
        listener = self._listener
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=listener._prefetch)
        for delivery, properties, body in channel.consume(listener._queue, inactivity_timeout=LOOK_SECONDS):
            if listener.stopped.is_set():
                # Whatever was handed out and not acknowledged goes back when the connection ends.
                return
            if delivery is not None and properties is not None and delivery.delivery_tag is not None:
                self._handle(channel, delivery.delivery_tag, properties, body or b"")
        raise ConnectionError(f"the broker has ended the consumer: the queue {listener._queue} was deleted")

    def _handle(self, channel: BlockingChannel, tag: int, properties: BasicProperties, body: bytes) -> None:
        listener = self._listener
        try:
            order = self._read(body)
        except MalformedMessageError as error:
            self._bury(channel, tag, properties, body, str(error))
            return
        key = listener._key(order, properties)
        details = {"queue": listener._queue, **({"message_id": properties.message_id} if properties.message_id else {})}
        result: Result = self._meanwhile(
            lambda: listener._run_workflow(order.workflow_id, order.params, key, **details),
        )
        if result.success:
            listener._retry.reset()
            if failpoints.hook is not None:
                failpoints.hook("rabbitmq.started", self)
            channel.basic_ack(tag)
            if failpoints.hook is not None:
                failpoints.hook("rabbitmq.acknowledged", self)
        elif result.retryable:
            self._put_back(channel, tag)
        else:
            self._bury(channel, tag, properties, body, result.error or "")

    def _read(self, body: bytes) -> Order:
        if len(body) > self._listener._max_body_bytes:
            raise MalformedMessageError(f"it has {len(body)} bytes; {self._listener._max_body_bytes} are allowed")
        return read_order(body)

    def _meanwhile(self, work: Callable[[], T]) -> T:
        """Does it on the other thread, while this one serves the connection."""
        future = self._spawner.submit(work)
        future.add_done_callback(lambda _: self._poke())
        while not future.done():
            self._connection.process_data_events(time_limit=LOOK_SECONDS)
        return future.result()

    def _poke(self) -> None:
        from pika.exceptions import AMQPError

        with contextlib.suppress(AMQPError):  # the connection has ended meanwhile
            self._connection.add_callback_threadsafe(lambda: None)

    def _put_back(self, channel: BlockingChannel, tag: int) -> None:
        """Keeps the message a while, then gives it back: its task cannot be started now, most likely no other can."""
        self._meanwhile(lambda: self._listener.stopped.wait(self._listener._retry.next()))
        if failpoints.hook is not None:
            failpoints.hook("rabbitmq.kept", self)
        channel.basic_nack(tag, requeue=True)

    # Dead letters

    def _bury(self, channel: BlockingChannel, tag: int, properties: BasicProperties, body: bytes, reason: str) -> None:
        """Moves a message to the dead letters. It leaves its queue when the broker has confirmed that it is there.

        By us and not by the broker (x-dead-letter-exchange): a queue with such arguments can no longer be declared plainly by
        those who publish to it, and the broker could not say why.
        """
        self._listener._report(f"a message of {self._listener._queue} goes to {self._listener._dead_letter_queue}: {reason}")
        properties.headers = {
            **(properties.headers or {}),
            "absurd-reason": reason.encode()[:LONGEST_REASON].decode(errors="ignore"),
            "absurd-queue": self._listener._queue,
        }
        properties.delivery_mode = 2
        # A message that expires, or was sent under another user's name, would vanish or be refused here.
        properties.expiration = properties.user_id = None
        self._publish(properties, body)
        if failpoints.hook is not None:
            failpoints.hook("rabbitmq.buried", self)
        channel.basic_ack(tag)

    def _publish(self, properties: BasicProperties, body: bytes) -> None:
        from pika.exceptions import UnroutableError

        queue = self._listener._dead_letter_queue
        if self._publisher is None:
            self._declare(queue)
            self._publisher = self._connection.channel()
            self._publisher.confirm_delivery()
        try:
            self._publisher.basic_publish("", queue, body, properties, mandatory=True)
        except UnroutableError:
            # Somebody has deleted the queue since.
            self._declare(queue)
            self._publisher.basic_publish("", queue, body, properties, mandatory=True)

    def _declare(self, queue: str) -> None:
        """Makes a durable queue; one that is there with other arguments is used as it is."""
        from pika.exceptions import ChannelClosedByBroker

        precondition_failed, not_allowed = 406, 403
        channel = self._connection.channel()
        try:
            channel.queue_declare(queue, durable=True)
        except ChannelClosedByBroker as error:
            if error.reply_code not in (precondition_failed, not_allowed):
                raise
            channel = self._connection.channel()
            channel.queue_declare(queue, passive=True)
        channel.close()


def _whole(name: str, value: object, high: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise InvalidOptionError(f"{name} must be a whole number from 1 to {high}, not {value!r}")
    return value


def _check_url(url: str) -> None:
    try:
        from pika import URLParameters
    except ImportError:
        raise ConfigurationError("RabbitMQListener needs pika; install it with: pip install 'absurd[rabbitmq]'") from None
    try:
        if not url.startswith(("amqp://", "amqps://")):
            raise ValueError("it does not begin with amqp:// or amqps://")
        URLParameters(url)
    except Exception as error:
        raise ConfigurationError(
            f"the broker's URL cannot be used: {mask(str(error))}. Give amqp://user:password@host:5672/vhost, with special "
            "characters percent-encoded"
        ) from None
