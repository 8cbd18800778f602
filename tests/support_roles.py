"""Login roles with one of the roles of the schema each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from absurd import schema

Connection = psycopg.Connection[Any]
WORDS = ("producer", "worker", "reader")


@contextmanager
def login_role(conn: Connection, *members_of: str) -> Iterator[str]:
    """The name of a login role that is a member of these, for a while."""
    name = f"login_{uuid.uuid4().hex[:12]}"
    conn.execute(f"create role {name} login {'in role ' + ', '.join(members_of) if members_of else ''}".encode())
    try:
        yield name
    finally:
        conn.execute(f"drop owned by {name} cascade; drop role {name}".encode())


@contextmanager
def logins(conn: Connection) -> Iterator[dict[str, str]]:
    """Makes the roles; connection strings of a producer, a worker and a reader of this database."""
    schema.create_roles(conn)
    with (
        login_role(conn, "absurd_producer") as producer,
        login_role(conn, "absurd_worker") as worker,
        login_role(conn, "absurd_reader") as reader,
    ):
        yield dict(zip(WORDS, (url_of(conn, name) for name in (producer, worker, reader)), strict=True))


def url_of(conn: Connection, user: str) -> str:
    """How that user connects to the database of a connection."""
    return make_conninfo(**{**conninfo_to_dict(conn.info.dsn), "user": user})
