"""How the dashboard writes moments and numbers, hides values and draws plots."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from absurd.web.dashboard import format as formats
from absurd.web.dashboard.plot import Series, bars, nice_top, share, sparkline
from absurd.web.dashboard.redact import HIDDEN, Redaction

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_ages_and_counts_are_written_for_people() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    ages = {
        0: "now",
        1.4: "1 s ago",
        59: "59 s ago",
        61: "1 min ago",
        3700: "1 h 1 min ago",
        90_000: "1 d 1 h ago",
        -30: "in 30 s",
    }
    for seconds, said in ages.items():
        assert f">{said}<" in formats.age(now - timedelta(seconds=seconds), now)
    assert "late" in formats.due(now - timedelta(seconds=30), now)
    assert "late" not in formats.due(now - timedelta(seconds=3), now)
    assert formats.count(10_000) == "10,000"
    assert formats.count(10_001) == "10,000+"
    assert [formats.duration(s) for s in (0.0124, 3.41, 75, 7380, 400_000)] == [
        "12 ms",
        "3.4 s",
        "1 min 15 s",
        "2 h 3 min",
        "4 d 15 h",
    ]
    assert [formats.size(n) for n in (5, 2048, 3 << 20)] == ["5 B", "2.0 kB", "3.0 MB"]


@pytest.mark.parametrize(
    ("key", "hidden"),
    [
        ("password", True),
        ("PASSWORD", True),
        ("db_password", True),
        ("dbPassword", True),
        ("X-Token", True),
        ("APIKey", True),
        ("apikey", True),
        ("x-api-key", True),
        ("Set-Cookie", True),
        ("max_tokens", False),
        ("tokenizer", False),
        ("key", False),
        ("secretary", False),
        ("", False),
        ("ключ", False),
    ],
)
def test_keys_are_hidden_by_their_words(key: str, hidden: bool) -> None:
    assert Redaction().hides(key) is hidden


def test_what_is_hidden_is_hidden_whatever_it_is_and_the_rest_is_as_it_was() -> None:
    value = {"a": [1, {"token": {"b": 2}}], "cookie": None, "c": "password"}
    assert Redaction().value(value) == {"a": [1, {"token": HIDDEN}], "cookie": HIDDEN, "c": "password"}
    assert value["a"] == [1, {"token": {"b": 2}}]
    assert Redaction([]).value(value) == value
    assert Redaction(["c"]).value({"C": 1, "cc": 2}) == {"C": HIDDEN, "cc": 2}


def test_documents_are_cut_and_unreadable_ones_not_shown() -> None:
    shown = Redaction().shown(json.dumps("y" * 100), limit=10)
    assert (len(shown.text), shown.cut) == (10, True)
    for text in ("[" * 5000 + "]" * 5000, "{", "9" * 5000):
        assert "cannot be shown" in Redaction().shown(text).text
    assert Redaction().shown('"\\ud800"', indent=None).text == '"\\ud800"'


def test_bars_stand_on_each_other_to_scale() -> None:
    drawn = str(bars([Series("good", [3, 0, 8]), Series("bad", [1, 0, 0])], START, MINUTE, 'a "label"'))
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([0-9.]+)"', drawn)]
    assert len(heights) == 3
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2)
    assert heights[2] == pytest.approx(8 * heights[1], abs=0.5)
    assert "May 01 12:00–12:01 UTC: 3 good, 1 bad" in drawn
    assert "a &#34;label&#34;" in drawn
    assert "style=" not in drawn


def test_shares_are_broken_where_nothing_is_known() -> None:
    drawn = str(share([0.5, 0.25, None, 1.0], START, MINUTE, "x"))
    assert drawn.count("<polyline") == 2
    assert "50% failed" in drawn
    for values in ([], [None, None], [0.0, 0.0]):
        assert "<svg" in share(values, START, MINUTE, "x")
    assert "<svg" in bars([Series("good", [])], START, MINUTE, "x")
    assert ">25<" in bars([Series("good", [23])], START, MINUTE, "x")
    assert "12.5" not in bars([Series("good", [23])], START, MINUTE, "x")
    assert "<svg" not in sparkline([0, 0], "x")
    assert "<svg" in sparkline([1], "x")


def test_axes_end_at_round_numbers() -> None:
    assert [nice_top(value) for value in (0, 0.03, 1, 7, 11, 200, 201)] == [1, 0.05, 1, 10, 20, 200, 250]
