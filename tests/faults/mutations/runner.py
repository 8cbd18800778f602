"""A process that runs tests in forks of itself: ``python -m tests.faults.mutations.runner FILE …``.

It has imported the library and the files with the tests before: a fork pays for its test, and for nothing else. It reads a line
of JSON for each, and answers with an exit code. What pytest prints goes to the file that the line names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import pytest

OPTIONS = ("-q", "-x", "-p", "no:xdist", "-o", "cache_dir=.cache/pytest-mutations")


def main() -> None:
    """Serves until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what pytest prints is no answer
    collected = pytest.main([*OPTIONS, "--collect-only", "-qq", *sys.argv[1:]])
    assert collected == pytest.ExitCode.OK, f"what cannot be collected cannot be run: {sys.argv[1:]}"
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(wanted)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _run(wanted: dict[str, Any]) -> None:
    """Runs the tests in an environment of their own, and exits as pytest does."""
    signal.alarm(wanted["patience"])
    output = os.open(wanted["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(wanted["environment"])
    code = pytest.main([*OPTIONS, *wanted["tests"]])
    sys.stdout.flush()
    os._exit(int(code))


if __name__ == "__main__":
    main()
