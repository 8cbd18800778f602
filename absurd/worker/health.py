"""A file that is touched while the event loop of a worker goes round: for whoever restarts workers that hang.

It says nothing of the database. A worker that cannot reach it reconnects by itself, and to restart it would only cost attempts.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from absurd.loops import Loop

# Seconds between two touches.
TOUCH_SECONDS = 5.0


class HealthFile(Loop):
    """Touches ``PATH.PID``, one file for each process of a worker, and removes it at the end."""

    def __init__(self, path: str) -> None:
        super().__init__("health file", TOUCH_SECONDS)
        self._path = Path(f"{path}.{os.getpid()}")

    async def tick(self) -> float | None:
        """Writes the file; that the event loop got here is what it says."""
        # Not in a thread: users' own calls may have taken all of them, and a few bytes take no time.
        self._path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        return None

    async def stop(self, *, grace: float = 0.0) -> None:
        """Ends the loop and removes the file: nobody asks after a process that has ended."""
        await super().stop(grace=grace)
        self._path.unlink(missing_ok=True)


def health_files(path: str) -> dict[int, float]:
    """The processes whose files there are, and for how many seconds each of them has not touched its own.

    Files that dead processes of this machine have left behind are removed.
    """
    found: dict[int, float] = {}
    base = Path(path)
    for file in base.parent.glob(f"{base.name}.*"):
        number = file.name[len(base.name) + 1 :]
        if not number.isdigit():
            continue
        try:
            if not _lives(int(number)):
                file.unlink(missing_ok=True)
                continue
            found[int(number)] = max(time.time() - file.stat().st_mtime, 0.0)
        except FileNotFoundError:
            continue  # the process has ended at this moment
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True
