"""Generates the async half of what is written once: absurd/context/aio.py from absurd/context/sync.py.

``python scripts/build_async.py`` writes it, ``--check`` only says whether it is fresh. The methods of a context do nothing but
hand the generators of the core to their shell, so the translation is: methods become async, and what the shell returns is
awaited. ``step`` stays as it is: it returns what its shell returns, or a decorator.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "absurd" / "context" / "sync.py"
TARGET = ROOT / "absurd" / "context" / "aio.py"
UNCHANGED = "step"
REPLACEMENTS = (
    ("What a sync handler holds.", "What an async handler holds."),
    (
        "``aio.py`` is generated from this file by ``make generate``.",
        "Generated from ``sync.py`` by ``make generate``; do not edit.",
    ),
    ("class Context(SyncShell)", "class AsyncContext(AsyncShell)"),
    ("from absurd.context.sync_shell import SyncShell", "from absurd.context.async_shell import AsyncShell"),
    ("Runs ``fn(*args)`` once", "Runs ``fn(*args)``, awaited if it is async, once"),
    ("Runs ``fn(connection, *args)`` in", "Runs ``fn(connection, *args)``, awaited if it is async, in"),
    ("The connection is a ``psycopg.Connection``", "The connection is a ``psycopg.AsyncConnection``"),
)


def translate(source: str) -> str:
    """The async text of a sync context."""
    for old, new in REPLACEMENTS:
        if old not in source:
            raise SystemExit(f"{SOURCE.name} no longer holds {old!r}; mend scripts/build_async.py")
        source = source.replace(old, new)
    methods = re.split(r"(?m)^(?=    def )", source)
    return methods[0] + "".join(_method(text) for text in methods[1:])


def _method(text: str) -> str:
    if text.startswith(f"    def {UNCHANGED}("):
        return text
    text = text.replace("    def ", "    async def ", 1)
    return re.sub(r"(?<!await )self\.(_drive|_spawn)\(", r"await self.\1(", text)


def main() -> None:
    """Writes the file, or checks it."""
    text = translate(SOURCE.read_text())
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    if "--check" not in sys.argv:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        raise SystemExit(f"{TARGET.relative_to(ROOT)} is stale; run make generate")


if __name__ == "__main__":
    main()
