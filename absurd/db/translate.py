"""What the driver and the server report → errors of the library, with what to do about them and without passwords."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg

from absurd import errors

# A user in a URL, up to where his password begins.
_URL_USER = re.compile(r"://[^:@/?#\s]*:")
# One whose host was forgotten, so that libpq takes the password for a port.
_URL_PORT = re.compile(r"(://[^:@/?#\s\[]+:)(?=[^\s@/?#,]*[^\d\s@/?#,])[^\s@/?#,]+(?![^\s/?#]*@)")


def _encoded(word: str) -> str:
    """A pattern for a word of which any letter may be percent-encoded, as libpq reads the names of a URL's parameters."""
    return "".join(f"(?:{char}|%{ord(char):02x}|%{ord(char.upper()):02x})" for char in word)


# password, sslpassword, oauth_client_secret: in a connection string, in the query of a URL, in the repr() of a dict.
_KEYWORD_PASSWORD = re.compile(
    rf"((?:{_encoded('password')}|{_encoded('client_secret')})['\"]?\s*[=:]\s*)"
    r"""('(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?|(?:\\.|[^\s'"])+)""",
    re.IGNORECASE,
)

# Connection exceptions (class 08), shutdown and start-up of the server, no free connection slot.
_UNAVAILABLE = ("08", "57P01", "57P02", "57P03", "57P05", "53300")
# Deadlock and serialization failure: the server has undone the statement, so that it may be sent again whatever it is.
_REPEATABLE = ("40001", "40P01")
# Undone as well, for the server only reads: a primary of before, which was demoted. Another connection may find the new one.
_READ_ONLY = "25006"
_DENIED = "42501"
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

# What no role but the owner of the schema may call, whatever it is granted: see absurd.function_roles(). Upgrades are his too.
OWNERS_FUNCTIONS = frozenset(
    {
        "adopt_objects",
        "apply_roles",
        "cleanup_all_queues",
        "cleanup_events",
        "cleanup_tasks",
        "create_roles",
        "drop_queue",
        "function_roles",
        "grant_functions",
        "granted_roles",
        "pause_queue",
        "purge_events",
        "resume_queue",
        "set_queue_options",
        "set_queue_policy",
    }
)
# The right on the database is asked for when the schema is made, or made sure of.
_OWNERS = re.compile(rf"^must be owner of |^permission denied for (database |function ({'|'.join(sorted(OWNERS_FUNCTIONS))})$)")
_OWNERS_HINT = (
    "That is the schema owner's alone, whatever else a role is granted: connect as the role that owns the schema absurd, or is "
    "to own it and may create it in the database; see docs/security.md."
)

# Why no connection was made, as the server or libpq words it in English, and what to do. Elsewhere the general advice has to do.
_CAUSES = tuple(
    (re.compile(cause), advice)
    for cause, advice in (
        (r"password authentication failed|no password supplied", "Correct the role or its password"),
        (r'FATAL: +database ".*" does not exist', "Create the database, or correct its name"),
        (r'FATAL: +role ".*" does not exist', "Create the role, or correct its name"),
        (r"session is read-only", "No server takes writes now: wait until one is promoted, or correct the hosts"),
        (r"could not translate host name|Name or service not known", "Correct the name of the host"),
    )
)

_HINTS = {
    "40001": "Repeat the transaction from its beginning.",
    "40P01": "Repeat the transaction from its beginning.",
    "25P02": "Roll the transaction back first: an earlier statement in it failed.",
    "25006": "The session or the server is read-only; a standby cannot take tasks. Connect to the primary.",
    "42501": "Grant the role one of absurd_producer, absurd_worker and absurd_reader; `absurdctl init --roles` makes them. "
    "Each may something else, docs/security.md; dropping, pausing, policies and clean-up are the schema owner's alone.",
}


def mask(url: str) -> str:
    """The URL or connection string with its passwords replaced by ``***``, fit for messages and logs."""
    # By words, for a single pattern would take its time with a message in which somebody repeats "://a:" ten thousand times.
    text = "".join(_without_password(word) if "://" in word else word for word in re.split(r"(\s+)", url))
    return _KEYWORD_PASSWORD.sub(r"\1***", _URL_PORT.sub(r"\1***", text))


def _without_password(word: str) -> str:
    """Up to the last "@": a password with an unquoted "@" or "/" must not show its end. Hiding too much is the lesser evil."""
    user, end = _URL_USER.search(word), word.rfind("@")
    return word if user is None or end < user.end() else f"{word[: user.end()]}***{word[end:]}"


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


def is_read_only(error: BaseException | None) -> bool:
    """Whether the server refused a statement because it, or the session, only reads; also as a cause of the error."""
    for _ in range(3):
        if isinstance(error, psycopg.Error) and error.sqlstate == _READ_ONLY:
            return True
        error = error and error.__cause__
    return False


def is_owners_alone(error: errors.AbsurdError) -> bool:
    """Whether it tells that only the owner of the schema may do what was asked."""
    return _OWNERS_HINT in str(error)


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
            f"PostgreSQL{place} cannot be reached: {message}. {_advice(message)} in the URL that "
            "was given (as an argument, in ABSURD_DATABASE_URL or in PGDATABASE)."
        )
    if isinstance(error, psycopg.DataError) and not state:
        return errors.SerializationError(f"a value cannot be sent to PostgreSQL: {message}")
    hint = _OWNERS_HINT if state == _DENIED and _OWNERS.match(message) else _HINTS.get(state, error.diag.message_hint)
    return errors.DatabaseError(_with_hint(f"PostgreSQL{place} refused a statement: {message}", hint))


def _advice(message: str) -> str:
    return next(
        (advice for cause, advice in _CAUSES if cause.search(message)), "Start it, or correct host, port, database and role"
    )


def _is_unavailable(error: psycopg.Error, state: str) -> bool:
    if state:
        return state.startswith(_UNAVAILABLE)
    # Without a SQLSTATE the driver speaks for itself: no connection could be made, it broke, or it was closed before.
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))


def _with_hint(message: str, hint: str | None) -> str:
    return f"{message}{'' if message.endswith('.') else '.'} {hint}" if hint else message
