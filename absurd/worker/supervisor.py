"""Several worker processes on one machine: starts them, passes signals on, replaces those that die."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

logger = logging.getLogger("absurd.worker")

# A process that ends sooner than this was never well: replacing it at once would only loop.
HEALTHY_SECONDS = 10.0
# Seconds until a process that died early is replaced.
RESTART_SECONDS = 1.0
# Early deaths in a row after which the supervisor gives up.
MAX_EARLY_DEATHS = 5
# Seconds between looks at the processes, and of theirs at the supervisor.
LOOK_SECONDS = 0.2
# Tells a process who supervises it.
VARIABLE = "ABSURD_SUPERVISOR_PID"


class Supervisor:
    """Keeps ``count`` processes of one command running."""

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = list(command)
        self._count = count
        self.on_end: Callable[[int], None] | None = None
        self._processes: dict[subprocess.Popen[bytes], float] = {}
        self._signal: int | None = None
        self._early_deaths = 0
        self._not_before = 0.0

    def run(self) -> int:
        """Runs until a signal; returns the exit code: that of a process which ended badly, else 0."""
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        code = 0
        try:
            while self._processes or not self._over():
                self._start_missing()
                time.sleep(LOOK_SECONDS)
                code = self._look() or code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return code

    def _over(self) -> bool:
        return self._signal is not None or self._early_deaths >= MAX_EARLY_DEATHS

    def _start_missing(self) -> None:
        if self._over() or time.monotonic() < self._not_before:
            return
        while len(self._processes) < self._count and not self._over():
            # A session of its own: Ctrl-C on the terminal reaches the children through this process only, and once.
            environment = {**os.environ, VARIABLE: str(os.getpid())}
            process = subprocess.Popen(self._command, env=environment, start_new_session=True)
            self._processes[process] = time.monotonic()
            if self._signal is not None:
                # It came while this one was being started, and has been passed on to the others only.
                process.send_signal(self._signal)

    def _look(self) -> int:
        code = 0
        for process, started in list(self._processes.items()):
            if process.poll() is None:
                continue
            del self._processes[process]
            if self.on_end is not None:
                self.on_end(process.pid)
            code = self._died(process, started) if self._signal is None else max(code, process.returncode)
        return code

    def _died(self, process: subprocess.Popen[bytes], started: float) -> int:
        early = time.monotonic() - started < HEALTHY_SECONDS
        self._early_deaths = self._early_deaths + 1 if early else 0
        self._not_before = time.monotonic() + (RESTART_SECONDS if early else 0)
        if self._over():
            logger.error("worker processes keep dying (exit code %s); giving up", process.returncode)
            self._pass_on(signal.SIGTERM)
            return abs(process.returncode) or 1
        logger.warning("worker process %s ended with exit code %s; starting another", process.pid, process.returncode)
        return 0

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


def follow_supervisor() -> None:
    """Has this process stop gracefully when its supervisor was killed: nobody looks after it, and a new one starts others."""
    if (pid := os.environ.pop(VARIABLE, None)) is not None:
        threading.Thread(target=_stop_without, args=(int(pid),), name="absurd supervisor", daemon=True).start()


def _stop_without(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(LOOK_SECONDS)
    logger.warning("the process that supervises this worker is gone: stopping")
    os.kill(os.getpid(), signal.SIGTERM)
