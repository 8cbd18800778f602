"""The options that the library sends with most spawns are read by one test: it lets nothing pass that the others would refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sql.calls import Connection, row

USUAL: dict[str, Any] = {
    "max_attempts": 5,
    "retry_strategy": {"kind": "exponential", "base_seconds": 1, "factor": 2, "max_seconds": 300, "jitter": 0.2},
}


def read(conn: Connection, options: Any) -> dict[str, Any]:
    return row(conn, "select (absurd.read_spawn_options(%s::jsonb)).*", json.dumps(options))


def with_strategy(**changes: Any) -> dict[str, Any]:
    return {**USUAL, "retry_strategy": {**USUAL["retry_strategy"], **changes}}


def test_usual_options_are_read_as_others_are(conn: Connection) -> None:
    # With a null more they are no longer usual, and mean the same.
    assert read(conn, USUAL) == read(conn, {**USUAL, "priority": None})
    assert read(conn, USUAL)["max_attempts"] == 5
    assert read(conn, USUAL)["retry_strategy"] == USUAL["retry_strategy"]


def test_a_whole_number_written_with_a_point_is_stored(conn: Connection) -> None:
    statement = (
        "select * from absurd.spawn_one('default', gen_random_uuid(), gen_random_uuid(), 'work', '1', null, %s::jsonb, null)"
    )
    assert row(conn, statement, json.dumps({**USUAL, "max_attempts": 5.0}))["status"] == "ok"
    assert row(conn, "select max_attempts, retry_strategy from absurd.tasks") == USUAL


@pytest.mark.parametrize(
    "options",
    [
        *({**USUAL, "max_attempts": bad} for bad in (0, 1000001, 1.5, "5", [5], {"a": 5}, True)),
        *(with_strategy(kind=bad) for bad in ("often", None, 1, ["fixed"])),
        *(with_strategy(base_seconds=bad) for bad in (-1, 315360001, "1", [1])),
        *(with_strategy(factor=bad) for bad in (0.5, 1001, "2", [2])),
        *(with_strategy(max_seconds=bad) for bad in (-1, 315360001, "1", [1])),
        *(with_strategy(jitter=bad) for bad in (-0.1, 1.1, "0", [0])),
        with_strategy(colour="red"),
        {**USUAL, "colour": "red"},
        {**USUAL, "retry_strategy": [USUAL["retry_strategy"]]},
        [USUAL],
    ],
    ids=str,
)
def test_one_bad_value_among_usual_options_is_refused(conn: Connection, options: Any) -> None:
    assert read(conn, options)["error"]
