"""What the doctor has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. An error: something promised does not hold, or will not soon. A warning: it costs, or may become one."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"

    @property
    def exit_code(self) -> int:
        """The exit status of a command whose worst finding this is."""
        return {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}[self]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: what is so; and, unless it is well, why it matters and what to do about it."""

    level: Level
    check: str
    what: str
    why: str = ""
    todo: str = ""


def ok(check: str, what: str) -> Finding:
    """Something that is as it should be."""
    return Finding(Level.OK, check, what)


def warning(check: str, what: str, why: str, todo: str) -> Finding:
    """Something that costs, or may become an error."""
    return Finding(Level.WARNING, check, what, why, todo)


def error(check: str, what: str, why: str, todo: str) -> Finding:
    """Something that breaks a promise."""
    return Finding(Level.ERROR, check, what, why, todo)


def ago(seconds: float) -> str:
    """A time in words, in the largest unit that it has."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def mib(size: float) -> str:
    """A size in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
