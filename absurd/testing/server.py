"""The server of the tests: one that is named, or a throw-away one of this test run's own. Never the user's embedded server."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
from contextlib import AbstractContextManager
from pathlib import Path

from absurd import devdb
from absurd.devdb.account import Account, choose_account
from absurd.devdb.lock import file_lock
from absurd.devdb.paths import socket_directory
from absurd.location import as_conninfo

SERVER_VARIABLE = "ABSURD_TEST_DATABASE_URL"
# pytest-xdist tells its processes the id of the run that they share.
RUN_VARIABLE = "PYTEST_XDIST_TESTRUNUID"
PREFIX = "absurd-testing-"
# Nothing has to survive a crash: fast, and unsafe.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",  # it would hold a database for a moment which is to be dropped or copied
    "max_wal_size": "4GB",
    "max_connections": "300",
}

_lock = threading.Lock()
_own: dict[int, str] = {}


def server_url() -> str:
    """The URL of a server on which databases may be created.

    ``ABSURD_TEST_DATABASE_URL`` names one; its role has to be allowed to create databases. Otherwise one is started from the
    embedded PostgreSQL's binaries, once for this process or, under pytest-xdist, for all processes of the run; it ends with them.

    Raises:
        EmbeddedPostgresError: there are no binaries, or it does not start.
    """
    named = os.environ.get(SERVER_VARIABLE, "").strip()
    if named:
        return as_conninfo(named)
    with _lock:
        if os.getpid() not in _own:
            _own[os.getpid()] = _start()
        return _own[os.getpid()]


def _start() -> str:
    run = os.environ.get(RUN_VARIABLE)
    with _alone():
        _sweep()
        directory = _parent() / f"{PREFIX}{run}" if run else Path(tempfile.mkdtemp(prefix=PREFIX, dir=_parent()))
        directory.mkdir(mode=0o755, exist_ok=True)
        directory.chmod(0o755)  # the account that the server of root may have to run as enters it too
        # Whoever leaves last stops it: a file for each process that uses it.
        (directory / f"used-by-{os.getpid()}").touch()
    atexit.register(_leave, directory, os.getpid())
    server = devdb.Server(directory / "server", settings=SETTINGS)
    server.start()
    return server.url()


def _leave(directory: Path, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child, to whom the parent's server does not belong
    with _alone():
        (directory / f"used-by-{pid}").unlink(missing_ok=True)
        if not _users(directory):
            _remove(directory)


def _sweep() -> None:
    """Removes servers of test runs that were killed, and so have not done it themselves."""
    for directory in _parent().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if directory.stat().st_uid == os.geteuid() and any(directory.glob("used-by-*")) and not _users(directory):
                _remove(directory)


def _users(directory: Path) -> list[int]:
    pids = [int(file.name.removeprefix("used-by-")) for file in directory.glob("used-by-*")]
    return [pid for pid in pids if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(directory: Path) -> None:
    server = directory / "server"
    if server.exists():
        with contextlib.suppress(Exception):
            devdb.Server(server).stop("immediate")
            shutil.rmtree(socket_directory(server, choose_account(server / "data")), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def _alone() -> AbstractContextManager[None]:
    """One process of this user at a time."""
    account = Account(os.geteuid(), os.getegid())
    return file_lock(_parent() / f"{PREFIX}{account.uid}.lock", account)


def _parent() -> Path:
    # Not tempfile's choice: below a long TMPDIR the socket's path would be too long for the kernel.
    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
