"""A virtual environment for each system, under ``.cache/bench``: a peer is never installed beside this library."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.systems import load

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
INSTALL_SECONDS = 600


def python_of(system: str) -> Path:
    """The interpreter of a system's environment."""
    return _directory(system) / "bin" / "python"


def make_all(systems: Sequence[str]) -> dict[str, str]:
    """Makes the environments that are missing, several at a time; why one could not be made, by system."""
    owners = list(dict.fromkeys(_owner(system) for system in systems))
    with ThreadPoolExecutor(4) as pool:
        problems = dict(zip(owners, pool.map(_make, owners), strict=True))
    return {system: problem for system in systems if (problem := problems[_owner(system)])}


def versions(system: str) -> dict[str, str]:
    """What is installed for a system: the versions of the packages it names."""
    listed = subprocess.run([python_of(system), "-m", "pip", "list", "--format=json"], capture_output=True, check=True, text=True)
    found = {item["name"].lower(): item["version"] for item in json.loads(listed.stdout)}
    wanted = ["absurd" if name.startswith((".", "-e")) else name.partition("[")[0] for name in load(system).packages]
    return {name: found[name] for name in wanted if name in found}


def _directory(system: str) -> Path:
    return CACHE / _owner(system)


def _owner(system: str) -> str:
    """The bare INSERT needs what this library needs, and has its environment."""
    return "absurd" if system == "bare" else system


def _make(system: str) -> str:
    """Returns what went wrong, or nothing."""
    directory, packages = _directory(system), load(system).packages
    stamp = directory / ".installed"
    wanted = hashlib.sha256(json.dumps([list(packages), sys.version]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    print(f"installing {' '.join(packages)}", file=sys.stderr)
    try:
        _run([sys.executable, "-m", "venv", str(directory)])
        _run([str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = error.stderr or b""
        text = output if isinstance(output, str) else output.decode(errors="replace")
        return " ".join(text.split())[-300:] or str(error)
    stamp.write_text(wanted)
    return ""


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=INSTALL_SECONDS)
