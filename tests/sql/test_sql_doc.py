"""The psql session of docs/sql.md, run; and the document against what is installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from absurd.devdb.binaries import find_binaries
from tests.sql.calls import Connection, rows
from tests.sql.test_catalogue import SURFACE

DOCUMENT = Path(__file__).parents[2] / "docs" / "sql.md"
PROMPT = re.compile(r"^absurd=[*!]?> ", re.MULTILINE)
UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
MARK = "=== next statement ==="


def session() -> list[tuple[str, str]]:
    """The statements of the document's session with the output printed below each."""
    blocks = re.findall(r"```psql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    pieces = PROMPT.split("".join(blocks))[1:]
    return [(statement, output) for statement, _, output in (piece.partition("\n") for piece in pieces)]


def run_psql(url: str, statements: list[str]) -> list[str]:
    """What psql prints for each statement."""
    script = "".join(f"\\echo {MARK}\n{statement}\n" for statement in statements)
    done = subprocess.run(
        [find_binaries().directory / "psql", "-X", url],
        input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split(MARK + "\n")[1:]


def shape(text: str) -> str:
    """Output without what differs from run to run: ids become their number, spaces that align columns become one."""
    seen: dict[str, int] = {}
    text = UUID.sub(lambda match: f"id{seen.setdefault(match[0], len(seen))}", text)
    text = re.sub(r"-{2,}", "--", re.sub(r" +", " ", text))
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def test_the_session_of_the_document_prints_what_it_says(database_url: str) -> None:
    expected = session()
    assert len(expected) > 15
    printed = run_psql(database_url, [statement for statement, _ in expected])
    whole = shape(MARK.join(printed)).split(MARK)
    written = shape(MARK.join(output for _, output in expected)).split(MARK)
    for (statement, _), got, wanted in zip(expected, whole, written, strict=True):
        assert got.strip() == wanted.strip(), statement


def test_every_published_function_is_documented_with_its_arguments(conn: Connection) -> None:
    text = DOCUMENT.read_text()
    for name in SURFACE:
        for found in rows(
            conn,
            "select proargnames as names, proargmodes::text[] as modes from pg_proc"
            " where pronamespace = 'absurd'::regnamespace and proname = %s",
            name,
        ):
            modes = found["modes"] or ["i"] * len(found["names"] or [])
            arguments = [n for n, mode in zip(found["names"] or [], modes, strict=True) if mode == "i"]
            pattern = rf"`(?:absurd\.)?{name}\(" + ".*?".join(arguments)
            assert re.search(pattern, text), f"{name}({', '.join(arguments)}) is not in {DOCUMENT.name}"
