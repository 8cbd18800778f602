"""As whom the server runs. PostgreSQL refuses to run as root, and refuses an account that has no name.

An ordinary user runs it as himself. Root runs it in a user namespace of its own, where the same files belong to it but it is
not root; where the machine forbids that (most containers do), it runs as an existing unprivileged account.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from absurd.errors import EmbeddedPostgresError

if sys.platform != "win32":
    import pwd

UNPRIVILEGED_ACCOUNTS = ("postgres", "_postgres", "nobody")  # the first that exists is taken
NAMESPACE_TEST_TIMEOUT = 10.0  # seconds


class ProcessOptions(TypedDict, total=False):
    """Keyword arguments of ``subprocess.run`` that change the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """How PostgreSQL's programs are started, and who owns their files."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()
    drops: bool = False

    def options(self) -> ProcessOptions:
        """The arguments that make a subprocess run as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.drops else {}

    def own(self, path: Path) -> None:
        """Give a file that this process has made to the account."""
        if self.drops:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def own_tree(self, path: Path) -> None:
        """Give a directory and all that is in it to the account. The directory comes last: its owner says that all is done."""
        if not self.drops or path.stat().st_uid == self.uid:
            return
        for directory, names, files in os.walk(path):
            for name in (*names, *files):
                self.own(Path(directory, name))
        self.own(path)

    def can_reach(self, directory: Path) -> bool:
        """Whether the account may enter ``directory``, or the nearest parent of it that exists."""
        if not self.drops and not self.prefix:
            return True  # it is the present user, with all his rights
        directory = directory.absolute()
        return all(self._can_enter(step) for step in (*reversed(directory.parents), directory) if step.exists())

    def _can_enter(self, directory: Path) -> bool:
        facts = directory.stat()
        if facts.st_uid == self.uid:
            return bool(facts.st_mode & stat.S_IXUSR)
        if facts.st_gid == self.gid:
            return bool(facts.st_mode & stat.S_IXGRP)
        return bool(facts.st_mode & stat.S_IXOTH)


def choose_account(data: Path | None = None) -> Account:
    """Return the account to run a server as.

    Args:
        data: the data directory. When root finds one that belongs to somebody else, that account is kept.

    Raises:
        EmbeddedPostgresError: this machine offers no way to run PostgreSQL for the present user.
    """
    uid = os.geteuid()
    if uid == 0 and data is not None and data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, drops=True)
    if uid != 0 and _has_name(uid):
        return Account(uid, os.getegid())
    if namespaces_work():
        return Account(uid, os.getegid(), prefix=("unshare", "--user", "--"))
    if uid == 0:
        return _unprivileged_account()
    raise EmbeddedPostgresError(
        f"PostgreSQL needs a user with a name, and user {uid} has no entry in /etc/passwd. "
        "Add one, run as another user, or name a database in ABSURD_DATABASE_URL."
    )


def namespaces_work() -> bool:
    """Whether this process may start programs in a user namespace of their own."""
    program = shutil.which("unshare")
    return program is not None and _namespace_starts(program)


@lru_cache(maxsize=4)
def _namespace_starts(program: str) -> bool:
    # Inside, the user is the overflow user (65534); PostgreSQL wants a name for it.
    command = [program, "--user", "--", "id", "-un"]
    try:
        return subprocess.run(command, capture_output=True, timeout=NAMESPACE_TEST_TIMEOUT, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _unprivileged_account() -> Account:
    for name in UNPRIVILEGED_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, drops=True)
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root, this machine allows no user namespaces, and none of the accounts "
        f"{', '.join(UNPRIVILEGED_ACCOUNTS)} exists. Run as an ordinary user, or name a database in ABSURD_DATABASE_URL."
    )


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
