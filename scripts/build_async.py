"""Generates the async half of what is written once: absurd/context/aio.py, and absurd/client/aio_NAME.py for several NAMEs.

``python scripts/build_async.py`` writes them, ``--check`` only says whether they are fresh. The methods of a context do nothing
but hand the generators of the core to their shell, and those of the client's modules hand queries to theirs, so the translation
is: methods become async, and what the shell returns is awaited. ``step`` stays as it is: it returns what its shell returns, or a
decorator. Functions may be async or not, which takes two overloads where sync code takes one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "absurd" / "context" / "sync.py"
TARGET = ROOT / "absurd" / "context" / "aio.py"
CLIENT = ROOT / "absurd" / "client"
CLIENT_MODULES = ("listeners", "queues", "subscriptions", "schedules", "triggers", "tokens")
UNCHANGED = "step"
TRANSACTION = "    def transaction(self, name: str, fn: Callable[..., T], *args: Any, result_type: Any = None) -> T:"
DECORATOR = "-> Callable[[Callable[P, T]], Callable[P, T]]"
OVERLOADS_OF_TRANSACTION = "\n\n".join(
    [
        f"    @overload\n{TRANSACTION.replace('Callable[..., T]', 'Callable[..., Coroutine[Any, Any, T]]')} ...",
        f"    @overload\n{TRANSACTION} ...",
        TRANSACTION.replace("Callable[..., T]", "Callable[..., Any]").replace("-> T", "-> Any"),
    ]
)
REPLACEMENTS = (
    ("What a sync handler holds.", "What an async handler holds."),
    (
        "``aio.py`` is generated from this file by ``scripts/build_async.py``.",
        "Generated from ``sync.py`` by ``scripts/build_async.py``; do not edit.",
    ),
    ("from collections.abc import Callable", "from collections.abc import Callable, Coroutine"),
    (TRANSACTION, OVERLOADS_OF_TRANSACTION),
    ("result: T = self._drive(self._core.transaction", "result = self._drive(self._core.transaction"),
    ("class Context(SyncShell)", "class AsyncContext(AsyncShell)"),
    ("from absurd.context.sync_shell import SyncShell", "from absurd.context.async_shell import AsyncShell, StepDecorator"),
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
    methods = re.split(r"(?m)^(?=    @overload\n)|(?<!    @overload\n)^(?=    def )", source)
    return methods[0] + "".join(_method(text) for text in methods[1:])


def _method(text: str) -> str:
    if text.startswith(f"    def {UNCHANGED}("):
        return text
    if text.startswith(f"    @overload\n    def {UNCHANGED}("):
        return _overloads(text)
    text = text.replace("    def ", "    async def ", 1)
    # In examples.
    text = re.sub(r"\bctx\.(\w+)\(", r"await ctx.\1(", text)
    return re.sub(r"(?<!await )self\.(_drive|_spawn)\(", r"await self.\1(", text)


def _overloads(text: str) -> str:
    """Two for one: of an async function, and of a plain one. What is returned is awaited either way."""
    if DECORATOR in text:
        return text.replace(DECORATOR, "-> StepDecorator")
    text = re.sub(r"-> (T|Callable\[P, T\]): ", lambda m: f"-> {m[1].replace('T', 'Coroutine[Any, Any, T]')}: ", text)
    return re.sub(r"((?:fn|name): Callable\[[P.]+, )T\]", r"\1Coroutine[Any, Any, T]]", text) + text


def translate_client(source: str, name: str) -> str:
    """The async text of a module of the client's methods."""
    source = source.replace(
        f"``aio_{name}.py`` is generated from this file by ``scripts/build_async.py``",
        f"generated from ``{name}.py`` by ``scripts/build_async.py``; do not edit",
    )
    source = source.replace("SyncShell", "AsyncShell").replace("psycopg.Connection", "psycopg.AsyncConnection")
    source = re.sub(r"\bclass (\w+Methods)\(", r"class Async\1(", source)
    source = source.replace("What ``Absurd`` ", "What ``AsyncAbsurd`` ")
    source = re.sub(r"(?m)^    def ", "    async def ", source)
    # In examples.
    source = re.sub(r"= app\.(\w+)\(", r"= await app.\1(", source)
    return re.sub(r"\bself\._run\(", "await self._run(", source)


def write(target: Path, text: str) -> None:
    """Writes a file, or checks it."""
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(target), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    if "--check" not in sys.argv:
        target.write_text(text)
    elif not target.exists() or target.read_text() != text:
        raise SystemExit(f"{target.relative_to(ROOT)} is stale; run python scripts/build_async.py")


def main() -> None:
    """Writes the files, or checks them."""
    write(TARGET, translate(SOURCE.read_text()))
    for name in CLIENT_MODULES:
        write(CLIENT / f"aio_{name}.py", translate_client((CLIENT / f"{name}.py").read_text(), name))


if __name__ == "__main__":
    main()
