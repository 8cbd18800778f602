"""The row of a listener process: written every few seconds, on a thread and a connection of its own."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from typing import Any

import psycopg

from absurd import failpoints
from absurd.db import connect, run
from absurd.errors import AbsurdError
from absurd.listeners.base import ListenerBase
from absurd.queries import listeners as queries
from absurd.queries.listeners import ListenerStatus

logger = logging.getLogger("absurd.listeners")

# Seconds between heartbeats. A listener is shown as dead after a minute, so that a restart of PostgreSQL is no death.
HEARTBEAT = 5.0
# Seconds that the end may take: a database that is away must not hold up a listener that stops.
STOP_SECONDS = 5.0


class Heartbeat:
    """Keeps the row of a listener, whatever its code does meanwhile; a context manager."""

    def __init__(self, listener: ListenerBase, url: str) -> None:
        self._listener = listener
        self._url = url
        self.listener_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._status: ListenerStatus = "listening"
        self._started_count = 0
        self._conn: psycopg.Connection[Any] | None = None
        self._away = False
        self._stopping = False
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="absurd-listener-heartbeat", daemon=True)

    def say(self, status: ListenerStatus, started_count: int) -> None:
        """Has a change written now."""
        self._status, self._started_count = status, started_count
        self._news.set()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping = True
        self._news.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping:
            self._attempt(self._beat)
            self._news.wait(HEARTBEAT)
            self._news.clear()
        # Whoever reads the row of one that did not get through here sees it die.
        self._attempt(self._say_goodbye)

    def _attempt(self, work: Any) -> None:
        try:
            work()
            self._away = False
        except (AbsurdError, psycopg.Error) as error:
            if not self._away:
                logger.warning("the heartbeat of the listener cannot be written, trying again: %s", error)
            self._away = True
            self._disconnect()
        except Exception:
            logger.exception("the heartbeat of the listener met an error and goes on")
            self._disconnect()

    def _beat(self) -> None:
        if self._conn is None:
            self._conn = connect(self._url, application_name="absurd listener: heartbeat")
        listener, health = self._listener, self._listener._health
        run(
            self._conn,
            queries.heartbeat_listener(
                self.listener_id,
                listener._label,
                listener.target_queue,
                socket.gethostname(),
                os.getpid(),
                self._status,
                self._started_count,
                health.failures,
                health.last_error,
            ),
        )
        if failpoints.hook is not None:
            failpoints.hook("listener.beaten", self)

    def _say_goodbye(self) -> None:
        if self._conn is not None:
            run(self._conn, queries.unregister_listener(self.listener_id))
            if failpoints.hook is not None:
                failpoints.hook("listener.unregistered", self)
        self._disconnect()

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
