"""What the driver and the server report → errors of the library, with what to do about them and without passwords."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg

from absurd import errors

# Greedy up to the last "@": a password with an unquoted "@" or "/" must not show its end. Hiding too much is the lesser evil.
_URL_PASSWORD = re.compile(r"(://[^:@/?#\s]*:)\S*@")
_KEYWORD_PASSWORD = re.compile(r"(password\s*=\s*)('(?:\\.|[^'\\])*'?|(?:\\.|[^\s'\"])+)", re.IGNORECASE)

# Connection exceptions (class 08), shutdown and start-up of the server, no free connection slot.
_UNAVAILABLE = ("08", "57P01", "57P02", "57P03", "57P05", "53300")
# Deadlock and serialization failure: the server has undone the statement, so that it may be sent again whatever it is.
_REPEATABLE = ("40001", "40P01")
_SCHEMA_MISSING = ("3F000", "42P01", "42883", "42704", "42703")

_KINDS: dict[str, Callable[[str], errors.AbsurdError]] = {
    "AB001": errors.TaskCancelledError,
    "AB010": errors.QueueNotFoundError,
    "AB011": errors.TaskNotFoundError,
    "AB012": errors.InvalidOptionError,
    "AB013": errors.PayloadTooLargeError,
    "AB020": errors.ScheduleNotFoundError,
    "AB021": errors.ScheduleConflictError,
}

_HINTS = {
    "25P02": "Roll the transaction back first: an earlier statement in it failed.",
    "25006": "The session or the server is read-only; a standby cannot take tasks. Connect to the primary.",
    "42501": "Grant the role usage on the schema absurd, execute on its functions and access to its tables.",
}


def mask(url: str) -> str:
    """The URL or connection string with its passwords replaced by ``***``, fit for messages and logs."""
    return _KEYWORD_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1***@", url))


def where(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> str:
    """The server and database of a connection, for messages; never raises, also when the connection is closed."""
    try:
        info = conn.info
        host, port = info.host or info.hostaddr, f":{info.port}"
        return f"{host}/{info.dbname}" if host.startswith("/") else f"{host}{port}/{info.dbname}"
    except psycopg.Error:
        return "the caller's connection"


def is_repeatable(error: BaseException | None) -> bool:
    """Whether the server gave a statement up for the sake of others, so that the same one may succeed now."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _REPEATABLE


def translate(error: psycopg.Error, url: str | None = None) -> errors.AbsurdError:
    """The library's error for one of the driver's; ``url`` (it may hold a password) says where it happened.

    The caller raises it ``from error``; the cause is set here too, for those who only store it.
    """
    translated = _translate(error, f" at {mask(url)}" if url else "")
    translated.__cause__ = error
    return translated


def _translate(error: psycopg.Error, place: str) -> errors.AbsurdError:
    state = error.sqlstate or ""
    message = mask(" ".join((error.diag.message_primary or str(error)).split())).rstrip(".?") or type(error).__name__
    if state in _KINDS:
        return _KINDS[state](_with_hint(message, error.diag.message_hint))
    if state in _SCHEMA_MISSING and "absurd" in message:
        return errors.SchemaError(
            f"the schema absurd{place} is missing or older than this release needs: {message}. "
            "Run `absurdctl init` to install it, or `absurdctl migrate` to bring it up to date."
        )
    if _is_unavailable(error, state):
        return errors.DatabaseUnavailableError(
            f"PostgreSQL{place} cannot be reached: {message}. Start it, or correct host, port, database and role in the URL that "
            "was given (as an argument, in ABSURD_DATABASE_URL or in PGDATABASE)."
        )
    if isinstance(error, psycopg.DataError) and not state:
        return errors.SerializationError(f"a value cannot be sent to PostgreSQL: {message}")
    return errors.DatabaseError(
        _with_hint(f"PostgreSQL{place} refused a statement: {message}", _HINTS.get(state, error.diag.message_hint))
    )


def _is_unavailable(error: psycopg.Error, state: str) -> bool:
    if state:
        return state.startswith(_UNAVAILABLE)
    # Without a SQLSTATE the driver speaks for itself: no connection could be made, it broke, or it was closed before.
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))


def _with_hint(message: str, hint: str | None) -> str:
    return f"{message}{'' if message.endswith('.') else '.'} {hint}" if hint else message
