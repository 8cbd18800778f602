"""What programs act upon beside the library: rows that count their effects, over connections that survive every fault."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import UUID

import psycopg

TABLES = """
create table public.effects (
  id uuid primary key, key text not null, node text not null, kind text not null, run_id uuid not null,
  epoch integer not null, attempt integer not null, worker text not null, began timestamptz not null,
  at timestamptz not null default clock_timestamp(), note text);
-- What clients did outside, one row per act, written in its transaction and never changed: its commit time is that of the act.
create table public.acts (id text primary key, event text, queue text, note text);
"""
# Seconds between tries while PostgreSQL is away.
AGAIN = 0.1


class World:
    """The effects' side of a worker process. Thread-safe: a connection for each thread."""

    def __init__(self, url: str, worker: str) -> None:
        self.worker = worker
        self._url = url
        self._mine = threading.local()

    def execute(self, statement: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Runs a statement that may be repeated, as long as it takes."""
        while True:
            try:
                cursor = self._connection().execute(statement.encode(), params)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                self._mine.conn = None
                time.sleep(AGAIN)

    def cancel(self, task_id: UUID) -> str:
        """Cancels a task as another service would."""
        self.execute("select absurd.cancel_task(t.queue_name, t.task_id) from absurd.tasks t where t.task_id = %s", (task_id,))
        return "cancelled"

    def answer(self, secret: str, payload: str) -> str:
        """Answers a token; the second time, after a lost answer or in another attempt, it is used."""
        ((status,),) = self.execute("select absurd.use_token(%s, to_json(%s::text))", (secret, payload))
        return "answered" if status in ("ok", "used") else str(status)

    def _connection(self) -> psycopg.Connection[Any]:
        conn: psycopg.Connection[Any] | None = getattr(self._mine, "conn", None)
        if conn is None or conn.closed:
            conn = self._mine.conn = psycopg.connect(self._url, autocommit=True, application_name="effects", connect_timeout=10)
        return conn
