# ruff: noqa: E501  (SQL and tables are read better in long lines)
"""What has to hold after every order: no rule is broken, and what came of it could have come of the same actors one after the other."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.faults.orders.operations import Operation
from tests.faults.orders.scene import Scene
from tests.faults.orders.scheduler import Outcome, Scheduler, explore

# The run, the queue or the task is gone: which of them a call misses first is no promise.
_GONE = re.compile(r"^error AB0(02|10|11) .*")


@dataclass
class Tally:
    """How much was gone through."""

    orders: int = 0
    blocked: int = 0
    """Orders in which somebody had to wait for somebody else."""


class Checker:
    """Executes operations in all orders and compares what comes of them with what comes of them one after the other."""

    def __init__(self, scene: Scene, scheduler: Scheduler) -> None:
        self._scene = scene
        self._scheduler = scheduler
        self._serial: dict[tuple[str, ...], str] = {}
        self.tally = Tally()

    def check(self, operations: Sequence[Operation], *, changes: int | None = None, gates: bool = False) -> int:
        """All orders of these operations, or those with so many changes; how many there were.

        Raises:
            AssertionError: an order broke a rule, met a deadlock, or came to what no sequence of the operations comes to.
        """
        count = 0
        for outcome in explore(lambda prefix: self._execute(operations, prefix, gates), changes):
            self._judge(operations, outcome, gates)
            count += 1
        self.tally.orders += count
        return count

    def replay(self, operations: Sequence[Operation], order: Sequence[int], *, gates: bool) -> None:
        """One order again, as a failure prints it."""
        self._judge(operations, self._execute(operations, order, gates), gates)

    def _execute(self, operations: Sequence[Operation], prefix: Sequence[int], gates: bool) -> Outcome:
        self._scene.reset()
        outcome = self._scheduler.execute([operation.actor for operation in operations], prefix, gates=gates)
        self._scene.settle()
        self.tally.blocked += any(len(enabled) < len(operations) for enabled in outcome.enabled[:1])
        return outcome

    def _judge(self, operations: Sequence[Operation], outcome: Outcome, gates: bool) -> None:
        names = [operation.actor.name for operation in operations]
        order = f"{' | '.join(names)}: {''.join(map(str, outcome.order))}{' (gates)' if gates else ''}"
        deadlocks = [error for error in outcome.errors if "40P01" in error]
        assert not deadlocks, f"{order}\na deadlock: {deadlocks}"
        broken = self._scene.broken_rules()
        assert not broken, f"{order}\nanswers {outcome.answers}\nbroken rules: {broken}"
        # Told to begin again: it has done nothing.
        refused = [number for number, answers in enumerate(outcome.answers) if any("error 40001" in a for a in answers)]
        silent = {number for number, operation in enumerate(operations) if operation.skips} | set(refused)
        found = self._found(operations, outcome, silent)
        sequences = self._expected(operations, sorted(silent))
        expected = {name: _without(text, silent) for name, text in sequences.items()}
        if found not in expected.values():
            raise AssertionError(f"{order}\nwhat came of it comes of no sequence:\n{_compare(found, expected)}")

    def _found(self, operations: Sequence[Operation], outcome: Outcome, silent: Collection[int] = ()) -> str:
        answers = {
            str(number): [_GONE.sub("error: gone", answer) for answer in outcome.answers[number]]
            for number in range(len(operations))
        }
        return _without(json.dumps([answers, self._scene.state()], sort_keys=True), silent)

    def _expected(self, operations: Sequence[Operation], idle_ones: Sequence[int]) -> dict[str, str]:
        """What comes of every sequence of the operations, with and without those that may come to nothing."""
        found = {}
        for size in range(len(idle_ones) + 1):
            for idle in itertools.combinations(idle_ones, size):
                for sequence in itertools.permutations(n for n in range(len(operations)) if n not in idle):
                    name = " > ".join(f"{number} {operations[number].actor.name}" for number in sequence)
                    found[name] = self._sequence(operations, sequence)
        return found

    def _sequence(self, operations: Sequence[Operation], sequence: Sequence[int]) -> str:
        """What comes of some of them one after the other."""
        key = (f"of {len(operations)}", *(f"{number} {operations[number].actor.name}" for number in sequence))
        if key not in self._serial:
            self._scene.reset()
            outcome = Outcome(answers=[[] for _ in operations])
            for number in sequence:
                alone = self._scheduler.execute([operations[number].actor], [], gates=False)
                outcome.answers[number] = alone.answers[0]
            self._scene.settle()
            broken = self._scene.broken_rules()
            assert not broken, f"one after the other: {[operations[n].actor.name for n in sequence]}\nbroken rules: {broken}"
            self._serial[key] = self._found(operations, outcome)
        return self._serial[key]


def _without(found: str, silent: Collection[int]) -> str:
    """The same without the answers of those that may come to nothing."""
    if not silent:
        return found
    answers, state = json.loads(found)
    return json.dumps([{n: answer for n, answer in answers.items() if int(n) not in silent}, state], sort_keys=True)


def _compare(found: str, expected: dict[str, str]) -> str:
    """Where what was found differs from each sequence."""
    mine = _leaves(json.loads(found))
    lines = []
    for name, text in expected.items():
        other = _leaves(json.loads(text))
        lines.append(f"  beside {name}:")
        lines += [f"    found    {path}: {mine[path]}" for path in mine if other.get(path) != mine[path]]
        lines += [f"    expected {path}: {other[path]}" for path in other if mine.get(path) != other[path]]
    return "\n".join(lines)


def _leaves(value: object, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in _leaves(item, f"{path}/{name}").items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        named = {str(item.get("name", place)) if isinstance(item, dict) else str(place): item for place, item in enumerate(value)}
        return _leaves(named, path)
    return {path: json.dumps(value)}
