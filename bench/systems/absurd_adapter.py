"""This library."""

# mypy: disable-error-code="untyped-decorator,import-not-found"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bench.adapter import QUEUE, Adapter, Configurations, Params, timed


class System(Adapter):
    """This library, by its public interface."""

    title = "absurd (this library)"
    packages = ("-e", ".[embedded,uvloop]")
    imports = "import absurd"
    configurations: ClassVar[Configurations] = {
        "best": ({"uvloop": True, "worker": {"concurrency": 256}}, "uvloop, concurrency=256; sync handlers: concurrency=64"),
        "default": ({"worker": {}}, "start_worker() as it is: asyncio, concurrency=32"),
    }
    tasks = frozenset({"noop", "steps", "sync_noop", "sync_steps", "wait", "wait_all", "child", "fan_out", "transaction"})
    finished = "select count(*) from absurd.tasks where outcome = 'completed'"
    fills: ClassVar[Mapping[str, str]] = {
        "pending": """
            with made as (
              insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at)
              select absurd.make_id(), 'bench', 'noop', json_build_object('i', n, 'pad', repeat('x', 100)), now()
                from generate_series(1, :count) n returning task_id)
            insert into absurd.runs (run_id, task_id, queue_name, state, attempt, available_at)
            select absurd.make_id(), task_id, 'bench', 'pending', 1, now() from made""",
        "sleeping": """
            with made as (
              insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at)
              select absurd.make_id(), 'bench', 'noop', json_build_object('i', n, 'pad', repeat('x', 100)), now()
                from generate_series(1, :count) n returning task_id)
            insert into absurd.runs (run_id, task_id, queue_name, state, attempt, available_at)
            select absurd.make_id(), task_id, 'bench', 'sleeping', 1, now() + interval '1 day' from made""",
        "finished": """
            insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, result, run_id, epoch, attempt,
                                      worker_id, started_at, finished_at)
            select absurd.make_id(), 'bench', 'noop', json_build_object('i', n, 'pad', repeat('x', 100)), now(), 'completed',
                   'null', absurd.make_id(), 1, 1, 'filler', now(), now()
              from generate_series(1, :count) n""",
    }

    def install(self) -> None:
        """See ``Adapter``."""
        from absurd import schema
        from absurd.db import connect

        with connect(self.url) as conn:
            schema.install(conn)
            conn.execute("create table bench_effects (i bigint, at timestamptz default now())")
        self.open()
        self.app.create_queue()

    def open(self) -> None:
        """See ``Adapter``."""
        from absurd import Absurd

        self.app = Absurd(self.url, queue_name=QUEUE)

    def spawn_each(self, task: str, all_params: Sequence[Params]) -> list[float]:
        """See ``Adapter``."""
        return timed([lambda params=params: self.app.spawn(task, params) for params in all_params])  # type: ignore[misc]

    def spawn_many(self, task: str, all_params: Sequence[Params]) -> None:
        """See ``Adapter``."""
        self.app.spawn_many(task, all_params)

    def emit_each(self, keys: Sequence[int], pause: float) -> list[float]:
        """See ``Adapter``."""
        return timed([lambda key=key: self.app.emit_event(f"e{key}", {"k": key}) for key in keys], pause)  # type: ignore[misc]

    def broadcast(self, count: int) -> None:
        """See ``Adapter``."""
        self.app.emit_event("all", {"k": 1})

    def work(self) -> None:
        """See ``Adapter``."""
        self.open()
        self._register()
        self.app.start_worker(**self.settings["worker"])

    def _register(self) -> None:
        app, mark = self.app, self.mark
        _register_steps(app, mark)

        @app.register_task
        async def wait(params: Any, ctx: Any) -> Any:
            mark("waits", params["i"])
            found = await ctx.await_event(f"e{params['i']}")
            mark("resumed", params["i"])
            return found

        @app.register_task
        async def wait_all(params: Any, ctx: Any) -> Any:
            mark("waits", params["i"])
            found = await ctx.await_event("all")
            mark("resumed", params["i"])
            return found

        @app.register_task
        async def child(params: Any, ctx: Any) -> Any:
            mark("start", params["i"])
            return await ctx.await_task(await ctx.spawn("noop", {"i": params["i"]}))

        @app.register_task
        async def fan_out(params: Any, ctx: Any) -> int:
            mark("start", params["i"])
            found = await ctx.gather(*await ctx.spawn_many("noop", [{"i": n} for n in range(params["n"])]))
            mark("joined", params["i"])
            return len(found)

        async def insert(conn: Any, index: int) -> int:
            await conn.execute("insert into bench_effects (i) values (%s)", (index,))
            return index

        @app.register_task
        async def transaction(params: Any, ctx: Any) -> Any:
            mark("start", params["i"])
            return await ctx.transaction("insert", insert, params["i"])


def _register_steps(app: Any, mark: Any) -> None:
    def work(index: int) -> dict[str, int]:
        return {"k": index}

    @app.register_task
    async def noop(params: Any, ctx: Any) -> int:
        mark("start", params["i"])
        return 1

    @app.register_task
    async def steps(params: Any, ctx: Any) -> int:
        mark("start", params["i"])
        for index in range(params["n"]):
            await ctx.step(f"s{index}", work, index)
        return 1

    @app.register_task
    def sync_noop(params: Any, ctx: Any) -> int:
        mark("start", params["i"])
        return 1

    @app.register_task
    def sync_steps(params: Any, ctx: Any) -> int:
        mark("start", params["i"])
        for index in range(params["n"]):
            ctx.step(f"s{index}", work, index)
        return 1
