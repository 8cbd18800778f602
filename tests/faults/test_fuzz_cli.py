"""Every command of the command line with hostile arguments: it works or says what was wrong, and the queue goes on.

Commands and their parameters are those of the program itself, so that a new command is attacked from its first day.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from absurd import Absurd
from absurd.cli import app as command_line
from absurd.cli.text import is_safe
from tests.conftest import with_database
from tests.faults import hostile, report
from tests.faults.support_fuzz import QUEUE, make_token

PROGRAM = "absurdctl"
COMMANDS: Mapping[str, Any] = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
SHARED = frozenset({"database", "debug", "as_json"})
HELP = "--help"

ENDLESS = frozenset({"worker", "serve", "listen", "scheduler", "dashboard", "top", "tail"})
"""They end at once where there is no schema, after they have read all of their arguments."""

SHORT = 2
LONG = 10
PATIENCE = 30  # seconds; reached only by a command that does not end by itself

LENGTH = 100_000  # more than a shell passes on in one argument on many systems

texts = st.one_of(
    st.sampled_from([text if len(text) <= LENGTH else text[:LENGTH] for text in hostile.TEXTS]),
    # What Python makes of bytes on a command line that are no UTF-8. A NUL cannot be there.
    st.just("a\udcffb"),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
)
numbers = st.one_of(
    st.sampled_from(
        [*map(str, hostile.BIGINTS), *hostile.FLOATS, "nan", "inf", "1_000", "0x10", "٣", "1,5", "1h", "3d", "9e9d", "1h1h", ""]
    ),
    texts,
)
moments = st.one_of(
    st.sampled_from(
        [*hostile.MOMENTS, "2026-02-30", "0001-01-01", "9999-12-31T23:59:59+23:59", "2026-01-01T25:00", "2026-01-01T00:00+99:99"]
    ),
    texts,
)
crons = st.sampled_from(
    ["* * * * *", "0 0 31 2 *", "@never", "* * * * * * *", "61 * * * *", "*/0 * * * *", "1-0 * * * *", "R R R R R", "L * * * *"]
)
zones = st.sampled_from(
    ["UTC", "Europe/Vienna", "Etc/GMT+50", "posixrules", "localtime", "../UTC", "/etc/localtime", "Europe", "UTC\n"]
)
modules = st.sampled_from(
    ["os:path", "json", ":", "a:b:c", "absurd:Absurd", "absurd.listeners:FileListener", "absurd.listeners:RabbitMQListener",
     "sys:modules",      "...:x", "absurd.listeners:EventListener", "json:loads", "no_such_module:app", "1:2"]
)  # fmt: skip
documents = st.one_of(
    st.sampled_from([text for text in (*hostile.JSON_TEXTS, *hostile.RAW_JSON_TEXTS) if len(text) < hostile.MILLION]),
    hostile.options.map(json.dumps),
    st.sampled_from(["@no-such-file", "@.", "-", "@", "NaN", "{", "[1", "'{}'"]),
    texts,
)
pairs = st.one_of(
    st.sampled_from(
        ["k=v", "k:=1", "k:={}", "k:=NaN", "=", ":=", "k", "k=", "k:=", "k:=@no-such-file", "k:=1e999999", "a\udcffb=1"]
    ),
    texts,
)


@dataclass
class World:
    """A database with one of everything, and what its things are called."""

    url: str
    empty_url: str
    conn: psycopg.Connection[Any]
    directory: Path
    known: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """What a command may have dropped is there again."""
        with Absurd(self.url, QUEUE) as app:
            app.create_queue(QUEUE)
            app.resume_queue(QUEUE)
            app.subscribe("evt*", "work", queue=QUEUE)
            app.create_schedule("sched", task="work", every=3600, queue=QUEUE, replace=True)
            task = app.spawn("work", {"a": 1}, queue=QUEUE, idempotency_key="key").task_id
        self.conn.execute("select absurd.register_trigger('trig', %s, 'work', 60, 60, true, null)", (QUEUE,))
        self.known = {"TASK_ID": str(task), "TOKEN": make_token(self.conn)}

    def check(self) -> None:
        """The queue works: what is ready can be claimed and completed, new work too."""
        self.conn.execute("select absurd.create_queue(%s), absurd.resume_queue(%s)", (QUEUE, QUEUE))
        mine = self.conn.execute(
            "select task_id from absurd.spawn_task(%s, 'probe', '{}', '{\"priority\": 32766}')", (QUEUE,)
        ).fetchone()
        claimed = self.conn.execute(
            "select task_id, run_id, epoch from absurd.claim_runs(%s, 'probe', 60, 1000)", (QUEUE,)
        ).fetchall()
        tasks, runs, epochs = map(list, zip(*claimed, strict=True))
        self.conn.execute("select absurd.complete_runs(%s, %s, %s, %s::json[])", (tasks, runs, epochs, ["{}"] * len(tasks)))
        assert mine is not None
        assert mine[0] in tasks


def _strategies(world: World) -> dict[str, st.SearchStrategy[str]]:
    """Values by what the help calls them; anything else gets hostile texts."""
    known = {key: st.builds(lambda key=key: world.known[key]) for key in ("TASK_ID", "TOKEN")}
    paths = st.sampled_from(["out.json", "new", "no/such/dir/out.json", ".", "", "x" * 300, "out\udcff.json"]).map(
        lambda name: str(world.directory / name)
    )
    return {
        "QUEUE": st.sampled_from([QUEUE, QUEUE, "other"]) | texts,
        "NAME": st.sampled_from(["sched", "trig", "work", "evt"]) | texts,
        "TASK": st.just("work") | texts,
        "PATTERN": st.sampled_from(["evt*", "evt", "*", "a*b", "**"]) | texts,
        "TASK_ID": known["TASK_ID"] | st.sampled_from(hostile.UUIDS) | texts,
        "TOKEN": known["TOKEN"] | known["TOKEN"].map(lambda secret: f"https://example.com/tokens/{secret}") | texts,
        "KEY": st.just("key") | texts,
        "JSON": documents,
        "KEY=VALUE": pairs,
        "MOMENT": moments,
        "EXPRESSION": crons | texts,
        "ZONE": zones | texts,
        "MODULE:ATTRIBUTE": modules | texts,
        "MODULE:CLASS": modules | texts,
        # Only below the directory of the test: such a command writes.
        "FILE": paths,
        "DIR": paths,
        "FILE_OR_DIR": paths,
        **dict.fromkeys(("DURATION", "AGE", "SECONDS", "N", "X", "PORT", "BYTES"), numbers),
    }


def _kind(parameter: Any) -> str:
    return str(parameter.metavar or "").strip("[]…,")


# Values that are taken, by what the help calls them. Options of other kinds are given when they are attacked, and not otherwise.
GOOD: Mapping[str, str] = {
    "QUEUE": QUEUE,
    "NAME": "work",
    "TASK": "work",
    "PATTERN": "evt*",
    "KEY": "key",
    "JSON": "{}",
    "KEY=VALUE": "k=v",
    "N": "2",
    "DURATION": "1h",
    "AGE": "1h",
    "SECONDS": "5",
    "MOMENT": "2030-01-01T00:00",
    "MODULE:ATTRIBUTE": "json:loads",
    "MODULE:CLASS": "absurd.listeners:FileListener",
}
NAMES: Mapping[str, str] = {"schedule": "sched", "trigger": "trig", "event": "evt", "trigger-executions": "trig"}
"""What NAME is for commands whose name ends with this."""
NEEDED: Mapping[str, Mapping[str, str]] = {
    "create-schedule": {"--task": "work", "--every": "60", "--replace": ""},
    "spawn-task": {"--retry": "fixed"},
    "drop-queue": {"--yes": ""},
    "delete-trigger": {"--yes": ""},
    "backfill-schedule": {"--from": "2020-01-01", "--to": "2020-01-01T01:00"},
}
"""Options without which a command refuses everything."""
INSTEAD: Mapping[str, str] = {"cron": "--every", "event": "--task"}
"""Options that are given when they are attacked alone, and then instead of another one."""


@st.composite
def arguments(
    draw: st.DrawFn, command: Any, strategies: Mapping[str, st.SearchStrategy[str]], known: Mapping[str, str]
) -> list[str]:
    """What it needs and some of the rest; one, two or none of the values are hostile, and now and then an option is unknown."""
    own = [parameter for parameter in command.params if parameter.name not in SHARED and HELP not in parameter.opts]
    attacked = draw(st.lists(st.sampled_from([p.name for p in own]), max_size=2, unique=True)) if own else []
    needed = {option: value for option, value in NEEDED.get(command.name, {}).items() if option not in map(INSTEAD.get, attacked)}
    options, places = [f"{option}={value}" if value else option for option, value in needed.items()], list[str]()
    good = {**GOOD, **known, "NAME": NAMES.get(command.name.partition("-")[2], GOOD["NAME"])}
    for parameter in own:
        kind, is_attacked = _kind(parameter), parameter.name in attacked
        several = parameter.nargs == -1 or getattr(parameter, "multiple", False)
        if getattr(parameter, "is_flag", False):
            if parameter.name != "wait":  # nobody works here
                options += draw(st.sampled_from([[], [], [parameter.opts[-1]], parameter.secondary_opts[:1]]))
            continue
        value = strategies.get(kind, texts) if is_attacked else st.just(good.get(kind, ""))
        optional = kind in good and command.name not in NEEDED and draw(st.sampled_from([False, False, False, True]))
        wanted = is_attacked or optional or (parameter.required and parameter.opts[-1] not in needed)
        count = draw(st.sampled_from([1, 1, 0, 3 if several else 1])) if is_attacked else int(wanted)
        values = [draw(value) for _ in range(count)]
        if parameter.param_type_name == "argument":
            places += values
        else:
            options += [f"{parameter.opts[-1]}={value}" for value in values]
    options += draw(st.sampled_from([[]] * 15 + [["--no-such-\x1b[31moption"]]))
    # With "--" a place may begin with a dash; without, it is taken for an option.
    return options + (draw(st.sampled_from([["--"], ["--"], []])) if places else []) + places


@pytest.fixture(scope="module")
def world(server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One database for all commands: what one leaves behind the next ones meet."""
    names = [f"absurd_fuzz_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    with psycopg.connect(server_url, autocommit=True) as admin:
        for name, copied in zip(names, (template, "template0"), strict=True):
            admin.execute(f"create database {name} template {copied}".encode())
    urls = [with_database(server_url, name) for name in names]
    directory = tmp_path_factory.mktemp("cli")
    with psycopg.connect(urls[0], autocommit=True) as conn, _as_it_was(directory):
        yield World(*urls, conn, directory)
    with psycopg.connect(server_url, autocommit=True) as admin:
        for name in names:
            admin.execute(f"drop database {name} with (force)".encode())


@contextmanager
def _as_it_was(directory: Path) -> Iterator[None]:
    """Commands set up logging, the path of modules and the environment of the processes they start; none of it stays."""
    root = logging.getLogger()
    handlers, level, path, environment, here = root.handlers[:], root.level, sys.path[:], dict(os.environ), Path.cwd()
    loggers = {name: logging.getLogger(name).level for name in ("absurd", "uvicorn")}
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(here)
        root.handlers[:], sys.path[:] = handlers, path
        root.setLevel(level)
        for name, value in loggers.items():
            logging.getLogger(name).setLevel(value)
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def _alarm(command: str) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"{command} has not ended in {PATIENCE} s; does it belong to ENDLESS?")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.short
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_takes_hostile_arguments_or_says_what_is_wrong(world: World, name: str) -> None:
    _attack(world, name, SHORT)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_takes_many_hostile_arguments_or_says_what_is_wrong(world: World, name: str) -> None:
    _attack(world, name, LONG)


