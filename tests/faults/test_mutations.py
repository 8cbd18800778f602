"""A break of each fence is noticed: with a line taken out of the library, a test fails.

Each mutation of ``tests/faults/mutations/catalogue.py`` names the test that has to notice it. All named tests pass on the library
as it is; then each mutation is made in turn (of SQL in a database, of Python in a copy of the files), and its test is run, which
has to fail.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import SERVER_URL_VARIABLE, TEMPLATE_VARIABLE, with_database
from tests.faults.mutations.catalogue import MUTATIONS, Mutation
from tests.faults.report import record

ROOT = Path(__file__).parents[2]
# Seconds for one test on a loaded machine. A mutated library may wait for ever, which counts as noticed.
PATIENCE = 120
# Seconds after which a wait for a lock is an error: a mutated library may wait for the test that waits for it.
LOCK_PATIENCE = 15
# Every so many-th mutation is part of the short form.
SAMPLE = 10
FAILED, HUNG = 1, -signal.SIGALRM


class Runner:
    """The process that runs tests in forks."""

    def __init__(self, server_url: str, directory: Path) -> None:
        files = sorted({_split(mutation)[0].partition("::")[0] for mutation in MUTATIONS})
        self._output = directory / "output"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.mutations.runner", *files],
            cwd=ROOT,
            env=os.environ | {SERVER_URL_VARIABLE: server_url},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(self, tests: Sequence[str], template: str, order: str = "", patience: int = PATIENCE) -> tuple[int, str]:
        """How pytest exited, and the end of what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        environment = {TEMPLATE_VARIABLE: template, "PGOPTIONS": f"-c lock_timeout={LOCK_PATIENCE}s"}
        environment |= {"ORDER": order} if order else {}
        wanted = {"tests": tests, "environment": environment, "patience": patience, "output": str(self._output)}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that runs the tests has ended"
        return int(answer), self._output.read_text()[-4000:]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def runner(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """What runs tests without the cost of a process for each."""
    made = Runner(server_url, tmp_path_factory.mktemp("mutations"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library and its tests."""
    made = tmp_path_factory.mktemp("mutations") / "copy"
    for part in ("absurd", "sql", "tests"):
        shutil.copytree(ROOT / part, made / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", made)
    return made


def _split(mutation: Mutation) -> tuple[str, str]:
    test, _, order = mutation.test.partition("@")
    return test, order


def _cases() -> Iterator[object]:
    for place, mutation in enumerate(MUTATIONS):
        in_short_form = place % SAMPLE == 0 and mutation.file.endswith(".sql")
        yield pytest.param(mutation, id=mutation.name, marks=() if in_short_form else pytest.mark.full)


@pytest.mark.full
def test_the_named_tests_pass_without_a_mutation(runner: Runner, template: str) -> None:
    named = {_split(mutation) for mutation in MUTATIONS}
    code, output = runner.run(sorted({test for test, order in named if not order}), template, patience=10 * PATIENCE)
    assert code == 0, output
    for test, order in sorted((test, order) for test, order in named if order):
        code, output = runner.run([test], template, order)
        assert code == 0, f"{order}\n{output}"


@pytest.mark.parametrize("mutation", list(_cases()))
def test_a_mutation_is_noticed(mutation: Mutation, request: pytest.FixtureRequest, server_url: str) -> None:
    text = (ROOT / mutation.file).read_text()
    assert text.count(mutation.old) == 1, f"{mutation.file} has the text {text.count(mutation.old)} times: {mutation.old!r}"
    mutated = text.replace(mutation.old, mutation.new)
    if mutation.file.endswith(".sql"):
        test, order = _split(mutation)
        with _database_with(mutated, server_url, request.getfixturevalue("template")) as mutant:
            code, output = request.getfixturevalue("runner").run([test], mutant, order)
    else:
        code, output = _run_in_copy(mutation, text, mutated, request.getfixturevalue("copy"), server_url)
    # Another code (nothing was collected, say) proves nothing.
    assert code in (FAILED, HUNG), f"{mutation.name}: not noticed by {mutation.test} ({code})\n{output}"
    record("fence taken out of the library (noticed by a test)", ["fence"], tasks=0)


@contextmanager
def _database_with(functions: str, server_url: str, template: str) -> Iterator[str]:
    """A copy of the template with these functions, to copy the tests' databases from."""
    name = f"absurd_mutant_{uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"create database {name} template {template}".encode())
        try:
            with psycopg.connect(with_database(server_url, name), autocommit=True) as conn:
                conn.execute("set search_path = pg_catalog")
                conn.execute(functions.encode())
            yield name
        finally:
            server.execute(f"drop database {name} with (force)".encode())


def _run_in_copy(mutation: Mutation, text: str, mutated: str, copy: Path, server_url: str) -> tuple[int, str]:
    """The same for a file of Python, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", SERVER_URL_VARIABLE: server_url}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", mutation.test]
    path = copy / mutation.file
    path.write_text(mutated)
    try:
        found = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return HUNG, ""
    finally:
        path.write_text(text)
    return found.returncode, found.stdout[-4000:]


def test_each_mutation_still_fits_the_library() -> None:
    for mutation in MUTATIONS:
        count = (ROOT / mutation.file).read_text().count(mutation.old)
        assert count == 1, f"{mutation.name}: {mutation.file} has the text {count} times: {mutation.old!r}"
