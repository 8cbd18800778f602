"""worker: what it runs, what it refuses to start with, how it stops; list-workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli import PROGRAM, TIMEOUT, absurdctl, environment, invoke, refused, working, write_app
from tests.support import wait_until


def spawn(database: str, *arguments: str, code: int = 0) -> Any:
    return invoke("spawn-task", *arguments, "--wait", "--timeout", "30s", database=database, code=code)


def states(database: str) -> list[str]:
    return [row["state"] for row in invoke("list-tasks", "--json", database=database).json()]


def log_of(directory: Path) -> str:
    return (directory / "worker.log").read_text()


def test_a_worker_runs_tasks_until_sigterm(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, "--app", "shop:app", "--concurrency", "7") as process:
        [worker] = invoke("list-workers", "--json", database=database_url).json()
        assert (worker["queue_names"], worker["concurrency"], worker["pid"]) == (["default"], 7, process.pid)
        assert f":{process.pid}:" in invoke("list-workers", database=database_url).out
        assert '"sum": 3' in spawn(database_url, "add", "-P", "a:=1", "-P", "b:=2").out
        done = spawn(database_url, "add", "-P", "a:=1", "-P", "b:=2", "--json").json()
        assert (done["state"], done["result"]) == ("completed", {"sum": 3})
        failed = spawn(database_url, "boom", "--max-attempts", "1", code=1)
        assert "a red \\x1b[31m failure" in failed.err
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    assert "Traceback" not in log_of(tmp_path)
    assert invoke("list-workers", "--json", database=database_url).json() == []


def test_a_worker_with_a_task_and_free_slots_is_shown_as_running(database_url: str, tmp_path: Path) -> None:
    write_app(
        tmp_path,
        """
        from absurd import Absurd
        app = Absurd()
        @app.register_task("read")
        def read(params, ctx):
            return open(params["pipe"]).read()
        """,
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with working(tmp_path, database_url, "--app", "shop:app"):
        shown: Callable[[], str] = lambda: invoke("list-workers", database=database_url).out.splitlines()[1]  # noqa: E731
        wait_until(lambda: "idle" in shown())
        invoke("spawn-task", "read", "-P", f"pipe={pipe}", database=database_url)
        # Opening waits for the task, which waits for the end of what is written.
        with pipe.open("w"):
            wait_until(lambda: "1/32" in shown())
            assert "running" in shown()
        wait_until(lambda: states(database_url) == ["completed"])


def test_a_waiting_task_is_shown_and_woken_from_the_command_line(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, env={"ABSURD_APP": "shop:app"}):
        task = invoke("spawn-task", "wait", "-P", "event=paid:1", "--json", database=database_url).json()["task_id"]
        wait_until(lambda: invoke("list-waits", "--json", database=database_url).json(), what="the wait")
        wait_until(lambda: states(database_url).count("completed") == 1, what="the child")
        shown = invoke("show-task", task, database=database_url).out
        for text in ("sleeping", "event paid:1", "first", '"z":12345678901234567890,"a":1.0', "Children", "add"):
            assert text in shown
        invoke("emit-event", "paid:1", "-p", '{"z": 1, "a": 2}', database=database_url)
        wait_until(lambda: states(database_url).count("completed") == 2, what="the task")
    assert '"z": 1,\n    "a": 2' in invoke("show-task", task, database=database_url).out


def test_what_a_task_prints_is_seen_while_the_worker_runs(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, "--app", "shop:app"):
        invoke("spawn-task", "talk", database=database_url)
        wait_until(lambda: "said by a task\n" in log_of(tmp_path), what="the line")


def test_a_worker_serves_the_queues_named_else_those_of_the_app(database_url: str, tmp_path: Path) -> None:
    for queue in ("it's mail", "urgent", "big"):
        invoke("create-queue", queue, database=database_url)
    write_app(
        tmp_path,
        """
        from absurd import Absurd
        app = Absurd(queue_name="it's mail")
        @app.register_task("one", queue="urgent")
        def one(params, ctx): ...
        """,
    )
    (tmp_path / "pyproject.toml").write_text('[tool.absurd]\napp = "shop"\n')
    with working(tmp_path, database_url):
        [worker] = invoke("list-workers", "--json", database=database_url).json()
        assert worker["queue_names"] == ["it's mail", "urgent"]
    with working(tmp_path, database_url, "-q", "big", "-q", "it's mail"):
        [worker] = invoke("list-workers", "--json", database=database_url).json()
        assert worker["queue_names"] == ["big", "it's mail"]


def test_the_database_option_means_the_app_too(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    nowhere = "postgresql://x@127.0.0.1:1/nowhere"
    with working(tmp_path, database_url, "--app", "shop", "-d", database_url, env={"ABSURD_DATABASE_URL": nowhere}):
        child = spawn(database_url, "relay", "--json").json()["result"]
        assert invoke("show-task", child, "--json", database=database_url).json()["task_name"] == "add"


def test_several_processes_are_started_and_stopped_together(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, "--app", "shop:app", "--processes", "2", "--log-format", "json") as process:
        workers: Callable[[], Any] = lambda: invoke("list-workers", "--json", database=database_url).json()  # noqa: E731
        wait_until(lambda: len(workers()) == 2, what="two workers")
        assert process.pid not in {worker["pid"] for worker in workers()}
        assert '"sum": 3' in spawn(database_url, "add", "-P", "a:=1", "-P", "b:=2").out
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert workers() == []
    lines = [json.loads(line) for line in log_of(tmp_path).splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])


def test_processes_whose_supervisor_was_killed_stop_by_themselves(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, "--app", "shop:app", "--processes", "2") as process:
        workers: Callable[[], Any] = lambda: invoke("list-workers", "--json", database=database_url).json()  # noqa: E731
        wait_until(lambda: len(workers()) == 2, what="two workers")
        process.kill()
        wait_until(lambda: workers() == [], TIMEOUT, what="the end of both")
    assert "is gone: stopping" in log_of(tmp_path)


def test_ctrl_c_stops_a_worker_gracefully(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, "--app", "shop:app") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
    assert "Traceback" not in log_of(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no app is configured"),
        (["--app", "nosuch:app"], 'no module "nosuch"'),
        (["--app", "shop:nothing"], "shop:app"),
        (["--app", "broken:app"], "No module named 'nosuchlibrary'"),
        (["--app", "shop:add"], "a function"),
        (["--app", "shop:app", "-q", "dflt"], "absurdctl create-queue dflt"),
        (["--app", "shop:app", "--lease", "0s"], "lease_seconds"),
    ],
)
def test_a_worker_that_cannot_begin_says_why(database_url: str, tmp_path: Path, arguments: list[str], says: str) -> None:
    write_app(tmp_path)
    write_app(tmp_path, "import nosuchlibrary", "broken")
    error = refused("worker", *arguments, database=database_url, cwd=tmp_path)
    assert error.startswith("Error: ")
    assert says in error


def test_a_worker_without_schema_or_database_says_what_to_do(empty_database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    assert "absurdctl init" in refused("worker", "--app", "shop:app", database=empty_database_url, cwd=tmp_path)
    nowhere = "postgresql://ann:secret@127.0.0.1:1/nowhere"
    error = refused("worker", "--app", "shop:app", database=nowhere, cwd=tmp_path)
    assert "postgresql://ann:***@127.0.0.1:1/nowhere cannot be reached" in error


def test_a_worker_with_an_old_schema_names_migrate(database_url: str, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    write_app(tmp_path)
    conn.execute("update absurd.schema_version set version = '0'")
    assert "absurdctl migrate" in refused("worker", "--app", "shop:app", database=database_url, cwd=tmp_path)


def test_a_password_from_the_environment_does_not_get_into_a_list_of_processes(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    separator = "&" if "?" in database_url else "?"
    url = f"{database_url}{separator}password=sesame"
    with working(tmp_path, url, "--app", "shop:app", "--processes", "2") as process:
        children = [worker["pid"] for worker in invoke("list-workers", "--json", database=database_url).json()]
        for pid in [process.pid, *children]:
            assert "sesame" not in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_reader_that_has_seen_enough_is_no_error(database_url: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select count(s.task_id) from generate_series(1, 3000) n, absurd.spawn_task('default', 'many', to_jsonb(n)) s")
    process = subprocess.Popen(
        [*PROGRAM, "list-tasks", "--limit", "3000", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(database_url),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(TIMEOUT) == 141


def test_ctrl_c_ends_a_waiting_command_with_130(database_url: str) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "spawn-task", "nobody-runs-it", "--wait"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(database_url),
    )  # fmt: skip
    wait_until(lambda: states(database_url) == ["pending"], what="the task")
    assert process.stdout is not None
    assert "Spawned" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_the_script_and_the_module_are_the_same_program() -> None:
    code = "import sys; from absurd.cli import main; sys.argv = ['absurdctl', '--help']; main()"
    script = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(None), check=True)
    assert script.stdout == absurdctl("--help").out
