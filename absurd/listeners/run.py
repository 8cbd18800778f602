"""Runs a listener until a signal: its heartbeat, its restarts after errors, its end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from absurd.client import Absurd, AsyncAbsurd
from absurd.errors import AbsurdError, ConfigurationError
from absurd.listeners.base import AsyncEventListener, Backoff, EventListener, describe
from absurd.listeners.heartbeat import Heartbeat

logger = logging.getLogger("absurd.listeners")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DEFAULT_GRACE = 30.0
# What a shell reports for a process that Ctrl-C ended, and the exit status of one that did not end in time.
EXIT_INTERRUPTED = 130
EXIT_TOO_SLOW = 1
# Seconds until a listener that raised is started again, doubled up to the second figure.
FIRST_RESTART = 0.5
LONGEST_RESTART = 60.0
# Seconds after which a listener counts as well, so that its next error is followed by a short delay again.
HEALTHY_SECONDS = 60.0


def run_listener(listener: EventListener | AsyncEventListener, *, grace_seconds: float = DEFAULT_GRACE) -> None:
    """Runs a listener in this thread until SIGTERM or SIGINT, or until it returns by itself.

    An error that ``start_listening`` raises is logged, kept in the listener's row, and followed by another start, after 0.5 s,
    doubled at each further error up to a minute. On a signal a listener that looks at ``self.stopped``, or has a ``stop`` of its
    own, gets ``grace_seconds`` to end; any other is interrupted where it is: by ``KeyboardInterrupt``, an async one by
    cancellation. A second signal ends the process at once. Signals are heard in the main thread only.

    Args:
        listener: the listener.
        grace_seconds: how long it may take to end after a signal; then the process ends with status 1.

    Raises:
        NotImplementedError: it has no ``start_listening``.
        ConfigurationError: it cannot begin, as it says itself.
    """
    if not isinstance(listener, (EventListener, AsyncEventListener)):
        raise ConfigurationError(f"run_listener takes an instance of EventListener or AsyncEventListener, not {listener!r}")
    if isinstance(listener, EventListener) and inspect.iscoroutinefunction(listener.start_listening):
        raise ConfigurationError(f"{type(listener).__name__}.start_listening is async; derive from AsyncEventListener")
    with Heartbeat(listener, listener._client.database_url) as heartbeat:
        _Run(listener, heartbeat, grace_seconds).run()


class _Run:
    """One listener from its start to its end."""

    def __init__(self, listener: EventListener | AsyncEventListener, heartbeat: Heartbeat, grace: float) -> None:
        self._listener = listener
        self._heartbeat = heartbeat
        self._grace = grace
        self._starts = 0
        # Set by a signal handler, in the main thread; everything that takes a lock is left to the watcher: the handler may
        # interrupt the main thread anywhere, also where it holds that lock.
        self._signal: str | None = None
        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._listening = False
        self._interrupt: Callable[[], object] | None = None
        self._last_words: asyncio.Task[object] | None = None

    def run(self) -> None:
        """The listener's life."""
        with self._watcher(), self._signals(), asyncio.Runner() as self._runner:
            try:
                self._keep_listening()
            except KeyboardInterrupt:
                if self._signal is None:
                    raise
            self._close_app()
            logger.info("%s has ended", self._listener._label)

    def _close_app(self) -> None:
        """Closes the client that nobody else has: the one that the listener made for itself."""
        app = vars(self._listener).get("_default_app")
        if isinstance(app, AsyncAbsurd):
            self._runner.run(app.close())
        elif isinstance(app, Absurd):
            app.close()

    def _keep_listening(self) -> None:
        restart = Backoff(FIRST_RESTART, LONGEST_RESTART)
        while not self._stopping.is_set():
            self._starts += 1
            self._heartbeat.say("listening", self._starts)
            began = time.monotonic()
            try:
                self._listen()
                return
            except (NotImplementedError, ConfigurationError):
                raise
            except Exception as error:
                problem: Exception = error
            if time.monotonic() - began > HEALTHY_SECONDS:
                restart.reset()
            pause = restart.next()
            self._listener._report(problem, f"; it is started again in {pause:g} s", _trace(problem))
            self._heartbeat.say("waiting", self._starts)
            self._stopping.wait(pause)

    def _listen(self) -> None:
        logger.info("%s is listening", self._listener._label)
        if isinstance(self._listener, AsyncEventListener):
            # One loop for all its starts: events and pools belong to the loop in which they were used first.
            self._runner.run(self._listen_async(self._listener))
            return
        self._listening = True
        try:
            self._listener.start_listening()
        finally:
            self._listening = False

    async def _listen_async(self, listener: AsyncEventListener) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(listener.start_listening())
        self._interrupt = lambda: loop.call_soon_threadsafe(self._end_task, listener, task)
        if self._stopping.is_set():
            self._interrupt()
        await asyncio.wait({task})
        self._interrupt = None
        if task.cancelled():
            if not self._stopping.is_set():
                raise RuntimeError("start_listening was cancelled, and not by its stop")
            return
        task.result()

    def _end_task(self, listener: AsyncEventListener, task: asyncio.Task[None]) -> None:
        answer = _call_stop(listener)
        if inspect.iscoroutine(answer):
            self._last_words = asyncio.get_running_loop().create_task(answer)
        if not _heeds_stop(listener):
            task.cancel()

    # The end

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            os._exit(EXIT_INTERRUPTED)
        self._signal = signal.Signals(number).name
        self._asked.put(self._signal)
        if self._listening and not _heeds_stop(self._listener):
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def _watcher(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, name="absurd-listener-end", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._asked.put(None)

    def _watch(self) -> None:
        name = self._asked.get()
        if name is None:
            return
        logger.info("%s: %s ends; once more ends it at once", name, self._listener._label)
        self._stopping.set()
        self._heartbeat.say("stopping", self._starts)
        if isinstance(self._listener, EventListener):
            _call_stop(self._listener)
        elif (interrupt := self._interrupt) is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                interrupt()
        if not self._ended.wait(self._grace):
            logger.error("%s has not ended within %g s: ending the process", self._listener._label, self._grace)
            os._exit(EXIT_TOO_SLOW)


def _trace(problem: Exception) -> Exception | None:
    """What shows where an error of the listener's own code was raised, without passwords; the library's own say all."""
    return None if isinstance(problem, AbsurdError) else RuntimeError(describe(problem)).with_traceback(problem.__traceback__)


def _heeds_stop(listener: EventListener | AsyncEventListener) -> bool:
    """Whether a listener ends by itself when it is asked to."""
    base = EventListener if isinstance(listener, EventListener) else AsyncEventListener
    kept = vars(listener)
    looks = "stopped" in kept and kept["stopped"] is kept.get("_stop_event")
    return looks or type(listener).stop is not base.stop


def _call_stop(listener: EventListener | AsyncEventListener) -> object:
    """Asks a listener to end; what its own ``stop`` returned, if it has one."""
    base = EventListener if isinstance(listener, EventListener) else AsyncEventListener
    base.stop(listener)  # type: ignore[arg-type]
    if type(listener).stop is base.stop:
        return None
    try:
        answer: object = listener.stop()
        return answer
    except Exception as error:
        listener._report(error)
        return None
