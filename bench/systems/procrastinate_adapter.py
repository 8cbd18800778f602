"""Procrastinate: a queue, without durable steps."""

# mypy: disable-error-code="untyped-decorator,import-not-found"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bench.adapter import QUEUE, AsyncAdapter, Configurations, Params, bulks

FILL = """
    insert into procrastinate_jobs (queue_name, task_name, args, status, scheduled_at)
    select 'bench', 'noop', jsonb_build_object('params', jsonb_build_object('i', n, 'pad', repeat('x', 100))), '{state}', {due}
      from generate_series(1, :count) n"""


class System(AsyncAdapter):
    """Procrastinate with psycopg."""

    title = "Procrastinate (queue)"
    packages = ("procrastinate",)
    imports = "import procrastinate"
    configurations: ClassVar[Configurations] = {
        "best": ({"worker": {"concurrency": 100}, "pool": {"min_size": 4, "max_size": 4}}, "concurrency=100, pool of 4"),
        "default": ({"worker": {}, "pool": {}}, "run_worker() as it is: concurrency=1"),
    }
    finished = "select count(*) from procrastinate_jobs where status = 'succeeded'"
    fills: ClassVar[Mapping[str, str]] = {
        "pending": FILL.format(state="todo", due="null"),
        "sleeping": FILL.format(state="todo", due="now() + interval '1 day'"),
        "finished": FILL.format(state="succeeded", due="null"),
    }

    def _make(self) -> Any:
        import procrastinate

        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=self.url, **self.settings["pool"]))

        @app.task(name="noop", queue=QUEUE)
        async def noop(params: Any) -> int:
            self.mark("start", params["i"])
            return 1

        self.tasks_by_name = {"noop": noop}
        return app

    def install(self) -> None:
        """See ``Adapter``."""
        import procrastinate

        app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=self.url))
        with app.open():
            app.schema_manager.apply_schema()

    async def open_async(self) -> None:
        """See ``AsyncAdapter``."""
        self.app = self._make()
        await self.app.open_async()

    async def spawn_async(self, task: str, params: Params) -> None:
        """See ``AsyncAdapter``."""
        await self.tasks_by_name[task].defer_async(params=params)

    async def spawn_many_async(self, task: str, all_params: Sequence[Params]) -> None:
        """See ``AsyncAdapter``."""
        for batch in bulks(all_params):
            await self.tasks_by_name[task].batch_defer_async(*({"params": params} for params in batch))

    async def work_async(self) -> None:
        """See ``AsyncAdapter``."""
        app = self._make()
        async with app.open_async():
            await app.run_worker_async(queues=[QUEUE], install_signal_handlers=False, **self.settings["worker"])
