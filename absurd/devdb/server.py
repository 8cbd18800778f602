"""One PostgreSQL server in one directory: start, stop, restart, and the URL that reaches it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from absurd.devdb.account import Account, choose_account
from absurd.devdb.binaries import Binaries, read_binaries
from absurd.devdb.cluster import SUPERUSER, binaries_for, clean_environment, create_cluster, relocate, require_version
from absurd.devdb.lock import file_lock
from absurd.devdb.paths import HOME_VARIABLE, PORT, make_home, make_private_directory, socket_directory
from absurd.devdb.process import Postmaster, find_postmaster, is_server_of
from absurd.errors import EmbeddedPostgresError

START_TIMEOUT = 120.0  # seconds; recovery after a crash may have much to replay
STOP_TIMEOUT = 60.0  # seconds; the checkpoint of a clean stop writes all dirty pages
ORPHAN_TIMEOUT = 20.0  # seconds for the children of a killed server to notice and leave its shared memory
POLL_INTERVAL = 0.01  # seconds
LOG_SIZE_LIMIT = 10_000_000  # bytes; a longer log is set aside at the next start
LOG_LINES_SHOWN = 15

StopMode = Literal["smart", "fast", "immediate"]
STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

# The shell leaves the server to init, so that it has no parent to become a zombie of, and says its process id.
DETACH = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'


class Server:
    """A PostgreSQL server with its data, socket and log in ``directory``.

    It runs detached, in a session of its own, and outlives the process that started it until ``stop``. As a context manager it
    is started and stopped around the block. Connections are possible over its unix socket only.

    Args:
        directory: where everything is kept; made if missing.
        binaries: PostgreSQL's bin directory; found if not given.
        settings: configuration for this and later starts of this object, for example ``{"fsync": "off"}``.

    Example:

        with Server(tmp_path, settings={"fsync": "off"}) as server:
            connection = psycopg.connect(server.url())
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        binaries: Binaries | Path | str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.data = self.directory / "data"
        self.log = self.directory / "postgresql.log"
        self.settings = dict(settings or {})
        self._binaries = binaries if isinstance(binaries, Binaries | None) else read_binaries(Path(binaries))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process id of the running server, or None."""
        postmaster = find_postmaster(self.data)
        return postmaster.pid if postmaster else None

    @property
    def running(self) -> bool:
        """Whether the server runs and accepts connections."""
        postmaster = find_postmaster(self.data)
        return postmaster is not None and postmaster.ready

    def url(self, dbname: str = "postgres") -> str:
        """Return the URL of a database of the running server.

        Raises:
            EmbeddedPostgresError: the server does not run.
        """
        postmaster = find_postmaster(self.data)
        if postmaster is None or not postmaster.port:
            raise EmbeddedPostgresError(f"The server in {self.directory} does not run, so it has no URL. Start it first.")
        host = quote(str(postmaster.socket_directory), safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(dbname, safe='')}?host={host}&port={postmaster.port}"

    def start(self, on_create: Callable[[Path], None] | None = None) -> bool:
        """Start the server unless it runs, and return when it accepts connections.

        Any number of processes may call this at the same moment: one starts the server, the others find it running.

        Args:
            on_create: called with the data directory when that has just been made.

        Returns:
            whether this call started it.

        Raises:
            EmbeddedPostgresError: no binaries, no usable directory, or the server did not start (with the end of its log).
        """
        make_home(self.directory)
        account = choose_account(self.data)
        if not account.can_reach(self.directory):
            raise EmbeddedPostgresError(
                f"PostgreSQL does not run as root, and user {account.uid}, who would run it, may not enter {self.directory}. "
                f"Choose a directory that every user may enter, for example with {HOME_VARIABLE}=/var/lib/absurd."
            )
        with self._lock(account):
            if self._is_starting_elsewhere():
                return False
            binaries = relocate(self._choose_binaries(), self.directory, account)
            if not self.data.exists():
                create_cluster(self.data, binaries, account, sync=self.settings.get("fsync") != "off")
                if on_create is not None:
                    on_create(self.data)
            self._start_until_orphans_are_gone(binaries, account)
            return True

    def stop(self, mode: StopMode = "fast") -> bool:
        """Stop the server and return when its process is gone.

        Args:
            mode: ``smart`` waits for all clients to leave, ``fast`` disconnects them, ``immediate`` is a crash on purpose.

        Returns:
            whether it ran.

        Raises:
            EmbeddedPostgresError: it did not end within a minute.
        """
        if not self.directory.exists():
            return False
        with self._lock(choose_account(self.data)):
            postmaster = find_postmaster(self.data)
            if postmaster is None:
                return False
            self._signal(postmaster, STOP_SIGNALS[mode])
            deadline = time.monotonic() + STOP_TIMEOUT
            while is_server_of(postmaster.pid, self.data):
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"The server in {self.directory} (process {postmaster.pid}) did not stop within {STOP_TIMEOUT:.0f} s of "
                        f"a {mode} shutdown. Its log is {self.log}."
                    )
                time.sleep(POLL_INTERVAL)
            return True

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server if it runs, and start it."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill the server's main process with SIGKILL, as a test of recovery does."""
        postmaster = find_postmaster(self.data)
        if postmaster is None:
            raise EmbeddedPostgresError(f"The server in {self.directory} does not run.")
        self._signal(postmaster, signal.SIGKILL)

    def _lock(self, account: Account) -> AbstractContextManager[None]:
        return file_lock(self.directory / "lock", account)

    def _is_starting_elsewhere(self) -> bool:
        """Wait while a server is starting, or ending, that somebody else has told to; return whether it is there to use."""
        deadline = time.monotonic() + START_TIMEOUT
        while find_postmaster(self.data) is not None:
            if self.running:
                return True
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"The server in {self.directory} (process {self.pid}) has been neither ready nor gone for "
                    f"{START_TIMEOUT:.0f} s. The end of its log, {self.log}:\n{self._log_tail(0)}"
                )
            time.sleep(POLL_INTERVAL)
        return False

    def _choose_binaries(self) -> Binaries:
        if self._binaries is None:
            return binaries_for(self.data)
        if self.data.exists():
            require_version(self.data, self._binaries)
        return self._binaries

    def _signal(self, postmaster: Postmaster, number: signal.Signals) -> None:
        try:
            os.kill(postmaster.pid, number)
        except ProcessLookupError:
            return  # it ended in this moment
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"The server in {self.directory} (process {postmaster.pid}) belongs to another user."
            ) from error

    def _start_until_orphans_are_gone(self, binaries: Binaries, account: Account) -> None:
        """Start; a server that was killed leaves children for a moment, and a new one refuses to start beside them."""
        deadline = time.monotonic() + ORPHAN_TIMEOUT
        while True:
            try:
                return self._launch(binaries, account)
            except _OrphansError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(str(error)) from None
                time.sleep(POLL_INTERVAL * 10)

    def _launch(self, binaries: Binaries, account: Account) -> None:
        sockets = socket_directory(self.directory, account)
        make_private_directory(sockets, account)
        account.own_tree(self.data)
        self._remove_stale_locks(sockets)
        log_from = self._prepare_log(account)
        command = [
            *account.prefix,
            str(binaries.postgres),
            f"-D{self.data}",
            f"-cunix_socket_directories={_list_item(sockets)}",
            "-clisten_addresses=",
            f"-cport={PORT}",
            *(f"-c{name}={value}" for name, value in self.settings.items()),
        ]
        started = subprocess.run(
            ["/bin/sh", "-c", DETACH, "sh", str(self.log), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=self.data,
            env=clean_environment(),
            umask=0o077,
            start_new_session=True,
            check=True,
            **account.options(),
        )
        pid = int(started.stdout)
        self._wait_until_ready(lambda: _alive(pid), log_from)

    def _remove_stale_locks(self, sockets: Path) -> None:
        """No server runs, as its process name and directory showed; PostgreSQL itself looks at the number only."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        # Of whatever port: the settings may name another one. The directory is this server's alone.
        for stale in sockets.glob(".s.PGSQL.*"):
            stale.unlink(missing_ok=True)

    def _prepare_log(self, account: Account) -> int:
        """Set a long log aside, make sure that the account can write one, and return where its next line will be."""
        if self.log.exists() and self.log.stat().st_size > LOG_SIZE_LIMIT:
            self.log.replace(self.log.with_suffix(".log.old"))
        self.log.touch(mode=0o600)
        account.own(self.log)
        return self.log.stat().st_size

    def _wait_until_ready(self, alive: Callable[[], bool], log_from: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.running:
            if not alive():
                end = self._log_tail(log_from)
                failure = _OrphansError if "pre-existing shared memory block" in end else EmbeddedPostgresError
                raise failure(f"PostgreSQL did not start in {self.directory}. The end of its log, {self.log}:\n{end}")
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self.directory} is not ready after {START_TIMEOUT:.0f} s. The end of its log, {self.log}:\n"
                    + self._log_tail(log_from)
                )
            time.sleep(POLL_INTERVAL)

    def _log_tail(self, start: int) -> str:
        text = self.log.read_bytes()[start:].decode(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-LOG_LINES_SHOWN:])


class _OrphansError(EmbeddedPostgresError):
    """Children of a killed server still use its shared memory."""


def _alive(pid: int) -> bool:
    """Whether a process that this one has just started still exists. It may still be ``sh`` or ``unshare``, before its exec."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    return state not in "ZX"


def _list_item(path: Path) -> str:
    """A path as an item of a list-valued setting, where a comma or a blank would end it."""
    return '"' + str(path).replace('"', '""') + '"'
