"""Times that people give to waits and sleeps."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from absurd.context.durations import MAX_SECONDS, check_moment, check_seconds, check_timeout
from absurd.errors import InvalidOptionError


@pytest.mark.parametrize(
    ("given", "seconds"), [(0, 0.0), (1, 1.0), (0.25, 0.25), (timedelta(minutes=1), 60.0), (MAX_SECONDS, MAX_SECONDS)]
)
def test_seconds_are_numbers_or_timedeltas(given: Any, seconds: float) -> None:
    found = check_seconds("seconds", given)
    assert found == seconds
    assert type(found) is float


@pytest.mark.parametrize(
    "given",
    [-1, -0.001, math.nan, math.inf, -math.inf, MAX_SECONDS + 1, 1e300, "5", None, True, [1], timedelta(days=-1), timedelta.max],
)
def test_other_seconds_are_refused_with_their_name_and_value(given: Any) -> None:
    with pytest.raises(InvalidOptionError, match="pause"):
        check_seconds("pause", given)


def test_no_timeout_is_none_and_zero_is_one() -> None:
    assert check_timeout(None) is None
    assert check_timeout(0) == 0.0
    with pytest.raises(InvalidOptionError, match="timeout"):
        check_timeout("soon")


def test_a_timeout_may_be_a_text() -> None:
    assert [check_timeout(text) for text in ("7d", "1h30m", "5")] == [7 * 86_400.0, 5_400.0, 5.0]
    with pytest.raises(InvalidOptionError, match="'7 days' is no duration; give one like 90s"):
        check_timeout("7 days")


def test_a_moment_has_a_time_zone_and_lies_in_range() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert check_moment("until", moment) is moment
    for wrong, reason in (
        (datetime(2030, 1, 1), "has no time zone"),  # noqa: DTZ001
        ("2030-01-01", "must be a datetime"),
        (5, "must be a datetime"),
        (datetime.max.replace(tzinfo=UTC), "out of range"),
        (datetime.min.replace(tzinfo=UTC), "out of range"),
    ):
        with pytest.raises(InvalidOptionError, match=reason):
            check_moment("until", wrong)  # type: ignore[arg-type]
