"""show-task: one task with all that is known of it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import typer
from rich.text import Text

from absurd.cli.command import command
from absurd.cli.options import TaskId
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import dump, duration, escape, json_text, moment_text, parse_moment, shorten
from absurd.errors import SerializationError, TaskNotFoundError
from absurd.queries import inspect

Document = dict[str, Any]

VALUE_LENGTH = 500  # characters of a checkpoint's value; --json shows all


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    task = "01890a5d-ac96-774b-bcce-b302099a8057"
    command(app, "show-task", show_task, f"absurdctl show-task {task}", f"absurdctl show-task {task} --json", group="Tasks")


def show_task(session: Session, task_id: TaskId) -> None:
    """Show a task: params, attempts, checkpoints, waits, result or failure with its traceback, children."""
    text = session.run(inspect.show_task(task_id))
    if text is None:
        raise TaskNotFoundError(f"there is no task {task_id} in this database; absurdctl list-tasks shows those that are")
    exact = json_text(text)
    if session.out.as_json:
        session.out.json(exact)
    else:
        try:
            task = json.loads(text, parse_int=_whole)
        except RecursionError:
            raise SerializationError(
                f"task {task_id} holds a value that is nested too deep to be shown; absurdctl show-task {task_id} --json "
                "gives it as it is stored"
            ) from None
        _View(session, task, exact).show()


def _whole(digits: str) -> int | str:
    """A whole number; one with more digits than Python reads stays as it was written."""
    return int(digits) if len(digits) < 4300 else digits


class _View:
    """The task on a terminal, part by part. ``exact`` is the same document with its numbers as they were stored."""

    def __init__(self, session: Session, task: Document, exact: Any) -> None:
        self._out = session.out
        self._now: datetime = session.now
        self._task = task
        self._exact: Document = exact if isinstance(exact, dict) else task

    def show(self) -> None:
        self._head()
        for title, key in (("Params", "params"), ("Headers", "headers")):
            if self._task[key] is not None:
                self._value(title, self._exact[key])
        self._attempts()
        self._checkpoints()
        self._waits()
        self._children()
        self._ending()

    def _head(self) -> None:
        task = self._task
        self._out.line(Text.assemble("Task ", (task["task_id"], "bold"), "  ", state_text(task["state"])))
        facts = {
            "Name": task["task_name"],
            "Queue": task["queue_name"],
            "Run": task["run_id"],
            "Attempt": f"{task['attempt'] or 1} of {task['max_attempts'] or '∞'}",
            "Priority": task["priority"] or None,
            "Retries": task["retry_strategy"] and dump(self._exact["retry_strategy"]),
            "Max delay": task["max_delay"] and duration(task["max_delay"]),
            "Max duration": task["max_duration"] and duration(task["max_duration"]),
            "Idempotency": task["idempotency_key"],
            "Parent": task["parent_task_id"],
            "Worker": task["worker_id"],
            "Note": task["note"],
        }
        moments = ("spawned_at", "available_at", "started_at", "lease_expires_at", "deadline_at", "finished_at")
        facts |= {key.removesuffix("_at").replace("_", " ").capitalize(): self._when(task[key]) for key in moments if task[key]}
        for title, value in facts.items():
            if value is not None:
                self._out.line(f"  {title + ':':<15} {escape(str(value))}")

    def _attempts(self) -> None:
        columns = [
            Column("ATTEMPT", right=True),
            Column("STATE", fixed=True),
            Column("STARTED"),
            Column("ENDED"),
            Column("WORKER"),
        ]
        rows: Rows = [
            [
                str(attempt["attempt"]),
                state_text(attempt["state"]),
                self._when(attempt["started_at"]),
                self._when(attempt["ended_at"]),
                escape(attempt["worker_id"] or "-"),
            ]
            for attempt in self._task["attempts"]
        ]
        self._table("Attempts", columns, rows)
        for attempt in self._task["attempts"]:
            if attempt["failure"] is not None:
                self._failure(attempt)

    def _failure(self, attempt: Document) -> None:
        """Name and message, then the traceback, indented. Any JSON may stand there: SQL callers write it too."""
        failure = attempt["failure"]
        self._title(f"Failure of attempt {attempt['attempt']}")
        if not isinstance(failure, dict):
            self._block(dump(failure, indent=True))
            return
        name, message = failure.get("name"), failure.get("message")
        self._block(": ".join(str(part) for part in (name, message) if part is not None) or dump(failure, indent=True))
        for key, value in failure.items():
            if key not in ("name", "message"):
                self._block(value.rstrip() if isinstance(value, str) else f"{key}: {dump(value)}")

    def _checkpoints(self) -> None:
        columns = [Column("STEP"), Column("KIND", fixed=True), Column("COMPLETED"), Column("VALUE")]
        rows: Rows = [
            [
                escape(point["step_name"]),
                point["kind"],
                self._when(point["completed_at"]),
                shorten(dump(exact["state"]), VALUE_LENGTH),
            ]
            for point, exact in zip(self._task["checkpoints"], self._exact["checkpoints"], strict=True)
        ]
        self._table("Checkpoints", columns, rows, total=self._task["checkpoint_count"])

    def _waits(self) -> None:
        columns = [Column("WAITS FOR"), Column("STEP"), Column("SINCE"), Column("UNTIL")]
        rows: Rows = [
            [
                what_for(wait["kind"], wait["event_name"], wait["awaited_task_id"]),
                escape(wait["step_name"] or "-"),
                self._when(wait["waiting_since"]),
                self._when(wait["until"]),
            ]
            for wait in self._task["waits"]
            if wait["kind"] != "timeout"  # the row of the event or task shows until when
        ]
        self._table("Waits", columns, rows)

    def _children(self) -> None:
        columns = [Column("TASK ID", fixed=True), Column("QUEUE"), Column("NAME"), Column("STATE", fixed=True), Column("SPAWNED")]
        rows: Rows = [
            [
                child["task_id"],
                escape(child["queue_name"]),
                escape(child["task_name"]),
                state_text(child["state"]),
                self._when(child["spawned_at"]),
            ]
            for child in self._task["children"]
        ]
        self._table("Children", columns, rows, total=self._task["child_count"])

    def _ending(self) -> None:
        if self._task["state"] == "completed":
            self._value("Result", self._exact["result"])

    def _value(self, title: str, value: Any) -> None:
        self._title(title)
        self._block(dump(value, indent=True))

    def _table(self, title: str, columns: list[Column], rows: Rows, total: int | None = None) -> None:
        if not rows:
            return
        self._title(title)
        self._out.table(columns, rows, empty="")
        if total is not None and total > len(rows):
            self._out.line(f"The first {len(rows)} of {total}.")

    def _title(self, text: str) -> None:
        self._out.line()
        self._out.line(Text(text, style="bold"))

    def _block(self, text: str) -> None:
        for line in escape(text, keep="\n").split("\n"):
            self._out.line(f"  {line}")

    def _when(self, value: str | None) -> str:
        return moment_text(parse_moment(value), self._now)


def what_for(kind: str, event_name: str | None, awaited_task_id: object) -> str:
    """What a wait is for, in words."""
    if kind == "event":
        return f"event {escape(event_name or '')}"
    if kind == "task":
        return f"task {awaited_task_id}"
    return {"sleep": "a time", "token": "the answer to a token"}.get(kind, escape(kind))
