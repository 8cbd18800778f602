"""What a caller sets for his session changes nothing of what the functions check."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support_roles import logins

Connection = psycopg.Connection[Any]
SQL = Path(__file__).parents[2] / "sql" / "functions"


def create_schedule(conn: Connection, cron: str, params: str = "{}") -> None:
    definition = json.dumps({"cron": cron, "task": "report"})
    conn.execute("select absurd.create_schedule('often', 'default', %s, %s)", (definition, params))


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_worker_that_reads_backslashes_otherwise_gets_past_no_check(conn: Connection, setting: str) -> None:
    with logins(conn) as urls, psycopg.connect(urls["worker"], autocommit=True) as worker:
        worker.execute(f"set standard_conforming_strings = {setting}".encode())
        worker.execute("set escape_string_warning = off")
        with pytest.raises(errors.DatabaseError, match="nested more than 500 deep"):
            create_schedule(worker, "* * * * *", "[" * 600 + "]" * 600)
        with pytest.raises(errors.DatabaseError, match="takes 5"):
            create_schedule(worker, "1s1s1s1s1")
        create_schedule(worker, "* * * * *", json.dumps(["\\", '"' + "[" * 600]))


def test_no_literal_of_a_function_leaves_its_backslashes_to_the_caller() -> None:
    for file in sorted(SQL.glob("*.sql")):
        code = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        for literal in re.finditer(r"(\w?)'((?:[^']|'')*)'", code):
            assert "\\" not in literal[2] or literal[1] in ("E", "e"), f"{file.name}: {literal[0]}"
