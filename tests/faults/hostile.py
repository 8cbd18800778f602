"""Values that nobody should give: what the fuzz tests hand to SQL functions, to the client and to the command line."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

MILLION = 1_000_000

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "x" * MILLION,
    "é" * 501,  # 1,002 bytes of 501 characters
    "a" * 1000,
    "'; drop table absurd.tasks; --",
    'absurd"."tasks',
    "\\",
    "%s %(name)s %% %n",
    "$1 $$ {0} {name}",
    "$(touch /tmp/fuzzed)",
    "../../etc/passwd",
    "--help",
    "-1",
    "\x01\x1b[31mred\x1b]0;title\x07\x7f\x9b",
    "two\nlines\r\ttabbed",
    "\u202eright to left\u2066",
    "\u2028\ufeff\ufffe\U0001f469\u200d\U0001f4bb",
    "\\u0000 \\ud800",
    "*",
    "work*",
    "a*b",
    "null",
    "NaN",
    "infinity",
    "2026-13-45",
    "0 0 31 2 *",
    "1e999",
    "9" * 5000,
    "{",
    '{"a": 1}',
)
"""Texts that PostgreSQL can store."""

SURROGATES: tuple[str, ...] = ("\ud800", "a\udcffb", "nul\x00character")
"""Texts that it cannot."""

JSON_TEXTS: tuple[str, ...] = (
    "null",
    "true",
    "0",
    "-0.0",
    "1e308",
    "1e-320",
    "12345678901234567890123456789012345678901234567890",
    "9" * 5000,
    '""',
    '"text"',
    "[]",
    "{}",
    "[null]",
    '{"": ""}',
    '{"a": 1, "a": 2}',
    '{"step": null}',
    '"NaN"',
    '"Infinity"',
    '"\\u001b[31m\\u202e"',
    '"' + "x" * MILLION + '"',
    "[" * 600 + "]" * 600,
    '{"a":' * 600 + "1" + "}" * 600,
    '{"\'; drop table absurd.tasks; --": "%s $1"}',
)
"""Documents that both json and jsonb take."""

RAW_JSON_TEXTS: tuple[str, ...] = ('"\\u0000"', '"\\ud800"', '{"a\\u0000": 1}', "1e999999", '{"deep": {"\\udcff": [1e400000]}}')
"""Documents that json takes and jsonb does not."""

INTEGERS = (0, 1, -1, 2, 100, 1000, 2**31 - 1, -(2**31), 32768, -32769)
BIGINTS = (*INTEGERS, 2**31, 2**63 - 1, -(2**63))
FLOATS = ("0", "-0", "1", "-1", "0.5", "60", "1e308", "-1e308", "5e-324", "NaN", "Infinity", "-Infinity", "3.2e8")
NUMERICS = ("0", "1", "-1", "NaN", "Infinity", "1e100000", "1e-10000")
MOMENTS = ("infinity", "-infinity", "294276-12-31", "4713-01-01 BC", "1970-01-01", "2026-02-28T00:00:00Z", "now", "9999-12-31")
INTERVALS = ("0", "-1 day", "1 day", "100 years", "178000000 years", "-178000000 years", "0.000001 seconds", "1 month -31 days")
BOOLEANS = ("true", "false")
UUIDS = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "01926f2a-0000-7000-8000-000000000001")

OPTION_NAMES = (
    *("headers", "retry_strategy", "max_attempts", "cancellation", "idempotency_key", "priority", "delay", "available_at"),
    *("parent_task_id", "kind", "base_seconds", "factor", "max_seconds", "jitter", "max_delay", "max_duration", "spawn_new"),
    *("config", "target_queue", "task", "event", "cron", "every", "timezone", "params", "starts_at", "ends_at", "catchup"),
    *("catchup_limit", "overlap", "run_immediately", "options", "cleanup_ttl", "cleanup_limit", "max_payload_bytes"),
    *("default_partition", "partition_lookahead", "partition_lookback", "detach_mode", "detach_min_age", "storage_mode"),
    *("step", "queue", "since", "token", "name", "unknown", ""),
)
GOOD_OPTIONS: tuple[dict[str, Any], ...] = (
    {"max_attempts": 3, "retry_strategy": {"kind": "fixed", "base_seconds": 0}},
    {"task": "work", "every": 60},
    {"task": "work", "cron": "* * * * *", "timezone": "Europe/Vienna"},
    {"event": "evt", "every": 1, "catchup": "all", "params": {}},
    {"cancellation": {"max_delay": 1, "max_duration": 1}, "priority": 7, "delay": 1},
    {"config": {"a": 1}},
    {"cleanup_ttl": "1 day", "cleanup_limit": 5},
    {"spawn_new": True},
)


class Odd:
    """An object that is nothing else, without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<odd>"


def _itself() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _deep() -> Any:
    value: Any = 1
    for _ in range(600):
        value = [value]
    return value


DEEP = _deep()
OBJECTS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 10**300),
    *(0.5, -0.5, math.nan, math.inf, -math.inf, 1e308, 5e-324, Decimal("1"), Decimal("NaN")),
    *("", " ", "x" * 1001, "é" * 501, "😀" * 250, *SURROGATES, "'; drop table absurd.tasks; --", "$step", "%s", "*", "a*b"),
    *("2h", "nan", "-5", "1e9", b"bytes", bytearray(b"x"), (), [], {}, set(), {"a"}, frozenset({1}), range(3)),
    *(["a", "a"], ["a", 1], [[]], [None], ["x\x00"], {"a": "\ud800"}, {1: 2}, {"kind": []}),
    *({"kind": "fixed", "base_seconds": -1}, {"max_delay": "x"}, {"unknown": 1}, _itself(), DEEP),
    *(datetime(2020, 1, 1), datetime.max, datetime.min.replace(tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)),  # noqa: DTZ001, DTZ901
    *(timedelta.max, timedelta(-1), timedelta(0), uuid.UUID(int=0)),
    *(Odd(), object, len, ..., NotImplemented),
)
"""Values that a caller in Python may give in error."""

texts = st.one_of(
    st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
)
scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(BIGINTS),
    st.sampled_from([0.5, -0.5, 1e300, 1e-300, 1e15]),
    st.sampled_from([text for text in TEXTS if len(text) < MILLION]),
    st.sampled_from(MOMENTS),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(OPTION_NAMES), inner, max_size=4),
    max_leaves=8,
)


def _mixed(draw: st.DrawFn) -> dict[str, Any]:
    """Options that were good until one of them was changed."""
    options = dict(draw(st.sampled_from(GOOD_OPTIONS)))
    name = draw(st.sampled_from(sorted(options)) | st.sampled_from(OPTION_NAMES))
    return {**options, name: draw(values)}


options = st.one_of(
    st.sampled_from(GOOD_OPTIONS), st.composite(_mixed)(), st.dictionaries(st.sampled_from(OPTION_NAMES), values, max_size=5)
)
documents = st.one_of(st.sampled_from(JSON_TEXTS), options.map(json.dumps), values.map(json.dumps))
raw_documents = st.one_of(documents, st.sampled_from(RAW_JSON_TEXTS))
objects = st.one_of(
    st.sampled_from(OBJECTS),
    st.just("generator").map(lambda _: (n for n in range(3))),
    st.just("function").map(lambda _: lambda *args, **options: 1),
    texts.filter(lambda text: len(text) < MILLION),
    values,
)
