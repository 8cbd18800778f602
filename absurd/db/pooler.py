"""Whether a connection is a session of its own, or a pooler's that hands sessions round."""

from __future__ import annotations

import asyncio
from enum import StrEnum

import psycopg

from absurd.db.connect import AsyncConnection, connect_async
from absurd.db.translate import mask, translate
from absurd.errors import ConfigurationError, DatabaseUnavailableError

# Connections that are opened beside the first one, at most, to see whether they get its session.
TRIES = 3
# Seconds for all of it: a pooler without a free session lets its clients wait for minutes. More than a connection may take.
SECONDS = 25.0


class Pooling(StrEnum):
    """What stands between a client and PostgreSQL."""

    NONE = "none"
    SESSION = "session"
    TRANSACTION = "transaction"


async def find_pooling(url: str) -> Pooling:
    """What the URL leads to. A pooler is known by its process number: the one that it told us is not that of the session.

    Raises:
        DatabaseUnavailableError: it cannot be reached, or has no free session.
    """
    try:
        async with asyncio.timeout(SECONDS):
            first = await connect_async(url, application_name="absurd: look for a pooler")
            async with first:
                pid = await _backend(first)
                if pid == first.info.backend_pid:
                    return Pooling.NONE
                return await _look_behind(url, first, pid)
    except TimeoutError:
        raise DatabaseUnavailableError(
            f"{mask(url)} has not answered for {SECONDS:.0f} s: it cannot be reached, or is a pooler without a free session"
        ) from None
    except psycopg.Error as error:
        raise translate(error, url) from error


async def require_sessions(url: str) -> None:
    """Refuses a pooler in transaction mode, for what needs sessions: notifications, and locks that outlive a transaction.

    Raises:
        ConfigurationError: it is one.
    """
    if await find_pooling(url) is Pooling.TRANSACTION:
        raise ConfigurationError(
            f"{mask(url)} is a connection pooler in transaction mode. A worker needs sessions of its own, for notifications "
            "and for the lock by which others see that it lives: connect it to PostgreSQL directly, or to a pool in session mode "
            "(PgBouncer: pool_mode=session). Clients that spawn, emit and wait for results may stay"
        )


async def _look_behind(url: str, first: AsyncConnection, pid: int) -> Pooling:
    """In transaction mode a session is given away as soon as its client has no transaction open."""
    others: list[AsyncConnection] = []
    try:
        for _ in range(TRIES):
            other = await connect_async(url, application_name="absurd: look for a pooler", autocommit=False)
            others.append(other)
            # Its transaction holds the session that it gets. If it is not the first one's, that may have another by now.
            if await _backend(other) == pid or await _backend(first) != pid:
                return Pooling.TRANSACTION
        return Pooling.SESSION
    finally:
        for other in others:
            await other.close()


async def _backend(conn: AsyncConnection) -> int:
    row = await (await conn.execute(b"select pg_backend_pid()")).fetchone()
    return int(row[0]) if row is not None else 0
