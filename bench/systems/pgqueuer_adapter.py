"""PgQueuer: a queue, without durable steps."""

# mypy: disable-error-code="untyped-decorator,import-not-found"

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bench.adapter import AsyncAdapter, Configurations, Params, bulks

FILL = """
    insert into pgqueuer (priority, status, entrypoint, payload, execute_after)
    select 0, 'queued', 'noop', convert_to(json_build_object('i', n, 'pad', repeat('x', 100))::text, 'utf8'),
           now() + interval '{}'
      from generate_series(1, :count) n"""


class System(AsyncAdapter):
    """PgQueuer with asyncpg; its tables at the durability ``durable``."""

    title = "PgQueuer (queue)"
    packages = ("pgqueuer[asyncpg]", "uvloop")
    imports = "import pgqueuer"
    configurations: ClassVar[Configurations] = {
        "best": ({"uvloop": True, "worker": {"batch_size": 500}}, "asyncpg, uvloop, batch_size=500"),
        "default": ({"worker": {}}, "asyncpg, run() as it is: batch_size=10"),
    }
    finished = "select count(*) from pgqueuer_log where status = 'successful'"
    fills: ClassVar[Mapping[str, str]] = {
        "pending": FILL.format("0"),
        "sleeping": FILL.format("1 day"),
        "finished": """
            insert into pgqueuer_log (job_id, status, priority, entrypoint, aggregated)
            select -n, 'canceled', 0, 'noop', true from generate_series(1, :count) n""",
    }

    async def _connect(self) -> Any:
        import asyncpg

        return await asyncpg.connect(self.url)

    def install(self) -> None:
        """See ``Adapter``."""
        self.await_(self._install())

    async def _install(self) -> None:
        from pgqueuer import AsyncpgDriver, Queries

        await Queries(AsyncpgDriver(await self._connect())).install()

    async def open_async(self) -> None:
        """See ``AsyncAdapter``."""
        from pgqueuer import AsyncpgDriver, Queries

        self.queries = Queries(AsyncpgDriver(await self._connect()))

    async def spawn_async(self, task: str, params: Params) -> None:
        """See ``AsyncAdapter``."""
        await self.queries.enqueue(task, json.dumps(params).encode())

    async def spawn_many_async(self, task: str, all_params: Sequence[Params]) -> None:
        """See ``AsyncAdapter``."""
        for batch in bulks(all_params):
            payloads = [json.dumps(params).encode() for params in batch]
            await self.queries.enqueue([task] * len(batch), payloads, [0] * len(batch))

    async def work_async(self) -> None:
        """See ``AsyncAdapter``."""
        from pgqueuer import AsyncpgDriver, PgQueuer

        manager = PgQueuer(AsyncpgDriver(await self._connect()))

        @manager.entrypoint("noop")
        async def noop(job: Any) -> None:
            self.mark("start", json.loads(job.payload)["i"])

        await manager.run(**self.settings["worker"])
