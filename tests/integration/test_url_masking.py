"""The password of a database is printed nowhere, however its URL is written and wherever it is met."""

from __future__ import annotations

import logging
import traceback

import pytest

from absurd import Absurd
from absurd.db import mask
from absurd.errors import AbsurdError
from tests.cli import absurdctl

SECRET = "s3cr3tPW"

READABLE = [
    f"postgresql://ann:{SECRET}@127.0.0.1:1/db",
    f"postgresql://ann:{SECRET}@127.0.0.1:1,127.0.0.1:2/db?target_session_attrs=any",
    f"postgresql://ann:a%40{SECRET}@127.0.0.1:1/db",
    f"postgresql://:{SECRET}@127.0.0.1:1/db",
    f"postgresql://ann:{SECRET}@/db?host=/nowhere",
    f"postgresql://ann@127.0.0.1:1/db?password={SECRET}",
    f"postgresql://ann@127.0.0.1:1/db?p%61sswor%64={SECRET}&connect_timeout=1",
    f"postgresql://ann@127.0.0.1:1/db?sslpassword={SECRET}",
    f"postgresql://ann:{SECRET}",
    f"host=127.0.0.1 port=1 password={SECRET}",
    f"host=127.0.0.1 port=1 password = 'it\\'s {SECRET}'",
    f"host=127.0.0.1 port=1 PASSWORD={SECRET}",
    f"host=127.0.0.1 port=notaport password={SECRET}",
    f"service=nowhere password={SECRET}",
]
UNREADABLE = [
    f"postgresql://ann:a {SECRET}@127.0.0.1/db",
    f"postgresql://ann:{SECRET} b@127.0.0.1/db",
    f"postgresql://ann:{SECRET}%zz@127.0.0.1/db",
    f"postgresql://ann:{SECRET}@[::1/db",
    f"host=127.0.0.1 password=a {SECRET}",
    f"host=127.0.0.1 password=a {SECRET}=b c",
    f"host=127.0.0.1 password {SECRET}",
    f"password='{SECRET}",
    f"password='a' {SECRET}'",
]


@pytest.mark.parametrize("url", READABLE)
def test_a_url_is_masked(url: str) -> None:
    assert SECRET not in mask(url)
    assert "***" in mask(url)


@pytest.mark.parametrize(
    "text",
    [
        f"{{'host': 'h', 'password': '{SECRET}'}}",
        f'password="{SECRET}"',
        f"oauth_client_secret={SECRET}",
        f"amqp://ann:{SECRET}@broker/vhost",
        f"postgresql+psycopg://ann:{SECRET}@h/db",
    ],
)
def test_a_password_in_another_text_is_masked(text: str) -> None:
    assert SECRET not in mask(text)


@pytest.mark.parametrize(
    "text",
    ["postgresql://h:5432/db", "postgresql://[::1]:5432/db", "postgresql://a:1,b:2/db", "host=h port=5432", "no password given"],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize("url", [*READABLE, *UNREADABLE])
def test_neither_a_client_nor_its_errors_show_the_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def use() -> None:
        with Absurd(url) as app:  # one that cannot be read is refused at once
            assert SECRET not in repr(app)
            app.spawn("work", {})

    with pytest.raises(AbsurdError) as caught:
        use()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text


@pytest.mark.parametrize("given", [f"postgresql://ann:{SECRET}@h/db".encode(), [f"password={SECRET}"]])
def test_neither_does_the_refusal_of_what_is_no_text(given: object) -> None:
    with pytest.raises(AbsurdError) as caught:
        Absurd(given).spawn("work", {})  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("command", ["schema-version", "list-queues", "init", "scheduler"])
def test_no_command_shows_the_password_even_with_a_traceback(command: str) -> None:
    for url in (READABLE[0], UNREADABLE[0]):
        done = absurdctl(command, "--debug", database=url, code=1)
        assert "Traceback" in done.err
        assert SECRET not in done.out + done.err
