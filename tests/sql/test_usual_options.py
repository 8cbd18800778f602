"""The options that the library sends with most spawns are read by one test: it lets nothing pass that the others would refuse."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import uuid4

import pytest

from absurd.codec import encode
from absurd.registry import Registry
from absurd.spawning import merge, options_json
from absurd.types import NO_OPTIONS
from tests.sql.calls import NOON, Connection, row, set_clock, value

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


@pytest.mark.parametrize("option", ["available_at", "parent_task_id"])
def test_of_two_options_the_one_that_cannot_be_read_is_named(conn: Connection, option: str) -> None:
    good = {"available_at": "2030-01-01T00:00:00Z", "parent_task_id": "01890a5d-ac96-774b-bcce-b302099a8057"}
    assert read(conn, {**good, option: "soon"})["error"].startswith(f"{option} cannot be read: ")
    assert read(conn, good)["error"] is None


# -- spawn_quietly(): one way for usual options, spawn_one() for the rest ----------------------------------------------------

QUIETLY = "select absurd.spawn_quietly('default', %s, %s, %s, %s::json, %s::json, %s::jsonb, %s)"
ONE = "select * from absurd.spawn_one('default', %s, %s, %s, %s::json, %s::json, %s::jsonb, %s)"
STORED = """
    select t.queue_name, t.task_name, t.params, t.headers, t.retry_strategy, t.max_attempts, t.max_delay, t.max_duration,
      t.priority, t.idempotency_key, t.parent_task_id, t.spawned_at, r.queue_name as run_queue, r.state, r.attempt,
      r.priority as run_priority, r.available_at, r.epoch, r.deadline_at, r.allowance
    from absurd.tasks t join absurd.runs r using (task_id) where t.task_id = %s"""
DEFAULTS = encode(options_json(merge(NO_OPTIONS, merge(NO_OPTIONS, Registry().defaults))), "options")


@pytest.mark.parametrize(
    ("params", "headers", "options", "key"),
    [
        ("[1]", None, DEFAULTS, None),
        ('{"a": 1}', '{"h": 1}', json.dumps(USUAL), None),
        (None, None, json.dumps(with_strategy(kind="fixed")), None),
        ("1", None, json.dumps({**USUAL, "priority": 3, "cancellation": {"max_delay": 5}}), None),
        ("1", None, '{"delay": 60, "headers": {"a": 1}}', None),
        ("1", None, None, None),
        ("1", None, DEFAULTS, "key"),
    ],
)
def test_both_ways_store_the_same(conn: Connection, params: Any, headers: Any, options: Any, key: str | None) -> None:
    set_clock(conn, NOON)
    ids = [uuid4() for _ in range(4)]
    assert value(conn, QUIETLY, *ids[:2], "work", params, headers, options, key) is None
    assert row(conn, ONE, *ids[2:], "work", params, headers, options, None)["created"]
    quietly, one = (row(conn, STORED, task_id) for task_id in (ids[0], ids[2]))
    assert quietly == {**one, "idempotency_key": key}


def test_only_what_was_not_as_asked_is_answered(conn: Connection) -> None:
    conn.execute("update absurd.queues set max_payload_bytes = 1024")
    ids = [uuid4(), uuid4()]
    assert value(conn, QUIETLY, *ids, "work", "1", None, DEFAULTS, "key") is None
    # A task that is there already is reported as it is; said again, the same is as asked.
    assert value(conn, QUIETLY, *ids, "work", "1", None, DEFAULTS, "key") is None
    again = value(conn, QUIETLY, uuid4(), uuid4(), "work", "1", None, DEFAULTS, "key")
    assert again == [str(ids[0]), str(ids[1]), 1, False, "ok", None]
    assert value(conn, QUIETLY, uuid4(), uuid4(), "", "1", None, DEFAULTS, None)[4] == "invalid"
    assert value(conn, QUIETLY, uuid4(), uuid4(), "work", json.dumps("x" * 2000), None, DEFAULTS, None)[4] == "too_large"
    elsewhere = QUIETLY.replace("'default'", "'nowhere'")
    assert value(conn, elsewhere, uuid4(), uuid4(), "work", "1", None, DEFAULTS, None)[4] == "no_queue"
    assert value(conn, "select count(*) from absurd.tasks") == 1


def test_a_task_that_is_there_is_not_spawned_again(conn: Connection) -> None:
    """The answer of the first call was lost; meanwhile the task may be running, or over."""
    ids = [uuid4(), uuid4()]
    for _ in range(2):
        assert value(conn, QUIETLY, *ids, "work", "1", None, DEFAULTS, None) is None
    assert value(conn, "select count(*) from absurd.runs") == 1


def test_the_options_that_need_no_look_are_those_that_the_library_sends(conn: Connection) -> None:
    source = value(conn, "select prosrc from pg_proc where oid = 'absurd.spawn_quietly'::regproc")
    known = re.search(r"p_options = '(\{.*?\})'\n", source, re.DOTALL)
    assert known is not None
    assert json.loads(known[1]) == json.loads(DEFAULTS)
    assert not read(conn, json.loads(known[1]))["error"]
