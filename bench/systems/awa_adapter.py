"""Awa by its Python bindings: a queue written in Rust, without durable steps."""

# mypy: disable-error-code="untyped-decorator,import-not-found"

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.adapter import QUEUE, AsyncAdapter, Configurations, Mark, Params


@dataclass
class Noop:
    """The arguments of a job."""

    i: int
    pad: str


class System(AsyncAdapter):
    """Awa on its queue storage."""

    title = "awa (queue, Rust)"
    packages = ("awa-pg",)
    imports = "import awa"
    configurations: ClassVar[Configurations] = {
        "best": ({"slots": 1000, "start": {"poll_interval_ms": 10}}, "1,000 slots per worker, poll_interval_ms=10"),
        "default": ({"slots": 4, "start": {}}, "4 slots per worker, as in its introduction; the rest as it is"),
    }
    # Its view of all jobs takes seconds to count. Completions are rows of two tables, until they are pruned, and counted.
    finished = """
        select (select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches)
             + (select count(*) from awa.done_entries where state = 'completed')
             + (select coalesce(sum(pruned_completed_count), 0) from awa.queue_terminal_rollups)"""

    def __init__(self, url: str, settings: Mapping[str, Any], mark: Mark) -> None:
        # Its driver wants a host in its place; the directory of the socket in the query overrules it.
        super().__init__(url.replace("@/", "@localhost/"), settings, mark)

    def install(self) -> None:
        """See ``Adapter``."""
        import awa

        client = awa.Client(self.url)
        client.migrate()
        client.install_queue_storage()

    async def open_async(self) -> None:
        """See ``AsyncAdapter``."""
        import awa

        self.client = awa.AsyncClient(self.url)

    async def spawn_async(self, task: str, params: Params) -> None:
        """See ``AsyncAdapter``."""
        await self.client.insert(Noop(params["i"], params["pad"]), queue=QUEUE)

    async def spawn_many_async(self, task: str, all_params: Sequence[Params]) -> None:
        """See ``AsyncAdapter``."""
        await self.client.enqueue_many_copy([Noop(params["i"], params["pad"]) for params in all_params], queue=QUEUE)

    async def work_async(self) -> None:
        """See ``AsyncAdapter``."""
        import awa

        client = awa.AsyncClient(self.url)

        @client.task(Noop, queue=QUEUE)
        async def noop(job: Any) -> None:
            self.mark("start", job.args.i)

        await client.start([(QUEUE, self.settings["slots"])], **self.settings["start"])
        await asyncio.Event().wait()
