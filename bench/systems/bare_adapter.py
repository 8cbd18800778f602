"""Bare SQL by psycopg: one INSERT with commit into a table of the shape of ``absurd.tasks``. The floor for spawning."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import ClassVar

from bench.adapter import Adapter, Configurations, Params, bulks, timed

COLUMNS = "(task_id, queue_name, task_name, params, spawned_at)"
ONE = f"insert into bare.tasks {COLUMNS} values (%s, 'bench', %s, %s, now())"
MANY = f"insert into bare.tasks {COLUMNS} select id, 'bench', %s, params, now() from unnest(%s::uuid[], %s::json[]) _(id, params)"


class System(Adapter):
    """No library: what an INSERT costs."""

    title = "bare INSERT"
    packages = ("-e", ".[embedded,uvloop]")
    imports = "import psycopg"
    configurations: ClassVar[Configurations] = {
        "best": ({}, "psycopg, prepared statement, a table like absurd.tasks with its indexes, without runs")
    }
    has_workers = False

    def install(self) -> None:
        """See ``Adapter``."""
        from absurd import schema
        from absurd.db import connect

        with connect(self.url) as conn:
            schema.install(conn)
            conn.execute("create schema bare")
            conn.execute("create table bare.tasks (like absurd.tasks including all)")

    def open(self) -> None:
        """See ``Adapter``."""
        import orjson
        import psycopg
        import uuid6

        self.conn = psycopg.connect(self.url, autocommit=True)
        self.dumps: Callable[[Params], str] = lambda params: orjson.dumps(params).decode()
        self.make_id: Callable[[], uuid.UUID] = uuid6.uuid7

    def _spawn(self, task: str, params: Params) -> None:
        self.conn.execute(ONE, (self.make_id(), task, self.dumps(params)))

    def spawn_each(self, task: str, all_params: Sequence[Params]) -> list[float]:
        """See ``Adapter``."""
        return timed([lambda params=params: self._spawn(task, params) for params in all_params])  # type: ignore[misc]

    def spawn_many(self, task: str, all_params: Sequence[Params]) -> None:
        """See ``Adapter``."""
        for batch in bulks(all_params):
            ids: list[uuid.UUID] = [self.make_id() for _ in batch]
            self.conn.execute(MANY, (task, ids, [self.dumps(params) for params in batch]))
