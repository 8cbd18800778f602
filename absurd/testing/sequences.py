"""Two sequences of steps beside each other, for people; and what to do about a difference."""

from __future__ import annotations

import re
from collections.abc import Sequence

from absurd.testing.history import TaskHistory

# Lines shown before and behind the first difference.
BEFORE, BEHIND = 8, 8
WIDTH = 48  # characters of a name

_WORDS = {
    "$await": 'wait for event "{}"',
    "$await_any": "wait for any of {}",
    "$await_all": "wait for all of {}",
    "$await_task": "wait for task {}",
    "$await_token": "wait for token {}",
    "$spawn": 'spawn of "{}"',
    "$emit": 'emit of "{}"',
    "$token": 'token "{}"',
}
_BARE = {"$sleep": "sleep", "$now": "ctx.now()", "$random": "ctx.random()", "$uuid": "ctx.uuid4()", "$gather": "gather"}

ADVICE = {
    "new": "Tasks that are under way stop being replayed at that step. Put new steps behind those that tasks have recorded, keep "
    "the names of old ones, or register the new code as a task of another name and let the old one run out.",
    "inserted": "A task that has gone further would run this step late and out of order. Put it behind the recorded ones, or "
    "register the new code as a task of another name and let the old one run out.",
    "renamed": "The step would run a second time. Keep the old name, or register the new code as a task of another name.",
    "moved": "Keep the order of recorded steps, or register the new code as a task of another name and let the old one run out.",
    "kind": "Give the new effect another name: what is recorded under this one would be taken for its result.",
    "early": "Keep the step until no unfinished task has recorded it, or register the new code as a task of another name.",
    "wait": "The task would wake with the answer to a wait that the code does not have any more. Keep the wait as it is, or "
    "register the new code as a task of another name and let the old one run out.",
    "value": "Let the type still accept what is recorded (defaults for new fields, old names as aliases), or give the step "
    "another name, if it may run again.",
    "params": "Let the type still accept what is recorded (defaults for new fields, old names as aliases), or register the "
    "new code as a task of another name.",
    "raised": "Such tasks would fail. Run the handler's own code with the recorded values to see why.",
    "result": "A task of the same steps would end otherwise than it did. If that is meant, export the history again.",
    "longer": "If that is meant, export the history again; unfinished tasks are not harmed by steps at the end.",
    "endless": "Recorded steps take no time: look for a loop without an end, or for work that belongs into a step.",
    "restless": "Whatever may differ from run to run belongs into a step: ctx.now(), ctx.random(), ctx.uuid4(), or ctx.step "
    "around a read of anything that changes. Sort what has no order, such as sets.",
    "unknown": "Keep old tasks registered until the last of them has ended.",
    "": "",
}


def describe(name: str) -> str:
    """An effect in words, by the name of its checkpoint."""
    base, number, again = re.fullmatch(r"(.*?)(?:(#)(\d+))?(?:/.*)?", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if not name.startswith("$"):
        return f'step "{name}"'
    kind, colon, detail = base.partition(":")
    text = _WORDS[kind].format(detail) if colon and kind in _WORDS else _BARE.get(kind, base)
    return f"{text} ({again})" if number else text


def side_by_side(history: TaskHistory, now: Sequence[str], place: str | None) -> list[str]:
    """The recorded and the present sequence, around the first line on which they differ, or on which ``place`` stands."""
    recorded = [point.step_name for point in history.checkpoints]
    # Once each: a wait with a timeout is two rows.
    waiting = [name for name in dict.fromkeys(history.waits) if name not in recorded]
    left = [describe(name) for name in recorded] + [f"(sleeps in) {describe(name)}" for name in waiting]
    right = [describe(name) for name in now]
    if not left and not right:
        return []
    rows = [
        (left[i] if i < len(left) else "–", right[i] if i < len(right) else "–", i) for i in range(max(len(left), len(right)))
    ]
    names = [*recorded, *waiting]
    first = next((i for i, (a, b, _) in enumerate(rows) if a != b), None)
    if place is not None and (first is None or (place in names and names.index(place) < first)):
        first = names.index(place) if place in names else first
    middle = len(rows) - 1 if first is None else first
    low, high = max(0, middle - BEFORE), middle + BEHIND + 1
    wide = min(WIDTH, max(len(a) for a, _, _ in rows[low:high]))
    wide = max(wide, len("recorded"))
    lines = [f"     {'recorded':<{wide}}   now"]
    for a, b, i in rows[low:high]:
        mark = " ≠ " if i == first else "   "
        lines.append(f"{i:>4} {_cut(a):<{wide}}{mark}{_cut(b)}".rstrip())
    if high < len(rows):
        lines.append(f"     … {len(rows) - high} more")
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
