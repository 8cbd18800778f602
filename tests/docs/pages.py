"""Reads Markdown pages: their code blocks, and the comments that say what is to be done with them.

A block of ``python`` is executed; all of a page's blocks are one program. A ``text`` block right behind one is what it prints.
One whose first line is ``# name.py`` is written to that file instead. In comments, which readers do not see:

``<!-- check … -->``      Python that is executed too, at that place
``<!-- run -->``          the ``console`` block behind it is executed; lines without ``$`` are its output, ``…`` is anything
``<!-- background -->``   the same for a program that goes on; its lines are waited for
``<!-- prints -->``       the ``text`` block behind it is what the background program has printed meanwhile

And in docs/tutorial.md, which is gone through from top to bottom (test_tutorial.py):

``<!-- await -->``        as ``prints``, but other lines may come before
``<!-- serve -->``        the ``console`` block behind it is started and answers requests
``<!-- quit -->``         the background program is killed; ``<!-- stop -->``: it, and what serves, is ended by Ctrl-C
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")])

SIGNALS = ("quit", "stop")

_PIECE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```$|<!--(.*?)-->", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block (its language, and the word of the comment before it) or a comment with code."""

    language: str
    text: str
    line: int
    word: str = ""
    follows: int | None = None
    """Index of the block that this one stands right behind, without text between."""

    @property
    def file_name(self) -> str | None:
        """The file that the block belongs into, if it says so."""
        found = re.match(r"# (\w+\.py)\n", self.text) if self.language == "python" else None
        return found[1] if found else None


def read_blocks(path: Path) -> list[Block]:
    """The blocks of a page, in order."""
    page = path.read_text(encoding="utf-8")
    blocks: list[Block] = []
    word, end = "", 0
    for match in _PIECE.finditer(page):
        language, text, comment = match.groups()
        line = page.count("\n", 0, match.start()) + 1
        if comment is not None:
            first, _, rest = comment.strip().partition("\n")
            if first.strip() == "check":
                blocks.append(Block("check", rest, line + 1))
            if first.strip() in SIGNALS:
                blocks.append(Block("signal", first.strip(), line))
                first = ""
            word = first.strip() if first.strip().isalpha() else ""
            continue
        adjacent = len(blocks) - 1 if blocks and not page[end : match.start()].strip() else None
        blocks.append(Block(language, text, line + 1, word, adjacent))
        word, end = "", match.end()
    return blocks


def program(blocks: list[Block]) -> tuple[str, list[tuple[int, str]]]:
    """The page's Python as one program, and what it prints: pairs of line and text. Outputs are set off by marks."""
    parts: list[str] = []
    expected: list[tuple[int, str]] = []
    for index, block in enumerate(blocks):
        if block.language not in ("python", "check") or block.file_name:
            continue
        parts.append(f"print('\\x1d{index}', flush=True)\n{block.text}")
    for block in blocks:
        if block.language == "text" and block.word != "prints" and block.follows is not None:
            before = blocks[block.follows]
            if before.language == "python" and not before.file_name:
                expected.append((block.follows, block.text))
    return "\n".join(parts), expected


def commands(text: str) -> list[str]:
    """The commands of a console block, lines that end in a backslash joined."""
    joined = text.replace("\\\n", " ")
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def outputs(text: str) -> list[str]:
    """What the commands of a console block print."""
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("$ ")]


def matches(pattern: str, line: str) -> bool:
    """Whether a line is as the page says, where … stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.rstrip().split("…"))), line.rstrip()) is not None
