"""Makes random programs: the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.faults.programs import ASYNC, QUEUES, SUBSCRIBED, SYNC, Node, Task

MAX_DEPTH = 3
# Seconds. Short, so that many programs end in a minute; long enough to be cut by a fault.
SLEEPS = (0.01, 0.6)
TIMEOUTS = (0.05, 0.8)
# A timeout that must not be reached by a wait whose event comes for certain, even if PostgreSQL is down for a minute.
PATIENT = 600.0
BLOCKS = (0.05, 0.5)
# How long a step dwells before its effect and after it, so that a fault finds it there: seconds at most, and how often.
DWELLS = ((0.0, 6), (0.3, 3), (1.5, 1))
# Attempts of tasks whose end must not depend on how many workers die under them.
MANY = 10_000

Maker = Callable[[], list[Node]]


def make_program(seed: int | str, key: str) -> Task:
    """A root task."""
    return _Maker(random.Random(f"{seed}/{key}"), key).root()


def make_programs(seed: int | str, count: int, prefix: str = "p") -> list[Task]:
    """Some root tasks."""
    return [make_program(seed, f"{prefix}{number}") for number in range(count)]


class _Maker:
    """Makes one program."""

    def __init__(self, rng: random.Random, key: str) -> None:
        self._rng = rng
        self._key = key
        self._budget = rng.choice((3, 6, 10, 16, 24))
        self._names = 0
        self._outside: list[Node] = []

    def root(self) -> Task:
        root = self._task(self._key, 0)
        roll = self._rng.random()
        if roll < 0.06 and not root.get("exhausts"):
            root["racing"] = True
            self._outside.append({"act": "cancel", "at": self._seconds((0.0, 1.0))})
        elif roll < 0.12 and not self._ends(root):
            root["nodes"].append({"op": "forever", "id": self._next("n")})
            self._outside.append({"act": "cancel", "at": self._seconds((0.2, 1.0))})
        root["outside"] = sorted(self._outside, key=lambda act: act["at"])
        return root

    def _task(self, key: str, depth: int, *, plain: bool = False) -> Task:
        task: Task = {
            "key": key,
            "task": self._rng.choice((SYNC, ASYNC)),
            "queue": self._rng.choice(QUEUES),
            "nodes": [],
            "options": {"max_attempts": MANY, "retry": {"kind": "fixed", "base_seconds": self._seconds((0.01, 0.1))}},
        }
        if self._rng.random() < 0.2:
            task["options"]["priority"] = self._rng.randint(-2, 2)
        if self._rng.random() < 0.15:
            task["options"]["delay"] = self._seconds((0.05, 0.4))
        task["nodes"] = self._nodes(key, depth)
        if not plain:
            self._finish(task)
        return task

    def _finish(self, task: Task) -> None:
        """Some tasks end otherwise than well."""
        roll = self._rng.random()
        if roll < 0.08:
            task["nodes"].append({"op": "die", "id": self._next("n")})
        elif roll < 0.14:
            task["exhausts"] = True
            task["options"]["max_attempts"] = self._rng.randint(1, 3)
            task["nodes"].append({"op": "exhaust", "id": self._next("n")})

    def _ends(self, task: Task) -> bool:
        return any(node["op"] in ("die", "exhaust") for node in task["nodes"])

    def _nodes(self, key: str, depth: int) -> list[Node]:
        nodes: list[Node] = []
        for _ in range(self._rng.randint(1, 5)):
            if self._budget <= 0:
                break
            self._budget -= 1
            nodes += self._some(key, depth)
        return nodes

    def _some(self, key: str, depth: int) -> list[Node]:
        leaves: list[tuple[int, Callable[[str, int], list[Node]]]] = [
            (5, self._step),
            (4, self._transaction),
            (2, self._flaky),
            (2, self._sleep),
            (3, self._wait),
            (1, self._any),
            (1, self._all),
            (1, self._fail),
            (1, self._token),
            (1, self._helper),
            (1, self._block),
            (1, self._quiet),
        ]
        if depth < MAX_DEPTH:
            leaves += [
                (2, self._child),
                (2, self._gather),
                (1, self._crowd),
                (1, self._cancelled),
                (2, self._guard),
                (1, self._subscribed),
            ]
        weights, makers = zip(*leaves, strict=True)
        return self._rng.choices(makers, weights)[0](key, depth)

    # -- single nodes -------------------------------------------------------------------------------------------------------

    def _step(self, key: str, depth: int) -> list[Node]:
        return [{"op": "step", "id": self._next("n"), **self._dwell()}]

    def _transaction(self, key: str, depth: int) -> list[Node]:
        return [{"op": "transaction", "id": self._next("n"), **self._dwell()}]

    def _flaky(self, key: str, depth: int) -> list[Node]:
        return [{"op": "flaky", "id": self._next("n"), "raises": self._rng.randint(1, 2)}]

    def _sleep(self, key: str, depth: int) -> list[Node]:
        return [{"op": "sleep", "id": self._next("n"), "seconds": self._seconds(SLEEPS)}]

    def _fail(self, key: str, depth: int) -> list[Node]:
        return [{"op": "fail", "id": self._next("n"), "attempts": self._rng.randint(1, 2)}]

    def _token(self, key: str, depth: int) -> list[Node]:
        answerer = self._task(f"{key}.{self._next('k')}", MAX_DEPTH, plain=True)
        return [{"op": "token", "id": self._next("n"), "child": answerer}]

    def _helper(self, key: str, depth: int) -> list[Node]:
        return [{"op": "helper", "id": self._next("n"), "of": self._rng.choice(("now", "random", "uuid4"))}]

    def _block(self, key: str, depth: int) -> list[Node]:
        return [{"op": "block", "id": self._next("n"), "seconds": self._seconds(BLOCKS)}]

    # -- events -------------------------------------------------------------------------------------------------------------

    def _wait(self, key: str, depth: int) -> list[Node]:
        event, queue = self._event(), self._rng.choice(QUEUES)
        wait: Node = {"op": "wait", "id": self._next("n"), "event": event, "queue": queue, "timeout": None, "may": ["event"]}
        if self._rng.random() < 0.3:
            wait["timeout"] = PATIENT
        elif self._rng.random() < 0.3:
            wait |= {"timeout": self._seconds(TIMEOUTS), "may": ["event", "timeout"]}
        return [*self._emission(event, queue, depth, key, wait["timeout"]), wait, *self._again(wait)]

    def _again(self, wait: Node) -> list[Node]:
        """Something behind a wait, for its answer has to hold on the next replay too."""
        kind = self._rng.choice(("none", "sleep", "emit"))
        if kind == "sleep":
            return self._sleep("", 0)
        if kind == "emit":
            return [{"op": "emit", "id": self._next("n"), "event": wait["event"], "queue": wait["queue"]}, *self._sleep("", 0)]
        return []

    def _quiet(self, key: str, depth: int) -> list[Node]:
        """A wait for what never comes, or was rolled back."""
        event, queue = self._event(), self._rng.choice(QUEUES)
        if self._rng.random() < 0.5:
            self._outside.append({"act": "rollback", "event": event, "queue": queue, "at": self._seconds((-0.1, 0.3))})
        timeout = self._seconds(TIMEOUTS)
        return [{"op": "wait", "id": self._next("n"), "event": event, "queue": queue, "timeout": timeout, "may": ["timeout"]}]

    def _any(self, key: str, depth: int) -> list[Node]:
        return self._several("any", key, depth)

    def _all(self, key: str, depth: int) -> list[Node]:
        return self._several("all", key, depth)

    def _several(self, op: str, key: str, depth: int) -> list[Node]:
        events, queue = [self._event() for _ in range(self._rng.randint(2, 3))], self._rng.choice(QUEUES)
        emitted = events if op == "all" else self._rng.sample(events, self._rng.randint(1, len(events)))
        before = [node for event in emitted for node in self._emission(event, queue, depth, key, None)]
        return [*before, {"op": op, "id": self._next("n"), "events": events, "emitted": sorted(emitted), "queue": queue}]

    def _emission(self, event: str, queue: str, depth: int, key: str, timeout: float | None) -> list[Node]:
        """What emits an event: nodes to stand before the wait, or something outside."""
        emit = {"op": "emit", "id": self._next("n"), "event": event, "queue": queue}
        moment = timeout if timeout is not None and timeout < PATIENT else 0.3
        way = self._rng.choice(("self", "child", "outside", "outside", "twice"))
        if way == "self" or (way == "child" and depth >= MAX_DEPTH):
            return [emit]
        if way == "child":
            child = self._task(f"{key}.{self._next('k')}", MAX_DEPTH, plain=True)
            child["nodes"] = [*self._pause(moment), emit]
            return [{"op": "spawn", "id": self._next("n"), "child": child, "join": False}]
        for _ in range(2 if way == "twice" else 1):
            how = self._rng.choice(("client", "conn", "sql", "repeatable read"))
            self._outside.append(
                {"act": "emit", "event": event, "queue": queue, "at": self._seconds((-0.2, 2 * moment)), "how": how}
            )
        return []

    def _pause(self, moment: float) -> list[Node]:
        return (
            [{"op": "sleep", "id": self._next("n"), "seconds": self._seconds((0.0, 1.5 * moment))}]
            if self._rng.random() < 0.7
            else []
        )

    # -- other tasks --------------------------------------------------------------------------------------------------------

    def _child(self, key: str, depth: int) -> list[Node]:
        child = self._task(f"{key}.{self._next('k')}", depth + 1)
        return [{"op": "spawn", "id": self._next("n"), "child": child, "join": self._rng.random() < 0.7}]

    def _gather(self, key: str, depth: int) -> list[Node]:
        count = self._rng.randint(2, 4)
        children = [self._task(f"{key}.{self._next('k')}", depth + 1) for _ in range(count)]
        return [{"op": "gather", "id": self._next("n"), "children": children}]

    def _crowd(self, key: str, depth: int) -> list[Node]:
        """Several tasks that wait for one event."""
        event, queue = self._event(), self._rng.choice(QUEUES)
        children = []
        for _ in range(self._rng.randint(2, 5)):
            child = self._task(f"{key}.{self._next('k')}", MAX_DEPTH, plain=True)
            wait = {"op": "wait", "id": self._next("n"), "event": event, "queue": queue, "timeout": None, "may": ["event"]}
            child["nodes"] = [*self._pause(0.3), wait, *self._step("", 0)]
            children.append(child)
        return [*self._emission(event, queue, depth, key, None), {"op": "gather", "id": self._next("n"), "children": children}]

    def _cancelled(self, key: str, depth: int) -> list[Node]:
        """A child that is cancelled by its parent: while it waits for ever, or at some moment."""
        child = self._task(f"{key}.{self._next('k')}", MAX_DEPTH, plain=True)
        if self._rng.random() < 0.5:
            child["racing"] = True
        else:
            child["nodes"].append({"op": "forever", "id": self._next("n")})
        return [
            {"op": "cancel", "id": self._next("n"), "child": child, "after": self._seconds((0.0, 0.4))},
        ]

    def _guard(self, key: str, depth: int) -> list[Node]:
        """Nodes in a ``try: … except Exception``, with an error at their end."""
        return [{"op": "guard", "id": self._next("n"), "nodes": self._nodes(key, depth), "raises": self._rng.random() < 0.7}]

    def _subscribed(self, key: str, depth: int) -> list[Node]:
        child = self._task(f"{key}.{self._next('k')}", depth + 1, plain=True)
        emit = {"op": "emit", "id": self._next("n"), "event": f"{SUBSCRIBED}{child['key']}", "queue": self._rng.choice(QUEUES)}
        return [{**emit, "starts": child}]

    def _dwell(self) -> Node:
        """How long a step takes."""
        longest, weights = zip(*DWELLS, strict=True)
        return {when: self._seconds((0.0, self._rng.choices(longest, weights)[0])) for when in ("before", "after")}

    # -- names and numbers --------------------------------------------------------------------------------------------------

    def _next(self, letter: str) -> str:
        self._names += 1
        return f"{letter}{self._names}"

    def _event(self) -> str:
        return f"{self._key}:{self._next('e')}"

    def _seconds(self, bounds: tuple[float, float]) -> float:
        return round(self._rng.uniform(*bounds), 3)


def children_of(node: Node) -> list[Task]:
    """The tasks that a node may start, itself."""
    found = [
        *node.get("children", ()),
        *([node["child"]] if "child" in node else []),
        *([node["starts"]] if "starts" in node else []),
    ]
    return found


def count_nodes(task: Task, op: str) -> int:
    """How many nodes of a kind a program has, in all of its tasks."""

    def within(nodes: list[Any]) -> int:
        return sum(
            (node["op"] == op) + within(node.get("nodes", [])) + sum(count_nodes(child, op) for child in children_of(node))
            for node in nodes
        )

    return within(task["nodes"])
