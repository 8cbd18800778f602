"""A lock between processes, held on an open file: the kernel frees it when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absurd.devdb.account import Account
from absurd.errors import EmbeddedPostgresError

LOCK_TIMEOUT = 120.0  # seconds; the first start on a slow disk takes some 20
POLL_INTERVAL = 0.02  # seconds between two attempts


@contextmanager
def file_lock(path: Path, account: Account, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold the lock on ``path``, a file of ``account``, for the block.

    Raises:
        EmbeddedPostgresError: another process held it for longer than ``timeout`` seconds, or the file cannot be opened.
    """
    descriptor = _open(path, account)
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Another process has been starting or stopping this server for {timeout:.0f} s (it holds {path}). "
                    "Look at the log file beside it, end that process and try again."
                )
            time.sleep(POLL_INTERVAL)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path, account: Account) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        account.own(path)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"{path} cannot be opened: {error.strerror}. Set ABSURD_HOME to a directory of your own."
        ) from error
    return descriptor


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        raise EmbeddedPostgresError("The embedded PostgreSQL runs on Linux and macOS. Name a database in ABSURD_DATABASE_URL.")
    import fcntl  # absent on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
