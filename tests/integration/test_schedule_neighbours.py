"""One schedule that nobody can read, or that somebody holds, and its neighbours."""

from __future__ import annotations

import pytest

from tests.sql.calls import Connection, value
from tests.support import wait_until
from tests.support_schedules import Schedulers

ONCE = '{"task": "t", "every": 3600}'


@pytest.mark.parametrize(
    "params", ['{"n": ' + "1" * 5000 + "}", "[" * 3000 + "]" * 3000], ids=["a number of 5000 digits", "3000 lists in each other"]
)
def test_c9_params_that_python_cannot_read_hold_up_neither_their_schedule_nor_the_others(
    conn: Connection, database_url: str, params: str
) -> None:
    conn.execute("select absurd.create_schedule('a', 'default', %s, %s::json)", (ONCE, params))
    conn.execute("select absurd.create_schedule('b', 'default', %s)", (ONCE,))
    with Schedulers(database_url):
        wait_until(lambda: value(conn, "select count(*) from absurd.tasks") == 2, what="the tasks of both schedules")
    assert value(conn, "select sum(fired_count) from absurd.schedules") == 2
