"""When a worker claims from its place on, and when it looks at the whole queue. Without a database: answers are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest

from absurd.types import ClaimedRun
from absurd.worker.claiming import Claims
from absurd.worker.options import WorkerOptions


class Play:
    """A worker's claims against a clock that the test moves."""

    def __init__(self, queues: list[str]) -> None:
        self.now = 1000.0
        self.later: list[float] = []
        self.idle: list[bool] = []
        self.claims = Claims(WorkerOptions(queues=tuple(queues)), lambda: None, self.idle.append)

    def claim(self, found: int, free: int = 2, took: float = 0.001, outage: float = 0.0) -> tuple[str, bool]:
        """One claim that is answered with so many runs, after an outage: its queue, and whether it was a full look."""
        query = self.claims.next(free)
        assert query is not None
        queue, _, _, _, after = query.args
        self.now += outage + took
        self.claims.took([_run(queue, "place" if n == found - 1 else None) for n in range(found)], took)
        return queue, after is None

    def monotonic(self) -> float:
        return self.now


def _run(queue: str, place: str | None) -> ClaimedRun:
    nobody: UUID = uuid4()
    return ClaimedRun(queue, nobody, nobody, 1, 1, "t", "null", None, None, None, None, 0, None, place)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    loop = asyncio.new_event_loop()
    made = Play(["q"])

    def call_later(delay: float, call: Callable[[str], None], queue: str) -> asyncio.Handle:
        made.later.append(delay)
        return loop.call_soon(call, queue)

    monkeypatch.setattr("absurd.worker.claiming.time.monotonic", made.monotonic)
    monkeypatch.setattr("absurd.worker.claiming.asyncio.get_running_loop", lambda: loop)
    monkeypatch.setattr(loop, "call_later", call_later)
    yield made
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_busy_worker_looks_fully_each_second(play: Play) -> None:
    looks = [play.claim(2)[1]]
    for _ in range(22):
        play.now += 0.1
        looks.append(play.claim(2)[1])
    assert [n for n, full in enumerate(looks) if full] == [0, 10, 20]


def test_full_looks_that_are_slow_become_rare(play: Play) -> None:
    assert play.claim(2, took=1.0)[1]
    play.now += 19.9
    assert not play.claim(2)[1]
    play.now += 0.2
    assert play.claim(2)[1]


def test_an_outage_does_not_put_off_full_looks(play: Play) -> None:
    assert play.claim(2, outage=60)[1]
    play.now += 1.1
    assert play.claim(2)[1]


def test_full_looks_go_on_however_slow_the_last_one_was(play: Play) -> None:
    assert play.claim(2, took=60)[1]
    play.now += 29.8
    assert not play.claim(2)[1]
    play.now += 0.3
    assert play.claim(2)[1]


def test_a_worker_that_finds_too_little_looks_fully_at_once(play: Play) -> None:
    assert play.claim(1)[1]
    play.now += 0.1
    play.claims.look("q")
    assert play.claim(0)[1]


def test_a_claim_from_a_place_that_finds_too_little_is_followed_by_a_full_look(play: Play) -> None:
    assert play.claim(2, took=0.01)[1]
    assert not play.claim(1)[1]
    assert play.later == [pytest.approx(0.199)]  # twenty times what the full look took
    assert play.claims.pending
    play.claims.look("q")
    assert not play.claim(1)[1]
    assert len(play.later) == 1  # one is enough


def test_a_drain_looks_fully_before_it_says_that_nothing_is_left(play: Play) -> None:
    play.claims.drain()
    assert play.claim(2, took=5.0)[1]
    assert not play.claim(1)[1]
    assert play.later == [0]
    assert play.claims.pending
    play.claims.look("q")
    assert play.claim(0)[1]
    assert play.idle == []


def test_a_worker_is_busy_after_three_claims_that_found_enough_and_idle_after_one_that_did_not(play: Play) -> None:
    for _ in range(4):
        play.claim(2)
    play.claim(1)
    assert play.idle == [False, True]


def test_queues_have_their_turns_and_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(["a", "b"])
    monkeypatch.setattr("absurd.worker.claiming.time.monotonic", play.monotonic)
    assert [play.claim(2) for _ in range(4)] == [("a", True), ("b", True), ("a", False), ("b", False)]
