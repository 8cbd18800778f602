"""What a task has done before, and the code that has changed meanwhile."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from absurd.context.history import History, parse_checkpoints
from absurd.errors import ReplayMismatchError
from absurd.types import Checkpoint


def _history(*names: str, total: int | None = None, strict: bool = False) -> History:
    rows: list[list[Any]] = [[name, position, "step", position, None] for position, name in enumerate(names)]
    text = json.dumps(rows) if rows else None
    return History(text, len(rows) if total is None else total, task="task t", strict=strict)


def _replay(history: History, *names: str) -> None:
    for position, name in enumerate(names):
        found = history.find(name)
        if found is None:
            history.go_live(name, position)
        else:
            history.replay(found, position)


def _replay_to_the_end(history: History, names: list[str]) -> None:
    _replay(history, *names)
    history.finish()


def test_a_first_run_is_live_from_the_beginning() -> None:
    assert not _history().is_replaying


def test_replay_lasts_until_everything_recorded_has_been_asked_for() -> None:
    history = _history("a", "b")
    _replay(history, "a")
    assert history.is_replaying
    _replay(history, "a", "b")
    assert not history.is_replaying


def test_the_same_steps_are_no_mismatch(caplog: pytest.LogCaptureFixture) -> None:
    history = _history("a", "b", strict=True)
    _replay(history, "a", "b", "c")
    history.finish()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (["b", "a"], 'step "b" stood at place 1 and stands at 0 now'),
        (["new", "a", "b"], 'step "new" is new where "a" was recorded'),
        (["a"], "it ended without the recorded b"),
        (["a", "new"], 'step "new" is new where "b" was recorded'),
    ],
)
def test_other_steps_are_reported_with_both_sequences(now: list[str], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    history = _history("a", "b")
    with caplog.at_level(logging.WARNING, "absurd.replay"):
        _replay(history, *now)
        history.finish()
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "task t does other steps than before" in record.getMessage()
    assert "Recorded: ['a', 'b']. Now: [" in record.getMessage()
    with pytest.raises(ReplayMismatchError, match="Recorded"):
        _replay_to_the_end(_history("a", "b", strict=True), now)


def test_an_effect_of_another_kind_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    history = _history("a", "b")
    history.replay(Checkpoint("a", 0, "event", None), 0, "step")
    history.replay(Checkpoint("b", 1, "step", None), 1, "step")
    (record,) = caplog.records
    assert '"a" was recorded as a wait for an event and is a step now. Recorded:' in record.getMessage()


def test_arrivals_of_a_wait_that_timed_out_are_not_missed() -> None:
    history = _history("a", "b", strict=True)
    _replay(history, "a")
    history.drop(["b"])
    assert not history.is_replaying
    history.finish()


def test_a_long_history_comes_in_pieces() -> None:
    history = _history("a", total=3)
    assert history.incomplete
    assert history.last_place == (0, "a")
    _replay(history, "a")
    assert history.is_replaying
    history.extend('[["b", 1, "step", null, null], ["c", 2, "event", {"x": 1}, 7]]')
    assert not history.incomplete
    assert history.find("c") == Checkpoint("c", 2, "event", {"x": 1}, 7)
    assert history.last_place == (2, "c")


def test_a_history_that_is_shorter_than_announced_ends() -> None:
    history = _history("a", total=3)
    history.extend(None)
    assert not history.incomplete


def test_arrivals_of_this_run_are_found_and_not_replayed() -> None:
    history = _history()
    history.add(parse_checkpoints('[["$await:e", 0, "event", null, 3]]'))
    assert history.find("$await:e") == Checkpoint("$await:e", 0, "event", None, 3)
    assert not history.is_replaying
    history.finish()
