"""Runs the command line for tests: as a subprocess, as a user would, or in this process where that is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from typer.testing import CliRunner

from absurd.cli import app
from tests.support import wait_until

ROOT = Path(__file__).parents[1]
PROGRAM = (sys.executable, "-m", "absurd")
TIMEOUT = 60.0  # seconds; only reached by a test that fails

APP = """
    from __future__ import annotations

    from absurd import Absurd

    app = Absurd()


    @app.register_task("add")
    def add(params, ctx):
        return {"sum": ctx.step("adding", lambda: params["a"] + params["b"])}


    @app.register_task("relay")
    def relay(params, ctx):
        return str(app.spawn("add", {"a": 1, "b": 2}).task_id)


    @app.register_task("talk")
    def talk(params, ctx):
        print("said by a task")
        ctx.await_event("never")


    @app.register_task("boom")
    def boom(params, ctx):
        raise ValueError("a red \\x1b[31m failure")


    @app.register_task("wait")
    def wait(params, ctx):
        ctx.step("first", lambda: {"z": 12345678901234567890, "a": 1.0})
        ctx.spawn("add", {"a": 1, "b": 2})
        return ctx.await_event(params["event"], timeout=3600)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


def environment(database: str | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, which tests/conftest.py has cleaned, with a database."""
    chosen = {} if database is None else {"ABSURD_DATABASE_URL": database}
    # Unbuffered, Python drops the rest of a write that a pipe took in part, and the broken pipe goes unnoticed.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, "PYTHONPATH": str(ROOT), "TZ": "UTC", "COLUMNS": "100", **chosen, **(extra or {})}


def absurdctl(
    *arguments: str,
    database: str | None = None,
    stdin: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    code: int = 0,
) -> Result:
    """Runs ``python -m absurd`` and checks its exit status."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(database, env),
        timeout=TIMEOUT,
    )
    assert done.returncode == code, f"exit status {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
    return Result(done.returncode, done.stdout, done.stderr)


def refused(*arguments: str, database: str | None = None, code: int = 1, **more: Any) -> str:
    """The error of a command that must fail: no traceback, and nothing on standard output."""
    done = absurdctl(*arguments, database=database, code=code, **more)
    assert "Traceback" not in done.err
    assert done.out == ""
    return done.err


def write_app(directory: Path, text: str = APP, name: str = "shop") -> Path:
    """An application as a module in a directory of its own."""
    path = directory / f"{name}.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


@contextmanager
def working(
    directory: Path, database: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A worker process for the length of the block; its log goes to ``worker.log`` in the directory."""
    with (directory / "worker.log").open("w") as log:
        process = subprocess.Popen(
            [*PROGRAM, "worker", *arguments], cwd=directory, env=environment(database, env), stderr=log, stdout=log, text=True
        )
        try:
            wait_until(lambda: _ready(process, directory, database), timeout=TIMEOUT, what="the worker's registration")
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(TIMEOUT)


def _ready(process: subprocess.Popen[str], directory: Path, database: str) -> bool:
    assert process.poll() is None, (directory / "worker.log").read_text()
    with psycopg.connect(database) as connection:
        return connection.execute("select from absurd.workers").fetchone() is not None


def invoke(*arguments: str, database: str, stdin: str = "", code: int = 0) -> Result:
    """The same in this process: quicker, where the process itself is not what is tested."""
    done = CliRunner().invoke(app, ["-d", database, *arguments], input=stdin, env={"COLUMNS": "100"}, prog_name="absurdctl")
    assert done.exit_code == code, f"exit status {done.exit_code}, not {code}\n{done.stdout}\n{done.stderr}"
    return Result(done.exit_code, done.stdout, done.stderr)
