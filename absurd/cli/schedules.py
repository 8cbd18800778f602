"""create-schedule, list-schedules, pause-, resume-, trigger-, backfill-, delete-schedule, and scheduler."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from absurd import schema
from absurd.cli.arguments import read_pairs, read_params
from absurd.cli.command import command
from absurd.cli.complete import complete_queue
from absurd.cli.logs import LogFormat, LogLevel, set_up
from absurd.cli.options import moment, seconds
from absurd.cli.output import Column, Rows, state_text
from absurd.cli.session import Session
from absurd.cli.text import duration, escape, moment_text, shorten
from absurd.cli.worker import Format, Level
from absurd.client import Absurd
from absurd.listeners.run import run_listener
from absurd.listeners.scheduler import Scheduler
from absurd.queries.schedules import Schedule
from absurd.schedules.slots import required, upcoming

GROUP = "Schedules"
# How many of the slots to come create-schedule shows.
PREVIEW = 5
EXAMPLE = "absurdctl create-schedule nightly-report --task report --cron '0 3 * * *' --timezone Europe/Vienna"


class Catchup(StrEnum):
    """What becomes of missed slots."""

    SKIP = "skip"
    ONE = "one"
    ALL = "all"


class Overlap(StrEnum):
    """What becomes of a slot while a task of the schedule is alive."""

    ALLOW = "allow"
    SKIP = "skip"


Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]
Task = Annotated[str | None, typer.Option("-t", "--task", metavar="NAME", help="Task that it starts.")]
EventName = Annotated[str | None, typer.Option("-e", "--event", metavar="NAME", help="Event that it emits, instead.")]
Cron = Annotated[
    str | None, typer.Option("--cron", metavar="EXPRESSION", help="When: 5 fields, 6 with seconds first, or @daily.")
]
Every = Annotated[
    float | None, typer.Option("--every", metavar="DURATION", help="When: every 30s, 5m, 1h30m, 1d; instead.", parser=seconds)
]
Params = Annotated[str | None, typer.Option("--params", metavar="JSON", help="All params: JSON, @file, or - for standard input.")]
Pairs = Annotated[list[str] | None, typer.Option("-P", "--param", metavar="KEY=VALUE", help="One param: key=text or key:=json.")]
Headers = Annotated[
    list[str] | None, typer.Option("-H", "--header", metavar="KEY=VALUE", help="One header: key=text or key:=json.")
]
Queue = Annotated[
    str | None,
    typer.Option(
        "-q", "--queue", metavar="QUEUE", help="Queue of its tasks or events. Default: default.", autocompletion=complete_queue
    ),
]
Zone = Annotated[str, typer.Option("--timezone", metavar="ZONE", help="IANA name, for --cron.")]
StartsAt = Annotated[
    datetime | None,
    typer.Option(
        "--starts-at", metavar="MOMENT", help="Nothing before this (ISO 8601; local time without a zone).", parser=moment
    ),
]
EndsAt = Annotated[datetime | None, typer.Option("--ends-at", metavar="MOMENT", help="Nothing from this on.", parser=moment)]
Jitter = Annotated[
    float, typer.Option("--jitter", metavar="DURATION", help="Put each off by up to this.", parser=seconds, show_default="0s")
]
CatchupKind = Annotated[Catchup, typer.Option("--catchup", help="What to do about times that nobody was there for.")]
CatchupLimit = Annotated[
    int, typer.Option("--catchup-limit", metavar="N", min=1, max=1000, help="For --catchup all: the last N.")
]
OverlapKind = Annotated[Overlap, typer.Option("--overlap", help="skip: not while a task of this schedule is alive.")]
Immediately = Annotated[
    bool | None,
    typer.Option("--immediately/--not-immediately", help="Also now. Usual: --every does, --cron does not.", show_default=False),
]
MaxAttempts = Annotated[int | None, typer.Option("--max-attempts", metavar="N", help="Attempts of each task.")]
Priority = Annotated[int | None, typer.Option("--priority", metavar="N", help="Of its tasks; higher ones are claimed first.")]
Replace = Annotated[bool, typer.Option("--replace", help="Change a schedule of this name that is different.")]
From = Annotated[
    datetime,
    typer.Option("--from", metavar="MOMENT", help="The first moment (ISO 8601; local time without a zone).", parser=moment),
]
To = Annotated[datetime, typer.Option("--to", metavar="MOMENT", help="The moment before which to end.", parser=moment)]
BackfillLimit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Refuse to run more than this.")]
EventFilter = Annotated[str | None, typer.Option("-e", "--event", metavar="NAME", help="Only those that emit this event.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    every = "absurdctl create-schedule sync-stock --task sync --every 5m --overlap skip -P warehouse=vienna"
    command(app, "create-schedule", create_schedule, EXAMPLE, every, group=GROUP)
    command(app, "list-schedules", list_schedules, "absurdctl list-schedules", "absurdctl list-schedules --json", group=GROUP)
    command(app, "pause-schedule", pause_schedule, "absurdctl pause-schedule nightly-report", group=GROUP)
    command(app, "resume-schedule", resume_schedule, "absurdctl resume-schedule nightly-report", group=GROUP)
    command(app, "trigger-schedule", trigger_schedule, "absurdctl trigger-schedule nightly-report", group=GROUP)
    backfill = "absurdctl backfill-schedule nightly-report --from 2025-06-01 --to 2025-06-08"
    command(app, "backfill-schedule", backfill_schedule, backfill, group=GROUP)
    command(app, "delete-schedule", delete_schedule, "absurdctl delete-schedule nightly-report", group=GROUP)
    command(app, "scheduler", scheduler, "absurdctl scheduler --log-format json", group=GROUP, takes_json=False)


def create_schedule(
    session: Session,
    name: Name,
    task: Task = None,
    event: EventName = None,
    cron: Cron = None,
    every: Every = None,
    timezone: Zone = "UTC",
    param: Pairs = None,
    params: Params = None,
    header: Headers = None,
    queue: Queue = None,
    starts_at: StartsAt = None,
    ends_at: EndsAt = None,
    jitter: Jitter = 0.0,
    catchup: CatchupKind = Catchup.SKIP,
    catchup_limit: CatchupLimit = 100,
    overlap: OverlapKind = Overlap.ALLOW,
    immediately: Immediately = None,
    max_attempts: MaxAttempts = None,
    priority: Priority = None,
    replace: Replace = False,
) -> None:
    """Make a schedule: a task that starts, or an event that is emitted, by the clock. Shows the next five times.

    Workers fire it, or `absurdctl scheduler` does. The same command again changes nothing.
    """
    given: dict[str, Any] = {
        "queue": queue,
        "max_attempts": max_attempts,
        "priority": priority,
        "headers": read_pairs(header, "-H") if header else None,
    }
    schedule = session.client().create_schedule(
        name,
        task=task,
        event=event,
        cron=cron,
        every=every,
        params=read_params(params, param or []),
        timezone=timezone,
        starts_at=starts_at,
        ends_at=ends_at,
        jitter=jitter,
        catchup=catchup.value,
        catchup_limit=catchup_limit,
        overlap=overlap.value,
        run_immediately=immediately,
        replace=replace,
        **{key: value for key, value in given.items() if value is not None},
    )
    slots = upcoming(schedule, PREVIEW)
    if session.out.as_json:
        session.out.json({**asdict(schedule), "upcoming": slots})
        return
    session.out.done(_made(schedule))
    session.out.line("  Next: " + ("never" if not slots else moment_text(slots[0], session.now)))
    for slot in slots[1:]:
        session.out.line("        " + moment_text(slot, session.now))


def _made(schedule: Schedule) -> str:
    name = escape(schedule.schedule_name)
    if schedule.created:
        return f'Created schedule "{name}"'
    return f'Changed schedule "{name}"' if schedule.changed else f'Schedule "{name}" is there, just so'


def list_schedules(session: Session, event: EventFilter = None) -> None:
    """List the schedules: state (active, paused, ended, invalid, undeclared), when they fire, and the last error."""
    found = session.client().list_schedules(event=event)
    if session.out.as_json:
        # Not what a call of create-schedule would say of them.
        meaningless = {"created", "changed"}
        session.out.json([{k: v for k, v in asdict(schedule).items() if k not in meaningless} for schedule in found])
        return
    columns = [
        Column("SCHEDULE"),
        Column("STATE", fixed=True),
        Column("STARTS"),
        Column("WHEN"),
        Column("NEXT"),
        Column("LAST"),
        Column("FIRED", right=True),
        Column("LAST ERROR"),
    ]
    cells: Rows = [
        [
            escape(schedule.schedule_name),
            state_text(schedule.status),
            escape(schedule.task_name or f"event {schedule.event_name}"),
            _when(schedule),
            "-" if schedule.paused_at is not None else moment_text(schedule.next_slot, session.now),
            moment_text(schedule.last_fired_at, session.now),
            str(schedule.fired_count),
            _error(schedule, session.now),
        ]
        for schedule in found
    ]
    session.out.table(columns, cells, empty=f"No schedules. Make one with: {EXAMPLE}")


def _when(schedule: Schedule) -> str:
    if schedule.cron is None:
        return f"every {duration(schedule.interval_seconds or 0.0)}"
    return escape(schedule.cron if schedule.timezone == "UTC" else f"{schedule.cron} {schedule.timezone}")


def _error(schedule: Schedule, now: datetime) -> str:
    if schedule.last_error is None:
        return "-"
    return f"{shorten(escape(schedule.last_error))} ({moment_text(schedule.last_error_at, now)})"


def pause_schedule(session: Session, name: Name) -> None:
    """Stop a schedule until it is resumed; code that declares it does not resume it."""
    session.client().pause_schedule(name)
    session.out.done(f'Paused schedule "{escape(name)}"', schedule_name=name, paused=True)


def resume_schedule(session: Session, name: Name) -> None:
    """Let a paused schedule go on with its next time from now; those of the pause are left out."""
    session.client().resume_schedule(name)
    session.out.done(f'Resumed schedule "{escape(name)}"', schedule_name=name, paused=False)


def trigger_schedule(session: Session, name: Name) -> None:
    """Run a schedule now, out of its turn, also while it is paused. Its times stay as they are."""
    run = session.client().trigger_schedule(name)
    what = f"event seq {run.event_seq}" if run.event_seq is not None else f"task {run.task_id}"
    session.out.done(f'Ran schedule "{escape(name)}": {what}', schedule_name=name, **asdict(run))


def backfill_schedule(session: Session, name: Name, start: From, end: To, limit: BackfillLimit = 1000) -> None:
    """Run the past times of a schedule once more, all of them at once; those that were run are left out."""
    count = session.client().backfill_schedule(name, start, end, limit=limit)
    session.out.done(f'Ran {count} past time(s) of schedule "{escape(name)}"', schedule_name=name, run=count)


def delete_schedule(session: Session, name: Name) -> None:
    """Delete a schedule. Its tasks stay. One that code declares comes back with the next start of its worker."""
    client = session.client()
    required(name, client.get_schedule(name))
    session.out.done(f'Deleted schedule "{escape(name)}"', schedule_name=name, deleted=client.delete_schedule(name))


def scheduler(session: Session, log_format: Format = LogFormat.TEXT, log_level: Level = LogLevel.INFO) -> None:
    """Fire schedules until SIGTERM or Ctrl-C, in a process that runs no tasks.

    Workers do it too. Any number of them may run at the same time: each time of a schedule fires once.
    """
    set_up(log_format, log_level)
    with session.connection:
        schema.check(session.connection)
    run_listener(Scheduler(Absurd(session.url)))
