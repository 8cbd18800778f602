"""Options that several commands take, each defined once."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from absurd.cli.complete import complete_queue, complete_task_name
from absurd.context.durations import parse_duration

DATABASE_HELP = (
    "PostgreSQL to use, as a URL or connection string; before or after the command. "
    "Default: ABSURD_DATABASE_URL, else PGDATABASE, else the embedded PostgreSQL."
)
DEBUG_HELP = "Show the traceback of an error."


class State(StrEnum):
    """States of a task."""

    PENDING = "pending"
    RUNNING = "running"
    SLEEPING = "sleeping"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def seconds(text: str | float) -> float:
    """Reads a duration given on the command line."""
    if isinstance(text, (int, float)):
        return float(text)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def moment(text: str | datetime) -> datetime:
    """Reads a moment; without a time zone it is in local time."""
    if isinstance(text, datetime):
        return text
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no moment; give one like 2030-01-31T08:00 or 2030-01-31T08:00:00+01:00") from None


def listed_keys(text: str) -> list[str]:
    """Reads the keys of --redact; an empty list, as of a variable that is not set, would hide nothing."""
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise typer.BadParameter("it names no key, so that nothing would be hidden", param_hint="--redact")
    return keys


def uuid(text: str | UUID) -> UUID:
    """Reads an id."""
    if isinstance(text, UUID):
        return text
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}", text):
        raise typer.BadParameter(f"{text!r} is no task id; list-tasks shows them, like 01890a5d-ac96-774b-bcce-b302099a8057")
    return UUID(text)


Database = Annotated[str | None, typer.Option("-d", "--database", metavar="URL", help=DATABASE_HELP, rich_help_panel="Common")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.", rich_help_panel="Common")]
Debug = Annotated[bool, typer.Option("--debug", help=DEBUG_HELP, rich_help_panel="Common")]

QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.", autocompletion=complete_queue)]
QueueFilter = Annotated[
    str | None, typer.Option("-q", "--queue", metavar="QUEUE", help="Only this queue.", autocompletion=complete_queue)
]
TargetQueue = Annotated[str, typer.Option("-q", "--queue", metavar="QUEUE", help="Its queue.", autocompletion=complete_queue)]
TaskId = Annotated[UUID, typer.Argument(metavar="TASK_ID", help="Id of the task.", parser=uuid)]
TaskName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the task.", autocompletion=complete_task_name)]
TaskNameFilter = Annotated[
    str | None, typer.Option("-n", "--name", metavar="NAME", help="Only tasks of this name.", autocompletion=complete_task_name)
]
OlderThan = Annotated[
    float | None, typer.Option("--older-than", metavar="AGE", help="Only those older than this, like 2h or 3d.", parser=seconds)
]
NewerThan = Annotated[
    float | None, typer.Option("--newer-than", metavar="AGE", help="Only those newer than this, like 15m.", parser=seconds)
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")]
