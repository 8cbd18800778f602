"""What is stored and logged of an exception."""

from __future__ import annotations

import json

from absurd.errors import NonRetryableError
from absurd.worker.failures import describe, summary


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_summary_has_name_and_message_on_one_line() -> None:
    assert summary(ZeroDivisionError("division by zero")) == "ZeroDivisionError: division by zero"
    assert summary(NonRetryableError("two\nlines\x1b[31m")) == "absurd.errors.NonRetryableError: two lines [31m"
    assert len(summary(ValueError("x" * 10_000))) == 300


def test_summary_and_description_survive_an_exception_that_cannot_be_read() -> None:
    assert "its __str__ raised ValueError" in summary(Unprintable())
    assert "its __str__ raised ValueError" in json.loads(describe(Unprintable()))["message"]


def test_description_holds_name_message_and_traceback_fit_for_the_database() -> None:
    try:
        raise KeyError("nul \x00 and surrogate \ud800")
    except KeyError as error:
        found = json.loads(describe(error))
    assert found["name"] == "KeyError"
    assert "\x00" not in found["message"] + found["traceback"]
    assert "test_description_holds" in found["traceback"]
    found["message"].encode()
