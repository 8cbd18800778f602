"""Two sessions whose order a test decides: one holds its locks in an open transaction, the other is seen to wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from tests.sql.calls import Connection, value
from tests.support import DEFAULT_TIMEOUT, wait_until


class Background:
    """A call on a connection of its own, in a thread."""

    def __init__(self, url: str, call: Callable[[Connection], Any]) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._pid = self._connection.info.backend_pid
        self._url = url
        self._call = call
        self._answer: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._connection:
                self._answer = self._call(self._connection)
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error

    def wait_until_blocked(self) -> Background:
        """Return when the call waits for a lock; fail when it ends instead."""
        with psycopg.connect(self._url, autocommit=True) as watcher:

            def blocked() -> bool:
                assert self._thread.is_alive(), f"it did not wait: {self._answer!r} {self._error!r}"
                return bool(value(watcher, "select cardinality(pg_blocking_pids(%s)) > 0", self._pid))

            wait_until(blocked, what="a wait for a lock")
        return self

    def result(self) -> Any:
        """What the call returned; raises what it raised."""
        self._thread.join(DEFAULT_TIMEOUT)
        assert not self._thread.is_alive(), "the call still waits"
        if self._error is not None:
            raise self._error
        return self._answer

    def code(self) -> str | None:
        """The SQLSTATE with which the call failed; None if it did not."""
        try:
            self.result()
        except psycopg.Error as error:
            return error.sqlstate
        return None
