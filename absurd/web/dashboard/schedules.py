"""Schedules: what starts when, what started last, and the next times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from absurd.errors import InvalidOptionError
from absurd.queries import dashboard, schedules
from absurd.queries.schedules import Schedule
from absurd.schedules.slots import upcoming, with_next
from absurd.web.dashboard.format import duration
from absurd.web.dashboard.forms import choose, require
from absurd.web.dashboard.page import PAGE_ROWS, Done, NotFound, Page, Visit

# The next times that are shown of each schedule.
UPCOMING = 5


@dataclass(frozen=True, slots=True)
class Line:
    """A schedule with its next times."""

    schedule: Schedule
    when: str
    upcoming: list[datetime]


async def show(visit: Visit) -> Mapping[str, Any]:
    """Schedules in order of name."""
    text, after = visit.arg("q"), visit.arg("after")
    names = await visit.run(dashboard.page_of_schedules(text, after, PAGE_ROWS))
    # Without their params, which may be large and many.
    found = await visit.run(schedules.list_times(names)) if names else []
    return {
        "lines": [_line(schedule) for schedule in found],
        "text": text,
        "next": urlencode(choose(q=text, after=names[-1])) if len(names) == PAGE_ROWS else None,
        "first": urlencode(choose(q=text)) if after is not None else False,
    }


def _line(schedule: Schedule) -> Line:
    schedule = with_next(schedule)
    try:
        following = upcoming(schedule, UPCOMING) if schedule.paused_at is None else []
    except InvalidOptionError:
        following = []  # the row says what is wrong with it
    return Line(schedule, _when(schedule), following)


def _when(schedule: Schedule) -> str:
    if schedule.cron is not None:
        return f"{schedule.cron} ({schedule.timezone})"
    return f"every {duration(schedule.interval_seconds)}"


async def show_schedule(visit: Visit) -> Mapping[str, Any]:
    """One schedule with all that is known of it."""
    name = visit.arg("name") or ""
    found = await visit.client.get_schedule(name) if name else None
    if found is None:
        raise NotFound(f'There is no schedule "{name[:200]}".')
    return {"line": _line(found)}


async def pause(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Stops a schedule."""
    name = require(fields, "name", "the name of a schedule")
    await visit.client.pause_schedule(name)
    return Done(f"Schedule {name} is paused.")


async def resume(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Lets a schedule go on."""
    name = require(fields, "name", "the name of a schedule")
    await visit.client.resume_schedule(name)
    return Done(f"Schedule {name} goes on with its next time.")


async def run_now(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Runs a schedule out of its turn."""
    name = require(fields, "name", "the name of a schedule")
    run = await visit.run(schedules.trigger_schedule(name, visit.key("run", name)))
    if len(run.task_ids) == 1:
        return Done(f"Schedule {name} has started a task.", f"tasks/{run.task_ids[0]}")
    if run.event_seq is not None:
        return Done(f"Schedule {name} has emitted its event.", f"events/{run.event_seq}")
    return Done(f"Schedule {name} has run.")


PAGE = Page("schedules", "/schedules", "Schedules", show, {"pause": pause, "resume": resume, "run": run_now})
SCHEDULE_PAGE = Page("schedule", "/schedule", "Schedule", show_schedule, PAGE.actions, "schedules")
