"""Columns of a batch reach PostgreSQL as they are: whatever they hold, and however the connection is set up."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from absurd import Absurd, errors
from absurd.db import connect, run
from absurd.queries.arrays import Ints, Jsonbs, Jsons, Texts, Uuids
from absurd.queries.query import Query, scalar

Conn = psycopg.Connection[Any]

# What PostgreSQL can hold as text: everything but NUL and lone surrogates.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5
).map(lambda value: json.dumps(value, ensure_ascii=False))
# One connection serves all examples: nothing of them stays on it.
examples = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sent(conn: Conn, sql: str, column: list[Any]) -> Any:
    return run(conn, Query(sql, (column,), scalar))


@examples
@given(st.lists(st.none() | texts))
def test_texts_survive(conn: Conn, column: list[str | None]) -> None:
    assert sent(conn, "select %s::text[]", Texts(column)) == column


@examples
@given(st.lists(st.none() | json_texts))
def test_json_texts_survive_to_the_letter(conn: Conn, column: list[str | None]) -> None:
    assert sent(conn, "select (%s::json[])::text[]", Jsons(column)) == column


@examples
@given(st.lists(st.none() | json_texts))
def test_jsonb_texts_survive(conn: Conn, column: list[str | None]) -> None:
    sql = """
        select count(*) from unnest(%s::jsonb[], %s::text[]) _(found, given)
        where found is distinct from given::jsonb"""
    assert run(conn, Query(sql, (Jsonbs(column), Texts(column)), scalar)) == 0


@examples
@given(st.lists(st.uuids()))
def test_uuids_survive(conn: Conn, column: list[UUID]) -> None:
    assert sent(conn, "select %s::uuid[]", Uuids(column)) == column


@examples
@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_integers_survive(conn: Conn, column: list[int]) -> None:
    assert sent(conn, "select %s::int[]", Ints(column)) == column


@pytest.mark.parametrize("column", [Texts(), Jsons(), Jsonbs(), Uuids(), Ints()], ids=lambda c: type(c).__name__)
def test_an_empty_column_has_no_elements_and_its_type(conn: Conn, column: list[Any]) -> None:
    names = {Texts: "text[]", Jsons: "json[]", Jsonbs: "jsonb[]", Uuids: "uuid[]", Ints: "integer[]"}
    assert sent(conn, "select cardinality(%s)", column) == 0
    assert sent(conn, "select pg_typeof(%s)::text", column) == names[type(column)]


@pytest.mark.parametrize("encoding", ["latin1", "utf8", "euc_jis_2004"])
def test_a_connection_of_the_callers_may_have_any_encoding(database_url: str, conn: Conn, encoding: str) -> None:
    word = "日本" if encoding == "euc_jis_2004" else "déjà"
    with psycopg.connect(database_url, client_encoding=encoding) as other:
        assert sent(other, "select (%s)[1] = U&'" + "".join(f"\\{ord(c):04x}" for c in word) + "'", Texts([word])) is True
        app = Absurd(other)
        (handle,) = app.spawn_many("greet", [{"word": word}])
        other.commit()
    stored = conn.execute("select params ->> 'word' from absurd.tasks where task_id = %s", (handle.task_id,)).fetchone()
    assert stored == (word,)


def test_a_connection_without_encoding_sends_utf8(database_url: str) -> None:
    with psycopg.connect(database_url, client_encoding="sql_ascii") as other:
        assert sent(other, "select octet_length((%s)[1])", Texts(["é"])) == 2


def test_a_connection_of_the_callers_may_have_no_encoding(database_url: str, conn: Conn) -> None:
    with psycopg.connect(database_url, client_encoding="sql_ascii", autocommit=True) as other:
        app = Absurd(other)
        word = {"word": "déjà 日本"}
        for _ in range(10):  # from the sixth on prepared
            one, again = (app.spawn("greet", word, idempotency_key="ключ") for _ in range(2))
        (many,) = app.spawn_many("greet", [word])
        with pytest.raises(errors.QueueNotFoundError, match='queue "é" does not exist'):
            app.spawn("greet", word, queue="é")
        assert (one.task_id, one.run_id) == (again.task_id, again.run_id)
        assert app.get_result(one.task_id).state == app.get_result(many.task_id).state == "pending"
        app.emit_event("go", word)
        assert app.list_queues() == ["default"]
    stored = conn.execute("select params ->> 'word' from absurd.tasks").fetchall()
    assert stored == [(word["word"],)] * 2


def test_a_connection_of_the_callers_may_bind_on_its_side_and_prepare_nothing(database_url: str) -> None:
    with psycopg.connect(database_url, prepare_threshold=None, cursor_factory=psycopg.ClientCursor) as other:
        app = Absurd(other)
        handles = app.spawn_many("greet", [{"quote": "\"\\'{},"}] * 3)
        assert len({h.task_id for h in handles}) == 3


def test_what_json_or_text_cannot_be_is_refused(database_url: str) -> None:
    with connect(database_url) as conn:
        for column in (Jsons(["{"]), Jsonbs(["{"]), Texts(["a\x00b"])):
            with pytest.raises(errors.AbsurdError):
                sent(conn, "select %s", column)
        with pytest.raises(UnicodeEncodeError):
            sent(conn, "select %s", Texts(["\ud800"]))
        assert sent(conn, "select %s::text[]", Texts(["still works"])) == ["still works"]
