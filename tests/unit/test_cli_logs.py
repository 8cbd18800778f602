from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import pytest

from absurd.cli.logs import JsonFormatter, LogFormat, LogLevel, TextFormatter, set_up


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def record(message: object, *args: Any, error: bool = False, **extra: Any) -> logging.LogRecord:
    exc_info = None
    if error:
        try:
            raise ValueError("went \x1b[31m wrong")
        except ValueError:
            exc_info = sys.exc_info()
    return logging.getLogger("absurd.worker").makeRecord(
        "absurd.worker", logging.WARNING, "file.py", 1, message, args, exc_info, extra=extra
    )


def test_a_text_line_has_time_level_message_and_fields() -> None:
    line = TextFormatter().format(record("claimed %s", 3, queue="a b", task_id=7, nothing=None))
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING absurd\.worker: claimed 3 queue="a b" task_id=7', line)


def test_a_message_cannot_forge_a_line_or_drive_the_terminal() -> None:
    line = TextFormatter().format(record("one\ntwo \x1b[31m", evil="x\ny"))
    assert "\n" not in line
    assert "\x1b" not in line


def test_a_traceback_follows_on_lines_of_its_own() -> None:
    text = TextFormatter().format(record("failed", error=True))
    assert text.splitlines()[1] == "Traceback (most recent call last):"
    assert text.splitlines()[-1] == "ValueError: went \\x1b[31m wrong"


def test_a_json_line_is_one_object_with_all_fields() -> None:
    line = JsonFormatter().format(record("claimed %s\n", 3, queue="a b", count=2, odd={1}, error=True))
    assert "\n" not in line
    found = json.loads(line)
    assert found["level"] == "warning"
    assert found["logger"] == "absurd.worker"
    assert (found["message"], found["queue"], found["count"], found["odd"]) == ("claimed 3\n", "a b", 2, "{1}")
    assert found["error"].endswith("wrong")


def test_a_record_that_cannot_be_formatted_is_logged_all_the_same() -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        assert "TypeError while it was formatted" in formatter.format(record("%d", "x"))
        assert "RuntimeError" in formatter.format(record("fine", value=Unprintable()))
        assert "RuntimeError" in formatter.format(record(Unprintable()))


def test_what_pika_says_of_each_connection_is_shown_at_debug_only(monkeypatch: pytest.MonkeyPatch) -> None:
    root, pika = logging.getLogger(), logging.getLogger("pika.adapters")
    monkeypatch.setattr(root, "handlers", [])
    before = root.level
    try:
        set_up(LogFormat.TEXT, LogLevel.INFO)
        assert not pika.isEnabledFor(logging.ERROR)
        assert logging.getLogger("absurd.listeners").isEnabledFor(logging.INFO)
        set_up(LogFormat.TEXT, LogLevel.DEBUG)
        assert pika.isEnabledFor(logging.DEBUG)
    finally:
        root.setLevel(before)
        logging.captureWarnings(False)
