"""Starts tasks for files that appear or change below a directory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from absurd import failpoints
from absurd.errors import ConfigurationError, InvalidOptionError
from absurd.listeners.base import Backoff, EventListener
from absurd.registry import check_name

QUIET_SECONDS = 1.0
# Milliseconds between two looks at the files that have become quiet, at the directory itself, and whether the listener shall end.
LOOK_MILLISECONDS = 100
# Seconds until the next attempt after the directory was missing or could not be watched, doubled up to the second figure.
FIRST_RETRY = 0.2
LONGEST_RETRY = 5.0
# Seconds by which the times of files may lag behind the clock.
CLOCK_SECONDS = 2.0


class FileListener(EventListener):
    """Starts a task for each new and each changed file below a directory, once nobody has written to it for a moment.

    The task's params are ``{"path": "/data/in/a.csv", "change": "added"}``; ``change`` is ``added`` or ``modified``. A version of
    a file (its path, inode, size and time of change) starts one task, however many processes watch. What happens while nobody
    watches is not noticed, unless ``existing`` is set. A directory that is missing, or vanishes, is waited for; whatever is in it
    then is new.
    """

    def __init__(
        self,
        path: str | Path,
        workflow_id: str,
        *,
        pattern: str = "*",
        quiet_seconds: float = QUIET_SECONDS,
        existing: bool = False,
        **settings: Any,
    ) -> None:
        """Makes the listener.

        Args:
            path: the directory; what lies in directories below it counts too.
            workflow_id: the name of the task.
            pattern: which files count, by their name: ``*.csv``.
            quiet_seconds: how long a file must be left alone before it counts as written.
            existing: whether files count that are there when the listener starts. Each version is started once for as long as its
                task is kept; after a clean-up of old tasks it is new again.
            settings: ``app``, ``target_queue`` and ``name`` of ``EventListener``.

        Raises:
            ConfigurationError: watchfiles is not installed, or an argument cannot be used.
        """
        super().__init__(**settings)
        _require_watchfiles()
        if not isinstance(path, (str, Path)) or not str(path):
            raise InvalidOptionError(f"path must name a directory, not {path!r}")
        if isinstance(quiet_seconds, bool) or not isinstance(quiet_seconds, (int, float)) or not 0 <= quiet_seconds <= 86_400:
            raise InvalidOptionError(f"quiet_seconds must be a number from 0 to 86400, not {quiet_seconds!r}")
        self._path = Path(path).absolute()
        self._workflow_id = check_name("workflow_id", workflow_id)
        self._pattern = check_name("pattern", pattern)
        self._quiet_seconds = quiet_seconds
        self._existing = existing
        self._seen_until = 0.0
        # Files that have changed, with the kind and the time of the last change.
        self._restless: dict[str, tuple[str, float]] = {}

    def start_listening(self) -> None:
        """Watches until it is stopped; what stands in the way is reported, and tried again."""
        retry = Backoff(FIRST_RETRY, LONGEST_RETRY)
        self._seen_until = 0.0 if self._existing else time.time()
        while not self.stopped.is_set():
            try:
                self._watch(retry)
            except (OSError, RuntimeError) as error:
                self._report(f"{self._path} cannot be watched: {error}")
                if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                    self._seen_until = 0.0
                self._start_quiet_ones()
                self.stopped.wait(retry.next())
        # A change that was seen is not lost by a restart.
        self._start_quiet_ones(all_of_them=True)

    def _watch(self, retry: Backoff) -> None:
        watched = _identity(self._path)
        begun = False
        for batch in self._batches():
            now = time.time()
            if not begun:
                # Only now, when changes are being told of, so that nothing slips in between.
                self._note_all_below(self._path, self._seen_until)
                begun = True
                retry.reset()
            for change, path in batch:
                self._note(change, path)
            self._start_quiet_ones()
            if _identity(self._path) != watched:
                raise FileNotFoundError("it has been replaced by another directory")
            self._seen_until = now - CLOCK_SECONDS

    def _batches(self) -> Iterator[set[tuple[str, str]]]:
        """What has changed, again and again; often nothing."""
        from watchfiles import watch

        found = watch(
            self._path,
            watch_filter=None,
            debounce=LOOK_MILLISECONDS,
            step=LOOK_MILLISECONDS // 2,
            rust_timeout=LOOK_MILLISECONDS,
            yield_on_timeout=True,
            stop_event=self.stopped,
            recursive=True,
            ignore_permission_denied=True,
        )
        for batch in found:
            yield {(change.name, path) for change, path in batch}

    def _note(self, change: str, path: str) -> None:
        if change == "deleted":
            self._restless.pop(path, None)
        elif os.path.isdir(path):
            if change == "added":
                # What was put into a new directory before it was watched as well was not told of.
                self._note_all_below(Path(path), 0.0)
        elif fnmatch(os.path.basename(path), self._pattern):
            before = self._restless.get(path, (change, 0.0))[0]
            # New whatever was told of first: of a file in a new directory that may be a write alone.
            kind = "added" if "added" in (before, change) else change
            self._restless[path] = (kind, time.monotonic())

    def _note_all_below(self, directory: Path, since: float) -> None:
        """Notes the files that have changed since then, in seconds of the system's clock."""
        for place, _, names in os.walk(directory, onerror=self._report):
            for name in names:
                path = os.path.join(place, name)
                with contextlib.suppress(OSError):  # deleted meanwhile
                    if os.stat(path).st_ctime >= since:
                        self._note("added", path)

    def _start_quiet_ones(self, *, all_of_them: bool = False) -> None:
        latest = time.monotonic() - self._quiet_seconds
        for path, (change, at) in list(self._restless.items()):
            if all_of_them or at <= latest:
                del self._restless[path]
                self._start(path, change)

    def _start(self, path: str, change: str) -> None:
        try:
            found = os.stat(path)
        except OSError:
            return  # deleted since: there is nothing left to work on
        if not stat.S_ISREG(found.st_mode):
            return
        version = f"{self._workflow_id}\0{path}".encode(errors="surrogateescape")
        key = f"file:{hashlib.sha256(version).hexdigest()}:{found.st_ino}:{found.st_ctime_ns}:{found.st_size}"
        self._insist(self._workflow_id, {"path": path, "change": change}, key)
        if failpoints.hook is not None:
            failpoints.hook("files.started", self)


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError("it is no directory")
    return found.st_dev, found.st_ino


def _require_watchfiles() -> None:
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise ConfigurationError("FileListener needs watchfiles; install it with: pip install 'absurd[files]'") from None
