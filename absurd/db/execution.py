"""Runs a query on a connection, whoever made it and however it is set up. Never commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row

from absurd.db.arrays import register_arrays
from absurd.db.texts import register_utf8
from absurd.db.translate import translate, where
from absurd.errors import InvalidOptionError, SerializationError
from absurd.queries.query import Query, Row

T = TypeVar("T")

# A caller's connection may have other ideas of what a uuid or a number becomes; a query's decoder relies on the usual ones.
_ADAPTERS = AdaptersMap(psycopg.adapters)
register_arrays(_ADAPTERS)
_ADAPTERS_WITHOUT_ENCODING = AdaptersMap(_ADAPTERS)
register_utf8(_ADAPTERS_WITHOUT_ENCODING)


class _Cursor(psycopg.Cursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _adapters_for(self)


class _AsyncCursor(psycopg.AsyncCursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _adapters_for(self)


def _adapters_for(cursor: _Cursor | _AsyncCursor) -> AdaptersMap:
    unconverted = cursor.connection.pgconn.parameter_status(b"client_encoding") == b"SQL_ASCII"
    return _ADAPTERS_WITHOUT_ENCODING if unconverted else _ADAPTERS


def _has_rows(cursor: _Cursor | _AsyncCursor) -> bool:
    # The description says it too, but is made anew for every look, column by column.
    return cursor.rownumber is not None


def _refuse_pipeline(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """In a pipeline the answer comes later, and whether the call was refused is not known before."""
    if conn.pgconn.pipeline_status:
        raise InvalidOptionError("conn is in pipeline mode, in which answers come later; leave its pipeline() block first")


def _refuse_encoding(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], error: UnicodeEncodeError) -> None:
    """Raises for a caller's connection whose encoding lacks a character. Lone surrogates, which none has, are no text at all."""
    character = error.object[error.start]
    if not "\ud800" <= character <= "\udfff":
        raise SerializationError(
            f"a value has {character!a}, which the connection's client_encoding {conn.info.encoding} does not have; "
            "connect with client_encoding=utf8"
        ) from None


def run(conn: psycopg.Connection[Any], query: Query[T]) -> T:
    """Runs a query within the connection's transaction and returns what its decoder makes of the rows."""
    _refuse_pipeline(conn)
    try:
        with _Cursor(conn, row_factory=tuple_row) as cursor:
            cursor.execute(query.sql.encode(), query.args)
            rows = cursor.fetchall() if _has_rows(cursor) else []
    except psycopg.Error as error:
        raise translate(error, where(conn)) from error
    except UnicodeEncodeError as error:
        _refuse_encoding(conn, error)
        raise
    return query.decode(rows)


async def run_async(conn: psycopg.AsyncConnection[Any], query: Query[T]) -> T:
    """The same for asyncio."""
    _refuse_pipeline(conn)
    try:
        async with _AsyncCursor(conn, row_factory=tuple_row) as cursor:
            await cursor.execute(query.sql.encode(), query.args)
            rows = await cursor.fetchall() if _has_rows(cursor) else []
    except psycopg.Error as error:
        raise translate(error, where(conn)) from error
    except UnicodeEncodeError as error:
        _refuse_encoding(conn, error)
        raise
    return query.decode(rows)


async def send(conn: psycopg.AsyncConnection[Any], query: Query[Any]) -> psycopg.AsyncCursor[Row]:
    """Sends a query, in a pipeline or not; its rows are the cursor's. Errors are the driver's."""
    return await _AsyncCursor(conn, row_factory=tuple_row).execute(query.sql.encode(), query.args)


def run_whole(conn: psycopg.Connection[Any], query: Query[T]) -> T:
    """Like ``run``, but nothing of the query stays if its decoder refuses the answer. It does not commit for the caller."""
    _refuse_pipeline(conn)
    try:
        if not conn.autocommit:
            # Opens the caller's transaction if need be: without one, transaction() would begin one and commit it.
            conn.execute(b"")
        with conn.transaction():
            return run(conn, query)
    except psycopg.Error as error:
        raise translate(error, where(conn)) from error


async def run_whole_async(conn: psycopg.AsyncConnection[Any], query: Query[T], before: Sequence[Query[None]] = ()) -> T:
    """The same for asyncio. ``before``: what is run before it, in its transaction."""
    _refuse_pipeline(conn)
    try:
        if not conn.autocommit:
            await conn.execute(b"")
        async with conn.transaction():
            for first in before:
                await run_async(conn, first)
            return await run_async(conn, query)
    except psycopg.Error as error:
        raise translate(error, where(conn)) from error
