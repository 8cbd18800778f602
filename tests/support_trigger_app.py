"""An application with triggers in a process of its own: ``python -m tests.support_trigger_app URL DIRECTORY``.

Its polls leave a line ``pid name`` each in the file ``polls`` of the directory; what they fire for are files there, too.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from absurd import Absurd, Fire, Skip

ROOT = Path(__file__).parent.parent
NAMES = ("one", "two", "three")


def start(url: str, directory: Path) -> subprocess.Popen[str]:
    """Starts such a process."""
    return subprocess.Popen([sys.executable, "-m", "tests.support_trigger_app", url, str(directory)], cwd=ROOT, text=True)


def make_app(url: str, directory: Path) -> Absurd:
    """The application: three triggers that fire once for each number in the file ``wanted``; one that hangs if told to."""
    app = Absurd(url)
    lock = threading.Lock()

    @app.register_task("work")
    def work(params: Any, ctx: Any) -> None: ...

    def note(name: str) -> None:
        with lock, (directory / "polls").open("a") as file:
            file.write(f"{os.getpid()} {name}\n")

    def make(name: str) -> None:
        @app.trigger(name, task="work", poll_interval=0.2, allow_concurrent=True)
        def poll(state: dict[str, Any]) -> Any:
            note(name)
            wanted = int((directory / "wanted").read_text())
            if state.get("fired", 0) >= wanted:
                return Skip
            state["fired"] = state.get("fired", 0) + 1
            return Fire({"n": state["fired"]})

    for name in NAMES:
        make(name)

    @app.trigger("hangs", task="work", poll_interval=0.2)
    def hangs() -> bool:
        note("hangs")
        if not (directory / "hang").exists():
            return False
        (directory / "hang").unlink()
        (directory / "hanging").write_text(str(os.getpid()))
        threading.Event().wait()
        return True

    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    make_app(sys.argv[1], Path(sys.argv[2])).start_worker(poll_interval=0.2, grace_seconds=2)
