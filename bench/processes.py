"""Child processes of a system, as the runner sees them."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bench.environments import ROOT, python_of

Mark = tuple[str, int, float]
ANSWER_SECONDS = 180.0


class ChildError(Exception):
    """A child process failed; the message holds the end of what it wrote."""


class Child:
    """A producer or a worker process."""

    def __init__(
        self, system: str, role: Literal["producer", "worker"], settings: Mapping[str, Any], url: str, log: Path
    ) -> None:
        self.first: float | None = None
        self._log = log
        reading, writing = os.pipe()
        command = [str(python_of(system)), "-m", "bench.child", system, role, json.dumps(settings), url, str(writing)]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
            )
        os.close(writing)
        self._answers = os.fdopen(reading, "rb", buffering=0)
        self._buffer = b""
        self.answer()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def go(self) -> None:
        """Lets a worker that is loaded begin."""
        self._send("go")

    def ask(self, do: str, **arguments: Any) -> Any:
        """Has a command carried out; its answer."""
        self.tell(do, **arguments)
        return self.answer()

    def tell(self, do: str, **arguments: Any) -> None:
        """The same without waiting for the answer."""
        self._send(json.dumps({"do": do, **arguments}))

    def answer(self) -> Any:
        """The answer to the last command."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            message = self._next(max(0.0, deadline - time.monotonic()))
            if message is None:
                raise ChildError(f"no answer within {ANSWER_SECONDS:.0f} s; {self._tail()}")
            if "answer" in message:
                return message["answer"]

    def look(self) -> None:
        """Takes note of what it said by itself: that the first handler has begun."""
        while self._next(0.0) is not None:
            pass

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._answers.close()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ChildError(f"it is gone; {self._tail()}") from None

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next message, if one comes within that time."""
        while b"\n" not in self._buffer:
            if not select.select([self._answers], [], [], seconds)[0]:
                return None
            piece = self._answers.read(1 << 20)
            if not piece:
                raise ChildError(f"it ended; {self._tail()}")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "first" in message:
            self.first = message["first"]
        if "error" in message:
            raise ChildError(f"{message['error']}; {self._tail()}")
        return message

    def _tail(self) -> str:
        return "its last words: " + " | ".join(self._log.read_text(errors="replace").splitlines()[-6:])[-900:]
