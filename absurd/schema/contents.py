"""The files of the schema, in the order in which the contents page ``sql/install.sql`` names them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from absurd.errors import SchemaError

CONTENTS_PAGE = "install.sql"
FIRST_VERSION = 1  # what install.sql makes while there are no migrations
INCLUDE = re.compile(r"\\ir\s+(?P<path>[\w./-]+)\s*(\\\\\s*--.*)?")
PLAIN_LINES = re.compile(r"--.*|\\set ON_ERROR_STOP on|begin;|commit;|")
MIGRATION_NAME = re.compile(r"(?P<number>\d{4})_\w+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One change of the tables, ``sql/migrations/NNNN_name.sql``; it leads to the version NNNN."""

    number: int
    path: Path

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Contents:
    """All files of one release of the schema."""

    root: Path
    files: tuple[Path, ...]
    migrations: tuple[Migration, ...]

    @property
    def function_files(self) -> tuple[Path, ...]:
        """The files below ``functions/``, which an upgrade applies again."""
        return tuple(path for path in self.files if path.is_relative_to(self.root / "functions"))

    @property
    def version(self) -> str:
        """The number of the newest migration."""
        return str(self.migrations[-1].number if self.migrations else FIRST_VERSION)

    @property
    def digest(self) -> str:
        """A hash of everything that is installed."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(path.relative_to(self.root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def comment_statement(self) -> str:
        """The statement that records the digest."""
        return f"comment on schema absurd is 'Absurd: durable tasks. Do not change by hand. sha256:{self.digest}';\n"


def sql_directory() -> Path:
    """Return the directory of the schema's files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    carried = package / "_sql"
    return carried if carried.is_dir() else package.parent / "sql"


def read_contents(root: Path | None = None) -> Contents:
    """Read the contents page of ``root`` (default: the package's own).

    Raises:
        SchemaError: the page or the names of the migrations cannot be understood.
    """
    root = sql_directory() if root is None else root
    try:
        page = (root / CONTENTS_PAGE).read_text(encoding="utf-8")
    except OSError as error:
        raise SchemaError(
            f"The SQL files of the schema are missing in {root}: {error}. Install the absurd package again."
        ) from error
    files = tuple(path for line in page.splitlines() if (path := _included(root, line.strip())) is not None)
    if twice := sorted(path.name for path in set(files) if files.count(path) > 1):
        raise SchemaError(f"{root / CONTENTS_PAGE} names {twice} more than once")
    if unnamed := sorted(str(path.relative_to(root)) for path in (root / "functions").glob("*.sql") if path not in files):
        raise SchemaError(f"{root / CONTENTS_PAGE} does not name {unnamed}")
    return Contents(root, files, _migrations(root / "migrations"))


def _included(root: Path, line: str) -> Path | None:
    if match := INCLUDE.fullmatch(line):
        return root / match["path"]
    if PLAIN_LINES.fullmatch(line):
        return None
    raise SchemaError(f"{root / CONTENTS_PAGE} holds a line that is neither a comment nor an \\ir: {line!r}")


def _migrations(directory: Path) -> tuple[Migration, ...]:
    found: list[Migration] = []
    for path in sorted(directory.glob("*.sql")):
        match = MIGRATION_NAME.fullmatch(path.name)
        expected = FIRST_VERSION + 1 + len(found)
        if match is None or int(match["number"]) != expected:
            raise SchemaError(f"{path} is out of order: the next migration must be called {expected:04}_what_it_does.sql")
        found.append(Migration(expected, path))
    return tuple(found)
