"""A trigger that fires for new and changed files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from absurd.errors import InvalidOptionError
from absurd.triggers.trigger import Fire, Trigger

# Files that one poll fires for: what remains follows with the next polls.
BATCH = 500


class FileTrigger(Trigger):
    """Fires once for each file that appears in a directory or changes, when it has not changed between two polls.

    The context is ``{"path", "size", "modified_at"}``: the absolute path, bytes, and the time of the last change (ISO, UTC). What
    it has fired for is kept in the database, so nothing fires again after a restart, and what came while nobody looked fires
    then; files that are there when the trigger is polled for the first time count as new. A file that appears and vanishes
    between two polls is not seen. Files that are deleted are forgotten. A worker on another machine looks at its own disk:
    watch a shared directory, or run one worker that has the trigger.

    Args:
        directory: to be watched; one that does not exist is an error of the poll, until it does.
        task: what it starts, once for each file.
        pattern: which files, as the shell has it: ``*.csv``; of names, not paths.
        recursive: also in the directories below; symbolic links to directories are not followed.
        name: of the trigger; ``files:DIRECTORY/PATTERN`` if nothing is said.
        poll_interval: between two looks.
        poll_timeout: seconds that a look may take.

    Example:

        app.add_trigger(FileTrigger("/srv/incoming", pattern="*.csv", task="import-file"))
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        task: Any,
        pattern: str = "*",
        recursive: bool = False,
        name: str | None = None,
        poll_interval: float | str | timedelta = "2s",
        poll_timeout: float | str | timedelta = 30,
    ) -> None:
        if not isinstance(directory, (str, os.PathLike)):
            raise InvalidOptionError(f"directory must be a path, not {directory!r}")
        if not isinstance(pattern, str) or not pattern or "/" in pattern:
            raise InvalidOptionError(f"pattern must be one for names of files, like '*.csv', not {pattern!r}")
        self.directory = Path(directory).absolute()
        self.pattern = pattern
        self.recursive = recursive
        self.task = task
        self.name = name or f"files:{self.directory}/{pattern}"
        self.poll_interval = poll_interval
        self.poll_timeout = poll_timeout

    def poll(self) -> list[Fire]:
        """Looks at the files; what is as it was at the last look, and has not been fired for, fires now."""
        before: dict[str, list[int]] = self.state.get("files", {})
        after: dict[str, list[int]] = {}
        fires: list[Fire] = []
        for path, stat in self._files():
            size, changed, fired = stat.st_size, stat.st_mtime_ns, 0
            known = before.get(path)
            if known is not None and known[:2] == [changed, size]:
                fired = known[2]
                if not fired and len(fires) < BATCH:
                    fires.append(self._fire(path, stat))
                    fired = 1
            after[path] = [changed, size, fired]
        self.state["files"] = after
        return fires

    def _fire(self, path: str, stat: os.stat_result) -> Fire:
        modified = datetime.fromtimestamp(stat.st_mtime_ns // 1000 / 1_000_000, UTC)
        return Fire({"path": str(self.directory / path), "size": stat.st_size, "modified_at": modified.isoformat()})

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """The files that match, by their paths below the directory, in order."""
        for folder, folders, names in os.walk(self.directory, onerror=self._unreadable):
            folders[:] = sorted(folders) if self.recursive else []
            for name in sorted(names):
                path = os.path.join(folder, name)
                if not fnmatchcase(name, self.pattern) or not _is_text(path):
                    continue
                try:
                    stat = os.stat(path)
                except OSError:
                    continue  # it has just vanished, or is a link that leads nowhere
                if os.path.isfile(path):
                    yield os.path.relpath(path, self.directory), stat

    def _unreadable(self, error: OSError) -> None:
        """A directory below may vanish; the watched one must be there."""
        if error.filename == str(self.directory):
            raise error


def _is_text(path: str) -> bool:
    """Whether a path is Unicode text; others cannot be named in JSON."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
