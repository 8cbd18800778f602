"""A process of a system: a producer or a worker, told what to do by the runner, line by line.

It runs in the system's virtual environment. Commands come in on stdin, one JSON object per line; answers go out on a descriptor
of their own, because libraries write to stdout what they like.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.adapter import PAD, Adapter, Params
from bench.systems import load

Say = Callable[[dict[str, Any]], None]


class Marks:
    """When which handler got where, by the clock that all processes of a machine share."""

    def __init__(self, say: Say) -> None:
        self._say = say
        # Of a load that goes on for minutes, the last million; they are counted all the same.
        self._seen: deque[tuple[str, int, float]] = deque(maxlen=1_000_000)
        self._counts: Counter[str] = Counter()

    def mark(self, what: str, index: int) -> None:
        """Notes the moment; the first one is told at once."""
        self._seen.append((what, index, time.monotonic()))
        self._counts[what] += 1
        if len(self._seen) == 1:
            self._say({"first": self._seen[0][2]})

    def take(self) -> list[tuple[str, int, float]]:
        """What was noted since the last call."""
        taken = list(self._seen)
        self._seen.clear()
        self._counts.clear()
        return taken

    def count(self, what: str) -> int:
        """How often something was noted since then."""
        return self._counts[what]


def send(descriptor: int, answer: dict[str, Any]) -> None:
    """Sends one line to the runner."""
    os.write(descriptor, json.dumps(answer).encode() + b"\n")


def make_params(first: int, count: int, fixed: dict[str, Any], size: int = 0) -> list[Params]:
    """The params of ``count`` tasks: a number each, what all have in common, and a text that gives them their size."""
    return [{"i": index, **fixed, "pad": "x" * size if size else PAD} for index in range(first, first + count)]


def produce_at(adapter: Adapter, task: str, rate: float, seconds: float, fixed: dict[str, Any]) -> dict[str, Any]:
    """An open loop: spawns at a rate, whatever the workers do; one by one up to 200 a second, then in bulk every 20 ms."""
    tick = 1 / rate if rate <= 200 else 0.02
    start, index, moments, late = time.monotonic(), 0, [], 0.0
    for turn in range(1, int(seconds / tick) + 1):
        due = start + turn * tick
        time.sleep(max(0.0, due - time.monotonic()))
        late = max(late, time.monotonic() - due)
        params = make_params(index, round(rate * tick * turn) - index, fixed)
        if len(params) == 1:
            moments += adapter.spawn_each(task, params)
        elif params:
            adapter.spawn_many(task, params)
            moments += [time.monotonic()] * len(params)
        index += len(params)
    return {"moments": moments, "late": late, "seconds": time.monotonic() - start}


def handle(adapter: Adapter, marks: Marks, command: dict[str, Any]) -> Any:
    """Does what a command says."""
    task, fixed = command.get("task", ""), command.get("fixed", {})
    match command["do"]:
        case "install":
            adapter.install()
        case "open":
            adapter.open()
        case "spawn_each":
            return adapter.spawn_each(task, make_params(command["first"], command["count"], fixed, command["size"]))
        case "spawn_many":
            params = make_params(command["first"], command["count"], fixed, command["size"])
            began = time.monotonic()
            adapter.spawn_many(task, params)
            return time.monotonic() - began
        case "produce_at":
            return produce_at(adapter, task, command["rate"], command["seconds"], fixed)
        case "emit_each":
            return adapter.emit_each(command["keys"], command["pause"])
        case "broadcast":
            adapter.broadcast(command["count"])
            return time.monotonic()
        case "marks":
            return marks.take()
        case "count_marks":
            return marks.count(command["what"])
        case other:
            raise ValueError(f"no command is called {other!r}")


def serve(adapter: Adapter, marks: Marks, say: Say) -> None:
    """Answers commands until stdin ends, then ends the process."""
    for line in sys.stdin:
        try:
            say({"answer": handle(adapter, marks, json.loads(line))})
        except BaseException as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """``python -m bench.child SYSTEM ROLE SETTINGS URL DESCRIPTOR``; the role is producer or worker."""
    name, role, settings, url, descriptor = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)  # no child of the system's may keep it open
    say = partial(send, int(descriptor))
    marks = Marks(say)
    chosen = json.loads(settings)
    if name == "absurd" and not chosen.get("uvloop"):
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it were not installed
    adapter = load(name)(url, chosen, marks.mark)
    say({"answer": "ready"})
    if role == "producer":
        serve(adapter, marks, say)
        return
    sys.stdin.readline()
    threading.Thread(target=serve, args=(adapter, marks, say), daemon=True).start()
    try:
        adapter.work()
    except BaseException as error:
        traceback.print_exc()
        say({"error": f"worker: {type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
