"""The timeline of a task: bars that are as long as what they stand for, and nothing that is not known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from absurd.web.dashboard.timeline import STEPS, Timeline, make_timeline

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENDED = {"cause": None, "retry_at": None}


def at(seconds: float | None) -> str | None:
    return None if seconds is None else (NOON + timedelta(seconds=seconds)).isoformat()


def attempt(
    number: int, start: float | None, end: float | None, state: str = "failed", cause: str | None = "error"
) -> dict[str, Any]:
    return {
        "attempt": number,
        "run_id": f"run-{number}",
        "state": state,
        "cause": cause,
        "started_at": at(start),
        "ended_at": at(end),
    }


def mark(name: str, done: float, run: int = 1, kind: str = "step") -> dict[str, Any]:
    return {"step_name": name, "kind": kind, "owner_run_id": f"run-{run}", "completed_at": at(done)}


def wait(kind: str, since: float, **more: Any) -> dict[str, Any]:
    known = {"event_name": None, "awaited_task_id": None, "token_name": None, "step_name": kind}
    return {"kind": kind, "waiting_since": at(since), **known, **more}


def task(now: float = 100, state: str = "running", available: float | None = None, **more: Any) -> dict[str, Any]:
    document = {
        "now": at(now),
        "spawned_at": at(0),
        "finished_at": None,
        "available_at": at(available),
        "state": state,
        "attempts": [],
        "marks": [],
        "waits": [],
        **more,
    }
    return {"checkpoint_count": len(document["marks"]), **document}


def drawn(document: dict[str, Any]) -> dict[str, tuple[str, float, float]]:
    """Label → kind, place and width of its bar."""
    made = timeline(document)
    return {line.label: (line.kind, line.bars[0].x, line.bars[0].width) for line in made.lines}


def timeline(document: dict[str, Any]) -> Timeline:
    made = make_timeline(document)
    assert made is not None
    return made


def test_bars_stand_where_and_as_long_as_it_was() -> None:
    document = task(
        state="completed",
        finished_at=at(100),
        attempts=[attempt(2, 50, 100, "completed", None), attempt(1, 10, 40)],
        marks=[mark("a", 20), mark("b", 35), mark("nap", 80, 2, "sleep"), mark("c", 90, 2)],
    )
    assert drawn(document) == {
        "before its start": ("queue", 0, 10),
        "attempt 1": ("attempt", 10, 30),
        "a": ("step", 10, 10),
        "b": ("step", 20, 15),
        "before attempt 2": ("queue", 40, 10),
        "attempt 2": ("attempt", 50, 50),
        "nap": ("wait", 50, 30),
        "c": ("step", 80, 10),
    }
    assert [line.took for line in timeline(document).lines][:2] == ["10 s", "30 s"]


def test_a_wait_of_now_reaches_to_now() -> None:
    document = task(
        state="sleeping",
        attempts=[attempt(1, 10, None, "sleeping", None)],
        marks=[mark("a", 20)],
        waits=[wait("event", 25, event_name="paid"), wait("timeout", 25)],
        available=3600,
    )
    assert drawn(document)["waits for event paid"] == ("now", 25, 75)
    assert len(timeline(document).lines) == 4


@pytest.mark.parametrize(
    ("document", "label", "place"),
    [
        (task(state="pending", available=60), "waits for a worker", 0),
        (task(state="sleeping", available=3600), "sleeps until its time", 0),
        (
            task(state="sleeping", available=3600, attempts=[attempt(1, 10, 40), attempt(2, None, None, "sleeping", None)]),
            "sleeps until its time",
            40,
        ),
        (
            task(state="sleeping", available=3600, attempts=[attempt(1, 10, None, "sleeping", None)], marks=[mark("a", 30)]),
            "sleeps until its time",
            30,
        ),
    ],
)
def test_a_task_that_nobody_has_is_shown_to_wait(document: dict[str, Any], label: str, place: float) -> None:
    kind, x, width = drawn(document)[label]
    assert (kind, x + width) == ("now", 100)
    assert x == place


def test_what_came_along_from_another_task_is_counted_and_not_drawn() -> None:
    document = task(attempts=[attempt(1, 10, None, "running", None)], marks=[mark("old", -50, 9), mark("own", 20)])
    made = timeline(document)
    assert made.copied == 1
    assert [line.label for line in made.lines] == ["before its start", "attempt 1", "own"]


def test_a_long_history_is_cut_and_says_so() -> None:
    marks = [mark(f"step {number}", 10 + number) for number in range(STEPS + 20)]
    document = task(attempts=[attempt(1, 5, None, "running", None)], marks=marks, checkpoint_count=5000)
    made = timeline(document)
    assert made.left_out == 5000 - STEPS
    assert [line.label for line in made.lines if line.kind == "step"] == [f"step {number}" for number in range(20, STEPS + 20)]


def test_a_clock_that_was_put_back_draws_no_bar_backwards() -> None:
    document = task(
        now=5, attempts=[attempt(1, 10, None, "running", None)], marks=[mark("a", 3)], waits=[wait("event", 20, event_name="e")]
    )
    for line in timeline(document).lines:
        for bar in line.bars:
            assert 0 <= bar.x <= 100
            assert bar.width >= 0


@pytest.mark.parametrize("seconds", [0, 0.004, 0.9, 59, 3700, 86_400 * 3, 86_400 * 4000])
def test_the_axis_has_a_few_marks_whatever_the_scale(seconds: float) -> None:
    document = task(state="completed", finished_at=at(seconds), attempts=[attempt(1, 0, seconds, "completed", None)])
    ticks = timeline(document).ticks
    assert 1 <= len(ticks) <= 7
    assert ticks[0] == (0.0, "0")
    assert all(0 <= x <= 100 for x, _ in ticks)


def test_a_task_without_any_time_has_no_timeline() -> None:
    assert make_timeline(task(state="running")) is None
