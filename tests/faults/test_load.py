"""A small load of the kind that ``python -m tests.faults.load`` keeps up for half an hour."""

from __future__ import annotations

import pytest

from tests.conftest import MakeServer
from tests.faults import load
from tests.faults.report import record


@pytest.mark.full
def test_many_workers_at_half_of_their_peak_lose_no_wake_up(make_server: MakeServer) -> None:
    server = make_server({"max_connections": "300"})
    report = load.hold_load(server.url(), minutes=0.3, workers=4, connections=200, parked=1_000, backlog=20_000, peak_seconds=5)
    assert report.problems == []
    record("many workers at half of their peak", ["one end", "events once", "open queue"], tasks=report.spawned + report.resumed)
