"""Which database: the argument, the environment, or the embedded default."""

from __future__ import annotations

import os

from psycopg.conninfo import make_conninfo

from absurd import devdb
from absurd.db import mask
from absurd.errors import ConfigurationError

# In this order, after an explicit argument.
VARIABLES = ("ABSURD_DATABASE_URL", "PGDATABASE")


def database_url(explicit: str | None = None) -> str:
    """The URL or connection string of the database to use.

    The first of: ``explicit``, ``ABSURD_DATABASE_URL``, ``PGDATABASE``, the embedded PostgreSQL (which is started if need be).
    Each may be a URL, a connection string (``host=… dbname=…``) or the name of a database, for which the other ``PG…`` variables
    hold.

    Raises:
        ConfigurationError: ``explicit`` is no string, or empty.
        EmbeddedPostgresError: nothing was given, and the embedded PostgreSQL cannot be started.
    """
    if explicit is not None:
        if not isinstance(explicit, str) or not explicit.strip():
            given = mask(repr(explicit))
            raise ConfigurationError(
                f"the database must be given as a URL such as postgresql://user:password@host/database, not {given}"
            )
        return as_conninfo(explicit)
    for name in VARIABLES:
        if value := os.environ.get(name, "").strip():
            return as_conninfo(value)
    return devdb.ensure()


def as_conninfo(text: str) -> str:
    """A URL or connection string as it is; the bare name of a database as a connection string."""
    text = text.strip()
    if "://" in text or "=" in text:
        return text
    return make_conninfo(dbname=text)
