"""The database of one command: which one, a connection when it is first needed, a client."""

from __future__ import annotations

import difflib
import shlex
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg

from absurd import schema
from absurd.cli.output import Output
from absurd.client import Absurd
from absurd.db import connect, run
from absurd.db.translate import is_owners_alone
from absurd.errors import AbsurdError, DatabaseError, QueueNotFoundError, SchemaError
from absurd.location import database_url
from absurd.queries import doctor, inspect
from absurd.queries.query import Query
from absurd.types import DEFAULT_QUEUE

T = TypeVar("T")

APPLICATION_NAME = "absurdctl"


class Session:
    """What a command needs of the world: where to print, and the database."""

    def __init__(self, database: str | None, out: Output) -> None:
        self.database = database
        self.out = out
        self._client: Absurd | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._client is not None:
            self._client.close()
        if "connection" in self.__dict__:
            self.connection.close()

    @cached_property
    def url(self) -> str:
        """The URL given, else that of the environment, else that of the embedded server, which is started if need be."""
        return database_url(self.database)

    @cached_property
    def connection(self) -> psycopg.Connection[Any]:
        """A connection of this command's own, in autocommit."""
        return connect(self.url, application_name=APPLICATION_NAME)

    @cached_property
    def now(self) -> datetime:
        """The database's time, which ages are counted by."""
        return self.run(inspect.current_time())

    def run(self, query: Query[T]) -> T:
        """Runs a query."""
        return run(self.connection, query)

    def client(self, queue: str | None = None) -> Absurd:
        """The library itself, for all that changes something."""
        if self._client is None:
            self._client = Absurd(self.url, DEFAULT_QUEUE if queue is None else queue)
        return self._client

    def require_queue(self, name: str | None) -> None:
        """Refuses a filter by a queue that does not exist, which would only show nothing."""
        if name is None or self.run(inspect.queue_stats(name)):
            return
        close = difflib.get_close_matches(name, self.run(inspect.queue_names()), n=1)
        guess = f' Did you mean "{close[0]}"?' if close else ""
        raise QueueNotFoundError(
            f'queue "{name}" does not exist.{guess} Create it with: absurdctl create-queue {shlex.quote(name)}'
        )

    def explain(self, error: SchemaError) -> AbsurdError:
        """What is wrong with the schema, and the one command that mends it; the error itself if that cannot be found out."""
        try:
            schema.check(self.connection)
        except SchemaError as found:
            return found
        except (AbsurdError, psycopg.Error):
            return error
        return error

    def name_owner(self, error: AbsurdError) -> AbsurdError:
        """What only the owner of the schema may do, with his name, if that can be found out."""
        if not is_owners_alone(error):
            return error
        try:
            owner = self.run(doctor.server_facts()).schema_owner
        except (AbsurdError, psycopg.Error):
            return error
        return error if owner is None else DatabaseError(f'{error} Here it is "{owner}".')