def _attack(world: World, name: str, examples: int) -> None:
    command, strategies, made = COMMANDS[name], _strategies(world), 0
    as_json = any(parameter.name == "as_json" for parameter in command.params)

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal made
        made += 1
        world.prepare()
        own = data.draw(arguments(command, strategies, world.known), label="arguments")
        # Before the command's own: what follows "--" is no option.
        form = ["--json"] if as_json and data.draw(st.booleans(), label="--json") else []
        stdin = data.draw(documents, label="standard input").encode("utf-8", "surrogateescape")
        url = world.empty_url if name in ENDLESS else world.url
        with _alarm(name):
            done = CliRunner().invoke(command_line, ["-d", url, name, *form, *own], input=stdin, prog_name=PROGRAM)
        _judge(command, own, done, as_json=bool(form) and HELP not in own)
        world.check()

    attack()
    report.record("hostile values on the command line", ["open queue"], runs=made, injected=made, tasks=made)


def _judge(command: Any, own: list[str], done: Any, *, as_json: bool) -> None:
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert done.exit_code in (0, 1, 2), (done.exit_code, done.stdout[-1000:], done.stderr[-1000:])
    # The second is how an error is shown that nobody thought of.
    for sign in ("Traceback", "(--debug shows where)"):
        assert sign not in done.stderr + done.stdout, done.stderr[-2000:]
    unsafe = {char for char in done.stdout + done.stderr if char != "\n" and not is_safe(char)}
    assert not unsafe, (unsafe, done.stdout[-500:], done.stderr[-500:])
    if done.exit_code == 0:
        assert not as_json or isinstance(json.loads(done.stdout), dict | list)
    elif command.name == "doctor" and done.stdout.strip():
        return  # its code says how ill the database is
    else:
        assert done.stderr.strip()
    if done.exit_code == 2:
        assert any(word in done.stderr for word in _words(command)), done.stderr


def _words(command: Any) -> Iterator[str]:
    """What an error may call what it is about."""
    yield "No such option"
    yield "unexpected extra argument"
    for parameter in command.params:
        yield from parameter.opts if parameter.param_type_name == "option" else ()
        yield str(parameter.metavar or parameter.name.upper()).strip("[]…,")


def test_a_database_that_is_hostile_too(world: World) -> None:
    readable: Callable[[str], bool] = lambda text: len(text) < LENGTH  # noqa: E731
    for text in [*filter(readable, hostile.TEXTS), "a\udcffb", "postgresql://[", "host=\x1b[31m", "postgresql://h:99999999/x"]:
        if text.strip() == "" or text in ("work*", "*", "null"):
            continue
        done = CliRunner().invoke(command_line, ["-d", f"dbname={text!r} connect_timeout=1 host=/nowhere {text}", "list-queues"])
        assert done.exit_code == 1, (text, done.output)
        assert "Traceback" not in done.output
        assert "(--debug" not in done.output
