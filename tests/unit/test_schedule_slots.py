"""Cron expressions, slots through changes of the clock, and what is fired after a pause: all of it without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd.errors import InvalidOptionError
from absurd.queries.schedules import Schedule
from absurd.schedules.cron import ALIASES, Cron, parse_cron
from absurd.schedules.slots import Slots, backfill_slots, due_plan, first_plan, upcoming
from absurd.schedules.zone import read_zone, slot_after, slot_until

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

# Zones with a change in these weeks, and one without: an hour, half an hour, backwards named (Dublin), a day that is left out.
CHANGES = [
    ("Europe/Vienna", "2024-03-30", "2024-04-02"),
    ("Europe/Vienna", "2024-10-26", "2024-10-29"),
    ("America/New_York", "2024-03-09", "2024-03-12"),
    ("America/New_York", "2024-11-02", "2024-11-05"),
    ("Australia/Lord_Howe", "2024-04-05", "2024-04-08"),
    ("Australia/Lord_Howe", "2024-10-04", "2024-10-07"),
    ("Europe/Dublin", "2023-10-28", "2023-10-31"),
    ("Pacific/Apia", "2011-12-28", "2012-01-02"),
    ("Asia/Kolkata", "2024-03-30", "2024-04-01"),
]
EXPRESSIONS = ["30 2 * * *", "*/15 * * * *", "0 */2 * * *", "15 1-3 * * *", "*/10 2 * * *", "0 0 * * *", "*/7 23,0,1,2 * * *"]


def schedule(**values: object) -> Schedule:
    """A schedule as it would stand in the database."""
    plain = {
        **dict.fromkeys(Schedule.__dataclass_fields__),
        "schedule_name": "s",
        "timezone": "UTC",
        "jitter_seconds": 0.0,
        "catchup": "skip",
        "catchup_limit": 100,
        "run_immediately": False,
        "anchor_at": NOON,
        "plan_after": NOON,
        "last_slot": NOON,
    }
    return Schedule(**{**plain, **values})  # type: ignore[arg-type]


def enumerated(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The slots by looking at every minute of a real clock: slow, and hard to get wrong."""
    found = set()
    at = start
    shown_before = (at - MINUTE).astimezone(zone).replace(tzinfo=None, fold=0)
    while at < end:
        seen = at.astimezone(zone)
        shown = seen.replace(tzinfo=None, fold=0)
        if cron.matches(shown) and (cron.real_time or seen.fold == 0):
            found.add(at)
        skipped = shown_before + MINUTE
        while not cron.real_time and skipped < shown:
            if cron.matches(skipped):
                found.add(at)
            skipped += MINUTE
        shown_before = shown
        at += MINUTE
    return sorted(found)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize(("name", "first", "last"), CHANGES)
def test_k7_slots_through_a_change_of_the_clock_are_those_of_a_minute_by_minute_enumeration(
    name: str, first: str, last: str, expression: str
) -> None:
    cron, zone = parse_cron(expression), read_zone(name)
    start, end = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (first, last))
    expected = enumerated(cron, zone, start, end)
    forward, at = [], slot_after(cron, zone, start - timedelta(microseconds=1))
    while at is not None and at < end:
        forward.append(at)
        at = slot_after(cron, zone, at)
    backward, at = [], slot_until(cron, zone, end - timedelta(microseconds=1))
    while at is not None and at >= start:
        backward.append(at)
        at = slot_until(cron, zone, at - timedelta(microseconds=1))
    assert forward == expected
    assert backward[::-1] == expected


def test_k7_a_daily_job_in_the_gap_runs_once_right_after_it_and_in_the_fold_once() -> None:
    zone, daily = read_zone("Europe/Vienna"), parse_cron("30 2 * * *")
    assert slot_after(daily, zone, datetime(2024, 3, 31, 0, tzinfo=UTC)) == datetime(2024, 3, 31, 1, tzinfo=UTC)
    assert slot_after(daily, zone, datetime(2024, 3, 31, 1, tzinfo=UTC)) == datetime(2024, 4, 1, 0, 30, tzinfo=UTC)
    assert slot_after(daily, zone, datetime(2024, 10, 26, 1, tzinfo=UTC)) == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert slot_after(daily, zone, datetime(2024, 10, 27, 0, 30, tzinfo=UTC)) == datetime(2024, 10, 28, 1, 30, tzinfo=UTC)


def test_k7_an_open_hour_counts_elapsed_time_through_the_fold() -> None:
    zone, quarter = read_zone("America/New_York"), parse_cron("*/30 * * * *")
    at: datetime | None = datetime(2024, 11, 3, 4, 59, tzinfo=UTC)
    for minutes in range(0, 240, 30):
        assert at is not None
        at = slot_after(quarter, zone, at)
        assert at == datetime(2024, 11, 3, 5, tzinfo=UTC) + timedelta(minutes=minutes)


