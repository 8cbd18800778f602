"""What a task did when, to scale: rows with bars, for an SVG.

Known are: the spawn, the first start and the end of each attempt, when each checkpoint was recorded and by which attempt, and
since when the task waits now. When a step or a past wait began is not stored: its bar begins where the recorded step before it,
in the same attempt, ended. (So the bar of a step that ran beside another one is too short.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from absurd.web.dashboard.format import duration, moment

Document = Mapping[str, Any]

# Rows of steps that are drawn; earlier ones are left out.
STEPS = 80
# Attempts that are drawn.
ATTEMPTS = 30
# Intervals of the axis, in seconds.
TICKS = (
    *(step * 10**power for power in range(-3, 1) for step in (1, 2, 5)),
    *(10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400),
    *(days * 86_400 for days in (2, 5, 7, 14, 30, 60, 90, 180, 365, 730, 3650)),
)
# Marks on the axis at most.
MOST_TICKS = 6

WAITS = {
    "event": "wait for an event",
    "task": "wait for a task",
    "token": "wait for a token",
    "timeout": "wait, timed out",
    "sleep": "sleep",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A span of time: place and width in per cent, a class for its colour, and what it is in words."""

    x: float
    width: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what, its bars, how long. ``kind``: queue, attempt, step, wait, now."""

    label: str
    kind: str
    bars: Sequence[Bar]
    took: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """All lines, and the marks of the axis as pairs of place in per cent and text. ``left_out``: steps that are not drawn."""

    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    left_out: int
    copied: int


@dataclass(slots=True)
class _Span:
    """A bar before the scale is known."""

    start: datetime
    end: datetime
    kind: str
    what: str


@dataclass(slots=True)
class _Draft:
    label: str
    kind: str
    spans: list[_Span] = field(default_factory=list)
    detail: str = ""


def make_timeline(task: Document) -> Timeline | None:
    """The timeline of a task, as ``task_details`` shows it; ``None`` when nothing has a time yet that Python can hold."""
    try:
        return _timeline(task)
    except (ValueError, OverflowError):
        return None


def _timeline(task: Document) -> Timeline | None:
    now = _at(task["now"])
    begin = _at(task["spawned_at"])
    end = _at(task["finished_at"]) if task["finished_at"] else now
    attempts = sorted(task["attempts"], key=lambda attempt: attempt["attempt"])[-ATTEMPTS:]
    own = {attempt["run_id"] for attempt in attempts}
    marks = [mark for mark in task["marks"] if _at(mark["completed_at"]) >= begin and mark["owner_run_id"] in own]
    copied = sum(_at(mark["completed_at"]) < begin for mark in task["marks"])
    drafts = [*_attempts(task, attempts, marks[-STEPS:], begin, end), *_present(task, now)]
    spans = [span for draft in drafts for span in draft.spans]
    if not spans:
        return None
    first = min(span.start for span in spans)
    last = max(span.end for span in spans)
    scale = _Scale(first, max((last - first).total_seconds(), 0.001))
    left_out = task["checkpoint_count"] - copied - min(len(marks), STEPS)
    return Timeline([scale.line(draft) for draft in drafts], scale.ticks(), max(left_out, 0), copied)


def _attempts(
    task: Document, attempts: Sequence[Document], marks: Sequence[Document], begin: datetime, end: datetime
) -> Iterable[_Draft]:
    """Each attempt, after the time that it waited to be started, with its steps below it."""
    ready = begin
    for attempt in attempts:
        number = attempt["attempt"]
        if number == 1 or ready is not begin:
            yield from _queued(attempt, ready, task)
        ended = _at(attempt["ended_at"]) if attempt["ended_at"] else end
        if attempt["started_at"]:
            started = _at(attempt["started_at"])
            draft = _Draft(f"attempt {number}", "attempt", [_Span(started, ended, attempt["state"], "attempt")])
            draft.detail = _ending(attempt)
            yield draft
            yield from _steps(attempt, [mark for mark in marks if mark["owner_run_id"] == attempt["run_id"]], started)
        ready = ended


def _queued(attempt: Document, ready: datetime, task: Document) -> Iterable[_Draft]:
    """From the spawn, or the end of the attempt before, to the start: delayed, in the queue, or in the pause before it."""
    if attempt["started_at"]:
        label = "before its start" if attempt["attempt"] == 1 else f"before attempt {attempt['attempt']}"
        yield _Draft(label, "queue", [_Span(ready, _at(attempt["started_at"]), "queue", "until the first start")])


def _ending(attempt: Document) -> str:
    causes = {
        "lease": "its lease ran out",
        "worker": "its worker vanished",
        "cancel": "cancelled by hand",
        "delay": "max_delay was over",
        "duration": "max_duration was over",
    }
    return causes.get(attempt["cause"] or "") or str(attempt["state"])


def _steps(attempt: Document, marks: Sequence[Document], started: datetime) -> Iterable[_Draft]:
    since = started
    for mark in marks:
        done = _at(mark["completed_at"])
        waits = WAITS.get(mark["kind"])
        what = waits or "step"
        kind = "wait" if waits else "step"
        yield _Draft(mark["step_name"], kind, [_Span(min(since, done), done, mark["kind"], what)], waits or "")
        since = max(since, done)


def _present(task: Document, now: datetime) -> Iterable[_Draft]:
    """What the task waits for now, and since when."""
    waits = [wait for wait in task["waits"] if wait["kind"] != "timeout"]
    for wait in waits[:20]:
        since = _at(wait["waiting_since"])
        yield _Draft(waits_for(wait), "now", [_Span(min(since, now), now, "now", "waits now")], "now")
    available = task["available_at"]
    if task["state"] == "pending" and available:
        since = max(_at(available), _at(task["spawned_at"]))
        yield _Draft("waits for a worker", "now", [_Span(min(since, now), now, "now", "ready")], "now")
    elif task["state"] == "sleeping" and not waits and available:
        since = _paused_since(task)
        yield _Draft("sleeps until its time", "now", [_Span(min(since, now), now, "now", "sleeps")], "now")


def _paused_since(task: Document) -> datetime:
    """Since when it sleeps that waits for nothing: from the last moment on that is known."""
    moments = [attempt[name] for attempt in task["attempts"] for name in ("started_at", "ended_at")]
    moments += [mark["completed_at"] for mark in task["marks"][-1:]]
    return max(_at(moment) for moment in (task["spawned_at"], *moments) if moment)


def waits_for(wait: Document) -> str:
    """What a wait is for, in words."""
    if wait["kind"] == "event":
        return f"waits for event {wait['event_name']}"
    if wait["kind"] == "task":
        return f"waits for task …{wait['awaited_task_id'][-12:]}"
    if wait["kind"] == "token":
        return f"waits for the answer to token {wait['token_name'] or ''}".rstrip()
    return "sleeps"


class _Scale:
    """Moments to per cent of the width."""

    def __init__(self, first: datetime, seconds: float) -> None:
        self._first = first
        self._seconds = seconds

    def line(self, draft: _Draft) -> Line:
        took = sum((span.end - span.start).total_seconds() for span in draft.spans)
        return Line(draft.label, draft.kind, [self._bar(span) for span in draft.spans], duration(took), draft.detail)

    def _bar(self, span: _Span) -> Bar:
        x = (span.start - self._first).total_seconds() / self._seconds * 100
        seconds = max((span.end - span.start).total_seconds(), 0)
        title = f"{span.what}: {duration(seconds)}, {moment(span.start)} to {moment(span.end)}"
        return Bar(round(x, 3), round(seconds / self._seconds * 100, 3), span.kind, title)

    def ticks(self) -> list[tuple[float, str]]:
        step = next((tick for tick in TICKS if self._seconds / tick <= MOST_TICKS), TICKS[-1])
        count = min(int(self._seconds / step + 1e-9), 50)
        return [
            (round(number * step / self._seconds * 100, 3), duration(number * step) if number else "0")
            for number in range(count + 1)
        ]


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)
