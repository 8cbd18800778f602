"""Cron expressions: read, refused with a reason, and walked on a clock without a zone. croniter reads the single fields."""

from __future__ import annotations

import calendar
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from croniter import croniter
from croniter.croniter import CroniterError

from absurd.errors import InvalidOptionError

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# Field names with their smallest and largest number, in the order of the long form.
FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
MONTHS = frozenset({"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"})
WEEKDAYS = frozenset({"sun", "mon", "tue", "wed", "thu", "fri", "sat"})
# Years after which a day that has not come never will: 29 February on a given weekday takes up to 40.
SEARCH_YEARS = 41

# Characters: longer than any that a person writes, and short enough to be read at once.
MAX_LENGTH = 500

_ITEM = re.compile(r"(?:(?P<star>\*)|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?")
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression: which seconds of a clock it names. Moments are those of a clock, without a zone."""

    text: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    """Day and weekday are both given: one of them is enough."""
    real_time: bool
    """The hour is open (``*``), so that it goes by elapsed time."""

    def matches(self, at: datetime) -> bool:
        """Whether it names this second."""
        return at.hour in self.hours and at.minute in self.minutes and at.second in self.seconds and self._on(at.date())

    def after(self, at: datetime) -> datetime | None:
        """The first moment after ``at`` that it names; ``None`` when there is none within 41 years."""
        start = at.replace(microsecond=0) + _SECOND
        if self._on(start.date()):
            found = _first_from(self.hours, self.minutes, self.seconds, start.time())
            if found is not None:
                return datetime.combine(start.date(), found)
        day = self._day_from(start.date() + timedelta(days=1))
        return None if day is None else datetime.combine(day, time(self.hours[0], self.minutes[0], self.seconds[0]))

    def until(self, at: datetime) -> datetime | None:
        """The last moment up to ``at``, itself included, that it names; ``None`` when there is none within 41 years."""
        at = at.replace(microsecond=0)
        if self._on(at.date()):
            found = _last_until(self.hours, self.minutes, self.seconds, at.time())
            if found is not None:
                return datetime.combine(at.date(), found)
        day = self._day_until(at.date() - timedelta(days=1))
        return None if day is None else datetime.combine(day, time(self.hours[-1], self.minutes[-1], self.seconds[-1]))

    def _on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_day or by_weekday if self.either_day else by_day and by_weekday

    def _day_from(self, day: date) -> date | None:
        last_year = min(day.year + SEARCH_YEARS, date.max.year - 1)
        while day.year <= last_year:
            if day.month in self.months:
                length = calendar.monthrange(day.year, day.month)[1]
                for number in range(day.day, length + 1):
                    if self._on(day.replace(day=number)):
                        return day.replace(day=number)
            day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
        return None

    def _day_until(self, day: date) -> date | None:
        first_year = max(day.year - SEARCH_YEARS, date.min.year + 1)
        while day.year >= first_year:
            if day.month in self.months:
                for number in range(day.day, 0, -1):
                    if self._on(day.replace(day=number)):
                        return day.replace(day=number)
            day = day.replace(day=1) - timedelta(days=1)
        return None


def _first_from(hours: Sequence[int], minutes: Sequence[int], seconds: Sequence[int], at: time) -> time | None:
    for hour in (h for h in hours if h >= at.hour):
        if hour > at.hour:
            return time(hour, minutes[0], seconds[0])
        for minute in (m for m in minutes if m >= at.minute):
            if minute > at.minute:
                return time(hour, minute, seconds[0])
            for second in (s for s in seconds if s >= at.second):
                return time(hour, minute, second)
    return None


def _last_until(hours: Sequence[int], minutes: Sequence[int], seconds: Sequence[int], at: time) -> time | None:
    for hour in (h for h in reversed(hours) if h <= at.hour):
        if hour < at.hour:
            return time(hour, minutes[-1], seconds[-1])
        for minute in (m for m in reversed(minutes) if m <= at.minute):
            if minute < at.minute:
                return time(hour, minute, seconds[-1])
            for second in (s for s in reversed(seconds) if s <= at.second):
                return time(hour, minute, second)
    return None


@functools.lru_cache(maxsize=1000)
def parse_cron(text: str) -> Cron:
    """Reads a cron expression: 5 fields (minute hour day month weekday), 6 with seconds first, or ``@daily`` and the like.

    Raises:
        InvalidOptionError: it cannot be used; the message says why.
    """
    if not isinstance(text, str):
        raise InvalidOptionError(f'cron must be text such as "0 9 * * MON-FRI", not {text!r}')
    if len(text) > MAX_LENGTH:
        raise InvalidOptionError(f'cron "{text[:40]}…" has {len(text)} characters; the limit is {MAX_LENGTH}')
    fields = _fields(text)
    for (name, low, high), field in zip(FIELDS, fields, strict=True):
        for item in field.split(","):
            _check_item(text, name, low, high, item)
    second, minute, hour, day, month, weekday = fields
    try:
        # croniter wants the seconds last. With five fields it would not know any.
        expanded, _ = croniter.expand(f"{minute} {hour} {day} {month} {weekday} {second}")
    except (CroniterError, ValueError, KeyError) as error:
        raise InvalidOptionError(f'cron "{text}" cannot be read: {error}') from None
    numbers = [_numbers(values, field) for values, field in zip([expanded[5], *expanded[:5]], FIELDS, strict=True)]
    cron = Cron(
        text=text,
        seconds=numbers[0],
        minutes=numbers[1],
        hours=numbers[2],
        days=frozenset(numbers[3]),
        months=frozenset(numbers[4]),
        weekdays=frozenset(number % 7 for number in numbers[5]),
        # As in Vixie's cron: a field that begins with a star restricts, but does not open the other one.
        either_day=not day.startswith("*") and not weekday.startswith("*"),
        real_time=hour.startswith("*"),
    )
    if cron.after(datetime.combine(date(2000, 1, 1), time())) is None:
        raise InvalidOptionError(f'cron "{text}" never comes: no month {month} has a day {day}')
    return cron


def _fields(text: str) -> list[str]:
    """The six fields, seconds first, in lower case."""
    clean = text.strip().lower()
    if clean.startswith("@"):
        if clean == "@reboot":
            raise InvalidOptionError('cron "@reboot" has no moment: nothing boots here; spawn a task when your program starts')
        if clean not in ALIASES:
            raise InvalidOptionError(f'cron "{text}" is not known; known are {", ".join(ALIASES)}')
        clean = ALIASES[clean]
    fields = clean.split()
    if len(fields) == 7:
        raise InvalidOptionError(f'cron "{text}" has 7 fields; years are not supported, use starts_at and ends_at')
    if len(fields) not in (5, 6):
        raise InvalidOptionError(
            f'cron "{text}" has {len(fields)} field(s); it takes 5 (minute hour day month weekday), or 6 with seconds first'
        )
    return fields if len(fields) == 6 else ["0", *fields]


def _check_item(text: str, name: str, low: int, high: int, item: str) -> None:
    """Refuses what is no cron, and croniter's extensions: random and hashed values, last and nearest days."""
    found = _ITEM.fullmatch(item)
    if found is None:
        raise InvalidOptionError(
            f'cron "{text}": the {name} field takes *, numbers, ranges (1-5), lists (1,3) and steps (*/2), not "{item}"'
        )
    names = MONTHS if name == "month" else WEEKDAYS if name == "weekday" else frozenset[str]()
    for value in (found["low"], found["high"]):
        if value is None or value in names:
            continue
        if not (value.isascii() and value.isdigit()):
            also = " or a name such as " + ("JAN" if name == "month" else "MON") if names else ""
            raise InvalidOptionError(f'cron "{text}": "{value}" is no {name}; give a number from {low} to {high}{also}')
        if not low <= int(value) <= high:
            raise InvalidOptionError(f'cron "{text}": {name} {value} is not between {low} and {high}')
    if found["step"] is not None and not 1 <= int(found["step"]) <= high:
        raise InvalidOptionError(f'cron "{text}": the step of the {name} field must be between 1 and {high}, not {found["step"]}')


def _numbers(values: Sequence[int | str], field: tuple[str, int, int]) -> tuple[int, ...]:
    _, low, high = field
    return tuple(range(low, high + 1)) if "*" in values else tuple(sorted(int(value) for value in values))