field = st.sampled_from
CRON = st.tuples(
    field(["*", "*/7", "5", "0,30", "10-20/3", "59"]),
    field(["*", "*/5", "0", "3,22", "9-17"]),
    field(["*", "1", "31", "*/10", "13,29", "1-7"]),
    field(["*", "2", "JAN-MAR", "*/3", "11"]),
    field(["*", "MON-FRI", "0", "7", "FRI", "1,3"]),
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(CRON, st.datetimes(min_value=datetime(2001, 1, 1), max_value=datetime(2040, 1, 1)))  # noqa: DTZ001
def test_k6_slots_without_a_zone_are_those_that_croniter_finds(text: str, start: datetime) -> None:
    fields = text.split()
    try:
        cron = parse_cron(text)
    except InvalidOptionError:
        assert "31" in fields[2] or "29" in fields[2]
        return
    # croniter opens the other field also for a day such as */10; Vixie's cron, and this one, do not.
    if fields[2].startswith("*/") and fields[4] != "*":
        return
    oracle = croniter(text, start)
    at = start
    for _ in range(3):
        at = cron.after(at) or at
        assert at == oracle.get_next(datetime)
    assert cron.until(at) == at


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0 31 2 *", "never comes"),
        ("0 0 30 2 *", "never comes"),
        ("@reboot", "nothing boots here"),
        ("@never", "is not known"),
        ("nonsense", "1 field"),
        ("", "0 field"),
        ("* * * *", "4 field"),
        ("0 0 1 1 * 2 2030", "years are not supported"),
        ("60 * * * *", "minute 60 is not between 0 and 59"),
        ("* 24 * * *", "hour 24"),
        ("* * 0 * *", "day 0"),
        ("* * * 13 *", "month 13"),
        ("* * * * 8", "weekday 8"),
        ("a * * * *", '"a" is no minute'),
        ("* * * FOO *", "is no month"),
        ("* * * MON *", "is no month"),
        ("R * * * *", "is no minute"),
        ("H * * * *", "is no minute"),
        ("0 0 L * *", "is no day"),
        ("0 0 15W * *", "is no day"),
        ("0 0 ? * *", "the day field takes"),
        ("0 0 * * 5#2", "the weekday field takes"),
        ("*/0 * * * *", "the step of the minute field"),
        ("*/60 * * * *", "the step of the minute field"),
        ("1,,2 * * * *", "the minute field takes"),
        ("-5 * * * *", "the minute field takes"),
        ("² * * * *", "is no minute"),
        ("9" * 5000 + " * * * *", "the limit is 500"),
        ("*/" + "9" * 400 + " * * * *", "the step of the minute field"),
    ],
)
def test_k6_what_is_no_cron_expression_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidOptionError, match="cron") as caught:
        parse_cron(text)
    assert reason in str(caught.value)


def test_k6_six_fields_begin_with_the_seconds() -> None:
    cron = parse_cron("15 30 9 * * *")
    assert upcoming(schedule(cron="15 30 9 * * *"), 1) == [datetime(2025, 6, 2, 9, 30, 15, tzinfo=UTC)]
    assert (cron.seconds, cron.minutes, cron.hours) == ((15,), (30,), (9,))


@pytest.mark.parametrize("alias", ALIASES)
def test_k6_aliases_mean_their_fields(alias: str) -> None:
    assert replace(parse_cron(alias), text="") == replace(parse_cron(ALIASES[alias]), text="")


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../../etc/passwd", "/etc/localtime", "Europe/Vienna\x00"])
def test_k7_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match="IANA"):
        read_zone(name)


def every(seconds: float, **values: object) -> Schedule:
    return schedule(interval_seconds=seconds, **values)


