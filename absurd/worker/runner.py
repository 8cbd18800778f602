"""Ways to run an engine: until a signal, in the background, or until nothing is ready."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from absurd.errors import ConfigurationError
from absurd.registry import Registry
from absurd.worker.engine import Engine
from absurd.worker.options import WorkerOptions

logger = logging.getLogger("absurd.worker")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What a shell reports for a process that Ctrl-C ended.
EXIT_INTERRUPTED = 130
# Seconds beyond the grace period in which a background worker has to be gone.
STOP_MARGIN = 15.0
# New objects, less those that are gone, after which the garbage collector looks for cycles. With Python's own 700 it would look
# at the objects of tasks that run again and again, for a fifth of a busy worker's time.
COLLECT_AFTER = 20_000


def package_version() -> str:
    """The version of this library, as installed."""
    try:
        return importlib.metadata.version("absurd")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed: half the cost of a loop iteration."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _check_registry(registry: Registry) -> None:
    if len(registry) == 0:
        raise ConfigurationError(
            "no task is registered with this app; decorate a function with @app.register_task before the worker starts"
        )


def run_worker(registry: Registry, url: str, options: WorkerOptions) -> None:
    """Runs a worker in this thread until SIGTERM or SIGINT; a second signal ends the process at once.

    Signals are heard in the main thread only; elsewhere it runs until the process ends.
    """
    with _rare_collections(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(registry, url, options))


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Has the garbage collector run more rarely, and leave alone what is loaded, in a process that is there for the worker.

    Whoever has switched it off or chosen a rarer run has his way.
    """
    before = gc.get_threshold()
    if threading.current_thread() is not threading.main_thread() or not 0 < before[0] < COLLECT_AFTER:
        yield
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def serve(registry: Registry, url: str, options: WorkerOptions) -> None:
    """The same on the running event loop."""
    _check_registry(registry)
    engine = Engine(registry, url, options, package_version())
    with _signals(engine):
        await engine.run()


def drain(registry: Registry, url: str, options: WorkerOptions) -> int:
    """Runs what is ready, in this thread, until nothing is; returns how many runs there were."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve_once(registry, url, options))


async def serve_once(registry: Registry, url: str, options: WorkerOptions) -> int:
    """The same on the running event loop."""
    _check_registry(registry)
    return await Engine(registry, url, options, package_version()).drain()


@contextlib.contextmanager
def _signals(engine: Engine) -> Iterator[None]:
    """Stops the engine on a signal while it runs."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def stop(name: str) -> None:
        nonlocal asked
        if asked:
            logger.warning("%s again: ending at once; what runs begins its next attempt on another worker", name)
            os._exit(EXIT_INTERRUPTED)
        asked = True
        logger.info("%s: finishing what runs; once more ends at once", name)
        engine.stop()

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number.name)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


class BackgroundWorker:
    """A worker on a thread of its own: a context manager, for tests and for applications that embed one.

    Entering returns when the worker is connected and registered, or raises what kept it from it.
    """

    def __init__(self, registry: Registry, url: str, options: WorkerOptions) -> None:
        self._registry = registry
        self._url = url
        self.options = options
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="absurd-worker", daemon=True)

    def start(self) -> None:
        """Starts it."""
        _check_registry(self._registry)
        self._thread.start()
        self._ready.wait()
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        """Stops it, as SIGTERM would, and waits for its end. Raises what ended it, if that was an error."""
        if self._loop is not None and self._engine is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                self._loop.call_soon_threadsafe(self._engine.stop)
        self._thread.join(self.options.grace_seconds + STOP_MARGIN)
        if self._problem is not None:
            raise self._problem

    def __enter__(self) -> BackgroundWorker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> BackgroundWorker:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.stop)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._problem = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = Engine(self._registry, self._url, self.options, package_version())
        self._engine.on_ready = self._ready.set
        await self._engine.run()
