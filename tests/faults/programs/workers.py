"""Worker processes that can be killed, stopped, frozen and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
LOG_TAIL = 4000  # characters


class WorkerSlot:
    """The place of one worker; the processes in it come one after the other, each under a name of its own.

    Args:
        place: its number.
        url: by which the library reaches the database.
        direct_url: by which effects do.
        directory: for its log.
        mortal: whether faults may end its process; one that lives long shows whether its memory grows.
        settings: of the worker.
    """

    def __init__(self, place: int, url: str, direct_url: str, directory: Path, *, mortal: bool, settings: dict[str, Any]) -> None:
        self.place = place
        self.mortal = mortal
        self.busy = False
        """A fault has it in its hands."""
        self.down = True
        """It is down on purpose."""
        self.stopped: set[str] = set()
        """Names of processes that were asked to stop."""
        self.log = directory / f"worker{place}.log"
        self._urls = (url, direct_url)
        self._settings = settings
        self._count = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Of the process that is there now."""
        return f"w{self.place}.{self._count}"

    def start(self, offset: float = 0.0) -> None:
        """Starts a process; ``offset``: seconds by which its clocks are off."""
        self._count += 1
        options = json.dumps({**self._settings, "offset": offset})
        command = [sys.executable, "-m", "tests.faults.programs.worker_app", *self._urls, self.name, options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdin=subprocess.DEVNULL)
        self.down = False

    def kill(self) -> None:
        """Ends the process at once, frozen or not."""
        self.down = True
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self.down = True
        self.stopped.add(self.name)
        self.send(signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """Until the process has ended."""
        assert self.process is not None
        return self.process.wait(timeout)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, to a process that may be gone."""
        with contextlib.suppress(ProcessLookupError):
            assert self.process is not None
            self.process.send_signal(number)

    def problem(self) -> str | None:
        """What is wrong with a process that should be there."""
        if self.down or self.process is None or self.process.poll() is None:
            return None
        return f"worker {self.name} ended by itself with code {self.process.returncode}: {self.log_tail()}"

    def log_tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:] if self.log.exists() else ""

    @property
    def memory(self) -> int:
        """Resident memory in kB."""
        return memory_of(self.process.pid) if self.process is not None else 0


def memory_of(pid: int | None = None) -> int:
    """Resident memory of a process in kB; 0 if it is gone."""
    try:
        status = Path("/proc", str(pid or os.getpid()), "status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
