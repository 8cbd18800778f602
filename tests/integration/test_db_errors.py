"""What goes wrong in the database becomes an error that says what to do."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.adapt import Loader
from psycopg.rows import dict_row

from absurd import errors
from absurd.db import mask, run, run_async, translate
from absurd.db.execution import run_whole
from absurd.queries.query import Query, scalar

Conn = psycopg.Connection[Any]


def ask(sql: str, *args: Any) -> Query[Any]:
    return Query(sql, args, scalar)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://ann:secret@h:1/d", "postgresql://ann:***@h:1/d"),
        ("postgresql://ann:se@cr/et@h/d", "postgresql://ann:***@h/d"),
        ("postgresql://:secret@h/d", "postgresql://:***@h/d"),
        ("postgresql://ann@h/d?password=secret", "postgresql://ann@h/d?password=***"),
        ("host=h password=secret dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = 'se cr\\'et' dbname=d", "host=h password = *** dbname=d"),
        ("host=h password=se\\ cret", "host=h password=***"),
        ("postgresql://ann@h/d", "postgresql://ann@h/d"),
        ("dbname=d", "dbname=d"),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    assert mask(url) == masked


@pytest.mark.parametrize(
    ("sql", "kind", "said"),
    [
        ("select absurd.append_event('nowhere', 'x')", errors.QueueNotFoundError, 'queue "nowhere" does not exist'),
        ("select absurd.append_event('default', '')", errors.InvalidOptionError, "must not be empty"),
        ("select absurd.cancel_task('default', '01890a5d-ac96-774b-bcce-b302099a8057')", errors.TaskNotFoundError, "has no task"),
        ("select absurd.append_event('small', 'x', to_json(repeat('x', 2000)))", errors.PayloadTooLargeError, "allows 1024"),
        ("select absurd.raise_lost(gen_random_uuid(), 'cancelled')", errors.TaskCancelledError, "has been cancelled"),
        ("select absurd.raise_lost(gen_random_uuid(), 'lost')", errors.DatabaseError, "lost its lease"),
        ("select absurd.nothing_of_ours()", errors.SchemaError, "absurdctl migrate"),
        ("select 1 / 0", errors.DatabaseError, "division by zero"),
    ],
)
def test_each_error_has_its_kind(conn: Conn, sql: str, kind: type[Exception], said: str) -> None:
    conn.execute("insert into absurd.queues (queue_name, max_payload_bytes) values ('small', 1024)")
    with pytest.raises(errors.AbsurdError) as caught:
        run(conn, ask(sql))
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error)


def test_a_missing_schema_names_the_command(empty_conn: Conn) -> None:
    with pytest.raises(errors.SchemaError, match="absurdctl init"):
        run(empty_conn, ask("select absurd.get_schema_version()"))


def test_a_missing_table_of_somebody_else_is_no_schema_error(conn: Conn) -> None:
    with pytest.raises(errors.DatabaseError) as caught:
        run(conn, ask("select * from orders"))
    assert type(caught.value) is errors.DatabaseError


def test_a_failed_transaction_says_to_roll_back(conn: Conn) -> None:
    conn.autocommit = False
    for said in ("division by zero", "Roll the transaction back"):
        with pytest.raises(errors.DatabaseError, match=said):
            run(conn, ask("select 1 / 0"))


def test_a_closed_connection_is_unavailable(conn: Conn) -> None:
    conn.close()
    with pytest.raises(errors.DatabaseUnavailableError, match="closed"):
        run(conn, ask("select 1"))


def test_a_nul_character_is_a_matter_of_the_value(conn: Conn) -> None:
    with pytest.raises(errors.SerializationError, match="NUL"):
        run(conn, ask("select %s::text", "a\x00b"))


def test_translate_keeps_the_cause_and_masks_the_place() -> None:
    cause = psycopg.OperationalError("connection refused for postgresql://ann:secret@h/d")
    found = translate(cause, "postgresql://ann:secret@h/d")
    assert isinstance(found, errors.DatabaseUnavailableError)
    assert found.__cause__ is cause
    assert "secret" not in str(found)


class _UuidAsText(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode().upper()


def test_a_connection_with_ideas_of_its_own_runs_queries_all_the_same(database_url: str) -> None:
    with psycopg.connect(database_url, row_factory=dict_row, cursor_factory=psycopg.RawCursor) as conn:
        conn.adapters.register_loader("uuid", _UuidAsText)
        task_id = uuid4()
        assert run(conn, ask("select %s::uuid", task_id)) == task_id
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_a_refused_answer_leaves_nothing_and_commits_nothing(database_url: str, conn: Conn) -> None:
    def refuse(rows: list[Any]) -> None:
        raise errors.InvalidOptionError("no")

    def queues_of(connection: Conn) -> list[Any]:
        return connection.execute("select queue_name from absurd.list_queues() where queue_name <> 'default'").fetchall()

    with psycopg.connect(database_url) as mine:
        run_whole(mine, ask("select absurd.create_queue('kept')"))
        with pytest.raises(errors.InvalidOptionError):
            run_whole(mine, Query("select absurd.create_queue('dropped')", (), refuse))
        assert queues_of(mine) == [("kept",)]
        assert queues_of(conn) == []
        mine.rollback()
    with pytest.raises(errors.InvalidOptionError):
        run_whole(conn, Query("select absurd.create_queue('dropped')", (), refuse))
    assert queues_of(conn) == []


async def test_errors_are_the_same_for_async_code(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, row_factory=dict_row) as conn:
        task_id = uuid4()
        assert await run_async(conn, ask("select %s::uuid", task_id)) == task_id
        with pytest.raises(errors.QueueNotFoundError):
            await run_async(conn, ask("select absurd.append_event('nowhere', 'x')"))
