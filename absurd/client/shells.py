"""How methods that are written once run their queries: blocking in ``Absurd``, awaited in ``AsyncAbsurd``.

``aio_NAME.py`` is generated from ``NAME.py`` by ``scripts/build_async.py`` for the modules that build on ``SyncShell``.
"""

from __future__ import annotations

from typing import Any, TypeVar

from absurd.client.base import BaseClient
from absurd.queries.query import Query

T = TypeVar("T")


class SyncShell(BaseClient):
    """What ``Absurd`` gives to methods that only run queries."""

    def _run(self, query: Query[T], conn: Any = None, *, whole: bool = False) -> T:
        """Runs a query on the given connection, on the client's own, or on one of its pool."""
        raise NotImplementedError


class AsyncShell(BaseClient):
    """What ``AsyncAbsurd`` gives to methods that only run queries."""

    async def _run(self, query: Query[T], conn: Any = None, *, whole: bool = False) -> T:
        """Runs a query on the given connection, on the client's own, or on one of its pool."""
        raise NotImplementedError
