"""Records that are made within a task say so, and a replay repeats none."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from absurd import Absurd
from absurd.cli.logs import JsonFormatter
from absurd.logs import FIELDS, TaskFilter, add_task
from tests.cli import working, write_app
from tests.support import wait_until

logger = logging.getLogger("shop")


class Lines(logging.Handler):
    """Records as the JSON lines that ``absurdctl worker --log-format json`` writes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.addFilter(TaskFilter(**options))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))

    def said(self, *loggers: str) -> list[str]:
        return [line["message"] for line in self.lines if line["logger"] in loggers]


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    handler = Lines(**getattr(request, "param", {}))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:
        yield made


def declare(app: Absurd, kind: str) -> Any:
    if kind == "sync":

        @app.register_task("talk")
        def talk(params: Any, ctx: Any) -> None:
            logger.info("before")
            logger.warning("careful")
            ctx.logger.info("own before")
            ctx.step("work", lambda: logger.info("in a step"))
            ctx.await_event("go")
            logger.info("after")
            ctx.logger.info("own after")

    else:

        @app.register_task("talk")
        async def talk_async(params: Any, ctx: Any) -> None:
            logger.info("before")
            logger.warning("careful")
            ctx.logger.info("own before")
            await ctx.step("work", lambda: logger.info("in a step"))
            await ctx.await_event("go")
            logger.info("after")
            ctx.logger.info("own after")

    task = app.spawn("talk")
    app.run_worker_once()
    app.emit_event("go")
    app.run_worker_once()
    return task


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_records_carry_their_task_and_replay_repeats_none(app: Absurd, lines: Lines, kind: str) -> None:
    task = declare(app, kind)
    assert lines.said("shop") == ["before", "careful", "in a step", "careful", "after"]
    assert lines.said("absurd.task.talk") == ["own before", "own after"]
    mine = [line for line in lines.lines if line["logger"] in ("shop", "absurd.task.talk")]
    expected = {"task_name": "talk", "task_id": str(task.task_id), "attempt": 1, "queue_name": "default"}
    assert all({name: line[name] for name in expected} == expected for line in mine)
    assert all(set(FIELDS) <= set(line) for line in mine)
    assert [line["message"] for line in lines.lines if line.get("replaying")] == ["careful"]


@pytest.mark.parametrize("lines", [{"keep_replayed": True}], indirect=True)
def test_replayed_records_can_be_kept_and_are_marked(app: Absurd, lines: Lines) -> None:
    declare(app, "sync")
    assert lines.said("shop") == ["before", "careful", "in a step", "before", "careful", "after"]
    assert [line["message"] for line in lines.lines if line.get("replaying")] == ["before", "careful"]
    assert lines.said("absurd.task.talk") == ["own before", "own after"]


def test_records_outside_of_tasks_carry_nothing(app: Absurd, lines: Lines) -> None:
    declare(app, "sync")
    logger.info("outside")
    assert not set(FIELDS) & set(lines.lines[-1])
    workers = [line for line in lines.lines if line["logger"] == "absurd.worker" and "serves" in line["message"]]
    assert all("task_id" not in line for line in workers)


def test_tasks_side_by_side_and_one_behind_the_other_are_told_apart(app: Absurd, lines: Lines) -> None:
    @app.register_task("one")
    def one(params: Any, ctx: Any) -> None:
        logger.info(params)

    @app.register_task("other")
    async def other(params: Any, ctx: Any) -> None:
        logger.info(params)

    handles = {name: app.spawn(task, name) for task in (one, other) for name in (f"{task.__name__} {i}" for i in range(5))}
    app.run_worker_once(concurrency=2)
    said = {line["message"]: line["task_id"] for line in lines.lines if line["logger"] == "shop"}
    assert said == {name: str(handle.task_id) for name, handle in handles.items()}


@pytest.fixture
def structured() -> Iterator[list[dict[str, Any]]]:
    entries: list[dict[str, Any]] = []

    def keep(_: Any, __: str, event: Any) -> Any:
        entries.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep], cache_logger_on_first_use=False)
    yield entries
    structlog.reset_defaults()


def test_structlog_knows_the_task_by_its_context_variables(app: Absurd, structured: list[dict[str, Any]]) -> None:
    talk = structlog.get_logger()

    @app.register_task("sync")
    def sync(params: Any, ctx: Any) -> None:
        talk.info("hello")

    @app.register_task("async")
    async def asynchronous(params: Any, ctx: Any) -> None:
        talk.info("hello")

    tasks = [app.spawn("sync"), app.spawn("async"), app.spawn("sync")]
    app.run_worker_once(concurrency=1)
    talk.info("outside")
    assert [entry.get("task_id") for entry in structured] == [*(str(task.task_id) for task in tasks), None]
    assert structured[0]["queue_name"] == "default"


def test_a_processor_of_structlog_drops_what_is_replayed(app: Absurd, structured: list[dict[str, Any]]) -> None:
    processors = structlog.get_config()["processors"]
    structlog.configure(processors=[add_task, processors[-1]])
    talk = structlog.get_logger()

    @app.register_task("talk")
    def say(params: Any, ctx: Any) -> None:
        talk.info("before")
        talk.warning("careful")
        ctx.step("work", lambda: None)
        ctx.await_event("go")
        talk.info("after")

    task = app.spawn("talk")
    app.run_worker_once()
    app.emit_event("go")
    app.run_worker_once()
    assert [(entry["event"], entry.get("replaying")) for entry in structured] == [
        ("before", None),
        ("careful", None),
        ("careful", True),
        ("after", None),
    ]
    assert {entry["task_id"] for entry in structured} == {str(task.task_id)}


def test_the_worker_of_the_command_line_writes_them_as_json(app: Absurd, database_url: str, tmp_path: Path) -> None:
    write_app(
        tmp_path,
        """
        import logging
        from absurd import Absurd
        app = Absurd()
        @app.register_task("talk")
        def talk(params, ctx):
            logging.getLogger("shop").info("before")
            ctx.step("work", lambda: None)
            ctx.await_event("go")
            logging.getLogger("shop").info("after")
        """,
    )
    with working(tmp_path, database_url, "--app", "shop:app", "--log-format", "json") as process:
        task = app.spawn("talk")
        wait_until(lambda: app.get_result(task.task_id).state == "sleeping")
        app.emit_event("go")
        task.result(timeout=30)
        process.terminate()
        assert process.wait(60) == 0
    written = [json.loads(line) for line in (tmp_path / "worker.log").read_text().splitlines() if line.startswith("{")]
    mine = [line for line in written if line["logger"] == "shop"]
    assert [line["message"] for line in mine] == ["before", "after"]
    assert {line["task_id"] for line in mine} == {str(task.task_id)}
    assert isinstance(process, subprocess.Popen)
