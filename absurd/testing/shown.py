"""How the messages of asserts show tasks, events, waits and values, and how values are compared."""

from __future__ import annotations

import difflib
import pprint
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from unittest.mock import ANY

from absurd.codec import decode, typed_codec
from absurd.testing.records import EventRecord, TaskRecord

# Characters of a value in a line, and lines in a list: a message should fit on a screen.
WIDTH = 100
LINES = 20


def plain(value: Any) -> Any:
    """A value in its JSON form, if it is of a declared type; functions and ``ANY`` stay, also within."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is ANY or value is None or isinstance(value, (str, int, float)) or _is_predicate(value):
        return value
    return _decoded(value)


def _decoded(value: Any) -> Any:
    return decode(typed_codec(type(value)).encode(value, "the expected value"))


def _is_predicate(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def fits(wanted: Any, there: Any) -> bool:
    """Whether a value is the one that was wanted, or one that the wanted function accepts."""
    if callable(wanted) and wanted is not ANY:
        return bool(wanted(there))
    return bool(wanted == there)


def number(count: int) -> str:
    """``none``, or how many."""
    return str(count) if count else "none"


def expectation(name: str, **parts: Any) -> str:
    """What was asked for: the name, and those parts that were given."""
    given = [f"{part} {_short(value)}" for part, value in parts.items() if value is not ANY and value is not None]
    return f'"{name}"' + (f" with {' and '.join(given)}" if given else "")


def task_line(record: TaskRecord) -> str:
    """A task in a few words."""
    return f'task "{record.name}" {record.task_id}'


def task(record: TaskRecord, recorded: Sequence[str], task_waits: Sequence[Any]) -> str:
    """All about one task."""
    lines = [f"{task_line(record)} is {record.state}, attempt {record.attempt}, in queue {record.queue}"]
    lines.append(f"  params: {_short(record.params)}")
    if record.state == "completed":
        lines.append(f"  result: {_short(record.result)}")
    lines.append(f"  recorded: {', '.join(recorded[:LINES]) if recorded else 'nothing'}")
    lines += [f"  {line}" for line in map(_wait, _apart(task_waits))]
    if record.state == "sleeping" and record.available_at is not None and record.available_at not in [w[-1] for w in task_waits]:
        lines.append(f"  wakes at {record.available_at.isoformat()}")
    if record.note:
        lines.append(f"  note: {record.note}")
    if isinstance(record.failure, dict):
        lines.append(f"  last failure: {record.failure.get('name')}: {record.failure.get('message')}")
        lines += [f"    {line}" for line in str(record.failure.get("traceback") or "").splitlines()]
    return "\n".join(lines)


def tasks(found: Sequence[TaskRecord], name: str) -> str:
    """The tasks that there are, those of a name like the wanted one in front."""
    if not found:
        return "No task was spawned."
    lines = [f"{t.state:9}  {t.name}  {_short(t.params)}" for t in _closest(found, lambda t: t.name, name)]
    return _list("These tasks were spawned:", lines)


def events(found: Sequence[EventRecord], name: str) -> str:
    """The events that there are, those of a name like the wanted one in front."""
    if not found:
        return "No event was emitted."
    lines = [f"{e.name}  {_short(e.payload)}  (queue {e.queue})" for e in _closest(found, lambda e: e.name, name)]
    return _list("These events were emitted:", lines)


def waits(found: Sequence[Any]) -> str:
    """What tasks wait for."""
    if not found:
        return "No task waits."
    return _list("These tasks wait:", [f'task "{wait[1]}" {wait[0]} {_wait(wait)}' for wait in _apart(found)])


def _apart(found: Sequence[Any]) -> list[Any]:
    """Without the timeouts, which stand with what they end."""
    ended = {wait[0] for wait in found if wait[2] != "timeout"}
    return [wait for wait in found if wait[2] != "timeout" or wait[0] not in ended]


def _wait(wait: Any) -> str:
    _, _, kind, event, queue, awaited, until = wait
    when = "" if until is None else f" until {until.isoformat()}"
    if kind == "event":
        return f'waits for event "{event}" of queue {queue}{when}'
    if kind == "task":
        return f"waits for task {awaited}{when}"
    return f"waits for a token{when}" if kind == "token" else f"{'sleeps' if kind == 'sleep' else 'waits'}{when}"


def differences(wanted: Any, there: Iterable[Any]) -> str:
    """Wanted and found values line by line, the likest one; nothing when there are none, or any was wanted."""
    found = [_lines(value) for value in there]
    if not found or wanted is ANY or _is_predicate(wanted):
        return ""
    lines = _lines(wanted)
    likest = max(found, key=lambda other: difflib.SequenceMatcher(None, "\n".join(lines), "\n".join(other)).ratio())
    head = "The likest one differs" if len(found) > 1 else "It differs"
    return f"{head} (- expected, + found):\n" + _diff(lines, likest)


def sequences(wanted: Sequence[str], there: Sequence[str]) -> str:
    """Two sequences of names line by line."""
    return "  (- expected, + found)\n" + _diff(wanted, there)


def _diff(wanted: Sequence[str], there: Sequence[str]) -> str:
    return "\n".join(f"  {line.rstrip()}" for line in difflib.ndiff(wanted, there) if not line.startswith("?"))


def _closest(found: Sequence[Any], name_of: Callable[[Any], str], name: str) -> list[Any]:
    return sorted(found, key=lambda item: -difflib.SequenceMatcher(None, name_of(item), name).ratio())


def _list(head: str, lines: Sequence[str]) -> str:
    more = [f"  … and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return "\n".join([head, *(f"  {line}" for line in lines[:LINES]), *more])


def _lines(value: Any) -> list[str]:
    return pprint.pformat(value, width=WIDTH, sort_dicts=False).splitlines()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"
