"""docs/tutorial.md, gone through from top to bottom as a reader does: in one directory, with two terminals."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from typer.testing import CliRunner

from absurd.cli import app
from tests.docs.pages import ROOT, Block, commands, matches, outputs, read_blocks
from tests.docs.test_snippets import TIME_LIMIT, assert_lines, shell
from tests.support import wait_until

__all__ = ["shell"]  # a fixture

PAGE = ROOT / "docs" / "tutorial.md"
# Times that a reader needs, and this test does not: packing goes on until the worker is killed, and takes no time after that.
QUICK = {
    "time.sleep(10)": "while not __import__('pathlib').Path('killed').exists(): time.sleep(0.02)",
    "RetryStrategy.fixed(2)": "RetryStrategy.fixed(0.2)",
}
SIGNALS = {"quit": signal.SIGQUIT, "stop": signal.SIGINT}


def test_tutorial_from_top_to_bottom(shell: dict[str, str], tmp_path: Path) -> None:
    with Reader(shell, tmp_path).reading() as reader:
        for block in read_blocks(PAGE):
            reader.follow(block)
    assert not reader.slow
    assert [word for word, _ in reader.ended] == ["quit", "stop", "stop", "stop"]
    assert [code for word, code in reader.ended if word == "stop"] == [0, 0, 0]


class Reader:
    """Somebody who does what the page says."""

    def __init__(self, shell: dict[str, str], directory: Path) -> None:
        # The databases of the page's own tests are made on the server of this one.
        self.shell = {**shell, "PYTHONUNBUFFERED": "1", "ABSURD_TEST_DATABASE_URL": shell["ABSURD_DATABASE_URL"]}
        self.directory = directory
        self.worker: Terminal | None = None
        self.server: Terminal | None = None
        self.variables: dict[str, str] = {}
        self.slow = set(QUICK)
        self.ended: list[tuple[str, int]] = []

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Leaves no program behind."""
        try:
            yield self
        finally:
            for terminal in (self.worker, self.server):
                if terminal is not None:
                    terminal.end(signal.SIGKILL)

    def follow(self, block: Block) -> None:
        """Does what one block says."""
        if block.file_name:
            self.write(block.file_name, block.text)
        elif block.language == "signal":
            self.end(block.text)
        elif block.word == "background":
            self.worker = Terminal(block, self.shell, self.directory)
            self.worker.wait_for(outputs(block.text))
        elif block.word == "serve":
            self.server = Terminal(block, self.shell, self.directory, "--port", "0")
            visit(self.server)
        elif block.word == "run":
            self.type(block)
        elif block.word in ("prints", "await"):
            assert self.worker is not None
            self.worker.wait_for(block.text.splitlines(), skip=block.word == "await")

    def write(self, name: str, text: str) -> None:
        """Writes a file of the page."""
        for slow, quick in QUICK.items():
            if slow in text:
                self.slow.discard(slow)
                text = text.replace(slow, quick)
        (self.directory / name).write_text(text)

    def type(self, block: Block) -> None:
        """Runs commands; variables stay for the next ones."""
        printed = "".join(self.run(command) for command in commands(block.text))
        if wanted := outputs(block.text):
            assert_lines(wanted, printed.splitlines(), f"line {block.line}")

    def run(self, command: str) -> str:
        """What one command prints. absurdctl is run in this process, which saves its start."""
        if assigned := re.fullmatch(r"(\w+)=\$\((.*)\)", command):
            self.variables[assigned[1]] = self.run(assigned[2]).strip()
            return ""
        words = shlex.split(Template(command).substitute(self.variables))
        if words[0] == "absurdctl":
            result = CliRunner().invoke(app, words[1:], env=self.shell, prog_name="absurdctl")
            assert result.exit_code == 0, f"{command}: {result.output}"
            return result.stdout
        done = subprocess.run(words, cwd=self.directory, env=self.shell, capture_output=True, text=True, timeout=TIME_LIMIT)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def end(self, word: str) -> None:
        """Sends a signal to what runs."""
        for terminal in (self.server, self.worker):
            if terminal is not None:
                self.ended.append((word, terminal.end(SIGNALS[word])))
        self.server = self.worker = None
        if word == "quit":
            (self.directory / "killed").touch()


class Terminal:
    """One in which a program runs."""

    def __init__(self, block: Block, shell: dict[str, str], directory: Path, *more: str) -> None:
        (command,) = commands(block.text)
        self.out = directory / f"line-{block.line}.out"
        self.taken = 0
        with self.out.open("w") as target, self.out.with_suffix(".err").open("w") as errors:
            script = f"exec {shlex.join([*shlex.split(command), *more])}"
            self.process = subprocess.Popen(["bash", "-c", script], cwd=directory, env=shell, stdout=target, stderr=errors)

    def wait_for(self, wanted: list[str], skip: bool = False) -> None:
        """Waits until the program has printed these lines next, or after others if ``skip``."""

        def printed() -> bool:
            assert self.process.poll() is None, f"it ended: {self.out.with_suffix('.err').read_text()}"
            lines = self.out.read_text().splitlines()
            for start in range(self.taken, len(lines) - len(wanted) + 1 if skip else self.taken + 1):
                if len(lines) >= start + len(wanted) and all(map(matches, wanted, lines[start:])):
                    self.taken = start + len(wanted)
                    return True
            return False

        wait_until(printed, TIME_LIMIT, f"{wanted} in {self.out}")

    def end(self, number: int) -> int:
        """Ends the program; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIME_LIMIT)


def visit(server: Terminal) -> None:
    """Opens the address that a server has printed."""

    def addresses() -> list[str]:
        text = server.out.read_text() + server.out.with_suffix(".err").read_text()
        return [word for word in text.split() if word.startswith("http://")]

    wait_until(lambda: bool(addresses()), TIME_LIMIT, "an address")
    with urllib.request.urlopen(addresses()[0], timeout=TIME_LIMIT) as answer:
        assert answer.status == 200
