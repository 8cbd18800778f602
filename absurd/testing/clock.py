"""The virtual clock: time in a test's database stands still, and moves when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from absurd import clock
from absurd.context.durations import check_moment
from absurd.db import run
from absurd.errors import ConfigurationError, InvalidOptionError
from absurd.queries import testing as queries
from absurd.queries.inspect import current_time


class VirtualClock:
    """The time of one test database, for every connection to it and for ``ctx.now()`` in this process.

    It stands still from ``stop`` on: what a test does takes no time. Ids, and ``datetime.now()`` in your own code, go on by the
    real clock.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._now: datetime | None = None
        self._before: Callable[[], datetime] | None = None

    def now(self) -> datetime:
        """The time, in UTC."""
        return run(self._conn, current_time()).astimezone(UTC) if self._now is None else self._now

    def advance(self, by: timedelta | None = None, **parts: float) -> datetime:
        """Moves the clock forward, at once: nothing runs on the way. ``run_for`` of the test's app lets that time pass instead.

        Args:
            by: how far.
            parts: the same in the words of ``timedelta``: ``days=3``, ``hours=1.5``, ``seconds=…``.

        Returns:
            The new time.

        Raises:
            InvalidOptionError: it is negative, or no duration.
        """
        self.set(later(self.now(), by, parts))
        return self.now()

    def set(self, at: datetime) -> None:
        """Sets the time, which may be earlier than it was.

        Raises:
            InvalidOptionError: it has no time zone.
        """
        check_moment("the time", at)
        run(self._conn, queries.stop_clock(at))
        self._now = at.astimezone(UTC)
        if self._before is None:
            self._before, clock.now = clock.now, self.now

    def stop(self) -> None:
        """Stops the clock where it is.

        Raises:
            ConfigurationError: the database is none that this module has made.
        """
        if not run(self._conn, queries.has_clock()):
            raise ConfigurationError(
                f'database "{self._conn.info.dbname}" has no clock that can be moved; use one of absurd.testing.database() '
                "or of the fixture absurd_database_url"
            )
        self.set(self.now())

    def start(self) -> None:
        """Goes back to the real time, which then runs."""
        run(self._conn, queries.start_clock())
        self.forget()

    def forget(self) -> None:
        """Gives ``ctx.now()`` of this process its own clock back; the database's stays as it is."""
        self._now = None
        if self._before is not None:
            clock.now, self._before = self._before, None


def later(at: datetime, by: timedelta | None, parts: dict[str, float]) -> datetime:
    """The moment so long after another."""
    length = duration(by, parts)
    try:
        return at + length
    except OverflowError:
        raise InvalidOptionError(f"{length} after {at.isoformat()} is beyond the year 9999, where datetime ends") from None


def duration(by: timedelta | None, parts: dict[str, float]) -> timedelta:
    """A duration as it was given, in one way or the other."""
    try:
        length = timedelta(**parts) if by is None else by + timedelta(**parts)
    except (TypeError, OverflowError) as error:
        raise InvalidOptionError(
            f"a duration is a timedelta or days=, hours=, minutes=, seconds=; not {_given(by, parts)}: {error}"
        ) from None
    if length < timedelta(0):
        raise InvalidOptionError(f"the clock cannot be advanced by {length}; clock.set() puts it back")
    return length


def _given(by: Any, parts: dict[str, Any]) -> str:
    return ", ".join([*([] if by is None else [repr(by)]), *(f"{name}={value!r}" for name, value in parts.items())])
