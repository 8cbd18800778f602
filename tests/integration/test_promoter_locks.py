"""A sleeper that is due, but locked by somebody's idle transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from absurd import Absurd, failpoints
from tests.support import wait_until


@pytest.fixture
def looks() -> Iterator[list[float]]:
    """When the promoter has looked."""
    moments: list[float] = []

    def note(name: str, subject: object) -> None:
        if name == "promoter.promoted":
            moments.append(time.monotonic())

    failpoints.hook = note
    yield moments
    failpoints.hook = None


def test_a_locked_sleeper_that_is_due_is_not_looked_for_without_a_pause(database_url: str, looks: list[float]) -> None:
    with Absurd(database_url) as app:
        app.register_task("task")(lambda params, ctx: "done")
        handle = app.spawn("task", delay=0.3)
        with psycopg.connect(database_url) as holder:
            holder.execute("select from absurd.runs where task_id = %s for update", (handle.task_id,))
            with app.worker(poll_interval=30):
                wait_until(lambda: len(looks) > 12, what="looks of the promoter")
                # The first looks are at the start and when it becomes due; from then on they have a distance.
                assert looks[12] - looks[2] > 10 * 0.04
                holder.rollback()
                assert handle.result(20) == "done"
