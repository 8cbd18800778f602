"""Starts tasks for notifications of PostgreSQL: ``NOTIFY workflow_triggers, 'nightly-report'``."""

from __future__ import annotations

import threading
from typing import Any

import psycopg

from absurd import failpoints
from absurd.db import connect, run, translate
from absurd.errors import AbsurdError, ConfigurationError, InvalidOptionError
from absurd.listeners.base import Backoff, EventListener
from absurd.listeners.order import MalformedMessageError, Order, read_order
from absurd.queries.listeners import hold_listener_lock
from absurd.queries.workers import listen
from absurd.registry import check_name

CHANNEL = "workflow_triggers"
# Bytes that PostgreSQL allows in the name of a channel.
LONGEST_CHANNEL = 63
# Seconds between two looks whether the listener shall end, and of one that stands by for another process.
LOOK_SECONDS = 0.5
# Seconds until the next connection after one broke, doubled up to the second figure.
FIRST_RECONNECT = 0.5
LONGEST_RECONNECT = 10.0


class NotifyListener(EventListener):
    """Starts a task for each notification of a channel.

    The payload is the name of a task, or JSON: ``{"workflow_id": …, "params"?: …, "idempotency_key"?: …}``.

    Of several processes with the same name, channel and target queue one listens at a time; another takes over when its
    connection ends. NOTIFY is not durable: what is sent while nobody listens is lost, also during a reconnect. Where that matters
    call ``absurd.spawn_task`` or ``absurd.emit_event`` instead, in the same place.
    """

    def __init__(self, channel: str = CHANNEL, *, url: str | None = None, **settings: Any) -> None:
        """Makes the listener.

        Args:
            channel: its name, exactly as NOTIFY names it: without quotes PostgreSQL folds names to lower case.
            url: the database that notifies; the one with the tasks if nothing is said.
            settings: ``app``, ``target_queue`` and ``name`` of ``EventListener``.
        """
        super().__init__(**settings)
        if len(check_name("channel", channel).encode()) > LONGEST_CHANNEL:
            raise InvalidOptionError(f"channel {channel!r} is longer than the {LONGEST_CHANNEL} bytes that PostgreSQL allows")
        self.listening = threading.Event()
        """Is set while notifications are heard; not by a process that stands by."""
        self._channel = channel
        self._url = url

    def start_listening(self) -> None:
        """Listens until it is stopped; connects again when the connection breaks."""
        reconnect = Backoff(FIRST_RECONNECT, LONGEST_RECONNECT)
        while not self.stopped.is_set():
            try:
                self._listen_on_a_connection(reconnect)
            except ConfigurationError:
                raise
            except (AbsurdError, psycopg.Error) as error:
                self._report(translate(error) if isinstance(error, psycopg.Error) else error)
                self.stopped.wait(reconnect.next())

    def _listen_on_a_connection(self, reconnect: Backoff) -> None:
        url = self._client.database_url if self._url is None else self._url
        with connect(url, application_name="absurd listener: notifications") as conn:
            while not run(conn, hold_listener_lock(f"{self._label} {self._channel} {self.target_queue}")):
                reconnect.reset()
                if self.stopped.wait(LOOK_SECONDS):
                    return
            if failpoints.hook is not None:
                failpoints.hook("notify.lock-held", self)
            run(conn, listen(self._channel))
            if failpoints.hook is not None:
                failpoints.hook("notify.listening", self)
            reconnect.reset()
            self.listening.set()
            try:
                self._hear(conn)
            finally:
                self.listening.clear()

    def _hear(self, conn: psycopg.Connection[Any]) -> None:
        while not self.stopped.is_set():
            for notice in conn.notifies(timeout=LOOK_SECONDS):
                self._handle(notice.payload)
                if self.stopped.is_set():
                    return

    def _handle(self, payload: str) -> None:
        try:
            order = read_payload(payload)
        except MalformedMessageError as error:
            self._report(f"a notification on {self._channel} was left out: {error}")
            return
        self._insist(order.workflow_id, order.params, order.idempotency_key, channel=self._channel)
        if failpoints.hook is not None:
            failpoints.hook("notify.started", self)


def read_payload(payload: str) -> Order:
    """The order in a notification's payload.

    Raises:
        MalformedMessageError: it is none.
    """
    text = payload.strip()
    if text.startswith(("{", "[", '"')):  # a name that begins so is more likely to be a mistake
        return read_order(text)
    if not text:
        raise MalformedMessageError('its payload is empty; send the name of a task, or JSON with a "workflow_id"')
    return Order(text)
