"""Which database is used when several are named."""

from __future__ import annotations

import pytest

from absurd import devdb
from absurd.errors import ConfigurationError
from absurd.location import database_url

EXPLICIT, FIRST, SECOND = "postgresql://a/a", "postgresql://b/b", "postgresql://c/c"


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devdb, "ensure", lambda: "embedded")


def test_argument_then_our_variable_then_libpqs_then_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSURD_DATABASE_URL", FIRST)
    monkeypatch.setenv("PGDATABASE", SECOND)
    assert database_url(EXPLICIT) == EXPLICIT
    assert database_url() == FIRST
    monkeypatch.setenv("ABSURD_DATABASE_URL", "")
    assert database_url() == SECOND
    monkeypatch.delenv("PGDATABASE")
    assert database_url() == "embedded"


def test_the_name_of_a_database_becomes_a_connection_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATABASE", "my data")
    assert database_url() == "dbname='my data'"
    assert database_url("orders") == "dbname=orders"
    assert database_url("host=x dbname=y") == "host=x dbname=y"


@pytest.mark.parametrize("bad", ["", "  ", 5])
def test_an_empty_or_strange_argument_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://"):
        database_url(bad)
