"""New connections, the same for everybody: READ COMMITTED, no JIT, and a dead peer is noticed within half a minute."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from absurd.db.translate import translate
from absurd.errors import ConfigurationError

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]

# A peer that vanished without a word is given up after 10 + 3 × 5 = 25 s; one that does not acknowledge what was sent likewise.
_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "client_encoding": "utf8",
}

# After connecting and not as start-up options: connection poolers refuse those. JIT costs more than the short statements here;
# waits and watches have to see what others commit meanwhile, whatever the role's default is.
_SET_UP = (
    b"select pg_backend_pid(), set_config('jit', 'off', false), "
    b"set_config('default_transaction_isolation', 'read committed', false)"
)


def connection_arguments(url: str, application_name: str) -> dict[str, Any]:
    """The parameters of a connection: the URL's, completed by the defaults of this library. Connects to nothing."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f'"{_outline(url)}" is no database URL: {_without_values(error)}. '
            "Give postgresql://user:password@host:port/database, with special characters of the password percent-encoded."
        ) from None
    return {**_DEFAULTS, "application_name": application_name, **{k: v for k, v in given.items() if v is not None}}


def _outline(url: str) -> str:
    """Of a text that cannot be read only what is certain to be no password: what it looks like, and which host it names."""
    scheme, is_url, rest = url.partition("://")
    if is_url:
        # A "?" may begin parameters, with a password that has an "@", or belong to a password.
        host = re.search(r"@[\w.:,\[\]-]*(/[\w-]*)?$", rest, re.ASCII) if "?" not in rest else None
        return f"{scheme}://…{host[0] if host else ''}"
    return " ".join(f"{name}=…" for name in re.findall(r"\b(host|port|dbname|user|password|service)\s*=", url)) or "…"


def _without_values(error: Exception) -> str:
    """The driver's message; what it quotes may be the end of a password."""
    said = " ".join(str(error).split())
    harmless = re.match(r'(?:[^"]|"."\s)*', said)
    return said if harmless is None or harmless[0] == said else f'{harmless[0]}"…"'


def _heed_pooler(conn: Connection | AsyncConnection, answer: tuple[Any, ...] | None) -> None:
    """Prepares no statements on a connection of a pooler: what one session has prepared, the next one does not know."""
    if answer is not None and answer[0] != conn.info.backend_pid:
        conn.prepare_threshold = None


def is_pooled(conn: Connection | AsyncConnection) -> bool:
    """Whether a connection that was made here is a pooler's."""
    return conn.prepare_threshold is None


def connect(url: str, *, application_name: str = "absurd", autocommit: bool = True) -> Connection:
    """A new connection. Raises ``DatabaseUnavailableError`` without an answer, ``ConfigurationError`` for a bad URL."""
    arguments = connection_arguments(url, application_name)
    try:
        conn = psycopg.Connection.connect(**arguments, autocommit=True)
        try:
            _heed_pooler(conn, conn.execute(_SET_UP).fetchone())
            conn.autocommit = autocommit
        except BaseException:
            conn.close()
            raise
    except psycopg.Error as error:
        raise translate(error, url) from error
    return conn


async def connect_async(url: str, *, application_name: str = "absurd", autocommit: bool = True) -> AsyncConnection:
    """The same for asyncio."""
    arguments = connection_arguments(url, application_name)
    try:
        conn = await psycopg.AsyncConnection.connect(**arguments, autocommit=True)
        try:
            _heed_pooler(conn, await (await conn.execute(_SET_UP)).fetchone())
            await conn.set_autocommit(autocommit)
        except BaseException:
            await conn.close()
            raise
    except psycopg.Error as error:
        raise translate(error, url) from error
    return conn
