"""Absurd's own Python client."""

# mypy: disable-error-code="untyped-decorator,import-not-found"

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.adapter import QUEUE, Adapter, Configurations, Params, bulks, timed

TASK = """
    insert into absurd.t_bench (task_id, task_name, params, state, attempts, last_attempt_run, enqueue_at)
    select absurd.portable_uuidv7(), 'noop', jsonb_build_object('i', n, 'pad', repeat('x', 100)), '{state}', 1,
           absurd.portable_uuidv7(), now() from generate_series(1, :count) n
    returning task_id, last_attempt_run"""
RUN = """
    with made as ({task})
    insert into absurd.r_bench (run_id, task_id, attempt, state, available_at, created_at)
    select last_attempt_run, task_id, 1, '{state}', now() + interval '{delay}', now() from made"""


def _fill(state: str, delay: str) -> str:
    return RUN.format(task=TASK.format(state=state), state=state, delay=delay)


class System(Adapter):
    """Absurd's client in Python, sync or async, with the schema that ``absurdctl`` installs."""

    title = "Absurd's client"
    packages = ("absurd-sdk", "absurdctl")
    imports = "import absurd_sdk"
    configurations: ClassVar[Configurations] = {
        "best": (
            {"worker": {"concurrency": 128, "batch_size": 128, "poll_interval": 0.01}},
            "async, concurrency=128, batch_size=128, poll_interval=0.01",
        ),
        "default": ({"worker": {}}, "async, start_worker() as it is: concurrency=1, poll_interval=0.25"),
    }
    tasks = frozenset({"noop", "steps", "sync_noop", "sync_steps", "wait", "wait_all"})
    finished = "select count(*) from absurd.t_bench where state = 'completed'"
    fills: ClassVar[Mapping[str, str]] = {
        "pending": _fill("pending", "0"),
        "sleeping": _fill("sleeping", "1 day"),
        "finished": _fill("completed", "0"),
    }

    def install(self) -> None:
        """See ``Adapter``."""
        ctl = str(Path(sys.executable).with_name("absurdctl"))
        for arguments in (["init"], ["create-queue", QUEUE]):
            subprocess.run([ctl, *arguments], env={"PGDATABASE": self.url, "PATH": "/usr/bin:/bin"}, check=True)

    def open(self) -> None:
        """See ``Adapter``."""
        import psycopg
        from absurd_sdk import Absurd

        self.conn = psycopg.connect(self.url, autocommit=True)
        self.app = Absurd(self.conn, queue_name=QUEUE)

    def _spawn(self, task: str, params: Params) -> None:
        self.app.spawn(task, params, queue=QUEUE)

    def spawn_each(self, task: str, all_params: Sequence[Params]) -> list[float]:
        """See ``Adapter``."""
        return timed([lambda params=params: self._spawn(task, params) for params in all_params])  # type: ignore[misc]

    def spawn_many(self, task: str, all_params: Sequence[Params]) -> None:
        """It has no bulk insert: many spawns in one transaction, one after the other."""
        for batch in bulks(all_params):
            with self.conn.transaction():
                for params in batch:
                    self._spawn(task, params)

    def emit_each(self, keys: Sequence[int], pause: float) -> list[float]:
        """See ``Adapter``."""
        return timed([lambda key=key: self.app.emit_event(f"e{key}", {"k": key}) for key in keys], pause)  # type: ignore[misc]

    def broadcast(self, count: int) -> None:
        """See ``Adapter``."""
        self.app.emit_event("all", {"k": 1})

    def work(self) -> None:
        """See ``Adapter``."""
        if self.settings.get("sync"):
            self._work_sync()
            return
        import asyncio

        from absurd_sdk import AsyncAbsurd

        async def run() -> None:
            app = AsyncAbsurd(self.url, queue_name=QUEUE)
            self._register(app)
            await app.start_worker(**self.settings["worker"])

        asyncio.run(run())

    def _work_sync(self) -> None:
        from absurd_sdk import Absurd

        app = Absurd(self.url, queue_name=QUEUE)
        mark = self.mark

        @app.register_task("sync_noop")
        def sync_noop(params: Any, ctx: Any) -> int:
            mark("start", params["i"])
            return 1

        @app.register_task("sync_steps")
        def sync_steps(params: Any, ctx: Any) -> int:
            mark("start", params["i"])
            for index in range(params["n"]):
                ctx.step(f"s{index}", lambda index=index: {"k": index})
            return 1

        app.start_worker(**self.settings["worker"])

    def _register(self, app: Any) -> None:
        mark = self.mark

        @app.register_task("noop")
        async def noop(params: Any, ctx: Any) -> int:
            mark("start", params["i"])
            return 1

        @app.register_task("steps")
        async def steps(params: Any, ctx: Any) -> int:
            mark("start", params["i"])
            for index in range(params["n"]):

                async def work(index: int = index) -> dict[str, int]:
                    return {"k": index}

                await ctx.step(f"s{index}", work)
            return 1

        @app.register_task("wait")
        async def wait(params: Any, ctx: Any) -> Any:
            mark("waits", params["i"])
            found = await ctx.await_event(f"e{params['i']}")
            mark("resumed", params["i"])
            return found

        @app.register_task("wait_all")
        async def wait_all(params: Any, ctx: Any) -> Any:
            mark("waits", params["i"])
            found = await ctx.await_event("all")
            mark("resumed", params["i"])
            return found
