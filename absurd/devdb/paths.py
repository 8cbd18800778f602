"""Where the server's files are: the home directory, and a socket directory whose path is short enough."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from absurd.devdb.account import Account, choose_account
from absurd.errors import EmbeddedPostgresError

HOME_VARIABLE = "ABSURD_HOME"
SYSTEM_HOME = Path("/var/lib/absurd")  # for root, where its own home is closed to the account that runs the server
PORT = 5432  # only part of the socket's name: nothing listens on TCP
SOCKET_PATH_LIMIT = 100  # bytes; the kernel's limit is 104 on macOS and 108 on Linux


def home() -> Path:
    """Return the directory of this user's server: data, log and lock.

    ``ABSURD_HOME`` overrides; the default is ``absurd`` in ``XDG_DATA_HOME`` or ``~/.local/share``. When root cannot use user
    namespaces, the server runs as an unprivileged account; if that cannot enter root's home, the default is ``/var/lib/absurd``.
    """
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    default = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share").absolute() / "absurd"
    if os.geteuid() == 0 and not choose_account(default / "data").can_reach(default):
        return SYSTEM_HOME
    return default


def make_private_directory(path: Path, account: Account) -> None:
    """Create ``path`` with mode 0700 for ``account``, or make sure that an existing one is just that.

    Raises:
        EmbeddedPostgresError: somebody else owns it, it is a link, or others may enter it.
    """
    try:
        path.mkdir(mode=0o700)
        account.own(path)
    except FileExistsError:
        pass
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in (account.uid, os.geteuid()):
        raise EmbeddedPostgresError(
            f"{path} must be a directory of user {account.uid}, but is a link, a file or a directory of user {facts.st_uid}. "
            f"Remove it, or set {HOME_VARIABLE} to another directory."
        )
    account.own(path)
    if stat.S_IMODE(facts.st_mode) != 0o700:
        path.chmod(0o700)


def make_home(path: Path) -> None:
    """Create the home directory with its parents; those that exist keep their mode."""
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The directory {path} cannot be made: {error.strerror}. Set {HOME_VARIABLE} to a directory that you may write to."
        ) from error


def socket_directory(home_directory: Path, account: Account) -> Path:
    """Return where the socket of the server in ``home_directory`` belongs: inside it, or in a place whose path fits."""
    inside = home_directory / "run"
    if _fits(inside):
        return inside
    name = f"absurd-{account.uid}-{hashlib.sha256(os.fsencode(home_directory)).hexdigest()[:12]}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and not account.drops and Path(runtime).is_dir() and _fits(Path(runtime) / name):
        return Path(runtime) / name
    return Path("/tmp") / name


def _fits(directory: Path) -> bool:
    if "," in str(directory):
        return False  # libpq reads it as two hosts
    return len(os.fsencode(directory / f".s.PGSQL.{PORT}.lock")) < SOCKET_PATH_LIMIT
