"""Shell completion, asked as the shell's script asks it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import TIMEOUT, absurdctl, environment, invoke


def complete(line: str, database: str | None) -> list[str]:
    """What bash is offered for the end of the line."""
    words = line.split(" ")
    env = {"_ABSURDCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return absurdctl(database=database, env=env).out.split("\n")


def test_commands_options_and_states_are_completed(database_url: str) -> None:
    assert "list-tasks" in complete("absurdctl list-", None)
    assert "--idempotency-key" in complete("absurdctl spawn-task --idem", None)
    assert [word for word in complete("absurdctl list-tasks --state s", None) if word] == ["sleeping"]


def test_names_come_from_the_database(database_url: str) -> None:
    invoke("create-queue", "orders", database=database_url)
    invoke("create-queue", "or\x1b[31m", database=database_url)
    invoke("spawn-task", "send-mail", "-q", "orders", database=database_url)
    for line in ("absurdctl drop-queue or", "absurdctl list-tasks --queue or", "absurdctl emit-event x -q or"):
        assert [word for word in complete(line, database_url) if word] == ["orders"]
    assert [word for word in complete("absurdctl spawn-task send", database_url) if word] == ["send-mail"]
    assert [word for word in complete(f"absurdctl -d {database_url} drop-queue or", None) if word] == ["orders"]


@pytest.fixture
def silent_url() -> Iterator[str]:
    """The URL of something that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"postgresql://x@127.0.0.1:{listener.getsockname()[1]}/x?connect_timeout=30"


@pytest.mark.parametrize("url", ["postgresql://x@127.0.0.1:1/x", "nonsense://"])
def test_a_database_that_cannot_be_reached_offers_nothing_and_says_nothing(url: str) -> None:
    assert "".join(complete("absurdctl drop-queue or", url)).strip() == ""


def test_a_database_that_does_not_answer_is_not_waited_for(silent_url: str) -> None:
    started = time.monotonic()
    assert "".join(complete("absurdctl drop-queue or", silent_url)).strip() == ""
    assert time.monotonic() - started < 15


def test_no_server_is_started_for_a_completion() -> None:
    assert "".join(complete("absurdctl drop-queue or", None)).strip() == ""
    assert absurdctl("dev", "--status", "--json", code=1).json()["pid"] is None


def test_it_is_installed_into_bash_and_works_there(database_url: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "absurdctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m absurd "$@"\n')
    program.chmod(0o755)
    env = environment(database_url, {"HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"})
    script = """
        absurdctl --install-completion
        . "$HOME/.bashrc"
        COMP_WORDS=(absurdctl drop-queue def); COMP_CWORD=2
        $(complete -p absurdctl | sed 's/.* -F \\([^ ]*\\) .*/\\1/') absurdctl
        echo "completed: ${COMPREPLY[*]}"
    """
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert "bash completion installed" in done.stdout
    assert "completed: default" in done.stdout
