"""What must come of programs: computed from the programs alone, compared with what the database says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

from tests.faults.programs import Node, Task
from tests.faults.programs.evidence import Evidence, Row
from tests.faults.programs.generator import children_of

STEPS = ("step", "block", "flaky", "cancel")
TRANSACTIONS = ("transaction", "helper")
# Ends of attempts that no program has asked for.
CUT_OFF = ("lease", "worker")
DIED = "absurd.errors.NonRetryableError"
EXHAUSTED = (
    "tests.faults.programs.interpreter.ExhaustedError",
    "tests.faults.programs.interpreter.FlakyError",
    "$WorkerLost",
    "$ClaimTimeout",
)
# What an outage of more than half a minute does to a transaction step; the next attempt goes on.
OUTAGE = "absurd.errors.DatabaseUnavailableError"
# By so much a wait's deadline must be later than the commit of its event for a timeout to be a violation: both are times of one
# clock, but a deadline is computed a moment before its transaction commits.
MARGIN = timedelta(seconds=0.05)


# An emission in such a transaction does not see the waits of others; it is delivered later, perhaps after a timeout.
LATE = "repeatable read"


@dataclass(frozen=True)
class Expected:
    """A task of a program."""

    program: Task
    certain: bool
    """Whether it must exist: not if what spawns it may be cancelled before."""

    @property
    def key(self) -> str:
        """Its key."""
        return str(self.program["key"])

    @property
    def ends(self) -> set[str]:
        """How it may end."""
        ops = {node["op"] for node in self.program["nodes"]}
        end = "failed" if ops & {"die", "exhaust"} else "cancelled" if "forever" in ops else "completed"
        return {end, "cancelled"} if self.program.get("racing") else {end}

    @property
    def goes_through(self) -> bool:
        """Whether all of its nodes take effect."""
        return self.certain and not self.program.get("exhausts") and "cancelled" not in self.ends


def census(roots: Iterable[Task]) -> Iterator[Expected]:
    """All tasks of some programs."""
    for root in roots:
        yield from _family(Expected(root, certain=True))


def _family(task: Expected) -> Iterator[Expected]:
    yield task
    for node in all_nodes(task.program["nodes"]):
        for child in children_of(node):
            yield from _family(Expected(child, task.goes_through))


def all_nodes(nodes: list[Node]) -> Iterator[Node]:
    """The nodes of one task, those within others too."""
    for node in nodes:
        yield node
        yield from all_nodes(node.get("nodes", []))


def judge(roots: list[Task], evidence: Evidence) -> list[str]:
    """What is wrong: one line each, beginning with the key of a task."""
    expected = {task.key: task for task in census(roots)}
    found = [f"{key}: nobody spawned this task: {rows}" for key, rows in evidence.tasks.items() if key not in expected]
    nodes = {(key, node["id"]) for key, task in expected.items() for node in all_nodes(task.program["nodes"])}
    found += [f"{key}: effect of an unknown node {node}" for key, node in evidence.effects if (key, node) not in nodes]
    found += [f"left behind: {row}" for row in evidence.left]
    for key, task in expected.items():
        rows = evidence.tasks.get(key, [])
        if len(rows) > 1 or (task.certain and not rows):
            found.append(f"{key}: {len(rows)} tasks instead of one: {rows}")
        elif rows:
            found += [f"{key}: {problem}" for problem in _Judge(task, rows[0], evidence, expected).problems()]
    for root in roots:
        found += [f"{root['key']}: {problem}" for problem in _outside(root, evidence)]
    return found


def _outside(root: Task, evidence: Evidence) -> Iterator[str]:
    for number, act in enumerate(root["outside"]):
        emitted = evidence.emissions.get(act_name(root, number), 0)
        if emitted != (act["act"] == "emit"):
            yield f"act {act} has emitted {emitted} events"


def act_name(root: Task, number: int) -> str:
    """Who a client says it is when it emits."""
    return f"{root['key']}!{number}"


class _Judge:
    """Judges one task."""

    def __init__(self, task: Expected, row: Row, evidence: Evidence, expected: dict[str, Expected]) -> None:
        self._task = task
        self._row = row
        self._evidence = evidence
        self._expected = expected
        self._checkpoints = evidence.checkpoints.get(row["task_id"], {})
        self._attempts = evidence.attempts.get(row["task_id"], {})

    def problems(self) -> Iterator[str]:
        """What is wrong with it."""
        outcome = self._row["outcome"]
        if outcome not in self._task.ends:
            yield f"ended as {outcome} instead of {sorted(self._task.ends)}: {self._row}, {list(self._attempts.values())}"
            return
        if outcome == "failed":
            yield from self._failure()
        yield from self._ended_attempts()
        nodes = self._task.program["nodes"]
        if outcome == "completed":
            yield from self._compare(nodes, self._row["result"])
        done = outcome != "cancelled" and not self._task.program.get("exhausts")
        for node in all_nodes(nodes):
            yield from self._effects(node, done)
            yield from self._waiting(node)
            if node["op"] == "emit":
                by = node["starts"]["key"] if "starts" in node else f"{self._task.key}/{node['id']}"
                emitted = self._evidence.emissions.get(by, 0)
                if emitted > 1 or (done and not emitted):
                    yield f"{node} has emitted {emitted} events"

    def _failure(self) -> Iterator[str]:
        finals = [row for row in self._attempts.values() if row["final"]]
        if len(finals) != 1:
            yield f"failed with {len(finals)} final attempts: {finals}"
            return
        allowed = (*EXHAUSTED, OUTAGE) if self._task.program.get("exhausts") else (DIED,)
        if finals[0]["failure"] not in allowed:
            yield f"failed by {finals[0]['failure']} ({finals[0]['message']}) instead of one of {allowed}"

    def _ended_attempts(self) -> Iterator[str]:
        """Every attempt ended for a reason of the program or of a fault."""
        for row in self._attempts.values():
            by_program = row["cause"] == "error" and row["failure"].split(".")[-1] in (
                "FlakyError",
                "NonRetryableError",
                "ExhaustedError",
                "DatabaseUnavailableError",
            )
            if not (by_program or row["cause"] in CUT_OFF or (row["cause"] == "cancel" and self._row["outcome"] == "cancelled")):
                yield f"an attempt ended for no good reason: {row}"

    # -- results ------------------------------------------------------------------------------------------------------------

    def _compare(self, nodes: list[Node], values: Any) -> Iterator[str]:
        if not isinstance(values, list) or len(values) != len(nodes):
            yield f"result {values!r} does not have {len(nodes)} values"
            return
        for node, value in zip(nodes, values, strict=True):
            if node["op"] == "guard":
                if not isinstance(value, list) or value[:1] != ["caught" if node["raises"] else "through"]:
                    yield f"{node} came out as {value!r}"
                else:
                    yield from self._compare(node["nodes"], value[1])
            elif not self._fits(node, value):
                yield f"{node} came out as {value!r}"

    def _fits(self, node: Node, value: Any) -> bool:
        op = node["op"]
        if op in ("step", "block", "flaky", "transaction"):
            return bool(value == f"{self._task.key}/{node['id']}")
        if op == "helper":
            effects = self._evidence.effects.get((self._task.key, node["id"]), [])
            return bool(effects) and effects[0]["note"] == value
        if op == "wait":
            return self._fits_wait(node, value)
        if op == "any":
            return isinstance(value, list) and value[0] in node["emitted"] and value[1] == self._first(node["queue"], value[0])
        if op == "all":
            return bool(value == {name: self._first(node["queue"], name) for name in node["events"]})
        if op == "token":
            return bool(value == node["child"]["key"])
        if op == "spawn" and not node["join"]:
            return bool(value == "spawned")
        if op in ("spawn", "cancel"):
            return self._fits_child(node["child"], value)
        if op == "gather":
            return len(value) == len(node["children"]) and all(map(self._fits_child, node["children"], value))
        return bool(value == {"sleep": "slept", "fail": "went on", "emit": "emitted"}[op])

    def _fits_wait(self, node: Node, value: Any) -> bool:
        kind = (self._checkpoints.get(self._wait_step(node)) or {}).get("kind")
        if value == ["timeout"]:
            return kind == "timeout" and "timeout" in node["may"]
        return "event" in node["may"] and kind == "event" and bool(value == ["event", self._first(node["queue"], node["event"])])

    def _fits_child(self, child: Task, value: Any) -> bool:
        """What a parent was told of its child is what became of it."""
        rows = self._evidence.tasks.get(child["key"], [])
        if len(rows) != 1 or not isinstance(value, list):
            return False
        told = value if value[0] == "completed" else [value[0], None]
        return bool(told == [rows[0]["outcome"], rows[0]["result"]])

    def _first(self, queue: str, event: str) -> Any:
        events = self._evidence.events.get((queue, event))
        return events[0]["payload"] if events else None

    # -- waits --------------------------------------------------------------------------------------------------------------

    def _wait_step(self, node: Node) -> str:
        return f"$await:{node['event']}"

    def _waiting(self, node: Node) -> Iterator[str]:
        """No timeout for an event whose emission was committed before the wait's deadline."""
        checkpoint = self._checkpoints.get(self._wait_step(node)) if node["op"] == "wait" else None
        events = self._evidence.events.get((node.get("queue", ""), node.get("event", "")))
        if checkpoint is None or checkpoint["kind"] != "timeout" or not events:
            return
        act = self._evidence.acts.get(str(events[0]["by"]))
        if act is not None and act["note"] == LATE:
            return
        emitted_at = self._evidence.emitted_at(events[0])
        before = [c["completed_at"] for c in self._checkpoints.values() if c["position"] < checkpoint["position"]]
        deadline = max([*before, self._row["spawned_at"]]) + timedelta(seconds=node["timeout"])
        if emitted_at is not None and emitted_at < deadline - MARGIN:
            yield f"{node} timed out, though its event was committed at {emitted_at}, and it waited until {deadline} or later"

    # -- effects ------------------------------------------------------------------------------------------------------------

    def _effects(self, node: Node, done: bool) -> Iterator[str]:
        if node["op"] not in (*STEPS, *TRANSACTIONS):
            return
        effects = self._evidence.effects.get((self._task.key, node["id"]), [])
        checkpoint = self._checkpoints.get(node["id"])
        if done and checkpoint is None:
            yield f"{node} is not recorded, though the task has ended"
        if node["op"] == "cancel":  # its effect is a cancellation, which may be repeated
            return
        if node["op"] in TRANSACTIONS:
            if len(effects) != (checkpoint is not None):
                yield f"{node} took effect {len(effects)} times, recorded: {checkpoint}: {effects}"
        else:
            if checkpoint is not None and not effects:
                yield f"{node} is recorded, but never took effect: {checkpoint}"
            yield from self._repetitions(node, effects, checkpoint)

    def _repetitions(self, node: Node, effects: list[Row], checkpoint: Row | None) -> Iterator[str]:
        """A run that began after the checkpoint knew of it. A run that repeats a step follows one that was cut off."""
        for effect in effects:
            if checkpoint is not None and effect["began"] > checkpoint["completed_at"]:
                yield f"{node} ran again after its checkpoint {checkpoint}: {effect}"
        claims = sorted(effects, key=lambda effect: (effect["attempt"], effect["epoch"]))
        for first, again in pairwise(claims):
            if (first["run_id"], first["epoch"]) == (again["run_id"], again["epoch"]):
                yield f"{node} took effect twice in one run: {first}, {again}"
            elif first["run_id"] == again["run_id"]:
                if first["worker"] not in self._evidence.stopped_workers:
                    yield f"{node} ran again, though its run was not interrupted: {first}, {again}"
            elif (self._attempts.get(first["run_id"]) or {}).get("cause") not in CUT_OFF:
                yield f"{node} ran again, though its attempt was not cut off: {first}, {again}"
