"""Tests of your own tasks: a clean database for each, a worker that stops when nothing is left to do, and a clock that you move.

With pytest the fixtures ``absurd_test`` and ``absurd_database_url`` are there as soon as the library is installed. Without it:

    with testing.run(app) as t:
        task = app.spawn(order, {"id": 1})
        t.drain()
        t.assert_completed(task)

The names are imported when they are first used, so that the plugin costs other people's tests nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from absurd.testing.app import AsyncTestApp, TestApp
    from absurd.testing.binding import bind
    from absurd.testing.clock import VirtualClock
    from absurd.testing.crash import Crash, CrashReport, CrashTest, crash_everywhere
    from absurd.testing.databases import Databases, database
    from absurd.testing.failures import TaskErrors
    from absurd.testing.history import TaskHistory, export_task, load_histories, load_history
    from absurd.testing.records import EventRecord, TaskRecord
    from absurd.testing.replaying import Replay, assert_replays, replay
    from absurd.testing.session import run

_HOMES = {
    "app": ("AsyncTestApp", "TestApp"),
    "binding": ("bind",),
    "clock": ("VirtualClock",),
    "crash": ("Crash", "CrashReport", "CrashTest", "crash_everywhere"),
    "databases": ("Databases", "database"),
    "failures": ("TaskErrors",),
    "history": ("TaskHistory", "export_task", "load_histories", "load_history"),
    "records": ("EventRecord", "TaskRecord"),
    "replaying": ("Replay", "assert_replays", "replay"),
    "session": ("run",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncTestApp",
    "Crash",
    "CrashReport",
    "CrashTest",
    "Databases",
    "EventRecord",
    "Replay",
    "TaskErrors",
    "TaskHistory",
    "TaskRecord",
    "TestApp",
    "VirtualClock",
    "assert_replays",
    "bind",
    "crash_everywhere",
    "database",
    "export_task",
    "load_histories",
    "load_history",
    "replay",
    "run",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
