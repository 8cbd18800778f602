"""What the benchmark needs of a system: the base of all adapters.

The runner imports the adapters for what they say about themselves; a child process, in the system's own virtual environment,
makes an instance and uses the library. So this module and the top of each adapter need nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar

Params = dict[str, Any]
Mark = Callable[[str, int], None]
# By name: the settings and what they are, for people.
Configurations = Mapping[str, tuple[Mapping[str, Any], str]]
QUEUE = "bench"
# Given to every task of a workload that does not say otherwise: about what a task of an application carries.
PAD = "x" * 100
# Items of one call of a bulk insert.
BULK = 1000


class Adapter:
    """One system under one configuration."""

    title: ClassVar[str]
    # What pip installs into the system's environment.
    packages: ClassVar[Sequence[str]]
    # The statement that imports it.
    imports: ClassVar[str]
    configurations: ClassVar[Configurations]
    # Which kinds of tasks it has; the handlers of a kind do the same in every system.
    tasks: ClassVar[frozenset[str]] = frozenset({"noop"})
    has_workers: ClassVar[bool] = True
    # SQL that counts finished tasks.
    finished: ClassVar[str] = "select 0"
    # SQL that fills the tables of a queue with ``:count`` rows, by state.
    fills: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: str, settings: Mapping[str, Any], mark: Mark) -> None:
        self.url = url
        self.settings = settings
        self.mark = mark

    def install(self) -> None:
        """Creates the schema and the queue."""
        raise NotImplementedError

    def open(self) -> None:
        """Makes a client ready to spawn and emit."""
        raise NotImplementedError

    def spawn_each(self, task: str, all_params: Sequence[Params]) -> list[float]:
        """Spawns tasks one by one, each in a commit of its own; the moment after each commit."""
        raise NotImplementedError

    def spawn_many(self, task: str, all_params: Sequence[Params]) -> None:
        """Spawns tasks in the fastest way that the library has."""
        raise NotImplementedError

    def emit_each(self, keys: Sequence[int], pause: float) -> list[float]:
        """Emits the event of each waiting task; the moment after each commit."""
        raise NotImplementedError

    def broadcast(self, count: int) -> None:
        """Wakes ``count`` tasks of the kind ``wait_all`` by what comes closest to one emit."""
        raise NotImplementedError

    def work(self) -> None:
        """Runs a worker until the process ends."""
        raise NotImplementedError


class AsyncAdapter(Adapter):
    """A system whose client is used from an event loop: subclasses define coroutines."""

    def __init__(self, url: str, settings: Mapping[str, Any], mark: Mark) -> None:
        super().__init__(url, settings, mark)
        self.loop: asyncio.AbstractEventLoop | None = None

    def await_(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the adapter's own loop."""
        if self.loop is None:
            self.loop = self.make_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(work)

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the configuration."""
        if self.settings.get("uvloop"):
            import uvloop

            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
            return loop
        return asyncio.new_event_loop()

    async def open_async(self) -> None:
        """See ``open``."""
        raise NotImplementedError

    async def spawn_async(self, task: str, params: Params) -> None:
        """Spawns one task."""
        raise NotImplementedError

    async def spawn_many_async(self, task: str, all_params: Sequence[Params]) -> None:
        """See ``spawn_many``."""
        raise NotImplementedError

    async def work_async(self) -> None:
        """See ``work``."""
        raise NotImplementedError

    def open(self) -> None:
        """See ``Adapter``."""
        self.await_(self.open_async())

    def spawn_each(self, task: str, all_params: Sequence[Params]) -> list[float]:
        """See ``Adapter``."""
        found: list[float] = self.await_(self._each(lambda params: self.spawn_async(task, params), all_params))
        return found

    def spawn_many(self, task: str, all_params: Sequence[Params]) -> None:
        """See ``Adapter``."""
        self.await_(self.spawn_many_async(task, all_params))

    def work(self) -> None:
        """See ``Adapter``."""
        self.await_(self.work_async())

    async def _each(self, call: Callable[[Params], Awaitable[None]], all_params: Sequence[Params]) -> list[float]:
        moments = []
        for params in all_params:
            await call(params)
            moments.append(time.monotonic())
        return moments


def timed(calls: Sequence[Callable[[], object]], pause: float = 0.0) -> list[float]:
    """Calls one after the other, with a pause between; the moment after each."""
    moments = []
    for call in calls:
        call()
        moments.append(time.monotonic())
        if pause:
            time.sleep(pause)
    return moments


def bulks(items: Sequence[Any], size: int = BULK) -> list[Sequence[Any]]:
    """The items in pieces."""
    return [items[start : start + size] for start in range(0, len(items), size)]
