from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from absurd.cli.text import age, dump, duration, escape, is_safe, json_text, moment_text, pretty
from absurd.context.durations import parse_duration

NOW = datetime(2030, 1, 31, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2h", 7200), ("3d", 259_200), ("1w", 604_800), ("15m", 900), ("1h30m", 5400), ("0.5s", 0.5), ("250ms", 0.25),
     ("45", 45), (" 2H ", 7200), ("10min", 600), ("0s", 0)],
)  # fmt: skip
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2 h", "-3d", "2y", "1e3s", "2h!", "h2", "nan", "inf", "9999999w"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|hundred years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250ms"), (2.34, "2.3s"), (59, "59s"), (3600, "1h"), (7500, "2h 5m"), (200_000, "2d 7h")]
)
def test_a_duration_is_shown_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_moment_is_shown_with_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    assert age(NOW - timedelta(minutes=5), NOW) == "5m ago"
    assert age(NOW + timedelta(hours=2), NOW) == "in 2h"
    assert age(NOW, NOW) == "now"
    assert moment_text(None, NOW) == "-"
    assert moment_text(NOW, NOW + timedelta(days=3)).endswith("(3d ago)")


@pytest.mark.parametrize(
    "nasty", ["\x1b", "\x07", "\r", "\n", "\t", "\x7f", "\x9b", "\u202e", "\u2066", "\u2028", "\ufeff", "\ud800"]
)
def test_what_drives_a_terminal_is_written_out(nasty: str) -> None:
    shown = escape(f"a{nasty}b")
    assert shown.isascii()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


@pytest.mark.parametrize("plain", ["orders", "größe", "注文", "👩‍👩‍👧", "a b.c\"d'e", "é"])
def test_other_text_stays_as_it_is(plain: str) -> None:
    assert escape(plain) == plain


def test_escaped_json_is_the_same_document() -> None:
    value = {"b\x1b[31m": ["\x9b", "\u202e", "\U000e0001", "ü", "👩‍👩‍👧"], "a": None, "when": None}
    text = dump(value, indent=True)
    assert json.loads(text) == value
    assert all(char == "\n" or is_safe(char) for char in text)


@pytest.mark.parametrize(
    "text",
    [
        "123456789012345678901234567890",
        "1e400",
        "-0.0",
        "1.50",
        '{"z":1,"a":[2.50]}',
        '"\\ud800"',
        '"\\u0000"',
        "[" * 300 + "]" * 300,
    ],
)
def test_stored_json_is_shown_without_loss(text: str) -> None:
    shown = dump(json_text(text))
    if text in ("1e400", "-0.0", "1.50", "123456789012345678901234567890"):
        assert shown == text
    assert json.loads(shown) == json.loads(text)
    assert json.loads(pretty(text)) == json.loads(text)


def test_keys_keep_their_order_and_moments_are_in_utc() -> None:
    value = {"z": NOW.astimezone(tz=None), "a": 1}
    assert dump(value) == '{"z":"2030-01-31T08:00:00Z","a":1}'


def test_a_value_that_the_fast_encoder_refuses_is_shown_all_the_same() -> None:
    assert json.loads(dump({"n": 2**70, "s": "\ud800"})) == {"n": 2**70, "s": "\ud800"}
