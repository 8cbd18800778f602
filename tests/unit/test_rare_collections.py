"""The garbage collector in a process that is there for a worker."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from absurd.registry import Registry
from absurd.worker import WorkerOptions, runner

Seen = list[tuple[int, bool]]


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What is so while a worker runs: after how many objects it collects, and whether what was there is left alone."""
    noted: Seen = []

    async def serve(*given: Any) -> None:
        noted.append((gc.get_threshold()[0], gc.get_freeze_count() > 1000))

    monkeypatch.setattr(runner, "serve", serve)
    return noted


def run() -> None:
    runner.run_worker(Registry(), "postgresql://nowhere", WorkerOptions(queues=["default"]))


def test_it_runs_more_rarely_as_long_as_the_worker_does(thresholds: tuple[int, int, int], seen: Seen) -> None:
    frozen = gc.get_freeze_count()
    run()
    assert seen == [(runner.COLLECT_AFTER, True)]
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() <= frozen


@pytest.mark.parametrize("chosen", [0, 50_000])
def test_whoever_chose_something_rarer_has_his_way(thresholds: tuple[int, int, int], seen: Seen, chosen: int) -> None:
    gc.set_threshold(chosen, *thresholds[1:])
    run()
    assert seen[0][0] == chosen
    assert gc.get_threshold()[0] == chosen


def test_a_worker_on_a_thread_beside_an_application_changes_nothing(thresholds: tuple[int, int, int], seen: Seen) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen[0][0] == thresholds[0]
