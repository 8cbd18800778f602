"""What may be said of a database URL, and of one that cannot be read."""

from __future__ import annotations

import time

import pytest

from absurd.db import mask
from absurd.db.connect import connection_arguments
from absurd.errors import ConfigurationError


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/db?password=begin@secret%zz",
        "postgresql://ann:begin@secret?%zz@h/db",
        "postgresql://ann:begin@secret%zz",
        "host=h password='begin@secret",
    ],
)
def test_no_end_of_a_password_is_taken_for_a_host(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connection_arguments(url, "test")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["@h:5432/db", "@[::1]:5432/db", "@a:1,b:2/db", "@db.example.com"])
def test_the_host_is_named(host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connection_arguments(f"postgresql://ann:%zz{host}", "test")
    assert f'"postgresql://…{host}" is no database URL' in str(caught.value)


def test_a_message_that_repeats_the_beginning_of_a_url_is_masked_in_no_time() -> None:
    began = time.process_time()
    mask("://a:" * 40_000)
    assert time.process_time() - began < 5  # it was a minute
