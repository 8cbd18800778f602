"""Which process serves a data directory. A process id alone proves nothing: it may have gone to another program since."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAM_NAME = "postgres"
COMMAND_TIMEOUT = 10.0  # seconds, for ps and lsof where there is no /proc


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The running server of a data directory, as its ``postmaster.pid`` describes it."""

    pid: int
    socket_directory: Path
    port: int
    ready: bool


def find_postmaster(data: Path) -> Postmaster | None:
    """Return the live server of ``data``, or None if there is none, whatever a stale ``postmaster.pid`` says."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
        if not is_server_of(pid, data):
            return None
        # The server writes the file in pieces: what is not there yet is not ready.
        port, socket_directory = (int(lines[3]), Path(lines[4])) if len(lines) > 4 else (0, Path())
    except (OSError, ValueError, IndexError):
        return None
    return Postmaster(pid, socket_directory, port, ready=len(lines) > 7 and lines[7].strip() == "ready")


def is_server_of(pid: int, data: Path) -> bool:
    """Whether process ``pid`` is alive, is called postgres and works in the directory ``data``."""
    if Path("/proc/self").exists():
        return _is_server_by_proc(pid, data)
    return _is_server_by_commands(pid, data)


def _is_server_by_proc(pid: int, data: Path) -> bool:
    process = Path("/proc", str(pid))
    try:
        name, _, state = (process / "stat").read_text().partition("(")[2].rpartition(")")
        # A zombie keeps its number until its parent looks, which in a container may be never.
        return name == PROGRAM_NAME and state.split()[0] not in "ZX" and _same(Path(os.readlink(process / "cwd")), data)
    except OSError:
        return False


def _is_server_by_commands(pid: int, data: Path) -> bool:
    state, _, name = _output("ps", "-p", str(pid), "-o", "stat=,comm=").strip().partition(" ")
    if Path(name.strip()).name != PROGRAM_NAME or state.startswith("Z"):
        return False
    fields = _output("lsof", "-a", "-p", str(pid), "-d", "cwd", "-Fn").splitlines()
    return any(field.startswith("n") and _same(Path(field[1:]), data) for field in fields)


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
