"""What README and docs show is executed, and prints what they say it prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.programs import EXAMPLES, ROOT, environment
from tests.docs.pages import PAGES, Block, commands, matches, outputs, program, read_blocks
from tests.support import wait_until

# These pages have tests of their own.
ELSEWHERE = {"docs/sql.md", "docs/cli.md", "docs/architecture.md", "docs/tutorial.md"}
NAMES = [
    name for page in PAGES if (name := str(page.relative_to(ROOT))) not in ELSEWHERE and not name.startswith("docs/reference/")
]
TIME_LIMIT = 90.0  # seconds for one program


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a user: his database, ``python`` and ``absurdctl`` on the path."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "absurdctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m absurd "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return environment(ABSURD_DATABASE_URL=database_url, PATH=f"{tools}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", NAMES)
def test_page_does_what_it_says(name: str, shell: dict[str, str], tmp_path: Path) -> None:
    blocks = read_blocks(ROOT / name)
    if name.startswith("examples/"):
        for file in EXAMPLES.glob("*.py"):
            shutil.copy(file, tmp_path)
    for block in blocks:
        if block.file_name:
            (tmp_path / block.file_name).write_text(block.text)
    run_python(name, blocks, shell, tmp_path)
    run_console(blocks, shell, tmp_path)


def run_python(name: str, blocks: list[Block], shell: dict[str, str], directory: Path) -> None:
    text, expected = program(blocks)
    if not text:
        assert not expected
        return
    (directory / "page.py").write_text(text)
    command = [sys.executable, "page.py"]
    done = subprocess.run(command, cwd=directory, env=shell, capture_output=True, text=True, timeout=TIME_LIMIT)
    printed = {int(part.partition("\n")[0]): part.partition("\n")[2] for part in done.stdout.split("\x1d")[1:]}
    last = max(printed, default=0)
    assert done.returncode == 0, f"{name}, the block at line {blocks[last].line}:\n{done.stderr}"
    for index, wanted in expected:
        lines = printed[index].strip().splitlines()
        assert_lines(wanted.strip().splitlines(), lines, f"{name}, line {blocks[index].line}")


def assert_lines(wanted: list[str], lines: list[str], where: str) -> None:
    fits = len(wanted) == len(lines) and all(map(matches, wanted, lines))
    assert fits, f"{where} shows\n" + "\n".join(wanted) + "\nbut printed was\n" + "\n".join(lines)


def run_console(blocks: list[Block], shell: dict[str, str], directory: Path) -> None:
    with ExitStack() as stack:
        printed: list[str] = []
        for block in blocks:
            if block.word == "background":
                (command,) = commands(block.text)
                printed = stack.enter_context(background(command, shell, directory))
                wait_for_lines(printed, outputs(block.text))
            elif block.word == "prints":
                wait_for_lines(printed, block.text.splitlines())
            elif block.word == "run":
                run_commands(block, shell, directory)


def run_commands(block: Block, shell: dict[str, str], directory: Path) -> None:
    script = "set -e\n" + "\n".join(commands(block.text))
    done = subprocess.run(["bash", "-c", script], cwd=directory, env=shell, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert done.returncode == 0, f"line {block.line}: {done.stderr}"
    if wanted := outputs(block.text):
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        assert_lines(wanted, lines, f"line {block.line}")


@contextmanager
def background(command: str, shell: dict[str, str], directory: Path) -> Iterator[list[str]]:
    """A program that runs on; yields the lines that it prints, which grow."""
    out = directory / "background.out"
    with out.open("w") as target, (directory / "background.err").open("w") as errors:
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=directory, env=shell, stdout=target, stderr=errors)
        try:
            yield Growing(out)
        finally:
            process.terminate()
            process.wait(TIME_LIMIT)


class Growing(list[str]):
    """The lines of a file that is being written, without those that were taken."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.taken = 0

    def fresh(self) -> list[str]:
        """The lines that have come since."""
        return self.path.read_text().splitlines()[self.taken :]


def wait_for_lines(printed: list[str], wanted: list[str]) -> None:
    """Waits until the background program has printed these lines next."""
    assert isinstance(printed, Growing)

    def there() -> bool:
        lines = printed.fresh()[: len(wanted)]
        return len(lines) == len(wanted) and all(map(matches, wanted, lines))

    wait_until(there, TIME_LIMIT, f"{wanted} from the background program")
    printed.taken += len(wanted)


def test_every_marked_block_is_of_a_kind_that_runs() -> None:
    for page in PAGES:
        for block in read_blocks(page):
            if block.word in ("run", "background"):
                assert block.language == "console", f"{page}, line {block.line}"
            assert block.word in ("", "check", "run", "background", "prints", "await", "serve"), (
                f"{page}, line {block.line}: {block.word}"
            )


def test_sum_of_executed_blocks_is_not_zero() -> None:
    executed = [block for name in NAMES for block in read_blocks(ROOT / name) if block.language == "python"]
    assert len(executed) > 20
    assert re.search("await_event", "".join(block.text for block in executed))