def test_g27_an_interval_never_drifts() -> None:
    slots = Slots(every(0.1 + 0.9 + 1 / 3))
    assert slots.until(NOON + timedelta(days=400)) == NOON + (timedelta(days=400) // slots._interval) * slots._interval
    assert slots.after(NOON + timedelta(seconds=100.1)) == NOON + 76 * timedelta(seconds=1 + 1 / 3)


# What is fired when the next slot was at noon and the scheduler comes back later; a slot a minute.
@pytest.mark.parametrize(
    ("catchup", "limit", "late", "fired"),
    [
        ("skip", 100, 0, [0]),
        ("skip", 100, 59, [0]),
        ("skip", 100, 600, [600]),
        ("skip", 100, 659, [600]),
        ("one", 100, 0, [0]),
        ("one", 100, 605, [600]),
        ("all", 100, 190, [0, 60, 120, 180]),
        ("all", 2, 190, [120, 180]),
        ("all", 1, 190, [180]),
    ],
)
def test_k8_missed_slots_of_a_minute_schedule_follow_the_policy(
    catchup: str, limit: int, late: float, fired: list[float]
) -> None:
    found = every(60, catchup=catchup, catchup_limit=limit, next_slot=NOON, due_at=NOON)
    plan = due_plan(found, NOON + timedelta(seconds=late))
    assert plan.slots == [NOON + timedelta(seconds=s) for s in fired]
    assert plan.next_slot == NOON + timedelta(seconds=60 * (late // 60 + 1))


@pytest.mark.parametrize(("catchup", "fired"), [("skip", 0), ("one", 1), ("all", 3)])
def test_k8_missed_slots_of_a_daily_schedule_follow_the_policy(catchup: str, fired: int) -> None:
    found = schedule(cron="0 12 * * *", catchup=catchup, next_slot=NOON, due_at=NOON)
    plan = due_plan(found, NOON + timedelta(days=2, hours=3))
    assert len(plan.slots) == fired
    assert plan.next_slot == NOON + timedelta(days=3)


def test_k8_a_slot_is_in_time_for_one_minute() -> None:
    found = schedule(cron="0 12 * * *", next_slot=NOON, due_at=NOON)
    assert due_plan(found, NOON + timedelta(seconds=60)).slots == [NOON]
    assert due_plan(found, NOON + timedelta(seconds=61)).slots == []


def test_k8_ten_years_of_missed_seconds_cost_no_more_than_one() -> None:
    found = schedule(cron="* * * * * *", catchup="all", catchup_limit=3, next_slot=NOON, due_at=NOON)
    now = NOON + timedelta(days=3650, microseconds=5)
    assert due_plan(found, now).slots == [NOON + timedelta(days=3650) - timedelta(seconds=s) for s in (2, 1, 0)]


def test_k11_the_immediate_run_waits_for_the_first_scheduler_however_long() -> None:
    found = every(86_400, run_immediately=True, last_slot=None, next_slot=NOON, due_at=NOON)
    assert due_plan(found, NOON + timedelta(hours=5)).slots == [NOON]


@pytest.mark.parametrize("catchup", ["skip", "one", "all"])
def test_k11_jitter_neither_puts_off_the_immediate_run_nor_loses_it(catchup: str) -> None:
    found = every(86_400, run_immediately=True, jitter_seconds=3600.0, catchup=catchup, next_slot=NOON, due_at=NOON)
    assert Slots(found).due(NOON) > NOON + timedelta(seconds=1)
    plan = due_plan(found, NOON + timedelta(seconds=1))
    assert (plan.slots, plan.next_slot) == ([NOON], NOON + timedelta(days=1))


def test_slots_lie_from_the_start_on_and_before_the_end() -> None:
    found = every(60, starts_at=NOON, ends_at=NOON + timedelta(minutes=3), plan_after=NOON - timedelta(microseconds=1))
    assert first_plan(found).next_slot == NOON
    assert upcoming(found, 10) == [NOON + timedelta(minutes=m) for m in range(3)]
    last = replace(found, next_slot=NOON + timedelta(minutes=2), due_at=NOON, catchup="all")
    assert due_plan(last, NOON + timedelta(days=1)).next_slot is None


def test_jitter_is_the_same_for_every_scheduler_and_fires_nothing_early() -> None:
    found = every(60, jitter_seconds=50.0)
    slots = Slots(found)
    drawn = [slots.due(NOON + k * MINUTE) - (NOON + k * MINUTE) for k in range(50)]
    assert drawn == [Slots(found).due(NOON + k * MINUTE) - (NOON + k * MINUTE) for k in range(50)]
    assert all(timedelta(0) <= d <= timedelta(seconds=50) for d in drawn)
    assert len(set(drawn)) == 50
    due = slots.due(NOON)
    plan = due_plan(replace(found, next_slot=NOON, due_at=due), due)
    assert plan.slots == [NOON]
    assert plan.next_due == slots.due(NOON + MINUTE)


def test_a_jitter_longer_than_the_interval_neither_turns_slots_round_nor_loses_one() -> None:
    found = replace(every(60, jitter_seconds=3600.0), next_slot=NOON, due_at=NOON)
    fired: list[datetime] = []
    for k in range(50):
        now = Slots(found).due(NOON + k * MINUTE)
        assert NOON + k * MINUTE <= now < NOON + (k + 1) * MINUTE
        plan = due_plan(found, now)
        fired += plan.slots
        found = replace(found, next_slot=plan.next_slot, due_at=plan.next_due, last_slot=plan.slots[-1])
    assert fired == [NOON + k * MINUTE for k in range(50)]


def test_a_backfill_that_is_too_long_is_refused() -> None:
    found = every(60)
    assert len(backfill_slots(found, NOON - timedelta(hours=1), NOON, 60)) == 60
    with pytest.raises(InvalidOptionError, match="more than 59 slots"):
        backfill_slots(found, NOON - timedelta(hours=1), NOON, 59)
    with pytest.raises(InvalidOptionError, match="end must be after start"):
        backfill_slots(found, NOON, NOON, 5)
