"""One schedule that nobody can read, or that somebody holds, and its neighbours."""

from __future__ import annotations

import pytest

from absurd.schedules import loop as loop_module
from tests.sql.calls import Connection, rows, value
from tests.support import wait_until
from tests.support_schedules import Schedulers

ONCE = '{"task": "t", "every": 3600}'


@pytest.mark.parametrize(
    "params", ['{"n": ' + "1" * 5000 + "}", "[" * 3000 + "]" * 3000], ids=["a number of 5000 digits", "3000 lists in each other"]
)
def test_c9_params_that_python_cannot_read_hold_up_neither_their_schedule_nor_the_others(
    conn: Connection, database_url: str, params: str
) -> None:
    """SQL refuses such params; a row that holds them all the same, written by hand, harms nobody."""
    conn.execute("select absurd.create_schedule('a', 'default', %s)", (ONCE,))
    conn.execute("update absurd.schedules set params = %s", (params,))
    conn.execute("select absurd.create_schedule('b', 'default', %s)", (ONCE,))
    with Schedulers(database_url):
        wait_until(lambda: value(conn, "select count(*) from absurd.tasks") == 2, what="the tasks of both schedules")
    assert value(conn, "select sum(fired_count) from absurd.schedules") == 2


@pytest.mark.parametrize("fault", ["40P01", "53100", "58030", "XX001"])
def test_a_fault_of_the_server_costs_no_slot_and_holds_up_no_neighbour(
    conn: Connection, database_url: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "RETRY_SECONDS", 0.2)
    conn.execute(f"""
        create function fail_once_in_a_while() returns trigger language plpgsql as $$
        begin
          if new.task_name = 'a' then raise exception 'the disk' using errcode = '{fault}'; end if;
          return new;
        end $$;
        create trigger fault before insert on absurd.tasks for each row execute function fail_once_in_a_while()""")
    for name in ("a", "b"):
        conn.execute("select absurd.create_schedule(%s, 'default', %s)", (name, ONCE.replace('"t"', f'"{name}"')))
    with Schedulers(database_url):
        wait_until(lambda: value(conn, "select fired_count from absurd.schedules where schedule_name = 'b'") == 1, what="b")
        assert rows(conn, "select last_error, fired_count from absurd.schedules where schedule_name = 'a'") == [
            {"last_error": None, "fired_count": 0}
        ]
        conn.execute("drop trigger fault on absurd.tasks")
        wait_until(lambda: value(conn, "select fired_count from absurd.schedules where schedule_name = 'a'") == 1, what="a")
    assert value(conn, "select count(*) from absurd.tasks where task_name = 'a'") == 1
